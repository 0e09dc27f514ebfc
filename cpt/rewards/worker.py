"""A worker's side: `python -m cpt.rewards.worker` builds one verifier and answers calls, a line in and a line out.

A supervisor process between the run and the verifier ends all that the verifier has started. The first line in
has the verifier and its files; each call has a number drawn for it, which its answer must repeat: what a verifier writes into
the pipe by itself is no answer.
"""

import json
import os
import sys

from cpt.processes import supervise
from cpt.rewards.verifiers import build, problem, reader, reads_answers
from cpt.user_code import Finder

LARGEST = 1e18  # of a score: rewards are squared and summed over a group in float32, which ends at 3.4e38
LONGEST_MESSAGE = 500  # characters of an exception's words that are kept


def work() -> None:
    """Answer calls until the run is gone."""
    me = os.getpid()
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # what the verifier prints must not come between our lines

    def answer(call: str, value: dict) -> None:
        if os.getpid() != me:  # a process that the verifier forked: its answer is not asked for
            os._exit(0)
        answers.write(json.dumps(value | {"call": call}).encode() + b"\n")
        answers.flush()

    start = json.loads(calls.readline())
    sys.meta_path.insert(
        0, Finder({name: (file, text.encode("latin-1")) for name, (file, text) in start["files"].items()})
    )
    asks = made(start["spec"])
    answer(start["call"], {"ready": True})
    for line in calls:
        call, asked, completion, row = json.loads(line)
        answer(call, (call_one if asked == "score" else read_one)(asks[asked], completion, row))


def made(spec: dict) -> dict:
    """What can be asked of a verifier, see `Pool.call`; where it cannot be built, each call says why."""
    try:
        asks = {"score": build(spec)}
        if reads_answers(spec):
            problem_of = problem(spec)
            asks |= {"read": reader(spec), "problem": lambda answer, row: problem_of(answer)}
        return asks
    except Exception as error:
        message = one_line(error)

    def fails(completion: str, row: dict) -> float:
        raise RuntimeError(f"the verifier cannot be built: {message}")

    return dict.fromkeys(("score", "read", "problem"), fails)


def call_one(verifier, completion: str, row: dict) -> dict:
    """The answer to one call: what the verifier returned, or how it failed."""
    try:
        value = verifier(completion, row)
    except Exception as error:
        return {"error": "raised", "message": one_line(error)}
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
            "message": f"returned a {type(value).__name__}, which is not a number: {one_line(error)}",
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
        return {"error": "raised", "message": one_line(error)}


def one_line(error: Exception) -> str:
    """The exception on one line, of characters that can be printed."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_MESSAGE]
    return text.encode("utf-8", "replace").decode("utf-8")


if __name__ == "__main__":
    supervise(work)
