"""The table of verifiers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cpt.rewards import choice, exact, f1, format, function, label, math, reasoning_gym, sources
from cpt.rewards.weighted_sum import weighted_sum

Verifier = Callable[[str, dict], float]
Reader = Callable[[str, dict], str | None]
TIMEOUT = 5.0  # seconds a call, where the recipe says nothing


@dataclass(frozen=True)
class Kind:
    """How a kind of verifier is made of the recipe's plain data (`spec`), and what it needs.

    `build(spec)(completion, row)` is the score. `reader(spec)(completion, row)` is the answer that a completion gives (None:
    none), of a verifier that compares it with the row's answer. `problem(spec)(answer)` is why it could not compare anything
    with that row's answer (None: it can). One that may hang on what a model writes runs where it can be killed.
    """

    build: Callable[[dict], Verifier]
    reader: Callable[[dict], Reader] | None = None
    problem: Callable[[dict], Callable[[str], str | None]] | None = None
    killable: bool = False


VERIFIERS = {
    "exact": Kind(exact.build, exact.reader, exact.problem),
    "format": Kind(format.build, killable=True),
    "math": Kind(math.build, math.reader, math.problem, killable=True),
    "choice": Kind(choice.build, choice.reader, choice.problem),
    "label": Kind(label.build, label.reader, label.problem),
    "f1": Kind(f1.build, f1.reader, f1.problem),
    "reasoning_gym": Kind(reasoning_gym.build, killable=True),
    "function": Kind(function.build, killable=True),
    "sum": Kind(lambda spec: weighted_sum([(build(part["reward"]), part["weight"]) for part in spec["parts"]])),
}


def build(spec: dict) -> Verifier:
    """The verifier of a reward as the recipe's plain data."""
    return VERIFIERS[spec["kind"]].build(spec)


def reader(spec: dict) -> Reader:
    """What reads the answer that a completion gives, as the verifier understands it (None: none). The row's is not read."""
    return VERIFIERS[spec["kind"]].reader(spec)


def problem(spec: dict) -> Callable[[str], str | None]:
    """What says why the verifier could compare nothing with a row's answer (None: it can)."""
    return VERIFIERS[spec["kind"]].problem(spec)


def single(spec: dict) -> list[dict]:
    """The verifiers of a spec, those within sums included, and no sum."""
    return [each for part in spec["parts"] for each in single(part["reward"])] if spec["kind"] == "sum" else [spec]


def function_files(specs: Iterable[dict]) -> dict[str, dict[str, str]]:
    """{function: {file: SHA-256}} of the users' functions among verifiers, as their files are now."""
    found: dict[str, dict[str, str]] = {}
    for each in (each for spec in specs for each in single(spec) if each["kind"] == "function"):
        found.setdefault(each["path"], {}).update(sources.digests(each, sources.read(each)))
    return found


def kinds(spec: dict) -> list[str]:
    """Their kinds."""
    return [each["kind"] for each in single(spec)]


def compares(spec: dict) -> bool:
    """Whether it needs the row's answer."""
    return any(VERIFIERS[kind].reader is not None for kind in kinds(spec))


def must_be_killable(spec: dict) -> bool:
    return any(VERIFIERS[kind].killable for kind in kinds(spec))


def time_limit(spec: dict) -> float:
    """Seconds that one call may take; of a sum the sum of its parts'."""
    if spec["kind"] == "sum":
        return sum(time_limit(part["reward"]) for part in spec["parts"])
    return float(spec.get("timeout") or TIMEOUT)
