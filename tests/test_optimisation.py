"""Optimisers, schedules and attention that transformers would refuse when a stage begins are refused by `check`."""

from types import SimpleNamespace

import pytest

from cpt.checks.all_checks import check_attention
from cpt.errors import UserError
from cpt.stages.configs import CONFIGS, check_optimisation


@pytest.mark.parametrize(
    "args, told",
    [
        ({"optim": "lomo"}, "optim: You need to install"),
        ({"lr_scheduler_kwargs": {"bad": 1}}, "lr_scheduler_kwargs: .* unexpected keyword argument 'bad'"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_kwargs: One of min_lr or min_lr_rate"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler_kwargs: .* 'num_decay_steps'"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0}}, None),
        ({"optim": "adafactor", "lr_scheduler_type": "cosine"}, None),
        ({}, None),
    ],
)
def test_what_transformers_makes_of_the_arguments(args, told, tmp_path):
    config = CONFIGS["SFTConfig"](output_dir=str(tmp_path), bf16=False, report_to="none", **args)
    if told is None:
        check_optimisation(config, SimpleNamespace(args=args), "stream.t.stages.0")
        return
    with pytest.raises(UserError, match=rf"stream\.t\.stages\.0\.args\.{told}"):
        check_optimisation(config, SimpleNamespace(args=args), "stream.t.stages.0")


@pytest.mark.parametrize("name, refused", [("foo", True), ("eager", False), ("sdpa", False), (None, False)])
def test_attention(name, refused, tiny_folder):
    model = SimpleNamespace(attn_implementation=name, trust_remote_code=False, chat_template_kwargs={}, path="tiny")
    recipe = SimpleNamespace(model=model)
    if not refused:
        check_attention(tiny_folder, recipe)
        return
    with pytest.raises(UserError, match=r'model\.attn_implementation: Specified `attn_implementation="foo"`'):
        check_attention(tiny_folder, recipe)
