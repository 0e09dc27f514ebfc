"""The TRL config of a stage: the recipe's `args` unchanged, and the few things that the run itself decides."""

import math
from contextlib import contextmanager
from pathlib import Path

from trl import DistillationConfig, DPOConfig, GRPOConfig, SFTConfig
from trl.experimental.sdft import SDFTConfig

from cpt import ranks
from cpt.errors import UserError
from cpt.recipe import Recipe, Stage, trl_arguments
from cpt.recipe.stages import Sft

CONFIGS = {each.__name__: each for each in (SFTConfig, DPOConfig, GRPOConfig, SDFTConfig, DistillationConfig)}


def make_config(recipe: Recipe, stage: Stage, key: str, work: Path, seed: int):
    """The config of a stage that the recipe names at `key`; checkpoints go to `work`.

    Raises:
        UserError: TRL refuses the arguments.
    """
    config_class = CONFIGS[stage.trl_config]
    ours = {"disable_tqdm": True, "save_total_limit": 2, "ddp_find_unused_parameters": False}
    ours["use_cpu"] = ranks.state().device.type == "cpu"
    if stage.uses_engine:
        ours["chat_template_kwargs"] = recipe.model.chat_template_kwargs
        ours["use_vllm"] = recipe.rollouts.engine != "transformers"  # TRL then corrects for the sampler's mismatch
        ours["vllm_mode"] = "colocate"  # as far as TRL need know
        ours["trust_remote_code"] = recipe.model.trust_remote_code  # for models that TRL loads by itself
    ours |= stage.trl_options()
    run_decides = {"output_dir": str(work), "seed": seed, "data_seed": seed, "report_to": "none"}
    try:
        config = config_class(**ours | stage.args, **run_decides)
    except Exception as error:  # of whatever class: its checks of one argument stumble over another's value
        raise UserError(f"{key}.args: {config_class.__name__} refuses: {one_line(error)}") from error
    if "save_steps" not in stage.args:
        period = checkpoint_period(config)
        config.save_steps = math.ceil(config.save_steps / period) * period
    return config


def checkpoint_period(config) -> int:
    """Steps between places where a checkpoint is exact: rollouts and their counter are not in TRL's checkpoints.

    Where TRL generates for one optimiser step at a time (or not at all) every step is such a place.
    """
    if not isinstance(config, GRPOConfig | SDFTConfig):
        return 1
    return trl_arguments.checkpoint_period(
        config.num_iterations, config.steps_per_generation, config.gradient_accumulation_steps
    )


def check_configs(recipe: Recipe, findings) -> None:
    """Build the real config of all that is trained, and note what TRL refuses in `findings`."""
    stages = [(f"stream.{task.task}.stages.{i}", each) for task in recipe.stream for i, each in enumerate(task.stages)]
    for number, spec in enumerate(recipe.strategies):
        if spec.memory is not None:
            stages.append((f"strategies.{number}.memory", Sft(kind="sft", args=spec.memory.args)))
    for key, stage in stages:
        with findings.collecting():
            config = make_config(recipe, stage, key, Path("unused"), seed=0)
            check_optimisation(config, stage, key)
            check_generation(config, key)
            check_device(config, key)


def check_optimisation(config, stage: Stage, key: str) -> None:
    """Make the optimiser's class and the schedule that the arguments name. Raises UserError where that cannot be done."""
    import torch
    from transformers import Trainer, get_scheduler

    one = torch.nn.Linear(1, 1)
    if {"optim", "optim_args"} & set(stage.args) and not config.optim_target_modules:
        with taken(key, "optim"):
            Trainer.get_optimizer_cls_and_kwargs(config, one)
    if {"lr_scheduler_type", "lr_scheduler_kwargs"} & set(stage.args):
        with taken(key, "lr_scheduler_kwargs"):
            get_scheduler(
                config.lr_scheduler_type,
                optimizer=torch.optim.SGD(one.parameters(), lr=1.0),
                num_warmup_steps=1,
                num_training_steps=10,
                scheduler_specific_kwargs=dict(config.lr_scheduler_kwargs or {}),
            )


def check_generation(config, key: str) -> None:
    """transformers takes what the arguments say of generation, where TRL generates with it. Raises UserError."""
    from transformers import GenerationConfig

    if getattr(config, "use_vllm", True):
        return
    for name in ("cache_implementation", "generation_kwargs"):
        if value := getattr(config, name):
            with taken(key, name):
                GenerationConfig(**(value if isinstance(value, dict) else {name: value})).validate()


def check_device(config, key: str) -> None:
    """The arguments ask for nothing that only a GPU has where there is none. Raises UserError."""
    if getattr(config, "activation_offloading", False) and ranks.state().device.type == "cpu":
        raise UserError(
            f"{key}.args.activation_offloading: moves activations from a GPU to the CPU; this machine has no GPU: "
            "remove it"
        )


@contextmanager
def taken(key: str, name: str):
    """Whatever transformers raises in this block is what it says of the argument."""
    try:
        yield
    except Exception as error:  # of whatever class, as in `make_config`
        raise UserError(f"{key}.args.{name}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
