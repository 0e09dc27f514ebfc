"""The report of a run: one HTML file and the same in Markdown, from the JSON files of the run directory alone.

No network, no JavaScript, no torch: a run can be read anywhere, and its report made again when only the files are left.
"""

from pathlib import Path


def build(run_dir: Path) -> tuple[Path, Path]:
    """Write report.html and report.md into the run directory; returns their paths.

    Raises:
        UserError: the folder is not a run directory (no results.json), one of its files cannot be read, or the report
            cannot be written there.
    """
    from cpt.errors import UserError
    from cpt.files import write_whole
    from cpt.report.reading import read
    from cpt.report.render import html, markdown
    from cpt.report.view import view

    seen = view(read(run_dir))
    paths = run_dir / "report.html", run_dir / "report.md"
    for path, text in zip(paths, (html(seen), markdown(seen)), strict=True):
        try:
            write_whole(path, text)
        except (IsADirectoryError, PermissionError) as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}): move what is there away") from error
    return paths
