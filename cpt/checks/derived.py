"""The recipes of a run's baselines, made of its own: each is an ordinary run, at the compute of the stream or of a task.

`joint` is one task whose rows are those of all tasks, and whose stages take as many steps as the stream's together. So the
tasks must say the same of everything but their rows and steps.
"""

from collections.abc import Iterator
from typing import Any

from cpt.checks.steps import stage_steps, total_steps
from cpt.errors import RecipeErrors, UserError, shown
from cpt.recipe import Recipe, dump, load

JOINT = "joint"
OF_TASKS = ("reward", "metric", "max_completion_length", "stop", "prompt", "system", "special_tokens", "overlong")
ONE_TASK = "the stream has one task, so the run itself is it"
SUMMED = ("samples", "pairs", "filter")  # options of a stage that say how many prompts are drawn


def derived(recipe: Recipe) -> tuple[dict[str, Recipe], dict[str, str]]:
    """({folder: recipe} of the runs that the baselines need, {baseline: why it needs none}).

    Raises:
        UserError: tasks that one model cannot be trained on together, and why.
    """
    runs: dict[str, Recipe] = {}
    without: dict[str, str] = {}
    for name in recipe.baselines or ():
        if name == "frozen":
            without[name] = "its scores are the first row of the matrix"
        elif name == "naive" and not recipe.strategies:
            without[name] = "the recipe has no strategies, so the run itself is it"
        elif name != "naive" and len(recipe.stream) == 1 and not recipe.strategies:
            without[name] = ONE_TASK
        else:
            runs |= {each["name"].removeprefix(f"{recipe.name}-"): loaded(name, each) for each in MADE[name](recipe)}
    return runs, without


def loaded(name: str, content: dict[str, Any]) -> Recipe:
    try:
        return load(content)
    except RecipeErrors as error:
        raise UserError(f"baselines: {name}: {error.problems[0].key}: {error.problems[0].message}") from error


def plain(recipe: Recipe, name: str) -> dict[str, Any]:
    """The recipe as data, without what is judged and without strategies."""
    content = dump(recipe)
    content |= {"name": f"{recipe.name}-{name}", "description": "", "strategies": [], "baselines": None, "tracking": []}
    content["evaluation"] |= {"gates": {}, "metrics": [], "during": None, "noise_floor": 0, "on_failure": None}
    return content


def naive(recipe: Recipe) -> Iterator[dict[str, Any]]:
    yield plain(recipe, "naive")


def experts(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Each task alone, from the untouched model; suites are left out, for no single model is compared with them."""
    for number, task in enumerate(recipe.stream):
        content = plain(recipe, f"expert-{task.task}")
        content["stream"] = [content["stream"][number]]
        content["evaluation"]["suites"] = []
        yield content


def joint(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """One model on the rows of all tasks together. Raises UserError."""
    content = plain(recipe, JOINT)
    tasks = content["stream"]
    if len(tasks) > 1:
        content["stream"] = [
            {name: tasks[0][name] for name in OF_TASKS}
            | {
                "task": JOINT,
                "data": {"source": "mixture", "of": [{"task": each["task"], "data": each["data"]} for each in tasks]},
                "stages": joint_stages(recipe, tasks),
            }
        ]
    yield content


MADE = {"naive": naive, "experts": experts, "joint": joint}


def joint_stages(recipe: Recipe, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first task's stages, each with the steps and prompts of all tasks' stages in its place."""
    first = tasks[0]
    for each in tasks[1:]:
        for name in OF_TASKS:
            refuse_unlike(f"stream.{each['task']}.{name}", each[name], f"stream.{first['task']}", first[name])
        kinds = [[stage["kind"] for stage in task["stages"]] for task in (each, first)]
        refuse_unlike(f"stream.{each['task']}.stages", kinds[0], f"stream.{first['task']}", kinds[1])
    stages = []
    for number, stage in enumerate(first["stages"]):
        mine = [task["stages"][number] for task in tasks]
        keys = [f"stream.{task['task']}.stages.{number}" for task in tasks]
        for key, other in zip(keys[1:], mine[1:], strict=True):
            for place, there, here in differences(alike(other), alike(stage)):
                refuse_unlike(f"{key}.{place}", there, keys[0], here)
        made = stage | {"args": dict(stage["args"])}
        most = [task.stages[number].value("max_steps") for task in recipe.stream]
        if any(each > 0 for each in most):
            steps = [stage_steps(recipe, place, number) for place in range(len(tasks))]
            if None in steps:
                key = keys[steps.index(None)]
                raise UserError(f"baselines: joint: {key}.args.max_steps: must be given, as it is in other tasks")
            made["args"]["max_steps"] = sum(steps)
        for name in SUMMED:
            if isinstance(stage.get(name), dict) and isinstance(stage[name].get("prompts"), int):
                made[name] = stage[name] | {"prompts": sum(each[name]["prompts"] for each in mine)}
        stages.append(made)
    return stages


def alike(stage: dict[str, Any]) -> dict[str, Any]:
    """What must be the same in the stages of all tasks: all but steps and numbers of prompts."""
    args = {key: value for key, value in stage["args"].items() if key != "max_steps"}
    rest = {key: value for key, value in stage.items() if key != "args"}
    for name in SUMMED:
        if isinstance(rest.get(name), dict) and isinstance(rest[name].get("prompts"), int):
            rest[name] = rest[name] | {"prompts": 0}
    return rest | {f"args.{key}": value for key, value in args.items()}


def differences(theirs: dict[str, Any], mine: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in dict.fromkeys([*mine, *theirs]):
        if theirs.get(key) != mine.get(key):
            yield key, theirs.get(key), mine.get(key)


def refuse_unlike(key: str, there: Any, first: str, here: Any) -> None:
    if there != here:
        raise UserError(
            f"baselines: joint: {key} is {shown(there)}, and {shown(here)} in {first}: one model cannot be trained on both "
            "together; leave `joint` out"
        )


def plan_lines(recipe: Recipe) -> list[str]:
    """What baselines will be run, and their cost in steps. Raises UserError."""
    runs, without = derived(recipe)
    lines = [f"    {name}: nothing to run: {why}" for name, why in without.items()]
    for folder, each in runs.items():
        steps = total_steps(each)
        questions = "all tasks" if folder in (JOINT, "naive") else each.stream[0].task
        lines.append(f"    {folder}: {'?' if steps is None else steps} steps, evaluated on {questions}")
    counts = [total_steps(each) for each in runs.values()]
    whole = None if None in counts else sum(counts)
    own = total_steps(recipe)
    if runs and whole is not None and own:
        lines.append(f"    together {whole} steps beside the run's own {own}, once: the cache keeps what they give")
    return lines
