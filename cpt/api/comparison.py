"""Compare runs with each other."""

from collections.abc import Sequence
from pathlib import Path

from cpt.comparison.compare import Comparison, compare_folders
from cpt.comparison.writing import write


def compare(
    runs: Sequence[str | Path], *, baseline: str | Path | None = None, out: str | Path | None = None
) -> Comparison:
    """Compare runs on the questions that all of them were asked, as `cpt compare` does.

    Args:
        runs: run directories, or folders with lm-eval's sample logs; seeds of one recipe are grouped by themselves.
        baseline: the run that the others are compared with (its whole group); the first one where left out.
        out: a folder for compare.html, .md, .json, .csv and flips.csv.

    Returns:
        `groups` with their estimates, and `pairs` with a `verdict` each; printed, it is the command's table.

    Raises:
        UserError: a line for each run that cannot be read or compared, with the reason.
    """
    comparison = compare_folders([Path(run) for run in runs], None if baseline is None else Path(baseline))
    if out is not None:
        write(comparison, Path(out))
    return comparison
