"""The report of a run: one HTML file and the same in Markdown, from the JSON files of the run directory alone.

No network, no JavaScript, no torch: a run can be read anywhere, and its report made again when only the files are left.
"""

import sys
from collections.abc import Callable
from pathlib import Path


def warn_on_stderr(line: str) -> None:
    print(f"cpt: warning: {line}", file=sys.stderr)


def build(run_dir: Path, warn: Callable[[str], None] = warn_on_stderr) -> tuple[Path, Path]:
    """Write report.html and report.md into the run directory, and the model card into `final`; returns the first two.

    `warn` is told what was left out.

    Raises:
        UserError: the folder is not a run directory (no results.json), or one of its files cannot be read.
        CannotWrite: the report cannot be written there.
    """
    from cpt.files import write_whole
    from cpt.report.card import write_card
    from cpt.report.reading import read
    from cpt.report.render import html, markdown
    from cpt.report.view import view

    run = read(run_dir)
    for line in run.damaged:
        warn(line)
    seen = view(run)
    paths = run_dir / "report.html", run_dir / "report.md"
    for path, text in zip(paths, (html(seen), markdown(seen)), strict=True):
        write_whole(path, text)
    write_card(run_dir, seen)
    return paths
