"""TRL's configs: where their classes stand, and what they take, read from the installed source without importing it."""

from cpt.recipe.config_fields import Argument, class_fields

TRL_CONFIGS = {
    "SFTConfig": ("trl", "trainer/sft_config.py", "SFTConfig"),
    "DPOConfig": ("trl", "trainer/dpo_config.py", "DPOConfig"),
    "GRPOConfig": ("trl", "trainer/grpo_config.py", "GRPOConfig"),
    "SDFTConfig": ("trl", "experimental/sdft/sdft_config.py", "SDFTConfig"),
    "DistillationConfig": ("trl", "trainer/distillation_config.py", "DistillationConfig"),
}


def config_arguments(name: str) -> dict[str, Argument]:
    """The fields of a TRL config, its bases' included."""
    return class_fields(*TRL_CONFIGS[name])
