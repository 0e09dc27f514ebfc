"""lm-eval's own files: `samples_TASK_DATE.jsonl` (written with --log_samples) and `results_DATE.json`, of lm-eval 0.4.

A task's score is its first metric that is a number in [0, 1] for each question and better when higher (`acc` before
`acc_norm`, as lm-eval lists them), under its first filter. Of several evaluations of one task the newest counts.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cpt.comparison.subject import Key, Subject
from cpt.errors import UserError

SAMPLES = re.compile(r"samples_(.+)_(\d{4}-\d\d-\d\dT[\d.\-]+)\.jsonl")
SUITE = "lm-eval"  # the suite that all its tasks are of
NEEDED = ("doc_id", "metrics", "target", "arguments")


class Log(NamedTuple):
    """The samples of one task, and the results that were written with them (None: they are gone)."""

    task: str
    samples: Path
    results: Path | None


def find(folder: Path) -> list[Log]:
    """The newest log of each task, in the folder or in folders within it (lm-eval makes one for each model)."""
    newest: dict[str, tuple[str, Path]] = {}
    for path in sorted(folder.rglob("samples_*.jsonl")):
        if match := SAMPLES.fullmatch(path.name):
            task, date = match.groups()
            newest[task] = max(newest.get(task, ("", path)), (date, path))
    places = {path.parent for _, path in newest.values()}
    if len(places) > 1:
        names = ", ".join(sorted(place.name for place in places))
        raise UserError(f"{folder}: has logs of several models ({names}): give one of these folders")
    logs = []
    for task, (date, path) in sorted(newest.items()):
        results = path.with_name(f"results_{date}.json")
        logs.append(Log(task, path, results if results.is_file() else None))
    return logs


def read(folder: Path, logs: list[Log]) -> Subject:
    """Raises UserError where a file is damaged, or no task has a score for each question."""
    answers: dict[Key, dict[str, dict]] = {}
    task_conditions: dict[Key, dict[str, Any]] = {}
    notes, shared = [], {}
    for log in logs:
        lines, note = answers_of(log)
        notes += [note] if note else []
        if lines:
            results = parsed(log.results, log.results.read_text("utf-8")) if log.results else {}
            if not results:
                notes.append(f"{log.samples}: no results_*.json beside it: how it was answered is not known")
            answers[SUITE, log.task] = lines
            task_conditions[SUITE, log.task] = conditions_of(log.task, results)
            shared |= conditions(results)
    if not answers:
        raise UserError(f"{folder}: no task has a score in [0, 1] for each question:\n" + "\n".join(notes))
    scores = {key: np.array([[lines[row]["score"] for row in sorted(lines)]], float) for key, lines in answers.items()}
    return Subject(
        folder, "lm-eval", folder.name, None, {}, str(folder.resolve()), (), answers, scores, shared, task_conditions,
        None, tuple(notes),
    )  # fmt: skip


def answers_of(log: Log) -> tuple[dict[str, dict], str | None]:
    """{doc id: an answer in our form}, and a note where there is something to say. Raises UserError."""
    samples = []
    for number, text in enumerate(log.samples.read_text("utf-8").splitlines(), start=1):
        samples.append(parsed(log.samples, text, number))
        if lacking := [name for name in NEEDED if name not in samples[-1]]:
            raise UserError(f"{log.samples}:{number}: is no sample of lm-eval: it has no {', '.join(lacking)}")
    first = samples[0].get("filter") if samples else None
    kept = [sample for sample in samples if sample.get("filter") == first]
    metric = metric_of(kept, log)
    if metric is None:
        return {}, f"{log.task} is left out: it has no metric that is a number in [0, 1] for each question"
    others = [name for name in kept[0]["metrics"] if name != metric]
    note = f"{log.task}: compared by {metric}" + (f" (filter {first})" if first not in (None, "none") else "")
    lines = {str(sample["doc_id"]): line_of(sample, metric, log.task) for sample in kept}
    if len(lines) != len(kept):
        raise UserError(f"{log.samples}: a doc_id stands there twice: it holds two evaluations; make it again")
    return lines, note if others or first not in (None, "none") else None


def metric_of(samples: list[dict], log: Log) -> str | None:
    better = {}
    if log.results:
        better = parsed(log.results, log.results.read_text("utf-8")).get("higher_is_better", {}).get(log.task, {})
    for name in samples[0]["metrics"] if samples else ():
        values = [sample.get(name) for sample in samples]
        numbers = all(isinstance(value, int | float) and 0 <= value <= 1 for value in values)
        if numbers and better.get(name, True) is not False:
            return name
    return None


def line_of(sample: dict, metric: str, task: str) -> dict:
    said = sample.get("filtered_resps", sample.get("resps"))
    prompt = [each[0] if isinstance(each, list) and each else each for each in listed(sample["arguments"])]
    same = all(each == prompt[0] for each in prompt)
    return {
        "suite": SUITE,
        "task": task,
        "row": str(sample["doc_id"]),
        "prompt": prompt[0] if prompt and same else prompt,
        "answer": sample["target"],
        "mode": "greedy",
        "sample": 0,
        "completion": said if isinstance(said, str) else json.dumps(said, ensure_ascii=False),
        "finished": True,
        "score": float(sample[metric]),
        "error": None,
    }


def listed(arguments: Any) -> list:
    """lm-eval writes arguments as a list, or as {gen_args_0: {arg_0: ...}}."""
    if isinstance(arguments, dict):
        return [list(each.values()) if isinstance(each, dict) else each for each in arguments.values()]
    return list(arguments)


def conditions(results: dict) -> dict[str, Any]:
    config = results.get("config", {})
    found = {
        "model.dtype": str(config["model_dtype"]).removeprefix("torch.") if config.get("model_dtype") else None,
        "lm-eval's model class": config.get("model"),
        "lm-eval's gen_kwargs": config.get("gen_kwargs"),
        "chat template": results.get("chat_template_sha"),
        "system instruction": results.get("system_instruction_sha"),
        "fewshot_as_multiturn": results.get("fewshot_as_multiturn"),
    }
    return found if results else {}


def conditions_of(task: str, results: dict) -> dict[str, Any]:
    config = results.get("configs", {}).get(task, {})
    if not results:
        return {}
    return {
        "version": results.get("versions", {}).get(task),
        "num_fewshot": results.get("n-shot", {}).get(task),
        "generation_kwargs": config.get("generation_kwargs"),
        "output_type": config.get("output_type"),
    }


def parsed(path: Path, text: str, number: int | None = None) -> dict:
    """Raises UserError where the text is no JSON object."""
    place = path if number is None else f"{path}:{number}"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: is damaged: not JSON ({error}): evaluate again") from error
    if not isinstance(value, dict):
        raise UserError(f"{place}: is damaged: no JSON object: evaluate again")
    return value
