"""Where the base of a PEFT adapter is: in the run that made it, else where its config says. No heavy import."""

import json
from pathlib import Path

from cpt.errors import UserError

CONFIG = "adapter_config.json"


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def run_around(folder: Path) -> Path | None:
    """The run that `folder` is a point of, or the model of one; None where it lies in no run."""
    place = folder.resolve()  # RUN/final is a link
    points = next((each.parent for each in (place, place.parent) if each.parent.name == "points"), None)
    return points.parent if points is not None and (points.parent / "recipe.yaml").is_file() else None


def base_in_run(adapter: Path) -> Path | None:
    """The base in the run that holds the adapter, wherever the run was moved to; None where there is none."""
    run = run_around(adapter)
    base = None if run is None else run / "points" / "00-base" / "model"
    return base if base is not None and (base / "config.json").is_file() else None


def named_base(adapter: Path) -> str:
    """What the adapter's config calls its base: a folder or a hub id. Raises UserError where it names none."""
    file = adapter / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{adapter}: the adapter's config ({CONFIG}) cannot be loaded ({error}): restore the file"
        ) from error
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or not base:
        raise UserError(
            f"{file}: base_model_name_or_path is {json.dumps(base)}: write the folder or hub id of the adapter's base"
        )
    return base
