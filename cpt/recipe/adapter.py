"""What a recipe's `adapter` can say beyond the types of its fields: how a LoRA begins, and what of the base it trains."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cpt.lora import takes_from_base

INITIALISATIONS = r"gaussian|orthogonal|mica|olora|pissa|pissa_niter_\d+"
NAMES = "true, gaussian, orthogonal, mica, olora, pissa or pissa_niter_N"
UNMET = {
    "eva": "needs activations of some data",
    "corda": "needs covariances of some data",
    "lora_ga": "needs gradients of some data",
    "loftq": "needs a quantised base",
}
NOT_BESIDE_PISSA = (
    "use_dora",
    "target_parameters",
    "layer_replication",
)  # of a LoRA that begins with a part of the base


DECIDED = {  # fields of PEFT's configs that the run itself decides
    "base_model_name_or_path": "use `model.path`",
    "revision": "use `model.revision`",
    "inference_mode": "adapters are always trained; remove it",
    "task_type": "models are always causal language models; remove it",
    "peft_type": "use `kind`",
    "auto_mapping": "remove it",
    "peft_version": "remove it",
}


def decided_problems(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, what to do) of fields that would be taken and never used."""
    return ((name, f"is not supported: {remedy}") for name, remedy in DECIDED.items() if name in options)


def initialisation_problems(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it) of the way in which an adapter begins."""
    kind, how = str(options["kind"]).lower(), options.get("init_lora_weights")
    if not isinstance(how, str):
        return
    if kind != "lora":
        yield "init_lora_weights", f"{options['kind']} has its own initialisation, not {how!r}: leave it out"
    elif how in UNMET:
        yield "init_lora_weights", f"{how} {UNMET[how]} before training, which cpt does not compute: use {NAMES}"
    elif not re.fullmatch(INITIALISATIONS, how):
        yield "init_lora_weights", f"must be {NAMES}, not {how!r}"
    elif takes_from_base(options):
        for name in NOT_BESIDE_PISSA:
            if options.get(name):
                yield name, f"cannot be combined with init_lora_weights {how}: leave one of the two out"


def bias_problems(adapter: Any, stream: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it) where an adapter trains the base's own biases, and a stage compares with the base."""
    options = {} if adapter is None else adapter.model_dump()
    if options.get("bias", "none") in (None, "none"):
        return
    for task in stream:
        for index, stage in enumerate(task.stages):
            if stage.compares_policies:
                yield (
                    "bias",
                    f"{options['bias']!r} trains biases of the model itself, so the model that stream.{task.task}.stages."
                    f"{index} compares the policy with would move too: set it to none",
                )
                return
