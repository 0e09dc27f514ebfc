"""The values that TRL's and transformers' training arguments may have: ranges and choices, where a name alone decides.

TRL takes most values, and then trains on nothing, or diverges hours later. Here a wrong one costs a line.
"""

import math
from collections.abc import Callable
from typing import Any

from cpt.errors import nearest, shown
from cpt.recipe.config_fields import enumeration

NEVER_NULL = ("num_generations", "max_completion_length")
CHOICES = {  # what TRL's trainers compare with; a test reads them there
    ("SFTConfig", "loss_type"): ("nll", "dft"),
    ("DPOConfig", "loss_type"): (
        *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot"),
        *("aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
    ),
    ("DPOConfig", "f_divergence_type"): ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
    ("GRPOConfig", "loss_type"): ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"),
    ("GRPOConfig", "scale_rewards"): ("group", "batch", "none"),
    ("GRPOConfig", "importance_sampling_level"): ("token", "sequence"),
    ("GRPOConfig", "multi_objective_aggregation"): ("sum_then_normalize", "normalize_then_sum"),
}
ENUMERATIONS = {  # of transformers, the same for all kinds
    "lr_scheduler_type": ("transformers", "trainer_utils.py", "SchedulerType"),
    "optim": ("transformers", "training_args.py", "OptimizerNames"),
}
LIMITS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "max_steps": ("at least 1 (or -1: num_train_epochs decides)", lambda x: x >= 1 or x == -1),
    "max_length": ("at least 2", lambda x: x >= 2),
    "temperature": ("from 0.01 to 100", lambda x: 0.01 <= x <= 100),
    "delta": ("more than 1", lambda x: x > 1),  # TRL: above 1 + epsilon
    **dict.fromkeys(
        ("save_steps", "logging_steps", "eval_steps"),
        (
            "a whole number of steps, or a share of all steps between 0 and 1",
            lambda x: 0 < x < 1 or (x >= 1 and x == int(x)),
        ),
    ),
    **dict.fromkeys(("top_p", "adam_epsilon"), ("more than 0 and at most 1", lambda x: 0 < x <= 1)),
    **dict.fromkeys(
        (
            *("per_device_train_batch_size", "gradient_accumulation_steps", "generation_batch_size", "num_generations"),
            *("steps_per_generation", "num_iterations", "max_completion_length", "save_total_limit"),
            *("precompute_ref_batch_size", "dataset_num_proc", "r", "per_device_eval_batch_size"),
            *("num_generations_eval", "ref_model_sync_steps", "pad_to_multiple_of", "num_completions_to_print"),
            *("dataloader_prefetch_factor", "torch_empty_cache_steps", "ddp_timeout", "ddp_bucket_cap_mb"),
            *("eval_accumulation_steps", "max_tool_calling_iterations"),
        ),
        ("at least 1", lambda x: x >= 1),
    ),
    **dict.fromkeys(
        (
            *("num_train_epochs", "repetition_penalty", "lora_alpha", "distillation_is_clip"),
            *("discopop_tau", "sapo_temperature_pos", "sapo_temperature_neg"),
        ),
        ("more than 0", lambda x: x > 0),
    ),
    **dict.fromkeys(
        (
            *("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "top_k", "beta", "eval_delay"),
            *("epsilon", "epsilon_high", "dataloader_num_workers", "num_loss_tokens_to_skip", "neftune_noise_alpha"),
            *("router_aux_loss_coef", "off_policy_mask_threshold", "vespo_k_pos", "vespo_k_neg"),
            *("vespo_lambda_pos", "vespo_lambda_neg", "entropy_coef_min", "entropy_coef_delta", "entropy_target"),
        ),
        ("0 or more", lambda x: x >= 0),
    ),
    **dict.fromkeys(
        ("min_p", "top_entropy_quantile", "ld_alpha", "ref_model_mixup_alpha"),
        ("from 0 to 1", lambda x: 0 <= x <= 1),
    ),
    **dict.fromkeys(
        ("adam_beta1", "adam_beta2", "lora_dropout", "label_smoothing_factor"),
        ("from 0 to below 1", lambda x: 0 <= x < 1),
    ),
    "label_smoothing": ("from 0 to below 0.5", lambda x: 0 <= x < 0.5),  # the share of preferences that are wrong
}
MOST = {  # beyond which a value is a slip of the pen
    **dict.fromkeys(("learning_rate", "weight_decay", "repetition_penalty"), 100),
    **dict.fromkeys(("dataloader_num_workers", "dataset_num_proc"), 4096),
    **dict.fromkeys(("beta", "epsilon", "epsilon_high", "num_train_epochs", "num_iterations"), 1_000_000),
}
LARGEST = 2**31 - 1
WORDS = {  # of every kind that has the argument, beside null
    "packing_strategy": ("bfd", "bfd_split", "wrapped"),
    "truncation_mode": ("keep_start", "keep_end"),
    "log_level": ("passive", "detail", "debug", "info", "warning", "error", "critical"),
    "log_level_replica": ("passive", "detail", "debug", "info", "warning", "error", "critical"),
}


def outside(name: str, value: Any) -> str | None:
    """What is wrong with a number that no trainer can use; None where it is no number or has no limit."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    bounds, fits = LIMITS.get(name, ("a finite number", lambda x: True))
    if not math.isfinite(value) or not fits(value):
        return f"({value}) must be {bounds}"
    most = MOST.get(name, LARGEST)
    return (
        f"({value}) must be {f'at most {most:,}' if value > 0 else f'at least {-most:,}'}"
        if abs(value) > most
        else None
    )


def not_a_choice(config: str, name: str, value: Any) -> str | None:
    """What is wrong with a word (or one of several) that the trainer of this TRL config does not know."""
    choices = CHOICES.get((config, name)) or (WORDS.get(name) if value is not None else None)
    if name in ENUMERATIONS:
        choices = enumeration(*ENUMERATIONS[name])
    for each in value if isinstance(value, list) else [value]:
        if choices and each not in choices:
            near = nearest(each, choices) if isinstance(each, str) else ""
            return f"must be one of {', '.join(choices)}, not {shown(each)}{near}"
    return None


def weights_problem(weights: Any, what: str, number: int) -> str | None:
    """What is wrong with the weights of `number` rewards, or losses (`what`); null weighs all alike."""
    if not isinstance(weights, list):
        return None
    if len(weights) != number:
        return f"has {len(weights)} weights, and the number of {what} is {number}"
    if wide := [each for each in weights if isinstance(each, int | float) and abs(each) > LARGEST]:
        return f"({wide[0]}) must be at most {LARGEST:,}"
    if not any(weights):
        return f"gives all {what} the weight 0: nothing would be learnt"
    return None
