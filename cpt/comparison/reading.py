"""From folders to subjects: runs of cpt by their JSON files, other models by lm-eval's logs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpt.comparison import lm_eval_logs
from cpt.comparison.subject import Key, Subject, trained
from cpt.errors import UserError
from cpt.evaluation.results import greedy_scores
from cpt.report.reading import Run, read

ANSWERED_ALIKE = ("max_completion_length", "stop", "prompt", "system", "special_tokens")  # keys of a task
OF_ENGINE = ("engine", "dtype", "quantization", "kv_cache_dtype", "load_format", "speculative_config", "max_model_len")


def read_subject(folder: Path) -> Subject:
    """Raises UserError where the folder holds neither a complete run nor logs of lm-eval, or is damaged."""
    if (folder / "results.json").exists() or not folder.is_dir():
        return of_run(read_complete(folder))
    if logs := lm_eval_logs.find(folder):
        return lm_eval_logs.read(folder, logs)
    raise UserError(
        f"{folder}: is neither a run (no results.json) nor a folder of lm-eval (no samples_*.jsonl; write them with "
        "--log_samples)"
    )


def read_complete(folder: Path) -> Run:
    """The run in the folder. Raises UserError where it is not whole."""
    if not folder.exists():
        raise UserError(f"{folder}: no such folder")
    run = read(folder)
    if not run.results["complete"]:
        done, tasks = len(run.points) - 1, run.results["tasks"]
        raise UserError(f"{folder}: is not complete ({done} of {len(tasks)} tasks): finish it with `cpt run`")
    if lacking := [point for point in run.points if point not in run.answers]:
        raise UserError(
            f"{folder}: evaluations/{lacking[0]}.jsonl is missing: repeat the run's command, which writes it"
        )
    if run.recipe is None:
        raise UserError(
            f"{folder}: recipe.yaml is missing: what was evaluated, and how, cannot be told: restore the file"
        )
    return run


def of_run(run: Run) -> Subject:
    recipe, results = recipe_of(run), run.results
    greedy = [[line for line in run.answers[point] if line["mode"] == "greedy"] for point in run.points]
    answers: dict[Key, dict[str, dict]] = {}
    for line in greedy[-1]:
        answers.setdefault((line["suite"], line["task"]), {})[line["row"]] = line
    manifest = run.manifest or {}
    code = [manifest.get(name, {}) for name in ("verifiers", "user_code", "data", "model_seed")]
    return Subject(
        folder=run.folder,
        source="cpt",
        name=results["recipe"],
        seed=results["seed"],
        recipe=recipe,
        same=json.dumps([trained(recipe), code], sort_keys=True),
        tasks=tuple(results["tasks"]),
        answers=answers,
        scores=greedy_scores(greedy),
        conditions=conditions(recipe),
        task_conditions={(None, task["task"]): task_conditions(task, recipe) for task in recipe.get("stream", ())},
        cost=results["cost"],
        notes=tuple(run.damaged),
    )


def recipe_of(run: Run) -> dict[str, Any]:
    """The resolved recipe as plain data. Raises UserError."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        recipe = YAML(typ="safe").load(run.recipe)
    except YAMLError as error:
        raise UserError(f"{run.folder}: its recipe is damaged: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(recipe, dict):
        raise UserError(f"{run.folder}: its recipe is damaged: it is no map")
    return recipe


def conditions(recipe: dict[str, Any]) -> dict[str, Any]:
    """How all questions of a run were answered: the engine, its precision, decoding."""
    model, rollouts = recipe.get("model", {}), recipe.get("rollouts") or {}
    return {
        "model.dtype": model.get("dtype", "float32"),
        "model.chat_template": model.get("chat_template"),
        "model.chat_template_kwargs": model.get("chat_template_kwargs") or {},
        **{f"rollouts.{name}": rollouts[name] for name in OF_ENGINE if name in rollouts},
        "rollouts.engine": rollouts.get("engine", "transformers"),
        "evaluation.max_completion_length": recipe.get("evaluation", {}).get("max_completion_length", 256),
        "decoding": "greedy",
    }


def task_conditions(task: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """How the questions of one task of the stream were answered and scored."""
    return {name: task.get(name) or None for name in ANSWERED_ALIKE} | {
        "verifier": task.get("metric") or task.get("reward")
    }


def read_subjects(folders: Sequence[Path]) -> list[Subject]:
    """All of them. Raises UserError with a line for each that cannot be compared, or where one was given twice."""
    subjects, problems, seen = [], [], {}
    for folder in folders:
        place = folder.resolve()
        if place in seen:
            problems.append(f"{folder}: was given twice: leave one out")
            continue
        seen[place] = folder
        try:
            subjects.append(read_subject(folder))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return subjects
