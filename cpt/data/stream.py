"""STUB (lead's, temporary: helper B replaces this file)."""

from dataclasses import dataclass
from typing import Any
from cpt.data import procedural


@dataclass
class TaskData:
    name: str
    train: Any
    validation: Any
    eval: Any
    spec: Any


@dataclass
class Stream:
    tasks: tuple
    suites: dict

    def manifest(self):
        return {}


def td(t, train=True):
    d = t.data
    f = lambda split, n: procedural.rows(d.name, split, n, d.length, d.demonstration, 0) if n else []
    return TaskData(t.task, f("train", d.train) if train else [], [], f("eval", d.eval), t)


def load_stream(recipe, suites):
    return Stream(
        tuple(td(t) for t in recipe.stream), {n: tuple(td(t, False) for t in s.tasks) for n, s in suites.items()}
    )


def stage_rows(task, kind):
    from datasets import Dataset

    if kind == "sft":
        return Dataset.from_list(
            [
                {"prompt": r["prompt"], "completion": [{"role": "assistant", "content": r["demonstration"]}]}
                for r in task.train
            ]
        )
    return Dataset.from_list([{k: v for k, v in r.items() if k != "demonstration"} for r in task.train])
