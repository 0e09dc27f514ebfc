"""From a reward as plain data to its functions, in the module of its kind's name.

A module has `build(spec)`, the score of (completion, row). One that reads answers has `reader(spec)` and `problem(spec)` too;
one in which a text can hang has `MAY_HANG`, and runs in a process that can be killed. What recipes and checks know of a kind
stands with its fields, in `cpt.recipe.rewards`, which workers need not import.
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType

from cpt import user_code
from cpt.rewards.weighted_sum import weighted_sum

Verifier = Callable[[str, dict], float]
Reader = Callable[[str, dict], str | None]
TIMEOUT = 5.0  # seconds a call, where the recipe says nothing


def module_of(spec: dict) -> ModuleType:
    """The module of a verifier that is no sum; imported with the first that asks."""
    return import_module(f"cpt.rewards.{spec['kind']}")


def build(spec: dict) -> Verifier:
    """The verifier: (completion, row) -> score."""
    if spec["kind"] == "sum":
        return weighted_sum([(build(part["reward"]), part["weight"]) for part in spec["parts"]])
    return module_of(spec).build(spec)


def reads_answers(spec: dict) -> bool:
    """Whether there is a `reader` and a `problem` of it."""
    return spec["kind"] != "sum" and hasattr(module_of(spec), "reader")


def reader(spec: dict) -> Reader:
    """What reads the answer that a completion gives, as the verifier understands it (None: none). The row's is not read."""
    return module_of(spec).reader(spec)


def problem(spec: dict) -> Callable[[str], str | None]:
    """What says why the verifier could compare nothing with a row's answer (None: it can)."""
    return module_of(spec).problem(spec)


def single(spec: dict) -> list[dict]:
    """The verifiers of a spec, those within sums included, and no sum."""
    return [each for part in spec["parts"] for each in single(part["reward"])] if spec["kind"] == "sum" else [spec]


def function_files(specs: Iterable[dict]) -> dict[str, dict[str, str]]:
    """{function: {file: SHA-256}} of the users' functions among verifiers, as their files are now."""
    files: dict[str, dict[str, str]] = {}
    for each in (each for spec in specs for each in single(spec) if each["kind"] == "function"):
        folder = each.get("folder")
        code = user_code.read(each["path"], folder)
        files.setdefault(each["path"], {}).update(user_code.digests(folder, code))
    return files


def kinds(spec: dict) -> list[str]:
    """Their kinds."""
    return [each["kind"] for each in single(spec)]


def compares(spec: dict) -> bool:
    """Whether it needs the row's answer."""
    return any(map(reads_answers, single(spec)))


def may_hang(spec: dict) -> bool:
    """Whether it runs in a process that can be killed."""
    return any(hasattr(module_of(each), "MAY_HANG") for each in single(spec))


def time_limit(spec: dict) -> float:
    """Seconds that one call may take; of a sum the sum of its parts'."""
    if spec["kind"] == "sum":
        return sum(time_limit(part["reward"]) for part in spec["parts"])
    return float(spec.get("timeout") or TIMEOUT)
