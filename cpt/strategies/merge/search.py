"""A search over the weight or scale of a merge, on validation rows: never on rows that evaluation asks.

It looks at old and new tasks together, and may find that no merge is best.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt import ranks
from cpt.files import read_sealed, write_sealed
from cpt.records import Candidate, ValidationResult
from cpt.strategies.merge.acceptance import broken_gates, choose, mean

RESULTS = "judged.json"  # what a search knows already: after a kill no value is evaluated twice


@dataclass
class Search:
    """One search. `write(value, folder)` writes the merge with a value; `place` is a folder of the search's own.

    `rows` are the accuracies that the points of earlier tasks were left with; `label` says which merge it is.
    """

    services: Any
    model: Path
    write: Callable[[float, Path], None]
    place: Path
    rows: Sequence[Mapping[str, float]]
    gates: Mapping[str, Any]
    label: str

    def run(self, values: Sequence[float]) -> tuple[list[Candidate], dict[str, float]]:
        """The unmerged model and each value on validation rows, one of them taken; and what that cost. On all ranks.

        With no values the model is evaluated all the same: later gates compare with what it can.
        """
        results = self.results([None, *values])
        accuracies = [each["accuracy"] for each in results]
        best = choose(accuracies, self.rows, self.gates)
        curve: list[Candidate] = [
            {
                "value": value,
                "accuracy": each,
                "mean": mean(each),
                "breaks": broken_gates(each, self.rows, self.gates),
                "taken": number == best,
            }
            for number, (value, each) in enumerate(zip([None, *values], accuracies, strict=True))
        ]
        cost = {name: round(sum(each[name] for each in results), 3) for name in ("seconds", "rollout_tokens")}
        return curve, cost

    def results(self, values: Sequence[float | None]) -> list[ValidationResult]:
        known = ranks.on_main(self.read)
        for value in values:
            if repr(value) not in known:
                self.services.stop.check()
                known[repr(value)] = self.evaluate(value)
                ranks.on_main(write_sealed, self.place / RESULTS, known)
        return [known[repr(value)] for value in values]

    def evaluate(self, value: float | None) -> ValidationResult:
        """One candidate, whose weights are not kept."""
        start, folder = time.monotonic(), self.place / "candidate"
        if value is not None:
            ranks.on_main(self.write, value, folder)
        accuracy, cost = self.services.evaluate_on_validation(self.model if value is None else folder)
        ranks.barrier()
        ranks.on_main(lambda: shutil.rmtree(folder, ignore_errors=True))
        return {"accuracy": accuracy, **cost, "seconds": round(time.monotonic() - start, 3)}

    def read(self) -> dict[str, ValidationResult]:
        """What was known before the run was stopped."""
        try:
            return read_sealed(self.place / RESULTS) or {}
        except ValueError as error:
            self.services.screen.warn(f"{self.label}: {error}; its values are evaluated again")
            return {}
