"""The policy as a stage loads it, and what its KL is measured from."""

import re
from pathlib import Path

import torch
from peft import load_peft_weights, set_peft_model_state_dict
from transformers import Trainer

from cpt import models, pissa
from cpt.adapters import is_adapter
from cpt.context import Stage

REFERENCE = re.compile(r"\.ref(?=\.|$)")  # in the names of the weights of TRL's copy of an adapter


def load_policy(stage: Stage, reference: Path | None = None):
    """The policy of `stage.source`, with TRL's reference pointed at the folder `reference`.

    TRL loads the reference of a model with all its weights from the path in its config, so that path is the reference.
    With an adapter it copies the adapter as loaded; `set_reference_adapter` makes that what `reference` names.
    """
    policy = models.load_policy(stage.source, stage.base, stage.recipe, trainable=True, seed=stage.seed)
    if reference is not None:
        policy.config.name_or_path = str(reference)
    return policy


def set_reference_adapter(trainer: Trainer, stage: Stage) -> None:
    """Let TRL's reference under an adapter be what `reference` names: the model with TRL's copy "ref", or without any.

    TRL makes that copy of the policy's adapter as it came, and of some kinds (IA3, VeRA) leaves weights out.
    """
    model = trainer.model
    if "ref" not in getattr(model, "peft_config", {}):
        return
    if stage.spec.reference == "stage-start":
        for name, weight in of_reference(model).items():
            weight.data.copy_(model.get_parameter(name))
    elif is_adapter(stage.reference):
        saved = load_peft_weights(stage.reference, "cpu")
        saved = pissa.trained(saved) if pissa.is_split(model) else saved
        missing = set_peft_model_state_dict(model, saved, adapter_name="ref")
        assert not missing.unexpected_keys, "the previous task's adapter is another than this one's"
    else:
        model.delete_adapter("ref")


def of_reference(model) -> dict[str, torch.nn.Parameter]:
    """The weights of TRL's copy of the adapter, by the names of the policy's."""
    return {REFERENCE.sub(".default", name): each for name, each in model.named_parameters() if REFERENCE.search(name)}


def reference_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The weights of the KL's reference, by the names of the policy's trained ones; empty where there is no reference."""
    trained = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    if getattr(trainer, "ref_model", None) is not None:
        weights = dict(trainer.accelerator.unwrap_model(trainer.ref_model).named_parameters())
    elif "ref" in getattr(trainer.model, "peft_config", {}):
        weights = of_reference(trainer.model)
    else:
        return {}
    return {name: weights[name] for name in trained}
