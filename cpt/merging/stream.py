"""The streaming pass: threads that each read a chunk of every source, merge it, and write it in its place.

A task is a block of one tensor in one pass over it. All blocks of a pass come before the next pass of that tensor; what was
measured is joined in the order of the blocks, so the result does not depend on threads. Where something must be known of the
whole model (a survey), its passes over all tensors come first; they count, so their order does not matter. A thread's buffers
are all the memory there is: no tensor is ever held whole.
"""

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch

from cpt.errors import UserError
from cpt.merging.method import Again, Chunk
from cpt.merging.plan import CHUNK, Plan, Tensors, compute_dtype, survey_of
from cpt.merging.writing import Writer

BLOCK = 1 << 22  # elements of a task
SECONDS_BETWEEN_LOOKS = 0.1
LARGE_BLOCK = 24 << 20  # bytes; below the 32 MB up to which glibc learns


@dataclass
class Job:
    """A tensor on its way: the pass it is in, what is known of it, and what the blocks of this pass have found."""

    name: str
    tensor: Tensors
    dtype: torch.dtype
    step: int  # elements of a chunk
    block: int  # elements of a task
    number: int = 0
    stride: int = 1  # every n-th chunk is seen in this pass
    known: Any = None
    results: dict[int, Any] = field(default_factory=dict)

    @property
    def starts(self) -> range:
        return range(0, max(1, self.tensor.size), self.block)


class Pass:
    """One merge. `run` returns when every tensor is written, or raises what stopped it."""

    def __init__(self, plan: Plan, writer: Writer):
        self.plan, self.writer = plan, writer
        jobs = [self._job(name, tensor) for name, tensor in plan.tensors.items()]
        jobs.sort(key=lambda job: -job.tensor.size)
        self.jobs, self.survey = jobs, survey_of(plan)
        self.tasks = deque((job, start) for job in jobs for start in job.starts)
        self.surveyed = 0  # blocks of this pass of the survey that are still to be counted
        if self.survey is not None:
            self._survey_all()
        self.unfinished, self.bytes_done, self.error = len(jobs), 0, None
        self.changed = threading.Condition()

    def _survey_all(self) -> None:
        """Begin a pass of the survey over all tensors that are merged."""
        self.tasks = deque((job, start) for job in self.jobs if job.tensor.merged for start in job.starts)
        self.surveyed = len(self.tasks)

    def _job(self, name: str, tensor: Tensors) -> Job:
        row = tensor.shape.shape[-1] if self.plan.method.whole_rows and tensor.shape.shape else 1
        dtype = compute_dtype(self.plan, tensor)
        step = max(1, CHUNK // dtype.itemsize // max(1, row)) * max(1, row)
        first = [*self.plan.method.strides, 1][0] if tensor.merged else 1
        return Job(name, tensor, dtype, step, max(1, BLOCK // step) * step, stride=first)

    def run(self, progress=None, stop=None) -> None:
        """`progress(bytes read so far)` and `stop.check()` are called now and then."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # each of our threads is one; torch's own would crowd them
        keep_freed_memory()
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.plan.threads)]
        for thread in threads:
            thread.start()
        try:
            while True:
                going = self._going()
                if progress:
                    progress(self.bytes_done)
                if stop:
                    stop.check()
                if not going:
                    break
                with self.changed:
                    self.changed.wait(SECONDS_BETWEEN_LOOKS)
        except BaseException as error:
            self._end(error)
        for thread in threads:
            thread.join()
        torch.set_num_threads(before)
        if self.error is not None:
            raise self.error

    def _going(self) -> bool:
        return self.unfinished > 0 and self.error is None

    def _end(self, error: BaseException) -> None:
        with self.changed:
            self.error = self.error or error
            self.changed.notify_all()

    # -- in the threads ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        torch.set_num_threads(1)
        buffers = Buffers()
        try:
            while (task := self._next()) is not None:
                self._do(*task, buffers)
        except BaseException as error:  # passed on to the thread that called `run`
            self._end(error)

    def _next(self) -> tuple[Job, int] | None:
        with self.changed:
            while self._going():
                if self.tasks:
                    return self.tasks.popleft()
                self.changed.wait()
            return None

    def _do(self, job: Job, start: int, buffers: "Buffers") -> None:
        end = min(start + job.block, job.tensor.size)
        if job.stride == 1:
            for source, name, entry in self.plan.places(job.tensor):
                source.soon(name, start * entry.dtype.itemsize, (end - start) * entry.dtype.itemsize)
        if self.surveyed:
            self._count(job, start, end, buffers)
            return
        statistic = None
        for place in range(start, end, job.step * job.stride):
            count = min(job.step, end - place)
            part = self._chunk(job, place, count, buffers)
            statistic = part if statistic is None else self.plan.method.add(job.number, statistic, part)
            if not self._going():
                return
        if job.number == len(self.plan.method.strides):
            item = job.tensor.shape.dtype.itemsize
            self.writer.begun(job.name, start * item, (end - start) * item)
        self._finish(job, start, statistic)

    def _count(self, job: Job, start: int, end: int, buffers: "Buffers") -> None:
        """Count a block in this pass of the survey; after the last one learn from all, and begin the next, or the merge."""
        for place in range(start, end, job.step):
            chunk = self._read(job, place, min(job.step, end - place), buffers)
            counts = self.survey.measure(chunk.base, chunk.models)
            with self.changed:
                self.survey.add(counts)
                self.bytes_done += chunk.models[0].numel() * self._bytes_of_one(job)
            if not self._going():
                return
        with self.changed:
            self.surveyed -= 1
            if self.surveyed:
                return
            self.survey.learn()
            if self.survey.known is None:
                self._survey_all()
            else:
                for each in self.jobs:
                    each.known = self.survey.known
                self.tasks = deque((each, start) for each in self.jobs for start in each.starts)
            self.changed.notify_all()

    def _chunk(self, job: Job, start: int, count: int, buffers: "Buffers") -> Any:
        """Measure the chunk (its part is returned), or merge and write it, or copy it."""
        if not job.tensor.merged:
            return self._copy(job, start, count, buffers)
        method = self.plan.method
        chunk = self._read(job, start, count, buffers)
        if job.number < len(method.strides):
            return method.measure(job.number, job.known, chunk)
        try:
            merged = method.merge(job.known, chunk)
        except UserError as error:
            raise UserError(f"{job.name}: {error}") from error
        merged = narrowed(merged, job.tensor.shape.dtype, job.name)
        self.writer.write(job.name, start * merged.element_size(), merged)
        return None

    def _read(self, job: Job, start: int, count: int, buffers: "Buffers") -> Chunk:
        pieces = []
        rows = self.plan.method.whole_rows and job.tensor.shape.shape
        shape = (-1, job.tensor.shape.shape[-1]) if rows else (-1,)
        for number, (source, name, entry) in enumerate(self.plan.places(job.tensor)):
            raw = buffers.get((number, "raw"), count * entry.dtype.itemsize)
            source.read(name, start * entry.dtype.itemsize, raw)
            piece = raw.view(entry.dtype)
            if piece.dtype != job.dtype:
                wide = buffers.get((number, "wide"), count * job.dtype.itemsize).view(job.dtype)
                piece = wide.copy_(piece)
            if job.number == len(self.plan.method.strides):
                check_finite(piece, name, source.place)
            pieces.append(piece.view(shape))
        count_models = len(self.plan.models)
        base = pieces[count_models] if self.plan.base is not None else None
        return Chunk(job.name, start, base, pieces[:count_models], pieces[len(pieces) - len(self.plan.fishers) :])

    def _copy(self, job: Job, start: int, count: int, buffers: "Buffers") -> None:
        item = job.tensor.shape.dtype.itemsize
        first = None
        for number, (source, name, _) in enumerate(self.plan.places(job.tensor)):
            raw = buffers.get((number, "raw"), count * item)
            source.read(name, start * item, raw)
            first = raw if first is None else first
            if not torch.equal(first, raw):
                raise UserError(
                    f"{job.name}: integers that differ between {self.plan.sources[0].place} and {source.place}: they cannot "
                    "be merged"
                )
        self.writer.write(job.name, start * item, first)

    def _bytes_of_one(self, job: Job) -> int:
        """Bytes that are read for one element, of all sources."""
        return sum(entry.dtype.itemsize for _, _, entry in self.plan.places(job.tensor))

    def _finish(self, job: Job, start: int, result: Any) -> None:
        """Note the block; after the last one of a pass, learn from all and begin the next."""
        method = self.plan.method
        count = min(job.block, job.tensor.size - start) // job.stride
        with self.changed:
            self.bytes_done += count * self._bytes_of_one(job)
            job.results[start] = result
            if len(job.results) < len(job.starts):
                return
        if job.tensor.merged and job.number < len(method.strides) and job.tensor.size:
            parts = [job.results[place] for place in job.starts]
            joined = parts[0]
            for part in parts[1:]:
                joined = method.add(job.number, joined, part)
            self._learn(job, joined)
            with self.changed:
                self.tasks.extendleft((job, place) for place in reversed(job.starts))
                self.changed.notify_all()
            return
        with self.changed:
            self.unfinished -= 1
            self.changed.notify_all()

    def _learn(self, job: Job, joined: Any) -> None:
        """From all that a pass found to the next pass, or the same one again."""
        method = self.plan.method
        learnt = method.learn(job.number, job.known, joined, job.tensor.size)
        job.results = {}
        if isinstance(learnt, Again):
            job.known, job.stride = learnt.known, 1
            return
        job.known, job.number = learnt, job.number + 1
        job.stride = [*method.strides, 1][job.number]


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, up to some MB a thread, for the next chunk's intermediate tensors.

    It returns blocks to the kernel that are larger than the largest it has seen freed so far, and each then costs its page
    faults again: 9 ns a parameter instead of 1 in task arithmetic. So it is shown a large one, which is never touched.
    """
    torch.empty(LARGE_BLOCK, dtype=torch.uint8)


class Buffers:
    """A thread's memory, used again for every chunk."""

    def __init__(self):
        self.held: dict[Any, torch.Tensor] = {}

    def get(self, key: Any, count: int) -> torch.Tensor:
        """A uint8 tensor of `count` bytes; the last one of that key is gone."""
        held = self.held.get(key)
        if held is None or held.numel() < count:
            held = self.held[key] = torch.empty(count, dtype=torch.uint8)
        return held[:count]


def narrowed(merged: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """`merged` in the output's dtype. Raises UserError where a value is beyond it (float16 ends at 65504)."""
    largest = torch.finfo(dtype).max
    if largest < torch.finfo(torch.bfloat16).max and merged.abs().max() > largest:
        raise UserError(
            f"{name}: the merge has values beyond {dtype} ({largest:g}): write it with --dtype bfloat16 or float32"
        )
    return merged.to(dtype)


def check_finite(piece: torch.Tensor, name: str, place) -> None:
    """Raise UserError for a NaN or an infinity. Their sum shows them in one cheap pass; only then each is looked at."""
    if not torch.isfinite(piece.sum()) and not torch.isfinite(piece).all():
        raise UserError(
            f"{place}: {name} holds NaN or infinity: the merge would spread it; repair or leave out that model"
        )
