"""The seats of a penalty: a term of the loss that keeps a policy near what it was, in every kind of stage.

A strategy gives its penalties in `Strategy.penalties`; `stages.trainer.StageTrainer` applies them. A penalty acts in weight
space (`gradient`), in function space (`loss`), or in both.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Penalty:
    """A penalty that adds nothing. Both seats are the same with one micro-batch a step and with many."""

    def begin(self, weights: "Mapping[str, torch.Tensor]") -> None:
        """The trained weights by name, as the stage began (in a resumed stage too). Copy what must be kept."""

    def gradient(self, weights: "Mapping[str, torch.Tensor]") -> "Mapping[str, torch.Tensor]":
        """What is added to the gradient of each of these trained weights: once an optimiser step, before clipping.

        Of the shape and on the device of the weight; names that are left out get nothing. Not under autograd.
        """
        return {}

    def loss(self, model: Any, batch: "Mapping[str, torch.Tensor]") -> "torch.Tensor | None":
        """A scalar with a gradient (nats, say) that is added to the loss of a micro-batch; a step's is the mean over its own.

        `batch` is what the model takes of the micro-batch that is trained on: `input_ids` (B, T) and `attention_mask` (B, T)
        or, of packed rows, `position_ids`. `model(**batch).logits` is the policy's own pass.
        """
        return None
