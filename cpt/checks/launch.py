"""What the launcher was asked for, compared with what runs: the number of processes, the kind, the precision, the compiler.

A launcher's settings reach the trainers through the environment, past the recipe. What would be ignored, or would change
what a recipe trains, is refused before anything is loaded: accelerate's MULTI_CPU starts one process, its FSDP trains as DDP
on CPUs, and its `mixed_precision` and `dynamo_backend` overrule the recipe, each without a word.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from cpt import ranks
from cpt.errors import UserError
from cpt.recipe import Recipe

SHARED_OUT = {  # accelerate's flag: what it asks for
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
KINDS = {  # accelerate's distributed_type: what it asks for
    "FSDP": "FSDP",
    "DEEPSPEED": "DeepSpeed",
    "MEGATRON_LM": "Megatron-LM",
    "XLA": "XLA (TPU)",
}


def launchers() -> Path:
    """The folder of accelerate's configs that come with cpt: inside an installed package, else beside it."""
    here = Path(__file__).parents[1]
    installed = here / "_data" / "recipes" / "accelerate"
    return installed if installed.is_dir() else here.parent / "recipes" / "accelerate"


def check_launch(recipe: Recipe) -> None:
    """Compare what the launcher was asked for with what runs.

    Raises:
        UserError: the launcher was asked for another number of processes, for another kind of processes than whole weights on
            each (DDP), or for a precision or a compiler that the recipe does not have.
    """
    processes, kind = asked_of(parent_command())
    kinds = [KINDS.get(kind), *(what for flag, what in SHARED_OUT.items() if is_on(flag))]
    if any(kinds):
        what = next(filter(None, kinds))
        raise UserError(
            f"the launcher was asked for {what}, which this version of cpt does not support: every process holds "
            f"whole weights; launch with {launchers() / 'ddp.yaml'} (without GPUs: ddp-cpu.yaml)"
        )
    running = ranks.world_size()
    if processes is not None and processes != running:
        raise UserError(
            f"accelerate launch was asked for {processes} processes, but {running} run(s): on CPUs use "
            f"{launchers() / 'ddp-cpu.yaml'} (distributed_type: MULTI_GPU with use_cpu: true); MULTI_CPU starts only one"
        )
    for message in overruled(recipe):
        raise UserError(message)


def overruled(recipe: Recipe) -> Iterator[str]:
    """What of the launcher's environment would change the training that the recipe describes."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    for task in recipe.stream:
        for index, stage in enumerate(task.stages):
            own = next((name for name in ("bf16", "fp16") if stage.value(name)), "no")
            if precision not in ("", "no", own):
                yield (
                    f"the launcher was asked for mixed_precision {precision}, but stream.{task.task}.stages.{index} has "
                    f"{own}: set mixed_precision to no in the launcher's config, or args.{precision} in the recipe"
                )
    if (compiler := os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()) not in ("", "no"):
        yield (
            f"the launcher was asked for dynamo_backend {compiler}, which the recipe decides: set it to no in the "
            "launcher's config, and args.torch_compile in the recipe"
        )


def is_on(flag: str) -> bool:
    return os.environ.get(flag, "").lower() in ("1", "true", "yes")


def parent_command() -> list[str]:
    import psutil

    parent = psutil.Process().parent()
    return parent.cmdline() if parent else []


def asked_of(command: list[str]) -> tuple[int | None, str | None]:
    """The number of processes and accelerate's `distributed_type`, by a launcher's command line or else its config.

    None where it says nothing, and where the command is not accelerate's launcher.
    """
    words = launcher_arguments(command)
    if words is None:
        return None, None
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    arguments, _ = launch_command_parser().parse_known_args(words)
    flags = {
        "DEEPSPEED": arguments.use_deepspeed,
        "FSDP": arguments.use_fsdp,
        "MEGATRON_LM": arguments.use_megatron_lm,
        "XLA": arguments.tpu,
        "MULTI_GPU": arguments.multi_gpu,
        "NO": arguments.cpu,
    }
    processes, kind = arguments.num_processes, next((name for name, on in flags.items() if on), None)
    if arguments.config_file is not None:
        config = load_config_from_file(arguments.config_file)
        processes = config.num_processes if processes is None else processes
        kind = kind or str(getattr(config.distributed_type, "value", config.distributed_type))
    return processes, kind


def launcher_arguments(command: list[str]) -> list[str] | None:
    """What follows accelerate's launcher in a command line, whichever of its names it has; None where there is none."""
    for place, word in enumerate(command):
        named = Path(word).name == "accelerate-launch" or word == "accelerate.commands.launch"
        if named or word.endswith("accelerate/commands/launch.py"):
            return command[place + 1 :]
        if word == "launch" and place and "accelerate" in command[place - 1]:
            return command[place + 1 :]
    return None
