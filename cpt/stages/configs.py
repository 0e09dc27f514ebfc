"""The TRL config of a stage: the recipe's `args` word for word, and the few things that the run itself decides."""

import math
from pathlib import Path

from trl import DPOConfig, GRPOConfig, SFTConfig

from cpt import ranks
from cpt.errors import UserError
from cpt.recipe import Recipe, Stage
from cpt.stages import arguments

CONFIGS = {"sft": SFTConfig, "dpo": DPOConfig, "rlvr": GRPOConfig, "hybrid": GRPOConfig, "rejection": SFTConfig}


def make_config(recipe: Recipe, stage: Stage, key: str, work: Path, seed: int):
    """The config of a stage that the recipe names at `key`; checkpoints go to `work`.

    Raises:
        UserError: TRL refuses the arguments.
    """
    config_class = CONFIGS[stage.kind]
    ours = {"disable_tqdm": True, "save_total_limit": 2, "ddp_find_unused_parameters": False}
    ours["use_cpu"] = ranks.state().device.type == "cpu"
    if stage.kind in arguments.ROLLOUT_KINDS:
        ours["chat_template_kwargs"] = recipe.model.chat_template_kwargs
        ours["use_vllm"] = recipe.rollouts.engine != "transformers"  # TRL then corrects for the sampler's mismatch
        ours["vllm_mode"] = "colocate"  # as far as TRL need know
    run_decides = {"output_dir": str(work), "seed": seed, "data_seed": seed, "report_to": "none"}
    try:
        config = config_class(**ours | stage.args, **run_decides)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"{key}.args: {config_class.__name__} refuses: {one_line(error)}") from error
    if "save_steps" not in stage.args:
        period = checkpoint_period(config)
        config.save_steps = math.ceil(config.save_steps / period) * period
    return config


def checkpoint_period(config) -> int:
    """Steps between places where a checkpoint is exact: GRPO's rollouts and their counter are not in its checkpoints."""
    if not isinstance(config, GRPOConfig):
        return 1
    return arguments.checkpoint_period(
        config.num_iterations, config.steps_per_generation, config.gradient_accumulation_steps
    )


def check_configs(recipe: Recipe) -> None:
    """Build the real config of every stage (`cpt check --full`). Raises UserError for what TRL refuses."""
    for task in recipe.stream:
        for index, stage in enumerate(task.stages):
            make_config(recipe, stage, f"stream.{task.task}.stages.{index}", Path("unused"), seed=0)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
