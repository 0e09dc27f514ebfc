"""The table of verifiers, and which of them must run where they can be killed."""

from collections.abc import Callable

from cpt.rewards import choice, exact, f1, format, function, math, reasoning_gym, weighted_sum

Verifier = Callable[[str, dict], float]

VERIFIERS: dict[str, Callable[[dict], Verifier]] = {
    "exact": exact.build,
    "format": format.build,
    "math": math.build,
    "choice": choice.build,
    "f1": f1.build,
    "reasoning_gym": reasoning_gym.build,
    "function": function.build,
    "sum": weighted_sum.build,
}
READERS: dict[str, Callable[[dict], Callable[[str, dict], str | None]]] = {  # the answer that a completion gives
    "exact": exact.reader,
    "math": math.reader,
    "choice": choice.reader,
    "f1": f1.reader,
}
PROBLEMS: dict[str, Callable[[dict], Callable[[str], str | None]]] = {  # why no completion could match a row's answer
    "exact": exact.problem,
    "math": math.problem,
    "choice": choice.problem,
}
KILLABLE = ("math", "function", "reasoning_gym")  # may hang on what a model writes
COMPARES = {"exact", "math", "choice", "f1"}  # need the row's answer
TIMEOUT = 5.0  # seconds a call, where the recipe says nothing


def build(spec: dict) -> Verifier:
    """The verifier of a reward as the recipe's plain data."""
    return VERIFIERS[spec["kind"]](spec)


def reader(spec: dict) -> Callable[[str, dict], str | None]:
    """What reads the answer that a completion gives, as the verifier understands it (None: none). The row's is not read."""
    return READERS[spec["kind"]](spec)


def problem(spec: dict) -> Callable[[str], str | None]:
    """What says why the verifier cannot read a row's answer, and what to write (None: it can)."""
    return PROBLEMS[spec["kind"]](spec) if spec["kind"] in PROBLEMS else lambda answer: None


def single(spec: dict) -> list[dict]:
    """The verifiers of a spec, those within sums included, and no sum."""
    return [each for part in spec["parts"] for each in single(part["reward"])] if spec["kind"] == "sum" else [spec]


def kinds(spec: dict) -> list[str]:
    """Their kinds."""
    return [each["kind"] for each in single(spec)]


def must_be_killable(spec: dict) -> bool:
    return any(kind in KILLABLE for kind in kinds(spec))


def time_limit(spec: dict) -> float:
    """Seconds that one call may take; of a sum the sum of its parts'."""
    if spec["kind"] == "sum":
        return sum(time_limit(part["reward"]) for part in spec["parts"])
    return float(spec.get("timeout") or TIMEOUT)
