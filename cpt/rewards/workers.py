"""Worker processes for verifiers that may hang or die: each call has a limit, and a worker over it is killed.

concurrent.futures cannot kill a call, hence this. A worker is a plain `python -m cpt.rewards.workers` that talks over its
stdin and stdout, one JSON line a call: no fork of a process with torch's threads in it, and when the parent dies (even by
-9) the pipe ends and so does the worker.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections import deque

START_LIMIT = 60.0  # seconds for a worker to import its verifier


class Worker:
    """One process, and the call it is busy with."""

    def __init__(self, spec: dict):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cpt.rewards.workers", json.dumps(spec, default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self.buffer = b""
        self.job: int | None = None
        self.started = False
        self.deadline = time.monotonic() + START_LIMIT

    def send(self, job: int, completion: str, row: dict, limit: float) -> None:
        self.job = job
        self.deadline = time.monotonic() + (limit if self.started else START_LIMIT)
        try:
            self.process.stdin.write(json.dumps([completion, row], default=str).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it died; reading will say so
            pass

    def lines(self) -> list[bytes] | None:
        """Whole lines that have come; None where the process has ended."""
        while True:
            try:
                part = os.read(self.process.stdout.fileno(), 65536)
            except BlockingIOError:
                break
            if not part:
                return None
            self.buffer += part
        *whole, self.buffer = self.buffer.split(b"\n")
        return whole

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Pool:
    """`size` workers for one verifier, started when first needed and kept warm."""

    def __init__(self, spec: dict, size: int, limit: float):
        self.spec, self.size, self.limit = spec, size, limit
        self.workers: list[Worker] = []

    def call(self, jobs: list[tuple[str, dict]]) -> list[dict]:
        """For each (completion, row) `{"value": ...}` or `{"error": kind, "message": ...}`, in their order."""
        answers: list[dict | None] = [None] * len(jobs)
        waiting = deque(range(len(jobs)))
        while any(answer is None for answer in answers):
            while len(self.workers) < min(self.size, len(jobs)):
                self.workers.append(Worker(self.spec))
            for worker in self.workers:
                if worker.job is None and waiting:
                    job = waiting.popleft()
                    worker.send(job, *jobs[job], self.limit)
            busy = [worker for worker in self.workers if worker.job is not None]
            patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
            select.select([worker.process.stdout for worker in busy], [], [], min(patience, 1.0))
            for worker in busy:
                self._hear(worker, answers)
        return answers

    def _hear(self, worker: Worker, answers: list[dict | None]) -> None:
        lines = worker.lines()
        for line in lines or []:
            answer = json.loads(line)
            if "ready" in answer:
                worker.started, worker.deadline = True, time.monotonic() + self.limit
            else:
                answers[worker.job], worker.job = answer, None
        if worker.job is None:
            return
        if lines is None:
            self._lose(worker, answers, {"error": "died", "message": "the verifier ended its process"})
        elif time.monotonic() > worker.deadline:
            limit = self.limit if worker.started else START_LIMIT
            self._lose(worker, answers, {"error": "timeout", "message": f"took more than {limit:g} s"})

    def _lose(self, worker: Worker, answers: list[dict | None], answer: dict) -> None:
        worker.kill()
        self.workers.remove(worker)
        answers[worker.job] = answer

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.workers = []


def call_one(verifier, completion: str, row: dict) -> dict:
    """The answer to one call: what the verifier returned, or how it failed."""
    try:
        value = verifier(completion, row)
    except Exception as error:
        return {"error": "raised", "message": f"{type(error).__name__}: {error}"}
    if value is None:
        return {"error": "none", "message": "returned None"}
    try:
        value = float(value)
    except (TypeError, ValueError):
        return {"error": "raised", "message": f"returned {value!r}, which is not a number"}
    if value != value:
        return {"error": "nan", "message": "returned NaN"}
    return {"value": value}


def work() -> None:
    """The worker's life: build the verifier, then a line in, a line out, until the parent is gone."""
    from cpt.rewards.verifiers import build

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the verifier prints must not come between our lines
    try:
        verifier = build(json.loads(sys.argv[1]))
    except Exception as error:
        message = f"{type(error).__name__}: {error}"

        def verifier(completion: str, row: dict) -> float:
            raise RuntimeError(f"the verifier cannot be built: {message}")

    def answer(value: dict) -> None:
        answers.write(json.dumps(value).encode() + b"\n")
        answers.flush()

    answer({"ready": True})
    for line in sys.stdin.buffer:
        answer(call_one(verifier, *json.loads(line)))


if __name__ == "__main__":
    work()
