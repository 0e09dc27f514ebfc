"""Run a sweep."""

from pathlib import Path

from cpt.api.arguments import in_a_session, screen_of
from cpt.sweeps.plan import make_plan
from cpt.sweeps.schema import SweepLike
from cpt.sweeps.sweep import SweepResult, run_sweep


def sweep(
    sweep: SweepLike,
    *,
    out: str | Path | None = None,
    jobs: int = 1,
    quiet: bool = False,
    verbose: bool = False,
) -> SweepResult:
    """Run the cells of a sweep that are not done, and compare all of them, as `cpt sweep` does.

    Args:
        sweep: a shipped sweep's name, a YAML file, or a dictionary of what such a file would hold.
        out: the sweep's folder (runs/sweeps/NAME).
        jobs: cells that run at a time.
        quiet: print results and warnings alone.
        verbose: print what the runs print, too.

    Returns:
        `comparison` (None where fewer than two cells are done), `failed`, and of a tuned sweep what was `chosen`.

    Raises:
        RecipeErrors: every mistake of the file and of any cell.
        KeyboardInterrupt: interrupted, and saved; the same call goes on from there.
    """
    plan = make_plan(sweep, None if out is None else Path(out))
    with in_a_session():
        return run_sweep(plan, screen_of(quiet, verbose), jobs)
