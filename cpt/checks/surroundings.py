"""What a recipe names outside of itself: data, verifiers, the model's folder, the place for the run. No heavy import."""

import os
from pathlib import Path
from typing import Any

from cpt import models, trackers
from cpt.adapters import CONFIG, is_adapter
from cpt.checks.derived import derived
from cpt.checks.findings import Findings
from cpt.checks.plan import NO_VALIDATION, counted, searches
from cpt.checks.steps import every_stage
from cpt.data import sources
from cpt.errors import RecipeErrors, UserError
from cpt.opening import check_place
from cpt.recipe import File, Recipe, Suite
from cpt.recipe.trl_arguments import generation
from cpt.rewards import function


def check_surroundings(recipe: Recipe, suites: dict[str, Suite], out: Path, findings: Findings) -> None:
    """Note what is wrong with the files and folders that the recipe and its suites name, and with `out`."""
    for task in recipe.stream:
        key = f"stream.{task.task}"
        check_data(task, key, ("train", "validation", "eval"), findings)
        check_generation(task, key, findings)
        if searches(recipe) and counted(task.data, "validation") == 0:
            findings.add(f"{key}.data.validation", NO_VALIDATION.format(searches(recipe)[0]))
        check_functions(task, key, findings)
    check_suites(suites, findings)
    check_metrics(recipe, findings)
    check_model(recipe, findings)
    for number, name in enumerate(recipe.tracking):
        if why := trackers.missing(name):
            findings.add(f"tracking.{number}", why)
    with findings.collecting():
        derived(recipe)
    with findings.collecting():
        check_place(out, recipe)


def warn_of_kinds(recipe: Recipe, findings: Findings) -> None:
    """The tasks of a stream have scores of one kind."""
    measured = [task.task for task in recipe.stream if task.by_likelihood]
    if measured and len(measured) < len(recipe.stream):
        findings.warn(
            "stream",
            f"the score of {', '.join(measured)} is a likelihood, and that of the other tasks an accuracy: metrics over all "
            "tasks, and gates on them, are means of both",
        )


def warn_of_during(recipe: Recipe, findings: Findings) -> None:
    """Stages that are too short to be evaluated within."""
    if recipe.evaluation.during is None:
        return
    every = recipe.evaluation.during.every
    short = [key for key, steps in every_stage(recipe) if steps is not None and steps < every]
    if short:
        findings.warn(
            "evaluation.during.every",
            f"{', '.join(short)} take{'s' * (len(short) == 1)} fewer than {every} steps, so nothing is evaluated within: "
            "lower it",
        )


def check_suites(suites: dict[str, Suite], findings: Findings) -> None:
    for name, suite in suites.items():
        for task in suite.tasks:
            check_data(task, f"suite {name}: tasks.{task.task}", ("eval",), findings)
            check_functions(task, f"suite {name}: tasks.{task.task}", findings)


def check_metrics(recipe: Recipe, findings: Findings) -> None:
    """The user's own metrics return numbers, and a gate's metric has a value in this stream."""
    for number, spec in enumerate(recipe.evaluation.metrics):
        from cpt.evaluation.own_metrics import OwnMetric, check_metric

        try:
            has_value = check_metric(OwnMetric(spec), len(recipe.stream))
        except UserError as error:
            findings.add(f"evaluation.metrics.{number}", str(error))
            continue
        if spec.label in recipe.evaluation.gates and not has_value:
            message = f"can never have a value: {spec.function} returns None of {len(recipe.stream)} task(s)"
            findings.add(f"evaluation.gates.{spec.label}", message)


def check_functions(task: Any, key: str, findings: Findings) -> None:
    """The user's functions are there."""
    for name in ("reward", "metric"):
        for spec in functions(getattr(task, name)):
            missing = function.missing(spec.model_dump())
            if missing:
                findings.add(f"{key}.{name}", missing)


def functions(reward: Any) -> list:
    """The user functions in a reward, those within sums included."""
    if reward is None:
        return []
    if reward.kind == "sum":
        return [spec for part in reward.parts for spec in functions(part.reward)]
    return [reward] if reward.kind == "function" else []


def check_data(task: Any, key: str, wanted: tuple[str, ...], findings: Findings) -> None:
    """Each split has rows, as far as they can be counted before they are loaded. (Files are read with all other rows.)"""
    reported: set[str] = set()
    for split in () if isinstance(task.data, File) else wanted:
        try:
            number = sources.count(task.data, split)
        except RecipeErrors as error:
            for problem in error.problems:
                if problem.message not in reported:
                    findings.add(f"{key}.data.{problem.key}", problem.message)
                    reported.add(problem.message)
            continue
        if number is not None and number <= 0 and split != "validation":
            findings.add(f"{key}.data.{split}", "no rows; every task needs rows to train on and to evaluate")


def check_generation(task: Any, key: str, findings: Findings) -> None:
    """A rlvr stage with fewer prompts than one generation asks would take no step at all."""
    for index, stage in enumerate(task.stages):
        if stage.uses_engine:
            batch, group, _ = generation(type(stage), stage.args)
            rows = counted(task.data, "train")
            looked_at = None if stage.filter is None else stage.filter.prompts
            if looked_at is not None and looked_at < batch // group:
                findings.add(
                    f"{key}.stages.{index}.filter.prompts",
                    f"({looked_at}) are fewer than the {batch // group} prompts of one generation: raise it",
                )
            elif rows is not None and 0 < rows < batch // group:
                findings.add(
                    f"{key}.stages.{index}",
                    f"{rows} training rows are fewer than the {batch // group} prompts of one generation ({batch} "
                    f"completions, num_generations {group}): give more rows, or lower per_device_train_batch_size",
                )


def check_model(recipe: Recipe, findings: Findings) -> None:
    template = recipe.model.chat_template
    if template is not None and not os.path.isfile(template):
        findings.add("model.chat_template", f"no file {template}")
    if recipe.model.path != "tiny":
        check_folder("model.path", recipe.model.path, "`tiny`", ("config.json",), findings)
    for task in recipe.stream:
        for index, stage in enumerate(task.stages):
            if stage.teacher not in (None, "base", "tiny"):
                key = f"stream.{task.task}.stages.{index}.teacher"
                check_folder(key, stage.teacher, "`base`", ("config.json", CONFIG), findings)


def check_folder(key: str, path: str, other: str, configs: tuple[str, ...], findings: Findings) -> None:
    """A model's folder is one, or is no path of this machine; `other` is what else the key may say."""
    folder = Path(os.path.expanduser(path))
    if os.path.isdir(folder):
        if is_adapter(folder) and CONFIG not in configs:
            findings.add(key, models.adapter_as_model(folder))
        elif not any((folder / name).is_file() for name in configs):
            hint = next(
                (f": name {folder / name}" for name in ("final", "served", "model") if (folder / name).is_dir()), ""
            )
            findings.add(key, f"{path} is not a model folder (no {' or '.join(configs)}){hint}")
        elif not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            findings.add(key, f"{path} has no tokenizer (tokenizer.json): save it beside the weights")
    elif len(folder.parts) != 2 or path.startswith((".", "/", "~")):
        findings.add(key, f"no folder {path}; give a model folder, a hub id (owner/name), or {other}")
