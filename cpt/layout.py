"""What is in a run directory and is not what cpt put there: folders for files, and files that nobody committed."""

from collections.abc import Iterable
from pathlib import Path

from cpt.errors import UserError
from cpt.files import DONE, hashes_of, is_intact

FILES = ("recipe.yaml", "manifest.json", "metrics.jsonl", "results.json", "report.html", "report.md", "run.log")
FILES += (".lock", ".lock.json", "server.log", "during.jsonl", "tracking.json")
FOLDERS = ("points", "evaluations", "rollouts", "baselines", "tracking")
IN_EVALUATIONS = (".jsonl", ".cost.json")
# What transformers, PEFT, tokenizers and vLLM look for in a model's folder.
CARD = "README.md"  # the model card, which the report writes beside the weights of `final`
LOADED = {".safetensors", ".json", ".jinja", ".model", ".txt", ".py", ".bin", ".pt", ".pth", ".gguf", ".tiktoken"}


def check_kinds(run: Path) -> None:
    """Raise UserError where there is a folder instead of a file of the run, or the other way round."""
    evaluations = run / "evaluations"
    files = [run / name for name in FILES]
    if evaluations.is_dir():
        files += [file for file in evaluations.iterdir() if file.name.endswith(IN_EVALUATIONS)]
    for file in files:
        if file.is_dir():
            raise UserError(f"{file}: is a folder, but the run needs a file there: move it away")
    for folder in (run / name for name in FOLDERS):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file, but the run needs a folder there: move it away")
    final = run / "final"
    if final.is_dir() and not final.is_symlink():
        raise UserError(f"{final}: is a folder, but the run needs a link to the last model there: move it away")


def strangers(sealed: Path) -> list[Path]:
    """What lies in a sealed folder and was not sealed with it: files, links, and folders that hold none of its files."""
    hashes = hashes_of(sealed) or {}  # whoever uses a damaged folder reports it
    names = [Path(name) for name in hashes]
    known = {*names, *(folder for name in names for folder in name.parents)}
    unknown = (
        place
        for place in sealed.rglob("*")
        if place.name not in (DONE, CARD) and place.relative_to(sealed) not in known
    )
    return sorted(place for place in unknown if place.parent.relative_to(sealed) in known)


def check_strangers(folders: Iterable[Path]) -> list[str]:
    """A warning for each file in these sealed folders that was not committed.

    Raises:
        UserError: one that a library could take for a part of the model.
    """
    unknown = [place for folder in folders for place in strangers(folder)]
    loaded = [place for place in unknown if place.suffix in LOADED or place.is_dir()]
    if loaded:
        more = f" (and {len(loaded) - 1} more)" if len(loaded) > 1 else ""
        raise UserError(
            f"{loaded[0]}: was not committed with the folder that holds it{more}, and could be loaded as a part of "
            "the model: move it out of the run directory"
        )
    return [f"{place}: was not committed with the folder that holds it; it is left alone" for place in unknown]


def check_sealed(place: Path) -> list[str]:
    """The warnings of `check_strangers` for a point of a run, or a link to its model; none for any other folder.

    Raises:
        UserError: it is damaged, or a library could take a file that was not committed for a part of the model.
    """
    sealed = place.resolve().parent if place.is_symlink() else place
    if not (sealed / DONE).is_file() or (sealed / "config.json").is_file():  # a model that came sealed may be changed
        return []
    if not is_intact(sealed):
        raise UserError(
            f"{place}: is damaged (its files are not those that were committed): give another point, or the folder "
            "inside it"
        )
    return check_strangers([sealed])
