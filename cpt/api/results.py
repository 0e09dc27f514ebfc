"""A run as its directory holds it: the matrix, the metrics, the gates, every answer."""

import html
from dataclasses import dataclass, field
from pathlib import Path

from cpt.evaluation.verdict import certified
from cpt.records import Answer, Gate, Intervals, Logged, Results, Verdict


@dataclass(frozen=True)
class Run:
    """A run that was read from its directory; nothing is computed again.

    Attributes:
        folder: the run directory. All files and keys: docs/run-directory.md
        results: the content of results.json.
        answers: {point: its evaluated answers}, each with task, prompt, completion and score.
        logged: the lines of metrics.jsonl: what the trainers logged.
        warnings: a line for each file that is missing or damaged.
    """

    folder: Path
    results: Results = field(repr=False)
    answers: dict[str, list[Answer]] = field(repr=False)
    logged: list[Logged] = field(repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def tasks(self) -> list[str]:
        """The tasks of the stream in their order: the columns of the matrix."""
        return self.results["tasks"]

    @property
    def points(self) -> list[str]:
        """The points that were evaluated, `00-base` first: the rows of the matrix."""
        return [Path(point).name for point in self.results["points"]]

    @property
    def matrix(self) -> list[list[float]]:
        """Accuracy, from 0 to 1, of each point (row) on each task (column)."""
        return self.results["accuracy"]

    @property
    def held_out(self) -> dict[str, list[float]]:
        """{suite: accuracy of each point}."""
        return self.results["held_out"]

    @property
    def metrics(self) -> dict[str, float | None]:
        """Learning, forgetting and the others by their names; None where too little was evaluated for it."""
        return self.results["metrics"]

    @property
    def intervals(self) -> Intervals:
        """95 % intervals of the metrics, by bootstrap over questions."""
        return self.results["intervals"]

    @property
    def gates(self) -> list[Gate]:
        """Each gate of the recipe with its limit, the value and whether it passed; none before the run is complete."""
        return self.results["gates"]

    @property
    def complete(self) -> bool:
        """Whether all points were trained and evaluated."""
        return self.results["complete"]

    @property
    def passed(self) -> bool:
        """Whether the run is complete and nothing forbids to ship: no critical gate failed, and none is undecided."""
        if "verdict" not in self.results:  # of an earlier version of cpt
            return self.complete and all(gate["passed"] for gate in self.gates)
        return self.complete and certified(self.results["verdict"])

    @property
    def verdict(self) -> Verdict | None:
        """Ship, do not ship or inconclusive, with its sentence and the worst task; None before the run is complete."""
        return self.results.get("verdict")

    @property
    def model(self) -> Path:
        """The folder of the weights to ship: those of the last point that was evaluated."""
        point = self.folder / self.results["points"][-1]
        return point / "served" if (point / "served").is_dir() else point / "model"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"

    def __str__(self) -> str:
        head, *rows = self._table()
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
        return "\n".join([f"{self.results['recipe']}, seed {self.results['seed']}: {self.folder}", *lines])

    def _repr_html_(self) -> str:
        head, *rows = self._table()
        cells = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
        cells += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
        return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"

    def _table(self) -> list[list[str]]:
        """The matrix and the suites as text, a row a point."""
        rows = [["after", *self.tasks, *self.held_out]]
        for number, point in enumerate(self.points):
            values = [*self.matrix[number], *(accuracy[number] for accuracy in self.held_out.values())]
            rows.append([point, *(f"{value:.3f}" for value in values)])
        return rows


def read_run(folder: str | Path) -> Run:
    """The run in a directory that `cpt run` or `cpt.run` made; one that is not complete has the points so far.

    Raises:
        UserError: no results.json is there, or a file is not what a run writes.
    """
    from cpt.report.reading import read

    content = read(Path(folder))
    missing = tuple(f"{content.folder / name}: missing" for name in content.missing)
    return Run(content.folder, content.results, content.answers, content.logged, (*missing, *content.damaged))
