"""A sweep as a plan: which cells there are, and every mistake of any of them before the first one runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpt.checks import all_checks
from cpt.comparison.comparable import unlike
from cpt.comparison.reading import conditions, task_conditions
from cpt.errors import Problem, RecipeErrors, UserError, nearest_or_all
from cpt.metric_kinds import KINDS
from cpt.recipe import dump, identity
from cpt.recipe.yaml_reader import Node
from cpt.sweeps.cells import Cell, Variant, cells_of, combinations, found, labelled, name_of, placed, variants
from cpt.sweeps.running import place_of, results_of
from cpt.sweeps.schema import Sweep, SweepLike, load_sweep

OUT = Path("runs") / "sweeps"


@dataclass(frozen=True)
class Trial:
    """One combination of values to tune, and its cells."""

    values: dict[str, Any]
    cells: list[Cell] = field(repr=False)
    tuned: list[Cell] = field(repr=False)  # on the stream that is judged


@dataclass(frozen=True)
class Plan:
    """The cells of a sweep. With `trials` the judged cells are `cells`, and those of the trial that is chosen."""

    sweep: Sweep
    out: Path
    cells: list[Cell]
    trials: list[Trial] = field(default_factory=list)

    @property
    def tuning(self) -> list[Cell]:
        return [cell for trial in self.trials for cell in trial.cells]

    @property
    def baseline(self) -> str:
        """The label that the others are compared with."""
        name = self.sweep.baseline
        return next(cell.label for cell in self.cells if name is None or cell.label.partition(",")[0] == name)

    def chosen(self) -> tuple[Trial, dict[str, float]] | None:
        """The best trial, and each one's mean by its label; None while one of their cells is not done."""
        means = {trial.cells[0].label: mean_of(trial, self) for trial in self.trials}
        if None in means.values():
            return None
        by = KINDS[self.sweep.tune.by]
        pick = max if by.better == "higher" else min
        return pick(self.trials, key=lambda trial: means[trial.cells[0].label]), means

    def judged(self) -> list[Cell]:
        """The cells of the comparison, as far as they are known."""
        choice = self.chosen() if self.trials else None
        tuned = choice[0].tuned if choice else []
        same = {identity(cell.recipe) for cell in self.cells}  # the best values may be the recipe's own
        return [*self.cells, *(cell for cell in tuned if identity(cell.recipe) not in same)]


def mean_of(trial: Trial, plan: Plan) -> float | None:
    """The mean over seeds of what the trial is chosen by; None while a cell is not done."""
    values = []
    for cell in trial.cells:
        results = results_of(place_of(cell, plan.out).run)
        if results is None or results["metrics"].get(plan.sweep.tune.by) is None:
            return None
        values.append(results["metrics"][plan.sweep.tune.by])
    return sum(values) / len(values)


def make_plan(name: SweepLike, out: Path | None = None) -> Plan:
    """Load the sweep and all its recipes, and look at all that their runs would refuse.

    Raises:
        RecipeErrors: every mistake of the sweep's file and of any cell, one line each.
    """
    sweep, root, folder = load_sweep(name)
    problems: list[Problem] = []
    sources: list[tuple[Variant, Cell]] = []

    def made(these: Sequence[Variant], seeds: tuple[int, ...]) -> list[Cell]:
        cells, wrong = cells_of(list(these), seeds, root)
        problems.extend(wrong)
        by_label = {variant.label: variant for variant in these}
        sources.extend((by_label[cell.label], cell) for cell in cells)
        return cells

    cells = made(variants(sweep, folder), sweep.seeds)
    trials = [
        Trial(values, made([trying], sweep.tune.seeds), made([tuned], sweep.seeds))
        for values, trying, tuned in trial_variants(sweep, folder)
    ]
    plan = Plan(sweep, out or OUT / sweep.name, cells, trials)
    if not problems:
        problems += [*wrong_together(plan, root), *wrong_rows(sources, plan, root)]
    if problems:
        raise RecipeErrors(list(dict.fromkeys(problems)))
    return plan


def trial_variants(sweep: Sweep, folder: Path) -> Iterator[tuple[dict[str, Any], Variant, Variant]]:
    """(values, how they are tried, how they are judged) of each combination to tune."""
    tune = sweep.tune
    if tune is None:
        return
    entry = sweep.named[0]
    tried = found(tune.recipe or entry.recipe, folder)
    own = () if tune.recipe else entry.set.items()
    for values in combinations(tune.values):
        settings = (*sweep.set.items(), *own, *tune.set.items(), *values.items())
        trying = Variant(labelled(f"tuning {Path(tried).stem}", values, ()), tried, settings, (), ("tune",))
        settings = (*sweep.set.items(), *entry.set.items(), *values.items())
        judged = found(entry.recipe, folder)
        order = sweep.orders[0] if sweep.orders else ()
        tuned = Variant(labelled(f"{name_of(entry)} tuned", values, ()), judged, settings, order, ("recipes", 0))
        yield values, trying, tuned


# -- mistakes ------------------------------------------------------------------------------------------------------------


def wrong_together(plan: Plan, root: Node) -> Iterator[Problem]:
    """Cells that are one run, or that no comparison could put together; a baseline that is none; a stream tuned on itself."""
    sweep, first = plan.sweep, plan.cells[0]
    names = [cell.label.partition(",")[0] for cell in plan.cells]
    if sweep.baseline is not None and sweep.baseline not in names:
        yield at(root, "baseline", f"is none of the recipes{nearest_or_all(sweep.baseline, dict.fromkeys(names))}")
    seen: dict[str, Cell] = {}
    for cell in [*plan.cells, *plan.tuning]:
        other = seen.setdefault(identity(cell.recipe), cell)
        if other is not cell and other.seed == cell.seed:
            yield at(root, "recipes", f"{cell.label} and {other.label} are the same run: remove one")
    for cell in plan.cells:
        if cell.seed == first.seed:
            for message in incomparable(cell, first):
                yield at(root, "recipes", f"{cell.label} cannot be compared with {first.label}: other {message}")
    if plan.trials:
        tried, judged = (dump(cell.recipe) for cell in (plan.trials[0].cells[0], first))
        if rows_of(tried) == rows_of(judged):
            message = (
                "values would be chosen on the stream that is judged: give another recipe, or `set: {data.seed: 1000}`"
            )
            yield at(root, "tune", message)


def rows_of(recipe: dict) -> tuple:
    """What decides the rows of a stream."""
    return [task["data"] for task in recipe["stream"]], recipe["data"]


def incomparable(cell: Cell, other: Cell) -> Iterator[str]:
    """What `cpt compare` would refuse of the two."""
    mine, theirs = dump(cell.recipe), dump(other.recipe)
    tasks, names = ({task["task"]: task for task in each["stream"]} for each in (mine, theirs))
    if tasks.keys() != names.keys():
        yield f"tasks: {', '.join(tasks)} here, {', '.join(names)} there"
        return
    yield from unlike(conditions(mine), conditions(theirs), True)
    for name, task in tasks.items():
        yield from unlike(task_conditions(task, mine), task_conditions(names[name], theirs), True)


def at(root: Node, key: str, message: str) -> Problem:
    node = root.at([key])
    return Problem(node.file, node.line, key, message)


def wrong_rows(sources: list[tuple[Variant, Cell]], plan: Plan, root: Node) -> Iterator[Problem]:
    """What `cpt check` finds in each recipe, of one seed each: rows do not depend on it."""
    seen = set()
    for variant, cell in sources:
        if variant.label in seen:
            continue
        seen.add(variant.label)
        try:
            all_checks.check(cell.recipe, place_of(cell, plan.out).run)
        except RecipeErrors as error:
            yield from (placed(problem, variant, root) for problem in error.problems)
        except UserError as error:
            yield at(root, "recipes", str(error))
