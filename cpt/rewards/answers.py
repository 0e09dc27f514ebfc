"""Whether a verifier can read the answers of rows: one that it cannot read would make every completion wrong."""

from collections.abc import Iterable, Iterator

from cpt.rewards import math
from cpt.rewards.verifiers import may_hang, problem, reads_answers, single, time_limit
from cpt.rewards.workers import Pool

WORKERS = 2


def unreadable(spec: dict, answers: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(answer, why it cannot be read and what to write) of the different answers that the verifier `spec` cannot read.

    What may hang runs in worker processes that are killed at the verifier's time limit.
    """
    answers = list(dict.fromkeys(answers))
    for each in single(spec):
        if not reads_answers(each):
            continue
        if may_hang(each):
            yield from _in_workers(each, [answer for answer in answers if not math.is_plain(answer)])
        else:
            check = problem(each)
            yield from ((answer, why) for answer in answers if (why := check(answer)))


def _in_workers(spec: dict, answers: list[str]) -> Iterator[tuple[str, str]]:
    pool = Pool(spec, WORKERS, time_limit(spec))
    try:
        replies = pool.call([(answer, {}) for answer in answers], "problem") if answers else []
    finally:
        pool.close()
    for answer, reply in zip(answers, replies, strict=True):
        if reply.get("error"):
            yield answer, f"{spec['kind']} fails on it ({reply['message']}): write it in a simpler way"
        elif reply["value"]:
            yield answer, reply["value"]
