"""What a launcher was asked for is what runs, and nothing of it overrules the recipe."""

import pytest

from cpt.checks.launch import asked_of, check_launch, overruled
from cpt.errors import UserError
from cpt.recipe import load
from helpers.launchers import LAUNCHERS, launch
from helpers.recipes import recipe, write_recipe

LAUNCH = ["python", "/usr/bin/accelerate", "launch"]
FSDP = """
distributed_type: FSDP
fsdp_config: {fsdp_version: 2, fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP}
num_machines: 1
num_processes: 2
use_cpu: true
"""


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> str:
        file = tmp_path / "launch.yaml"
        file.write_text(f"compute_environment: LOCAL_MACHINE\nmixed_precision: 'no'\n{text}")
        return str(file)

    return write


@pytest.mark.parametrize(
    "words, asked",
    [
        (["--num_processes", "3"], (3, None)),
        (["--use_fsdp", "--num_processes", "2"], (2, "FSDP")),
        (["--use_deepspeed"], (None, "DEEPSPEED")),
        (["--cpu"], (None, "NO")),
        (["--config_file", str(LAUNCHERS / "ddp-cpu.yaml")], (2, "MULTI_GPU")),
        (["--config_file", str(LAUNCHERS / "ddp-cpu.yaml"), "--num_processes", "4"], (4, "MULTI_GPU")),
        (["--config_file", str(LAUNCHERS / "ddp-cpu.yaml"), "--use_deepspeed"], (2, "DEEPSPEED")),
    ],
)
def test_the_command_line_stands_over_the_config(words, asked):
    assert asked_of([*LAUNCH, *words, "-m", "cpt", "run", "quickstart"]) == asked


def test_an_fsdp_config_on_cpus_is_read(config):
    assert asked_of([*LAUNCH, "--config_file", config(FSDP), "-m", "cpt"]) == (2, "FSDP")


def test_no_launcher_asks_for_nothing():
    assert asked_of(["bash"]) == (None, None)


@pytest.mark.parametrize(
    "flag, what",
    [
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "a parallelism config"),
    ],
)
def test_shared_out_weights_are_refused(flag, what, monkeypatch):
    monkeypatch.setenv(flag, "true")
    with pytest.raises(UserError, match=f"asked for {what}, which this version of cpt does not support"):
        check_launch(load("quickstart-sft"))


def test_a_precision_that_the_recipe_does_not_have(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    first = next(overruled(load("quickstart-sft")))
    assert "mixed_precision bf16, but stream.reverse.stages.0 has no: set mixed_precision to no" in first
    assert not list(overruled(load("quickstart-sft", [f"stream.{i}.stages.0.args.bf16=true" for i in range(4)])))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    assert "mixed_precision fp8" in next(overruled(load("quickstart-sft")))


def test_a_compiler_that_the_recipe_does_not_have(monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    assert "dynamo_backend inductor" in next(overruled(load("quickstart-sft")))


def test_fsdp_that_would_train_as_ddp_is_refused(config, tmp_path):
    """accelerate leaves FSDP out on CPUs: two processes train whole weights and say nothing."""
    file = write_recipe(tmp_path / "recipe.yaml", recipe("sft"))
    done = launch(config(FSDP), "run", file, "--out", tmp_path / "run")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert said.count("cpt: the launcher was asked for FSDP, which this version of cpt does not support") == 1, said
    assert not (tmp_path / "run" / "recipe.yaml").exists()
