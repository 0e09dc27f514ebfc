"""Whether the launcher gives each process only a part of the weights. No heavy import."""

import os

FLAGS = (
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_DEEPSPEED",
)  # set by accelerate's launcher and by transformers' arguments


def is_sharded() -> bool:
    """Whether DeepSpeed or FSDP is on. (accelerate's PartialState says MULTI_GPU under FSDP, so it cannot be asked.)"""
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes") for name in FLAGS)
