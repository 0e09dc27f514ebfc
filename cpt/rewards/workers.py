"""Worker processes for verifiers that may hang or die: each call has a limit, and a worker over it is ended.

concurrent.futures cannot end a call, hence this. A worker is a plain `python -m cpt.rewards.worker`: no fork of a process
with torch's threads in it, and when the run dies (even by -9) it ends too. Nothing here waits for a worker: what it does not
read stays in our hands, and its limit still counts.
"""

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import time
from collections import deque

from cpt.processes import python
from cpt.user_code import Files

START_LIMIT = 60.0  # seconds for a worker to import its verifier
END_LIMIT = 5.0  # seconds for a worker to end what its verifier has started
LONGEST_LINE = 1_000_000  # bytes; a worker's answer is far shorter
LAST_WORDS = 2000  # bytes of what a worker printed that are kept
FRUITLESS = 3  # workers in a row that never came up, after which a batch's other calls are not tried
SIGNALS = {128 + number: number.name for number in signal.Signals}  # by the exit code of a worker that they ended
GARBLED = {"error": "garbled", "message": "the verifier wrote into its worker's pipe, or forked and answered twice"}


class Worker:
    """One process, and the call it is busy with."""

    def __init__(self, spec: dict, files: Files):
        self.process = subprocess.Popen(
            python("cpt.rewards.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            os.set_blocking(stream.fileno(), False)
        self.received, self.printed = b"", b""
        self.prints = True  # until it has closed its standard error
        self.job: int | None = None
        self.started = False
        self.deadline = time.monotonic() + START_LIMIT
        self.call = secrets.token_hex(8)  # what its next line must repeat
        texts = {module: (file, content.decode("latin-1")) for module, (file, content) in files.items()}
        self.unsent = line({"call": self.call, "spec": spec, "files": texts})
        self.next = (b"", "")  # the first call, until it is up

    def take(self, job: int, asked: str, completion: str, row: dict, limit: float) -> None:
        self.job, call = job, secrets.token_hex(8)
        sent = line([call, asked, completion, row])
        if self.started:
            self.unsent, self.call, self.deadline = sent, call, time.monotonic() + limit
        else:
            self.next, self.deadline = (sent, call), time.monotonic() + START_LIMIT
        self.send()

    def begin(self, limit: float) -> None:
        """It is up: give it the call that waits."""
        self.started, self.deadline = True, time.monotonic() + limit
        self.unsent, self.call = self.next
        self.send()

    def send(self) -> None:
        """As much as it has room for."""
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(self.process.stdin.fileno(), self.unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # it died, or reads no more: its lines, or the limit, will tell
            self.unsent = b""

    def lines(self) -> list[bytes] | None:
        """Whole lines that have come; None where the process has ended and left none."""
        self.note_printed()
        came = drained(self.process.stdout.fileno())
        *lines, self.received = (self.received + (came or b"")).split(b"\n")
        if len(self.received) > LONGEST_LINE:
            lines.append(self.received)
        return None if came is None and not lines else lines

    def note_printed(self) -> None:
        came = drained(self.process.stderr.fileno())
        self.prints = came is not None
        self.printed = (self.printed + (came or b""))[-LAST_WORDS:]

    def is_idle(self) -> bool:
        """Whether it has no call, lives, and has said nothing since its last answer."""
        return self.job is None and self.process.poll() is None and (not self.started or self.lines() == [])

    def last_output(self) -> str:
        """How the process ended, and the last line that it printed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_LIMIT)
        how = SIGNALS.get(self.process.returncode, f"exit code {self.process.returncode}")
        self.note_printed()
        printed = [each for each in self.printed.decode(errors="replace").splitlines() if each.strip()]
        return f"the verifier ended its process ({how})" + (f": {printed[-1].strip()}" if printed else "")

    def end(self) -> None:
        """Ask it to end, with all that the verifier has started."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)

    def wait(self) -> None:
        """Until it has ended; the supervisor that does not answer is killed with its group."""
        try:
            self.process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):  # what it never read
                stream.close()


class Pool:
    """`size` workers for one verifier, started when first needed and kept warm."""

    def __init__(self, spec: dict, size: int, limit: float, files: Files | None = None):
        self.spec, self.size, self.limit, self.files = spec, size, limit, files or {}
        self.workers: list[Worker] = []
        self.fruitless = 0

    def call(self, jobs: list[tuple[str, dict]], asked: str = "score") -> list[dict]:
        """For each (completion, row) `{"value": ...}` or `{"error": kind, "message": ...}`, in their order.

        `asked` is `score`, `read` for the answer that the completion gives, or `problem` for why the completion, as a row's
        answer, cannot be read.
        """
        answers: list[dict | None] = [None] * len(jobs)
        waiting = deque(range(len(jobs)))
        self.fruitless = 0
        while any(answer is None for answer in answers):
            self._hand_out(jobs, waiting, asked)
            busy = [worker for worker in self.workers if worker.job is not None]
            patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
            wait_for(busy, min(patience, 1.0))
            for worker in busy:
                worker.send()
                self._hear(worker, answers)
            if self.fruitless >= FRUITLESS:
                while waiting:
                    answers[waiting.popleft()] = self.last
        return answers

    def _hand_out(self, jobs: list[tuple[str, dict]], waiting: deque[int], asked: str) -> None:
        """A job to each idle worker; one that died or babbled while it was idle gives way to a new one."""
        self._end([worker for worker in self.workers if worker.job is None and not worker.is_idle()])
        idle = sum(worker.job is None for worker in self.workers)
        for _ in range(min(self.size - len(self.workers), len(waiting) - idle)):
            self.workers.append(Worker(self.spec, self.files))
        for worker in self.workers:
            if worker.job is None and waiting:
                job = waiting.popleft()
                worker.take(job, asked, *jobs[job], self.limit)

    def _hear(self, worker: Worker, answers: list[dict | None]) -> None:
        lines = worker.lines()
        for each in lines or []:
            reply = read_line(each)
            is_answer = worker.job is not None and {"ready", "value", "error"} & reply.keys()
            if reply.pop("call", None) != worker.call or not is_answer:
                self._lose(worker, answers, GARBLED)
                return
            worker.call = ""
            if reply == {"ready": True} and not worker.started:
                worker.begin(self.limit)
                self.fruitless = 0
            else:
                answers[worker.job], worker.job = reply, None
        if worker.job is None:
            return
        if lines is None:
            self._lose(worker, answers, {"error": "died", "message": worker.last_output()})
        elif time.monotonic() > worker.deadline:
            limit = self.limit if worker.started else START_LIMIT
            self._lose(worker, answers, {"error": "timeout", "message": f"took more than {limit:g} s"})

    def _lose(self, worker: Worker, answers: list[dict | None], answer: dict) -> None:
        if worker.job is not None:
            answers[worker.job] = self.last = answer
        self.fruitless += not worker.started
        self._end([worker])

    def _end(self, workers: list[Worker]) -> None:
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.wait()
            self.workers.remove(worker)

    def close(self) -> None:
        self._end([*self.workers])


def wait_for(workers: list[Worker], seconds: float) -> None:
    """Until one of them has written something, or has room for more, or the time is over."""
    poll = select.poll()
    for worker in workers:
        poll.register(worker.process.stdout, select.POLLIN)
        if worker.prints:
            poll.register(worker.process.stderr, select.POLLIN)
        if worker.unsent:
            poll.register(worker.process.stdin, select.POLLOUT)
    poll.poll(seconds * 1000)


def drained(pipe: int) -> bytes | None:
    """What can be read now; None at the end. Of one who never stops writing a part: it must not keep us here."""
    parts = []
    for _ in range(16):
        try:
            part = os.read(pipe, 65536)
        except BlockingIOError:
            break
        if not part:
            return b"".join(parts) or None
        parts.append(part)
    return b"".join(parts)


def line(value: dict | list) -> bytes:
    return json.dumps(value, default=str).encode() + b"\n"


def read_line(line: bytes) -> dict:
    """A worker's line; {} where it is none of ours."""
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return reply if isinstance(reply, dict) else {}
