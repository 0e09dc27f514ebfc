"""How many optimiser steps a stage takes, as far as that is known before it runs. No heavy import."""

import os
from typing import Any

from cpt.data import sources


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def steps_of(stage: Any, task: Any, a_step: int) -> int | None:
    """The stage's optimiser steps; None where the rows cannot be counted before they are loaded or made."""
    if (steps := stage.value("max_steps")) > 0:
        return steps
    rows = sources.count(task.data, "train")
    if rows is None or stage.chooses_rows:
        return None
    return int(stage.value("num_train_epochs") * -(-rows * stage.group // a_step))
