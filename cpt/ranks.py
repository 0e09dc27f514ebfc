"""The processes of one run: who writes, and how they meet.

Thin over accelerate's `PartialState`. Rank 0 writes; every rank runs the same loop, and what one rank decides (a point is
committed, a signal came) is broadcast, so that no rank waits in a collective the others never enter.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any


def state():
    """accelerate's PartialState, made on first use (the training arguments may remake it: never keep it)."""
    import torch
    from accelerate import PartialState

    return PartialState() if torch.cuda.is_available() else PartialState(cpu=True)


def is_main() -> bool:
    return state().is_main_process


def world_size() -> int:
    return state().num_processes


def barrier() -> None:
    state().wait_for_everyone()


def broadcast(value: Any) -> Any:
    """Rank 0's `value` on every rank."""
    if world_size() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def on_main(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function` on rank 0 alone; its value, or its error, on every rank (so that none waits for a rank that failed)."""
    outcome = None
    if is_main():
        try:
            outcome = (function(*arguments), None)
        except Exception as error:
            if world_size() == 1:
                raise
            outcome = (None, error)
    value, error = broadcast(outcome)
    if error is not None:
        error.rank = 0
        raise error
    return value


def gather(values: Sequence[Any]) -> list[Any]:
    """All ranks' lists, joined in the order of the ranks, on every rank."""
    if world_size() == 1:
        return list(values)
    from accelerate.utils import gather_object

    return gather_object(list(values))


def any_rank(flag: bool) -> bool:
    """True on every rank if `flag` is true on one of them (one small all-reduce: cheap enough for every step)."""
    if world_size() == 1:
        return flag
    import torch.distributed

    value = torch.tensor([int(flag)], device=state().device)
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
    return bool(value.item())


def number_of(error: BaseException) -> int:
    """The rank on which an error arose: rank 0 for one that `on_main` brought here, else this one (before any collective)."""
    return getattr(error, "rank", int(os.environ.get("RANK", "0")))


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another process ended."""
    return any(sign in str(error) for sign in ("Connection closed by peer", "Connection reset by peer", "Broken pipe"))
