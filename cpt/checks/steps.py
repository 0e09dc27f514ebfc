"""How many optimiser steps a stage takes, as far as that is known before it runs. No heavy import."""

import os
from typing import Any

from cpt.data import sources
from cpt.recipe import Recipe


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


def stage_steps(recipe: Recipe, task: int, stage: int) -> int | None:
    """The optimiser steps of a stage of the stream; None where they cannot be counted before it runs."""
    spec = recipe.stream[task].stages[stage]
    a_step = spec.value("per_device_train_batch_size") * spec.value("gradient_accumulation_steps") * world()
    return steps_of(spec, recipe.stream[task], a_step)


def every_stage(recipe: Recipe) -> list[tuple[str, int | None]]:
    """(key, optimiser steps) of each stage of the stream."""
    return [
        (f"stream.{task.task}.stages.{j}", stage_steps(recipe, i, j))
        for i, task in enumerate(recipe.stream)
        for j in range(len(task.stages))
    ]


def total_steps(recipe: Recipe) -> int | None:
    """The optimiser steps of all stages; None where some cannot be counted."""
    steps = [each for _, each in every_stage(recipe)]
    return None if None in steps else sum(steps)


def during_times(recipe: Recipe) -> int | None:
    """How many evaluations within stages there will be; None where the steps of a stage cannot be counted."""
    steps = [each for _, each in every_stage(recipe)]
    return None if None in steps else sum(each // recipe.evaluation.during.every for each in steps)
