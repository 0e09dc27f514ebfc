"""A fake run directory: answers made up to match a table of accuracies, in the formats that a run writes."""

import json
import math
import random
from pathlib import Path

from cpt.evaluation.gates import check_gates
from cpt.evaluation.results import numbers
from cpt.evaluation.verdict import verdict

TASKS = ("reverse", "caesar", "sort", "double")
SKILLS = {
    "reverse": lambda text: text[::-1],
    "caesar": lambda text: "".join(chr((ord(letter) - 96) % 26 + 97) for letter in text),
    "sort": lambda text: "".join(sorted(text)),
    "double": lambda text: "".join(letter * 2 for letter in text),
    "copy": lambda text: text,
    "first": lambda text: text[0],
    "count": lambda text: str(len(text)),
}
GOOD = [
    [0.02, 0.0, 0.1, 0.3],
    [0.97, 0.0, 0.12, 0.3],
    [0.96, 0.98, 0.1, 0.28],
    [0.93, 0.97, 0.99, 0.3],
    [0.91, 0.95, 0.98, 0.97],
]
BAD = [
    [0.02, 0.0, 0.1, 0.3],
    [0.98, 0.0, 0.05, 0.2],
    [0.61, 0.98, 0.02, 0.1],
    [0.4, 0.55, 0.99, 0.05],
    [0.22, 0.31, 0.52, 0.99],
]
GENERAL = {"good": [0.995, 0.99, 0.985, 0.985, 0.98], "bad": [0.995, 0.8, 0.7, 0.62, 0.51]}
GATES = {"forgetting": 0.12, "held_out_drop": 0.08, "learning_accuracy": 0.9}


def answers(suite, task: str, other: str, accuracy: float, count: int, seed: int, samples: int = 0) -> list[dict]:
    """Lines of one task at one point: the answers below the accuracy are right, in an order that all points share."""
    lines, ranks = [], list(range(count))
    random.Random(f"{task} order").shuffle(ranks)
    for i in range(count):
        text = "".join(random.Random(f"{task} {i}").choices("abcdefghijklmnopqrstuvwxyz", k=5))
        right, wrong = SKILLS[task](text), SKILLS[other](text) + "x"
        asked = {"suite": suite, "task": task, "row": f"{task}/eval/{i}", "prompt": f"{task}{text}=", "answer": right}
        for sample in range(samples + 1):
            draw = random.Random(f"{task} {i} {seed} {sample}").random()
            good = ranks[i] < accuracy * count if sample == 0 else draw < 0.8 * accuracy + 0.05
            mode = {"mode": "greedy", "sample": 0} if sample == 0 else {"mode": "sampled", "sample": sample - 1}
            said = {"completion": right if good else wrong, "finished": True, "score": float(good), "error": None}
            lines.append(asked | mode | said)
    return lines


def lines_at(row: int, table: list[list[float]], general: list[float], tasks, count: int, samples: int) -> list[dict]:
    lines = []
    for i, task in enumerate(tasks):
        lines += answers(None, task, tasks[row - 1], table[row][i], count, row, samples)
    for task, offset in (("copy", 0.0), ("first", 0.01), ("count", -0.02)):
        accuracy = min(1.0, max(0.0, general[row] + offset * row))
        lines += answers("general", task, "caesar", accuracy, count // 2, row)
    return lines


def training(task: str, stage: str, steps: int, place: int) -> list[dict]:
    """What TRL's GRPO trainer logs, in outline."""
    rng, lines = random.Random(f"{task} {stage}"), []
    for step in range(2, steps + 1, 2):
        done = 1 - math.exp(-4 * step / steps)
        lines.append(
            {
                "task": task,
                "stage": stage,
                "step": step,
                "max_steps": steps,
                "seconds": round(0.4 * step, 2),
                "loss": 0.02 * (1 - done) + rng.gauss(0, 0.004),
                "reward": min(1.0, max(0.0, 0.05 + 0.92 * done + rng.gauss(0, 0.03))),
                "kl": 0.4 * done * (1 + 0.2 * place) + abs(rng.gauss(0, 0.02)) if step > 2 else None,
                "entropy": 1.4 * (1 - done) + 0.08 + abs(rng.gauss(0, 0.02)),
                "grad_norm": 1.2 * (1 - 0.7 * done) + abs(rng.gauss(0, 0.1)),
                "completions/mean_length": 6.2 - done + rng.gauss(0, 0.05),
                "frac_reward_zero_std": min(1.0, 0.1 + 0.7 * done),
                "learning_rate": 4e-4 * (1 - step / steps),
            }
        )
    return lines


RECIPE = """name: {name}
seed: 0
model: {{path: tiny, seed: 0, dtype: float32}}
rollouts: {{engine: transformers, batch_size: 256}}
stream:
{stream}
evaluation:
  suites: [general]
  gates: {{forgetting: 0.12, held_out_drop: 0.08, learning_accuracy: 0.9}}
"""
STEP = "  - {{task: {task}, data: {{source: procedural, name: {task}}}, reward: exact, stages: [{{kind: rlvr}}]}}"


def make_run(
    folder: Path,
    *,
    bad: bool = False,
    tasks=TASKS,
    trained: int | None = None,
    count: int = 200,
    samples: int = 8,
    gates=GATES,
) -> Path:
    """A run directory with `trained` of the tasks done (all by default); `bad` forgets. Returns `folder`."""
    trained = len(tasks) if trained is None else trained
    table, general = (BAD, GENERAL["bad"]) if bad else (GOOD, GENERAL["good"])
    points = ["00-base", *(f"{i:02d}-{task}" for i, task in enumerate(tasks, start=1))][: trained + 1]
    lines = {point: lines_at(row, table, general, tasks, count, samples) for row, point in enumerate(points)}
    (folder / "evaluations").mkdir(parents=True)
    for point, answered in lines.items():
        (folder / "evaluations" / f"{point}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answered))
    stages = [
        {
            "point": point, "task": task, "stage": "0-rlvr", "kind": "rlvr", "steps": 80, "seconds": 31.4 + 3 * i,
            "train_tokens": 412_000 + 9000 * i, "rollout_tokens": 388_000 + 7000 * i,
            "peak_memory_bytes": 1_450_000_000 + i * 10**7,
            "notes": ["3 rows were too long and left out"] if i == 1 else [],
        }
        for i, (point, task) in enumerate(zip(points[1:], tasks, strict=False))
    ]  # fmt: skip
    logged = [line for i, task in enumerate(tasks[:trained]) for line in training(task, "0-rlvr", 80, i)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    write_results(folder, tasks, points, lines, stages, gates, (1, 4, 8) if samples else ())
    stream = "\n".join(STEP.format(task=task) for task in tasks)
    (folder / "recipe.yaml").write_text(RECIPE.format(name="quickstart-sft" if bad else "quickstart", stream=stream))
    (folder / "manifest.json").write_text(json.dumps(manifest(tasks)))
    return folder


def write_results(folder: Path, tasks, points, lines, stages, gates, k) -> None:
    complete = len(points) == len(tasks) + 1
    found = numbers(list(tasks), ["general"], points, lines, complete, k)
    cost = {point: {"seconds": 6.2, "rollout_tokens": 9100} for point in points}
    results = {
        "format": 1, "complete": complete, "recipe": "quickstart", "seed": 0, "tasks": list(tasks), **found,
        "cost": {
            "seconds": sum(each["seconds"] for each in [*stages, *cost.values()]),
            "train_tokens": sum(stage["train_tokens"] for stage in stages),
            "rollout_tokens": sum(each["rollout_tokens"] for each in [*stages, *cost.values()]),
            "peak_memory_bytes": max((stage["peak_memory_bytes"] for stage in stages), default=None),
        },
        "gates": (checked := check_gates(gates, found) if complete else []),
        "verdict": verdict(checked, found) if complete else None,
        "points": [f"points/{point}" for point in points], "stages": stages, "evaluation_cost": cost,
        "logged": (folder / "metrics.jsonl").read_text().count("\n"),
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results, indent=1))


def manifest(tasks) -> dict:
    return {
        "cpt": "0.1.0",
        "versions": {
            "python": "3.11.9",
            "torch": "2.13.0",
            "transformers": "5.17.0",
            "trl": "1.16.0",
            "peft": "0.21.2",
        },
        "seed": 0,
        "model_seed": 0,
        "data_seed": 0,
        "hardware": {"machine": "x86_64", "cores": 2, "memory_bytes": 8_321_499_136, "gpus": [], "threads": 2},
        "world_size": 1,
        "data": {
            task: {
                "train": {"rows": 4000, "hash": f"{hash_of(task, 'train')}"},
                "eval": {"rows": 200, "hash": f"{hash_of(task, 'eval')}"},
            }
            for task in tasks
        },
        "git": {"commit": "6d003ff0c1d2e3f4a5b6c7d8e9f00112233445566", "dirty": True, "diff": "diff --git a/x b/x"},
        "created": "2025-11-23T08:45:00+00:00",
        "command": "cpt run quickstart",
    }


def hash_of(*words: str) -> str:
    return f"{random.Random(' '.join(words)).getrandbits(64):016x}"
