"""The average of a policy's trained weights while a stage trains: tensors beside the weights, or in CPU memory.

An average is as local as the weights are: each process averages what it holds, so nothing is gathered or sent. It is
updated tensor group by tensor group, so that the only full copy is the average itself.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

GROUP_BYTES = 64 * 2**20  # of weights whose difference to the average is held at a time


def groups_of(tensors: Sequence[torch.Tensor], size: int = GROUP_BYTES) -> Iterator[slice]:
    """Slices of the list, each of at least one tensor and at most `size` bytes where they allow it."""
    first, held = 0, 0
    for place, tensor in enumerate(tensors):
        held += tensor.numel() * 4
        if held > size and place > first:
            yield slice(first, place)
            first, held = place, tensor.numel() * 4
    if tensors:
        yield slice(first, len(tensors))


class ElementShares:
    """A share for each element: `of_group` gives those of the tensors in a slice. `means` are of each tensor asked for."""

    def __init__(self, of_group: Callable[[slice], list[torch.Tensor]]):
        self.of_group = of_group
        self.means: list[torch.Tensor] = []

    def __call__(self, group: slice) -> list[torch.Tensor]:
        shares = self.of_group(group)
        self.means += [share.mean() for share in shares]
        return shares


Share = float | Sequence[float] | ElementShares  # of all tensors, one for each, or one for each element


def share_in(a: Share, group: slice, tensors: Sequence[torch.Tensor]) -> float | list[float] | list[torch.Tensor]:
    """The share of the tensors in the slice `group`, which are `tensors`, as `torch._foreach_lerp_` takes it."""
    if isinstance(a, ElementShares):
        return [share.to(tensor.dtype) for share, tensor in zip(a(group), tensors, strict=True)]
    return a if isinstance(a, float) else list(a[group])


def mean_share(a: Share) -> float:
    """The mean over tensors of what an update took."""
    each = torch.stack(a.means).tolist() if isinstance(a, ElementShares) else a
    return each if isinstance(each, float) else sum(each) / len(each)


class Average:
    """`average` <- average + a (weights - average), in place; `start` are the tensors it begins with (a copy is kept)."""

    def __init__(
        self, weights: Sequence[torch.Tensor], start: Sequence[torch.Tensor] | None, dtype: torch.dtype | None
    ):
        self.weights = list(weights)
        self.tensors = [
            torch.empty_like(
                weight, dtype=dtype or weight.dtype, requires_grad=False, memory_format=torch.contiguous_format
            )
            for weight in self.weights
        ]
        torch._foreach_copy_(self.tensors, list(start) if start is not None else self.weights)

    @torch.no_grad()
    def update(self, a: Share) -> None:
        """Take the share `a` of the weights."""
        for group in groups_of(self.tensors):
            part = self.tensors[group]
            live = [w if w.dtype == t.dtype else w.to(t.dtype) for w, t in zip(self.weights[group], part, strict=True)]
            torch._foreach_lerp_(part, live, share_in(a, group, part))

    def wait(self) -> None:
        """Until the average is what the last update made it."""

    def before_step(self) -> None:
        """Called before the weights change."""


class OffloadedAverage(Average):
    """The average in CPU memory: weights are copied there on a stream of their own while the next step is computed.

    The copy must be out before the optimiser changes the weights again (`before_step`); the arithmetic is a thread's.
    """

    def __init__(
        self, weights: Sequence[torch.Tensor], start: Sequence[torch.Tensor] | None, dtype: torch.dtype | None
    ):
        self.pinned = weights[0].is_cuda
        self.source = list(weights)
        self.copies = [torch.empty(weight.shape, dtype=weight.dtype, pin_memory=self.pinned) for weight in weights]
        super().__init__(self.copies, None, dtype)
        torch._foreach_copy_(
            self.tensors, [tensor.detach().cpu() for tensor in (start if start is not None else weights)]
        )
        self.stream = torch.cuda.Stream() if self.pinned else None
        self.copied: torch.cuda.Event | None = None
        self.thread = ThreadPoolExecutor(1)
        self.pending: Future | None = None

    @torch.no_grad()
    def update(self, a: Share) -> None:
        self.wait()  # the copies are free again
        if self.stream is None:
            torch._foreach_copy_(self.copies, self.source)
        else:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                for copy, weight in zip(self.copies, self.source, strict=True):
                    copy.copy_(weight, non_blocking=True)
            self.copied = self.stream.record_event()
        self.pending = self.thread.submit(self._arrived, a)

    def _arrived(self, a: Share) -> None:
        if self.copied is not None:
            self.copied.synchronize()
        super().update(a)

    def before_step(self) -> None:
        if self.copied is not None:
            torch.cuda.current_stream().wait_event(self.copied)

    def wait(self) -> None:
        if self.pending is not None:
            self.pending.result()
            self.pending = None
