"""The model card in `final`: what the model was trained on, what it can do, the verdict, and how to make it again."""

from pathlib import Path

from cpt.adapters import is_adapter
from cpt.files import hashes_of, write_whole
from cpt.layout import CARD
from cpt.report.render import model_card

MARKER = "written by cpt from results.json; `cpt report RUN` writes it again"


def write_card(run_dir: Path, seen: dict) -> None:
    """Write the card beside the weights of `final`, where the run is complete; a card that came with the model stays.

    `seen` is the view of the run. The card is no part of the sealed point: it may be changed or deleted.
    """
    final = run_dir / "final"
    if not (seen["complete"] and final.is_dir()):
        return
    folder = final.resolve()
    for old in run_dir.glob(f"points/*/*/{CARD}"):
        if old.parent != folder and MARKER in old.read_text(encoding="utf-8", errors="replace"):
            old.unlink()
    if f"{folder.name}/{CARD}" in (hashes_of(folder.parent) or {}):
        return
    write_whole(folder / CARD, model_card({**seen, "marker": MARKER, "adapter": is_adapter(folder)}))
