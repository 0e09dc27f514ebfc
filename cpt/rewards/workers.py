"""Worker processes for verifiers that may hang or die: each call has a limit, and a worker over it is killed.

concurrent.futures cannot kill a call, hence this. A worker is a plain `python -m cpt.rewards.workers` that talks over its
stdin and stdout, one JSON line a call: no fork of a process with torch's threads in it, and when the parent dies (even by
-9) the pipe ends and so does the worker. Calls are numbered and each answer says its number: whatever else a verifier
writes there costs the worker's call, and the worker.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque

START_LIMIT = 60.0  # seconds for a worker to import its verifier
LARGEST = 1e18  # of a score: rewards are squared and summed over a group in float32, which ends at 3.4e38
LONGEST_MESSAGE = 500  # characters of an exception's words that are kept
LONGEST_LINE = 1_000_000  # bytes; a worker's answer is far shorter
GARBLED = {"error": "garbled", "message": "the verifier wrote into its worker's pipe, or forked and answered twice"}


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
        self.number = 0  # of the call
        self.line = b""  # the call, until the worker is there to read it
        self.started = False
        self.deadline = time.monotonic() + START_LIMIT

    def take(self, job: int, asked: str, completion: str, row: dict, limit: float) -> None:
        self.job, self.number = job, self.number + 1
        self.line = json.dumps([self.number, asked, completion, row], default=str).encode() + b"\n"
        self.deadline = time.monotonic() + (limit if self.started else START_LIMIT)
        if self.started:
            self.send()

    def send(self) -> None:
        """Only to a worker that reads: a long line to one that does not would block the run."""
        with contextlib.suppress(BrokenPipeError):  # it died; reading will say so
            self.process.stdin.write(self.line)
            self.process.stdin.flush()

    def lines(self) -> list[bytes] | None:
        """Whole lines that have come; None where the process has ended and left none."""
        ended = False
        for _ in range(16):  # a verifier that never stops writing must not keep us here
            try:
                part = os.read(self.process.stdout.fileno(), 65536)
            except BlockingIOError:
                break
            if not part:
                ended = True
                break
            self.buffer += part
        *whole, self.buffer = self.buffer.split(b"\n")
        if len(self.buffer) > LONGEST_LINE:
            whole.append(self.buffer)
        return None if ended and not whole else whole

    def is_idle(self) -> bool:
        """Whether it has no call, lives, and has said nothing since its last answer."""
        return self.job is None and self.process.poll() is None and (not self.started or self.lines() == [])

    def kill(self) -> None:
        """End the process and those that the verifier started in it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # what it never read
            self.process.stdin.close()
        self.process.stdout.close()


class Pool:
    """`size` workers for one verifier, started when first needed and kept warm."""

    def __init__(self, spec: dict, size: int, limit: float):
        self.spec, self.size, self.limit = spec, size, limit
        self.workers: list[Worker] = []

    def call(self, jobs: list[tuple[str, dict]], asked: str = "score") -> list[dict]:
        """For each (completion, row) `{"value": ...}` or `{"error": kind, "message": ...}`, in their order.

        `asked` is `score`, `read` for the answer that the completion gives, or `problem` for why the completion, as a row's
        answer, cannot be read.
        """
        answers: list[dict | None] = [None] * len(jobs)
        waiting = deque(range(len(jobs)))
        while any(answer is None for answer in answers):
            self._hand_out(jobs, waiting, asked)
            busy = [worker for worker in self.workers if worker.job is not None]
            patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
            select.select([worker.process.stdout for worker in busy], [], [], min(patience, 1.0))
            for worker in busy:
                self._hear(worker, answers)
        return answers

    def _hand_out(self, jobs: list[tuple[str, dict]], waiting: deque[int], asked: str) -> None:
        """A job to each idle worker; one that died or babbled while it was idle gives way to a new one."""
        for worker in [worker for worker in self.workers if worker.job is None and not worker.is_idle()]:
            self._end(worker)
        while len(self.workers) < min(self.size, len(jobs)):
            self.workers.append(Worker(self.spec))
        for worker in self.workers:
            if worker.job is None and waiting:
                job = waiting.popleft()
                worker.take(job, asked, *jobs[job], self.limit)

    def _hear(self, worker: Worker, answers: list[dict | None]) -> None:
        lines = worker.lines()
        for line in lines or []:
            said = read_line(line)
            if said == {"ready": True} and not worker.started:
                worker.started, worker.deadline = True, time.monotonic() + self.limit
                worker.send()
            elif worker.job is not None and said.get("call") == worker.number and {"value", "error"} & said.keys():
                answers[worker.job], worker.job = said, None
            else:
                self._lose(worker, answers, GARBLED)
                return
        if worker.job is None:
            return
        if lines is None:
            self._lose(worker, answers, {"error": "died", "message": "the verifier ended its process"})
        elif time.monotonic() > worker.deadline:
            limit = self.limit if worker.started else START_LIMIT
            self._lose(worker, answers, {"error": "timeout", "message": f"took more than {limit:g} s"})

    def _lose(self, worker: Worker, answers: list[dict | None], answer: dict) -> None:
        if worker.job is not None:
            answers[worker.job] = answer
        self._end(worker)

    def _end(self, worker: Worker) -> None:
        worker.kill()
        self.workers.remove(worker)

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.workers = []


def read_line(line: bytes) -> dict:
    """A worker's line; {} where it is none of ours."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def call_one(verifier, completion: str, row: dict) -> dict:
    """The answer to one call: what the verifier returned, or how it failed."""
    try:
        value = verifier(completion, row)
    except Exception as error:
        return {"error": "raised", "message": in_words(error)}
    if value is None:
        return {"error": "none", "message": "returned None"}
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    except (TypeError, ValueError):
        return {"error": "raised", "message": f"returned {value!r}"[:LONGEST_MESSAGE] + ", which is not a number"}
    except Exception as error:  # of the value's own __float__
        return {
            "error": "raised",
            "message": f"returned a {type(value).__name__}, which is no number: {in_words(error)}",
        }
    if number != number:
        return {"error": "nan", "message": "returned NaN"}
    if abs(number) > LARGEST:
        return {"error": "inf", "message": f"returned {number:g}, which is beyond {LARGEST:g}"}
    return {"value": number}


def read_one(reader, completion: str, row: dict) -> dict:
    """The answer that the completion gives ("" is none), or how reading it failed."""
    try:
        return {"value": reader(completion, row) or None}
    except Exception as error:
        return {"error": "raised", "message": in_words(error)}


def in_words(error: Exception) -> str:
    """The exception on one line, of characters that can be printed."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_MESSAGE]
    return said.encode("utf-8", "replace").decode("utf-8")


def made(kind, spec: dict) -> dict:
    """What can be asked of a verifier (see `Pool.call`)."""
    asks = {"score": kind.build(spec)}
    if kind.reader is not None:
        problem = kind.problem(spec)
        asks |= {"read": kind.reader(spec), "problem": lambda answer, row: problem(answer)}
    return asks


def work() -> None:
    """The worker's life: build the verifier, then a line in, a line out, until the parent is gone."""
    from cpt.rewards.verifiers import VERIFIERS

    me = os.getpid()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the verifier prints must not come between our lines
    spec = json.loads(sys.argv[1])
    try:
        asks = made(VERIFIERS[spec["kind"]], spec)
    except Exception as error:
        message = in_words(error)

        def fails(completion: str, row: dict) -> float:
            raise RuntimeError(f"the verifier cannot be built: {message}")

        asks = dict.fromkeys(("score", "read", "problem"), fails)

    def answer(value: dict) -> None:
        if os.getpid() != me:  # a process that the verifier forked: its answer is not asked for
            os._exit(0)
        answers.write(json.dumps(value).encode() + b"\n")
        answers.flush()

    answer({"ready": True})
    for line in sys.stdin.buffer:
        number, asked, completion, row = json.loads(line)
        said = (call_one if asked == "score" else read_one)(asks[asked], completion, row)
        answer(said | {"call": number})


if __name__ == "__main__":
    work()
