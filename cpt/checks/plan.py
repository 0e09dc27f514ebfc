"""What a recipe will do, as text: the plan that `cpt check` prints. No heavy import."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpt.checks.derived import plan_lines
from cpt.checks.steps import during_times, steps_of, world
from cpt.data import sources
from cpt.disk import room
from cpt.errors import UserError
from cpt.metric_kinds import direction_of_gate
from cpt.recipe import Recipe, Suite, benchmarks_of, suites_of
from cpt.rollouts import memory
from cpt.sizes import many, size
from cpt.tensor_files import read_header

if TYPE_CHECKING:
    from cpt.checks.all_checks import CheckResult

NO_VALIDATION = "no rows, but strategies.{} searches on the validation rows of every task: give some, or remove search"


def searches(recipe: Recipe) -> list[int]:
    """The numbers of the strategies that search on validation rows."""
    return [i for i, spec in enumerate(recipe.strategies) if spec.search is not None]


def counted(source: Any, split: str) -> int | None:
    """The rows of a split; None also where they cannot be read (`checks.surroundings.check_data` notes why)."""
    try:
        return sources.count(source, split)
    except UserError:
        return None


def describe(recipe: Recipe, out: Path, looked: "CheckResult | None" = None) -> str:
    """The plan as text: tasks, stages, rows, steps, evaluation, disk; and what the checks saw."""
    suites, samples = suites_of(recipe), looked.samples if looked else {}
    lines = [f"{recipe.name}: {recipe.description}".rstrip(": "), f"  model     {model_line(recipe)}"]
    lines += [f"  run       {out}", f"  rollouts  {memory.batch_text(recipe, config_of(recipe))}", "", "  stream"]
    for number, task in enumerate(recipe.stream, start=1):
        lines.append(f"    {number:02d} {task.task}: {rows_line(task)}; {scored_text(task)}")
        for stage in task.stages:
            lines.append(f"       {stage.kind}: {stage_line(stage, task, recipe.strategies)}")
        lines += [f"       {line}" for line in samples.get(task.task, ())]
    if recipe.strategies:
        lines += ["", "  strategies", *(f"    {strategy_line(spec)}" for spec in recipe.strategies)]
        lines += [f"    a search evaluates on {validation_line(recipe)}"] if searches(recipe) else []
    lines += ["", "  evaluation", *evaluation_lines(recipe, suites, samples)]
    lines += [f"    metric: {each.label} ({each.function})" for each in recipe.evaluation.metrics]
    for name, gate in recipe.evaluation.gates.items():
        lines.append(f"    gate: {name} {gate_text(name, gate, recipe)}")
    if (failure := recipe.evaluation.on_failure) is not None:
        tries = f", after {many(len(failure.retry), 'more attempt')}" if failure.retry else ""
        lines.append(f"    if a critical gate fails after a task: {failure.then}{tries}; attempts are kept")
    if recipe.baselines:
        lines += ["", "  baselines", *plan_lines(recipe)]
    lines += ["", f"  disk      {disk_line(recipe, out)}"]
    if looked and looked.unseen:
        named = "; ".join(looked.unseen)
        lines += [f"  unchecked {named}: not on this machine; `cpt check --full` downloads and checks them"]
    lines += [f"  note      {note}" for note in (looked.notes if looked else ())]
    lines += [f"  warning   {warning}" for warning in (looked.warnings if looked else ())]
    return "\n".join(lines)


def model_line(recipe: Recipe) -> str:
    what = recipe.model.path
    if what == "tiny":
        seed = recipe.model.seed
        what += f" of model.seed {seed} (trained on this machine on first use)" if seed else " (built in)"
    trained = f"a {recipe.adapter.kind} adapter" if recipe.adapter else "all weights"
    kept = "" if recipe.model.copy else ", linked and not copied"
    return f"{what}{kept}, {trained}, {recipe.model.dtype}, seed {recipe.seed}"


def rows_line(task: Any) -> str:
    parts = []
    for split in sources.SPLITS:
        number = sources.count(task.data, split)
        if number != 0:
            parts.append(f"{'?' if number is None else number} {split}")
    return f"{task.data.source} rows: {', '.join(parts)}"


def scored_text(task: Any) -> str:
    return (
        "measured by the likelihood of its demonstrations" if task.by_likelihood else f"scored by {task.verifier.kind}"
    )


def stage_line(stage: Any, task: Any, strategies: Sequence[Any]) -> str:
    """What the stage says of itself, with its steps and their batch."""
    a_step = stage.value("per_device_train_batch_size") * stage.value("gradient_accumulation_steps") * world()
    averaged = any(spec.reference == "ema" for spec in strategies)
    return stage.describe(steps_of(stage, task, a_step), a_step, averaged)


def gate_text(name: str, gate: Any, recipe: Recipe) -> str:
    """`at most 0.05 for the whole interval, supporting`."""
    own = {each.label: each.better for each in recipe.evaluation.metrics}
    direction = {"higher": "min", "lower": "max"}[own[name]] if name in own else direction_of_gate(name)
    limit = -gate.limit if gate.rule == "non_inferiority" and direction == "min" else gate.limit
    text = f"{'at least' if direction == 'min' else 'at most'} {limit:g}"
    text += " for the whole interval" * (gate.rule != "point")
    return text + f", {gate.tier}" * (gate.tier != "critical")


def strategy_line(spec: Any) -> str:
    """The kind of a strategy, and what was set."""
    return ", ".join(filter(None, [spec.kind, spec.describe()]))


def validation_line(recipe: Recipe) -> str:
    """The questions that a search asks each model."""
    asked = [counted(task.data, "validation") for task in recipe.stream]
    most = f"{sum(number or 0 for number in asked)}{'+?' if None in asked else ''}"
    return f"the validation rows of the tasks so far: {most} questions for each model after the last"


def evaluation_lines(recipe: Recipe, suites: dict[str, Suite], samples: dict[str, list[str]]) -> list[str]:
    points = len(recipe.stream) + 1
    asked = [sources.count(task.data, "eval") for task in recipe.stream]
    known = sum(number for number in asked if number is not None)
    tasks = f"{known}{'+?' if None in asked else ''} questions on {many(len(asked), 'task')}"
    lines = [f"    at {points} points (before training, and after each task): {tasks}, greedy"]
    if recipe.evaluation.sampled:
        spec = recipe.evaluation.sampled
        lines.append(f"    sampled: {spec.samples} answers a question at T {spec.temperature:g}, pass@{list(spec.k)}")
    if recipe.evaluation.noise_floor:
        lines.append(f"    noise floor: the base {many(recipe.evaluation.noise_floor, 'time')} more, in other batches")
    if recipe.evaluation.likelihood:
        lines.append("    the likelihood of demonstrations beside, where rows have some")
    for name, suite in benchmarks_of(recipe).items():
        most = f", {suite.limit} questions of each at most" if suite.limit else ""
        lines.append(f"    held out, {name}: {', '.join(suite.lm_eval)} of lm-eval{most}")
    if recipe.evaluation.during:
        spec, times = recipe.evaluation.during, during_times(recipe)
        lines.append(
            f"    within stages: every {many(spec.every, 'step')}, {many(spec.questions, 'question')} of each task so far"
            + ("" if times is None else f": {many(times, 'evaluation')}")
        )
    for name, suite in suites.items():
        number = sum(sources.count(task.data, "eval") or 0 for task in suite.tasks)
        lines.append(f"    held out, {name}: {number} questions on {', '.join(task.task for task in suite.tasks)}")
        lines += [
            f"       {task.task} {line}" for task in suite.tasks for line in samples.get(f"{name}/{task.task}", ())
        ]
    return lines


def disk_line(recipe: Recipe, out: Path) -> str:
    """What `disk_needs` says, and what is free."""
    needs = disk_needs(recipe)
    if needs is None:
        return "unknown until the model is on this machine"
    points, running, free = map(size, (*needs, room(out)))
    return f"about {points} for {len(recipe.stream) + 1} points, and up to {running} while a stage runs; {free} free"


def too_little_room(recipe: Recipe, out: Path) -> str | None:
    """A warning where a new run will not fit on the disk of `out`."""
    needs = disk_needs(recipe)
    if needs is None or (out / "points").exists() or sum(needs) <= room(out):
        return None
    needed, free = size(sum(needs)), size(room(out))
    return f"{out} will need about {needed}, and {free} are free: make room, or choose another place"


def disk_needs(recipe: Recipe) -> tuple[int, int] | None:
    """Bytes of the points that stay, and of the in-stage checkpoints of one stage (weights and two Adam moments, two of
    them); None where the model is not on this machine."""
    sizes = weight_bytes(recipe)
    if sizes is None:
        return None
    base, weights = sizes
    trained = weights // 50 if recipe.adapter else weights
    merged = weights if any(spec.adapters == "weights" for spec in recipe.strategies) else 0
    states = [spec.state_bytes(trained, width(recipe)) for spec in recipe.strategies]
    served = trained * any(
        spec.serve == "ema" and not spec.feed_back for spec in recipe.strategies
    )  # beside the weights that are trained on
    points = base * recipe.model.copy + len(recipe.stream) * (trained + merged + served + sum(states))
    averaged = any(stage.keeps_average for task in recipe.stream for stage in task.stages)
    return points, trained * (10 if averaged else 8) + 2 * sum(states)  # averages are in both checkpoints


def width(recipe: Recipe) -> int:
    """Bytes of a trained weight."""
    return memory.value_bytes(recipe.model.dtype, config_of(recipe))


def config_of(recipe: Recipe) -> dict[str, Any]:
    """The model's config.json; empty where it is not on this machine, or is not one."""
    if recipe.model.path == "tiny":
        from cpt import tiny

        return tiny.SHAPE | {"vocab_size": len(tiny.VOCABULARY)}
    try:
        config = json.loads(Path(os.path.expanduser(recipe.model.path), "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def weight_bytes(recipe: Recipe) -> tuple[int, int] | None:
    """(bytes of the model's files, bytes of its weights as they are trained and saved); None if they are not here."""
    if recipe.model.path == "tiny":
        from cpt import tiny

        return tiny.PARAMETERS * 4, tiny.PARAMETERS * width(recipe)
    folder = os.path.expanduser(recipe.model.path)
    files = list(Path(folder).glob("*.safetensors")) if os.path.isdir(folder) else []
    try:
        weights = sum(map(parameters, files)) * width(recipe)
        return (sum(file.stat().st_size for file in files), weights) if files else None
    except (OSError, ValueError, AttributeError, KeyError, TypeError):  # no safetensors: the run will say so
        return None


def parameters(file: Path) -> int:
    """The weights in a file of safetensors, by its header."""
    header, _ = read_header(file)
    return sum(math.prod(tensor["shape"]) for tensor in header.values())
