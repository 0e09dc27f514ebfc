"""cpt: continual post-training of language models, with a measure of what each update kept."""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cpt.api.comparison import compare
    from cpt.api.evaluation import Evaluation, evaluate
    from cpt.api.merging import merge
    from cpt.api.results import Run, read_run
    from cpt.api.sweeping import sweep
    from cpt.api.training import Check, check, run
    from cpt.errors import RecipeErrors, UserError

__version__ = "0.1.0"

# TRL reports every trainer that is made to its hub. Here nothing is reported, unless the user sets this to 0.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# TRL warns whoever imports its experimental part. Its version is pinned and what is used of it is tested here.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
# Bars of datasets would stand between a command's own lines.
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

# Nothing heavy is imported until one of these is first used: `import cpt` costs some milliseconds.
_HOMES = {
    **dict.fromkeys(("run", "check", "Check"), "cpt.api.training"),
    **dict.fromkeys(("evaluate", "Evaluation"), "cpt.api.evaluation"),
    "compare": "cpt.api.comparison",
    "merge": "cpt.api.merging",
    "sweep": "cpt.api.sweeping",
    **dict.fromkeys(("read_run", "Run"), "cpt.api.results"),
    **dict.fromkeys(("UserError", "RecipeErrors"), "cpt.errors"),
}
__all__ = [
    "Check",
    "Evaluation",
    "RecipeErrors",
    "Run",
    "UserError",
    "check",
    "compare",
    "evaluate",
    "merge",
    "read_run",
    "run",
    "sweep",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'cpt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
