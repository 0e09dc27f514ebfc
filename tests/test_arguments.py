"""What `cpt check` reads from TRL's and PEFT's source with `ast` is what their real classes have."""

import ast
import dataclasses

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cpt.recipe import trl_arguments
from cpt.recipe.config_fields import UNKNOWN, enumeration
from cpt.recipe.stages import KINDS, Rlvr
from cpt.recipe.trl_arguments import PLAIN, PLAIN_VALUES, is_plain, problems
from cpt.recipe.trl_bounds import CHOICES, ENUMERATIONS
from cpt.recipe.trl_configs import TRL_CONFIGS


@pytest.mark.parametrize("kind", KINDS)
def test_fields_and_defaults_are_those_of_the_real_config(kind):
    from cpt.stages.configs import CONFIGS

    real = {field.name: field for field in dataclasses.fields(CONFIGS[KINDS[kind].trl_config]) if field.init}
    read = KINDS[kind].arguments()
    assert set(read) == set(real)
    known = [name for name, argument in read.items() if argument.default is not UNKNOWN]
    assert len(known) > 0.8 * len(real)
    for name in known:
        if real[name].default is not dataclasses.MISSING:
            assert read[name].default == real[name].default, name


def test_every_kind_of_adapter_is_known():
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    assert set(trl_arguments.adapter_kinds()) == {kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING}


@pytest.mark.parametrize("kind", trl_arguments.adapter_kinds())
def test_adapters_are_those_of_peft(kind):
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    real = {field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind.upper()]) if field.init}
    assert real == set(trl_arguments.class_fields(*trl_arguments.adapter_kinds()[kind]))


def test_our_defaults_are_arguments():
    for spec in KINDS.values():
        assert list(problems(spec, dict(spec.defaults))) == []


@pytest.mark.parametrize(
    "name", [*trl_arguments.REFUSED, "vllm_mode", "vllm_gpu_memory_utilization", "push_to_hub_token"]
)
def test_refused_arguments_name_what_to_use(name):
    (where, message), *rest = problems(Rlvr, {name: 1})
    assert where == name and message.startswith("is not supported: ") and not rest


@pytest.mark.parametrize(
    "value, annotation, message",
    [
        (3, "int", None),
        (True, "int", "must be an integer, not True"),
        (3, "float | None", None),
        (None, "Optional[float]", None),
        ("x", "float | None", "must be a number or null, not 'x'"),
        ("a", "Literal['a', 'b']", None),
        ("c", "Literal['a', 'b']", "must be one of a, b, not 'c'"),
        ({"a": 1}, "dict[str, Any] | str", None),
        ([1], "list[str] | None", "0: must be a string, not 1"),
        (["a", "b"], "list[str] | None", None),
        ([["a"], [1.5]], "list[list[str]]", "1: 0: must be a string, not 1.5"),
        ({"a": True, "b": 1}, "dict[str, bool]", "b: must be true or false, not 1"),
        ("anything", "SomeEnumeration", None),
    ],
)
def test_types(value, annotation, message):
    assert trl_arguments.wrong_type(value, annotation) == message


@pytest.mark.parametrize(
    "args, name, message",
    [
        ({"num_generations": 1}, "num_generations", "(1) must be at least 2"),
        ({"num_generations": 5, "per_device_train_batch_size": 8}, "num_generations", "use 2 or 4"),
        (
            {"num_generations": 8, "per_device_train_batch_size": 8, "num_iterations": 4, "save_steps": 6},
            "save_steps",
            "(6) must be a multiple of 4 (steps between two generations): use 4 or 8",
        ),
        (
            {
                "num_generations": 8,
                "per_device_train_batch_size": 8,
                "steps_per_generation": 4,
                "num_iterations": 2,
                "save_steps": 4,
            },
            "save_steps",
            "multiple of 8",
        ),
    ],
)
def test_the_arithmetic_of_groups(args, name, message):
    found = dict(problems(Rlvr, args))
    assert list(found) == [name] and message in found[name]


@pytest.mark.parametrize(
    "kind, args, message",
    [
        ("rlvr", {"num_iterations": 0}, "(0) must be at least 1"),
        ("rlvr", {"steps_per_generation": 0}, "(0) must be at least 1"),
        ("rlvr", {"generation_batch_size": 0}, "(0) must be at least 1"),
        ("rlvr", {"generation_batch_size": 12, "num_generations": 4}, "must be a multiple of the batch of a step (8"),
        ("rlvr", {"generation_batch_size": 16, "steps_per_generation": 2}, "keep one of the two"),
        ("rlvr", {"max_completion_length": None}, "must be a number, not null"),
        ("rlvr", {"temperature": 0}, "(0) must be from 0.01 to 100"),
        ("rlvr", {"temperature": -1}, "(-1) must be from 0.01 to 100"),
        ("rlvr", {"temperature": 1e30}, "(1e+30) must be from 0.01 to 100"),
        ("sft", {"learning_rate": 1e30}, "(1e+30) must be at most 100"),
        ("sft", {"max_steps": 10**12}, "(1000000000000) must be at most 2,147,483,647"),
        ("sft", {"warmup_steps": 1e12}, "(1000000000000.0) must be at most 2,147,483,647"),
        ("sft", {"label_smoothing_factor": -1}, "(-1) must be from 0 to below 1"),
        ("dpo", {"label_smoothing": 0.5}, "(0.5) must be from 0 to below 0.5"),
        ("sft", {"adam_epsilon": 0}, "(0) must be more than 0 and at most 1"),
        ("sft", {"lr_scheduler_type": "linaer"}, "must be one of linear, cosine,"),
        ("sft", {"optim": "adam"}, "must be one of adamw_torch, adamw_torch_fused,"),
        ("rlvr", {"reward_weights": ["x"]}, "0: must be a number, not 'x'"),
        ("rlvr", {"reward_weights": [1.0, None]}, "1: must be a number, not None"),
        ("dpo", {"loss_type": [1]}, "0: must be a string, not 1"),
        ("sft", {"label_names": {"a": 1}}, "must be a list or null, not {'a': 1}"),
        ("sft", {"liger_kernel_config": {"rope": 1}}, "rope: must be true or false, not 1"),
        ("rlvr", {"top_p": 3.0}, "(3.0) must be more than 0 and at most 1"),
        ("rlvr", {"learning_rate": -1}, "(-1) must be 0 or more"),
        ("rlvr", {"learning_rate": float("nan")}, "(nan) must be 0 or more"),
        ("rlvr", {"loss_type": "nonsense"}, "must be one of grpo, bnpo,"),
        ("rlvr", {"scale_rewards": "nonsense"}, "must be one of group, batch, none, not 'nonsense'"),
        (
            "rlvr",
            {"num_iterations": 2, "save_steps": 0.5},
            "must be a multiple of 2 (steps between two generations), not",
        ),
        ("rlvr", {"gradient_accumulation_steps": 2, "steps_per_generation": 3, "save_steps": 4}, "multiple of 3"),
        ("sft", {"save_strategy": "epoch"}, "is not supported: checkpoints are taken at steps: use `save_steps`"),
        ("sft", {"max_steps": 0}, "(0) must be at least 1 (or -1: num_train_epochs decides)"),
        ("sft", {"num_train_epochs": 0}, "(0) must be more than 0"),
        ("sft", {"num_train_epochs": -1}, "(-1) must be more than 0"),
        ("sft", {"max_length": 0}, "(0) must be at least 2"),
        ("dpo", {"loss_type": ["sigmoid", "nope"]}, "must be one of sigmoid, hinge,"),
    ],
)
def test_values_that_no_trainer_can_use(kind, args, message):
    ((_, said),) = problems(KINDS[kind], args)
    assert message in said


@pytest.mark.parametrize("args", [{"save_steps": 0.5}, {"save_strategy": "steps"}, {"max_steps": -1}, {"beta": 0}])
def test_values_at_the_edge(args):
    assert not list(problems(Rlvr, args))


@pytest.mark.parametrize("config, name", CHOICES)
def test_choices_are_those_of_the_trainers(config, name):
    """The strings with which TRL's trainer compares the argument are the choices offered."""
    file = trl_arguments.package_folder("trl") / TRL_CONFIGS[config][1].replace("_config", "_trainer")
    compared = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Compare) and ast.unparse(node.left).split(".")[-1] == name:
            compared |= {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
    assert compared == set(CHOICES[config, name])


def test_keywords_of_generation_are_those_of_the_real_config():
    from transformers import GenerationConfig

    read = trl_arguments.popped_keywords("transformers", "generation/configuration_utils.py", "GenerationConfig")
    assert {name for name in vars(GenerationConfig()) if not name.startswith("_")} - set(read) == set()
    assert not list(trl_arguments.generation_problems({"generation_kwargs": {"typical_p": 0.9}}, "transformers"))
    assert not list(trl_arguments.generation_problems({"generation_kwargs": {"min_tokens": 1}}, "vllm"))


@pytest.mark.parametrize(
    "iterations, generation, accumulation, period",
    [(1, 1, 1, 1), (2, 1, 1, 2), (1, 4, 2, 2), (1, 3, 2, 3), (2, 3, 4, 3), (1, 1, 4, 1), (3, 2, 4, 3), (1, 5, 3, 5)],
)
def test_checkpoints_fall_between_generations_and_between_steps(iterations, generation, accumulation, period):
    assert trl_arguments.checkpoint_period(iterations, generation, accumulation) == period
    exact = [step for step in range(1, 31) if step * accumulation % (iterations * generation) == 0]
    assert exact == list(range(period, 31, period))


def test_more_processes_make_a_larger_batch(monkeypatch):
    args = {"num_generations": 16, "per_device_train_batch_size": 8}
    assert list(problems(Rlvr, args))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not list(problems(Rlvr, args))


@pytest.mark.parametrize(
    ("name", "file", "own"),
    [("SchedulerType", "trainer_utils", "lr_scheduler_type"), ("OptimizerNames", "training_args", "optim")],
)
def test_enumerations_are_those_of_transformers(name, file, own):
    import importlib

    real = getattr(importlib.import_module(f"transformers.{file}"), name)
    assert set(enumeration(*ENUMERATIONS[own])) == {each.value for each in real}


NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 4, 6, 8, 16, 500, 2**31 - 1, 0.01, 0.1, 0.5, 0.99, 1.0, 1.5, 99.5])


def drawn(kind: str, name: str) -> st.SearchStrategy:
    """Values of an argument: of its type, at the edges of what is taken, and words that are known."""
    annotation = KINDS[kind].arguments()[name].annotation
    words = PLAIN_VALUES.get(name) or CHOICES.get((KINDS[kind].trl_config, name))
    if words:
        return st.sampled_from([list(words), [words[0]]][:1] if "list" in annotation else list(words))
    return st.booleans() if "bool" in annotation else NUMBERS


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, derandomize=True, phases=[Phase.generate])
@given(data=st.data())
def test_trl_takes_plain_arguments(kind, data):
    """What `check` looks at without TRL, and finds nothing wrong with, TRL's own config takes."""
    from cpt.stages.configs import CONFIGS

    known = sorted(PLAIN & KINDS[kind].arguments().keys())
    args = {name: data.draw(drawn(kind, name), name) for name in data.draw(st.sets(st.sampled_from(known), max_size=5))}
    if not list(problems(KINDS[kind], args)):
        assert is_plain(args)
        CONFIGS[KINDS[kind].trl_config](output_dir="unused", report_to="none", use_cpu=True, **{"bf16": False} | args)
