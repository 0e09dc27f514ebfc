"""`cpt` on several processes: under `accelerate launch`."""

import os
import subprocess
import sys
from pathlib import Path

LAUNCHERS = Path(__file__).parents[2] / "recipes" / "accelerate"


def command(config: Path, *arguments, given: str | None = None) -> list[str]:
    """`cpt` under a launcher; `given` (answers, rewards): with what helpers/given.py puts into each rank."""
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(config)]
    program = ["-m", "cpt"] if given is None else ["-m", "helpers.given", given]
    return [*launcher, *program, *map(str, arguments)]


def environment() -> dict[str, str]:
    """One thread, no network, and `helpers` is found."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path}


def launch(config: Path, *arguments, given: str | None = None) -> subprocess.CompletedProcess:
    words = command(config, *arguments, given=given)
    return subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=400)
