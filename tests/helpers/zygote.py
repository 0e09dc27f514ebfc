"""A process that has imported everything, and forks a child for each command line: runs in tests without 10 s of imports.

Reads one JSON object a line from stdin: {"arguments": [...], "output": FILE, "at": {...} or null, "file_size": ... or null,
"given": [...], "bound": ..., "environment": {...}}, forks, runs `cpt` with the arguments in the child, and answers with its
exit code (negative: the signal that ended it). `at` sends the child a signal at a chosen place: {"place": "cpt.files.seal",
"call": 3, "when": "before", "signal": 9}; with "when": "instead" that call does nothing at all, with "raise" it fails after
the signal; "then": a second signal, 20 ms after the first. `file_size` is the largest number of bytes that its files may
have. `given` names what helpers/given.py puts into the child, `environment` its variables. `bound`: rights to files bind
the child though root may run the tests.
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import threading

import pytest

from helpers import given


def interrupt_at(place: str, call: int, when: str, number: int, then: int | None = None) -> None:
    """Wrap the function at `place` so that its call number `call` (from 1) sends this process `number`, and then `then`."""

    def send():
        os.kill(os.getpid(), number)
        if then is not None:
            threading.Timer(0.02, os.kill, (os.getpid(), then)).start()

    parts = place.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            owner = importlib.import_module(".".join(parts[:cut]))
            break
        except ModuleNotFoundError:
            continue
    for name in parts[cut:-1]:
        owner = getattr(owner, name)
    function, seen = getattr(owner, parts[-1]), [0]

    def wrapped(*arguments, **options):
        seen[0] += 1
        if seen[0] == call and when == "before":
            send()
        if seen[0] == call and when == "instead":
            return None
        if seen[0] == call and when == "raise":
            send()
            raise RuntimeError("what a library raises that the signal reached too")
        value = function(*arguments, **options)
        if seen[0] == call and when == "after":
            send()
        return value

    setattr(owner, parts[-1], wrapped)


def bind_by_rights() -> None:
    """Give up root's leave to read and write any file (CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of capset(2))."""
    header, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, held) == 0
    held[0] &= ~0b110
    assert libc.capset(header, held) == 0, os.strerror(ctypes.get_errno())


def child(order: dict) -> None:
    out = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if order["file_size"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_size"], resource.RLIM_INFINITY))
    if order["bound"]:
        bind_by_rights()
    os.environ |= order["environment"]
    for name in order["given"]:
        given.GIVEN[name](pytest.MonkeyPatch())
    if order["at"]:
        at = order["at"]
        interrupt_at(
            at["place"], at["call"], at.get("when", "before"), at.get("signal", signal.SIGKILL), at.get("then")
        )
    from cpt.cli.main import main

    try:
        main(order["arguments"])
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)  # taking the interpreter apart costs two seconds


def serve() -> None:
    stages = [f"cpt.stages.{kind}" for kind in ("sft", "dpo", "rlvr", "rejection", "self_distillation", "distill")]
    for name in ("cpt.loop", *stages, "cpt.api.evaluation"):
        importlib.import_module(name)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            child(json.loads(line))
        _, status = os.waitpid(process, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


if __name__ == "__main__":
    serve()
