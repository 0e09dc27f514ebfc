"""Rehearsal: at the end of a task, SFT on rows kept of the tasks before it. What a strategy that needs such a model calls.

Its folder holds the model, the record, and in-stage checkpoints while it trains; it is sealed when all is there. A run that
was killed is resumed inside the training, or finds it done; the folder is within its strategy's, and goes with the task's
work.
"""

import gc
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from cpt import ranks, seeds
from cpt.context import Services, Stage
from cpt.data import encoding
from cpt.data.memory import sft_forms
from cpt.files import is_intact, seal, write_json
from cpt.recipe.stages import Sft
from cpt.records import Rehearsal

RECORD = "rehearsal.json"


def rehearse(stage: Stage, services: Services, memory: Any, name: str, source: Path, folder: Path) -> Rehearsal:
    """Train the model `source` on the rows that `memory` of the strategy `name` keeps, to `folder`/model. On all ranks.

    `stage` is the task's last one. Returns {rows, steps, seconds, train_tokens}. Raises UserError, Interrupted.
    """
    if not ranks.on_main(is_intact, folder):
        record = train(stage, services, memory, name, source, folder)
        ranks.on_main(finish, folder, record)
    return ranks.on_main(lambda: json.loads((folder / RECORD).read_text(encoding="utf-8")))


def train(stage: Stage, services: Services, memory: Any, name: str, source: Path, folder: Path) -> Rehearsal:
    """See `rehearse`."""
    from cpt.stages.sft import train_on

    number, tasks = name.split("-")[0], services.earlier_tasks
    mine = replace(
        stage,
        spec=Sft(kind="sft", args=memory.args),
        name=f"{name}-memory",
        key=f"strategies.{number}.memory",
        source=source,
        target=folder / "model",
        work=folder / "trainer",
        seed=seeds.derived(stage.seed, int(number)),
    )
    encoders = encoding.load(source, stage.base, stage.recipe)
    by_task = {task.name: encoders.of(task.spec) for task in tasks}
    forms = sft_forms(tasks, stage.recipe.data.seed, memory.rows, mine.key)
    lessons = [(by_task[task.name], form) for task, _, form in forms]
    record = train_on(mine, replace(services, verifier_errors=Counter(), notes=[], ask_during=None), lessons, [])
    gc.collect()
    services.screen.line(
        f"{stage.task.name} {mine.name}: {record['steps']} steps in {record['seconds']:.1f} s on {len(lessons)} rows kept of "
        f"{', '.join(task.name for task in tasks)}"
    )
    return {"rows": len(lessons)} | {key: record[key] for key in ("steps", "seconds", "train_tokens")}


def finish(folder: Path, record: Rehearsal) -> None:
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    write_json(folder / RECORD, record)
    seal(folder)
