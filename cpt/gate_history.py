"""How the gates of a run were changed once results were known: gate_history.json. The verdict says it."""

import json
from datetime import UTC, datetime
from pathlib import Path

from cpt.errors import UserError
from cpt.files import write_json
from cpt.records import GateChange, wrong

NAME = "gate_history.json"


def read(folder: Path) -> list[GateChange]:
    """The changes of the run in `folder`, oldest first. Raises UserError where the file is damaged."""
    file = folder / NAME
    if not file.exists():
        return []
    try:
        history = json.loads(file.read_text(encoding="utf-8"))
        problem = wrong(history, list[GateChange])
    except (ValueError, RecursionError) as error:
        problem = f"not JSON ({error})"
    if problem:
        raise UserError(f"{file}: is damaged: {problem}: restore it from a copy: it says which limits were changed")
    return history


def keep(folder: Path, points: int, before: dict, after: dict) -> None:
    """Add how the gates of the recipe `after` differ from those of `before`, if `points` (of the run) were evaluated."""
    old, new = (each["evaluation"].get("gates", {}) for each in (before, after))
    names = dict.fromkeys([*old, *new])
    changes = [f"{name} {limit_of(old, name)} -> {limit_of(new, name)}" for name in names]
    changes = [each for name, each in zip(names, changes, strict=True) if limit_of(old, name) != limit_of(new, name)]
    if points and changes:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(folder / NAME, [*read(folder), {"when": when, "points": points, "changes": changes}])


def limit_of(gates: dict, name: str) -> str:
    """A gate as a recipe has it: `0.05`, `0.05 (interval, supporting)`, `no limit`."""
    if name not in gates:
        return "no limit"
    gate = gates[name]
    rest = [gate["rule"]] * (gate["rule"] != "point")
    rest += [gate["tier"]] * (gate.get("tier", "critical") != "critical")
    return f"{gate['limit']:g}" + f" ({', '.join(rest)})" * bool(rest)
