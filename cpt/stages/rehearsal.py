"""Rehearsal: at the end of a task, SFT on rows kept of the tasks before it. What a strategy that needs such a model calls.

Its folder holds the model, the record, and in-stage checkpoints while it trains; it is sealed when all is there. A run that
was killed goes on inside the training, or finds it done; the folder is within its strategy's, and goes with the task's work.
"""

import gc
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cpt import ranks
from cpt.data import encoding
from cpt.data.memory import sft_forms
from cpt.data.stream import TaskData
from cpt.files import is_intact, seal, write_json
from cpt.recipe.stages import Sft
from cpt.stages import StageContext

RECORD = "rehearsal.json"


def rehearse(
    ctx: StageContext,
    tasks: Sequence[TaskData],
    rewinding: Callable[[str, int], None],
    memory: Any,
    name: str,
    source: Path,
    folder: Path,
) -> dict[str, Any]:
    """Train the model `source` on the rows that `memory` of the strategy `name` keeps, to `folder`/model. On all ranks.

    `ctx` is that of the task's last stage, `tasks` those before this one; `rewinding(stage, step)` is StageContext.rewind.
    Returns {rows, steps, seconds, train_tokens}. Raises UserError, Interrupted.
    """
    if not ranks.on_main(is_intact, folder):
        told = train(ctx, tasks, rewinding, memory, name, source, folder)
        ranks.on_main(finish, folder, told)
    return ranks.on_main(lambda: json.loads((folder / RECORD).read_text(encoding="utf-8")))


def train(ctx, tasks, rewinding, memory, name, source, folder) -> dict[str, Any]:
    """See `rehearse`."""
    from cpt.stages.sft import train_on

    number = name.split("-")[0]
    key, stage = f"strategies.{number}.memory", f"{name}-memory"
    encoders = encoding.load(source, ctx.base, ctx.recipe)
    by_task = {task.name: encoders.of(task.spec) for task in tasks}
    forms = sft_forms(tasks, ctx.recipe.data.seed, memory.rows, key)
    lessons = [(by_task[task.name], form) for task, _, form in forms]
    own = replace(
        ctx,
        stage=Sft(kind="sft", args=memory.args),
        name=stage,
        key=key,
        source=source,
        target=folder / "model",
        work=folder / "trainer",
        seed=int(np.random.SeedSequence([ctx.seed, int(number)]).generate_state(1)[0] >> 1),
        verifier_errors=Counter(),
        rewind=partial(rewinding, stage),
        notes=[],
    )
    record = train_on(own, lessons, [])
    gc.collect()
    ctx.screen.line(
        f"{ctx.task.name} {stage}: {record['steps']} steps in {record['seconds']:.1f} s on {len(lessons)} rows kept of "
        f"{', '.join(task.name for task in tasks)}"
    )
    return {"rows": len(lessons)} | {key: record[key] for key in ("steps", "seconds", "train_tokens")}


def finish(folder: Path, told: dict[str, Any]) -> None:
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    write_json(folder / RECORD, told)
    seal(folder)
