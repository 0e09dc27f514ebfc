"""The policy's log-probabilities of an engine's answers, in an arithmetic that the engine's own can be compared in.

An engine in float32 is compared with the policy in float32, whatever the policy is kept and trained in: bfloat16 weights are
float32 weights too, and the two then differ by 1e-5 or less. An engine in bfloat16 or float16 has an arithmetic of its own:
its logits are rounded to the last of 8 (11) binary places, and the layers before them add to that. What a log-probability is
allowed to be off by is ALLOWED times what that last place does to it, on each side that is so coarse. Measured, as a part of
what is allowed: .31 (toy model, policy alone in bfloat16) to .37 (135M parameters, the engine alone), .27 (both sides).
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch.func import functional_call

from cpt.rollouts.batches import Limits
from cpt.rollouts.transformers import logits_of_answers

EXACT = 1e-3  # of the mean difference in float32 (nats)
ALLOWED = 2.0
PLACES = {torch.bfloat16: 8, torch.float16: 11}  # binary digits of a number


def policy_logprobs(
    model, prompts: Sequence[list[int]], answers: Sequence[list[int]], engine_dtype: str, pad_id: int
) -> tuple[torch.Tensor, float]:
    """(the log-probabilities (nats) of all tokens of the answers, one after the other; how far off their mean may be)."""
    comparable = engine_dtype == "float32" and is_whole(model)
    forward = in_float32(model) if comparable else model
    coarse = (
        [] if comparable else [dtype for dtype in (getattr(torch, engine_dtype), computed_in(model)) if dtype in PLACES]
    )
    logprobs: list[torch.Tensor] = [torch.empty(0)] * len(prompts)
    allowed: list[torch.Tensor] = []
    for place, logits_CV, ids_C in logits_of_answers(model, prompts, answers, Limits(len(prompts)), pad_id, forward):
        logps_CV = logits_CV.log_softmax(-1)
        logprobs[place] = logps_CV.gather(-1, ids_C[:, None]).squeeze(-1).cpu()
        largest_C, spread_C = logits_CV.abs().amax(-1), spread(logps_CV, ids_C)
        allowed += [(ALLOWED * last_place(largest_C, dtype) * spread_C).cpu() for dtype in coarse]
    tokens = sum(map(len, answers))
    return torch.cat(logprobs), max(EXACT, sum(each.sum().item() for each in allowed) / tokens)


def last_place(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The distance of two neighbouring numbers of this dtype where the values are."""
    return 2.0 ** (values.log2().floor() - (PLACES[dtype] - 1))


def spread(logps_CV: torch.Tensor, ids_C: torch.Tensor) -> torch.Tensor:
    """How much independent errors of 1 in all logits move the log-probability of each token: the norm of its gradient."""
    probs_CV = logps_CV.exp()
    p_C = probs_CV.gather(-1, ids_C[:, None]).squeeze(-1)
    return ((1 - p_C) ** 2 + (probs_CV**2).sum(-1) - p_C**2).clamp(min=0).sqrt()


def is_whole(model) -> bool:
    """Whether this process holds all of every weight: neither DeepSpeed's empty ones nor FSDP's shards."""
    return all(type(each.data) is torch.Tensor and each.numel() for each in model.parameters())


def computed_in(model) -> torch.dtype:
    """The dtype of the policy's forward pass: that of its weights, or of the autocast that accelerate put around it."""
    if "_original_forward" in vars(model):
        return torch.get_autocast_dtype(model.device.type)
    return model.dtype


def in_float32(model) -> Callable[..., Any]:
    """The model's forward pass with its weights in float32 (a copy, where they are not) and without accelerate's autocast."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    weights = {name: each.detach().float() for name, each in tensors if each.dtype in PLACES}

    def forward(**inputs):
        own = vars(model).get("forward")
        if "_original_forward" in vars(model):
            model.forward = model._original_forward
        try:
            return functional_call(model, weights, (), inputs)
        finally:
            if own is not None:
                model.forward = own

    return forward
