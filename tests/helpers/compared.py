"""Run directories with given scores, and folders as lm-eval writes them, to be compared."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cpt.evaluation.results import numbers
from cpt.records import fingerprint

TASKS = ("reverse", "caesar", "sort")
ACCURACY = {"reverse": 0.9, "caesar": 0.8, "sort": 0.7, "copy": 0.95}


def scores_of(accuracy: Mapping[str, float], count: int, seed: int) -> dict[str, np.ndarray]:
    """{task: right or wrong, (count)} of questions that are independent; `copy` is of the suite."""
    rng = np.random.default_rng(seed)
    return {task: (rng.random(count) < share).astype(float) for task, share in accuracy.items()}


def write_run(
    folder: Path,
    final: Mapping[str, Sequence[float]],
    *,
    name: str = "plain",
    seed: int = 0,
    tasks: Sequence[str] = TASKS,
    settings: Mapping[str, object] | None = None,
    trained: int | None = None,
    prompt: str = "what is {task} of {row}?",
    tokens: int = 1000,
    resolved: Mapping[str, object] | None = None,
) -> Path:
    """A run whose last point has these scores; each task was learnt with one question more right. Returns `folder`.

    `settings` are dotted keys of the recipe (`resolved` is one instead), `trained` is how many of the tasks are done, and
    `prompt` what is asked.
    """
    trained = len(tasks) if trained is None else trained
    points = ["00-base", *(f"{i:02d}-{task}" for i, task in enumerate(tasks, start=1))][: trained + 1]
    lines = {point: [] for point in points}
    for place, point in enumerate(points):
        for task, scores in final.items():
            suite = None if task in tasks else "general"
            mine = np.array(scores, float)
            if suite is None and place == tasks.index(task) + 1 and place < len(tasks) and (mine == 0).any():
                mine[mine.argmin()] = 1.0
            for row, score in enumerate(mine if place else np.zeros_like(mine)):
                asked = {"prompt": prompt.format(task=task, row=row), "answer": f"{task} {row}"}
                answer = {"mode": "greedy", "sample": 0, "completion": "yes" if score > 0.5 else "no", "finished": True}
                where = {"suite": suite, "task": task, "row": f"{task}/{row}"}
                lines[point].append(where | asked | answer | {"score": float(score), "error": None})
    (folder / "evaluations").mkdir(parents=True)
    for point, answers in lines.items():
        text = "".join(json.dumps(line) + "\n" for line in answers)
        (folder / "evaluations" / f"{point}.jsonl").write_text(text)
    cost = {point: {"seconds": 1.0, "rollout_tokens": 10} for point in points}
    suites = ["general"] if set(final) - set(tasks) else []
    complete = trained == len(tasks)
    results = {
        "format": 1, "complete": complete, "recipe": name, "seed": seed, "tasks": list(tasks),
        **numbers(list(tasks), suites, points, lines, complete),
        "cost": {"seconds": 2.0, "train_tokens": tokens, "rollout_tokens": 10, "peak_memory_bytes": 10**6},
        "gates": [], "points": [f"points/{point}" for point in points], "stages": [], "evaluation_cost": cost,
        "logged": 0, "resolved_recipe": json.dumps(resolved or recipe(name, seed, tasks, settings or {})),
    }  # fmt: skip
    results["sha256"] = fingerprint(results)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def recipe(name: str, seed: int, tasks: Sequence[str], settings: Mapping[str, object]) -> dict:
    stage = {"kind": "rlvr", "args": {"learning_rate": 1e-4}}
    made = {
        "name": name,
        "seed": seed,
        "model": {"path": "tiny", "dtype": "float32"},
        "rollouts": {"engine": "transformers"},
        "stream": [{"task": task, "reward": {"kind": "exact"}, "stages": [stage]} for task in tasks],
        "evaluation": {"suites": [], "max_completion_length": 16},
    }
    made = json.loads(json.dumps(made))
    for key, value in settings.items():
        *path, last = [int(step) if step.isdigit() else step for step in key.split(".")]
        place = made
        for step in path:
            place = place[step]
        place[last] = value
    return made


def write_lm_eval(
    folder: Path, final: Mapping[str, Sequence[float]], *, dtype: str = "torch.float32", shots: int = 0, doc: str = "?"
) -> Path:
    """What `lm_eval --log_samples --output_path` writes for multiple-choice tasks with these scores. Returns `folder`."""
    place, date = folder / "some__model", "2026-01-02T03-04-05.678901"
    place.mkdir(parents=True)
    for task, scores in final.items():
        samples = [
            {
                "doc_id": number, "doc": {"question": f"{task} {number}{doc}"}, "target": "0",
                "arguments": {"gen_args_0": {"arg_0": f"{task} {number}{doc}", "arg_1": " yes"},
                              "gen_args_1": {"arg_0": f"{task} {number}{doc}", "arg_1": " no"}},
                "resps": [[["-1.0", "True"]], [["-2.0", "False"]]],
                "filtered_resps": [["-1.0", "True"], ["-2.0", "False"]], "filter": "none",
                "metrics": ["acc", "acc_norm"], "doc_hash": "d", "prompt_hash": "p", "target_hash": "t",
                "acc": score, "acc_norm": score,
            }
            for number, score in enumerate(scores)
        ]  # fmt: skip
        text = "".join(json.dumps(sample) + "\n" for sample in samples)
        (place / f"samples_{task}_{date}.jsonl").write_text(text)
    results = {
        "results": {}, "configs": {task: {"output_type": "multiple_choice"} for task in final},
        "versions": dict.fromkeys(final, 1.0), "n-shot": dict.fromkeys(final, shots),
        "higher_is_better": {task: {"acc": True, "acc_norm": True} for task in final},
        "config": {"model": "hf", "model_dtype": dtype, "gen_kwargs": None},
        "chat_template_sha": None, "system_instruction_sha": None, "fewshot_as_multiturn": False,
    }  # fmt: skip
    (place / f"results_{date}.json").write_text(json.dumps(results))
    return folder
