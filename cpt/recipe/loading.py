"""From a file to a recipe: `extends`, `defaults` and command-line overrides merged, and validated.

Every mistake is reported at once, each with its file, line, key and the nearest valid name.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from cpt import user_code
from cpt.errors import Problem, RecipeErrors, UserError, nearest
from cpt.metric_kinds import KINDS as METRICS
from cpt.metric_kinds import SUITE_GATES, TASK_GATES
from cpt.recipe import trl_arguments
from cpt.recipe.adapter import bias_problems, decided_problems, initialisation_problems
from cpt.recipe.base import lm_eval_tasks
from cpt.recipe.engine import normalize_engine
from cpt.recipe.hints import instead
from cpt.recipe.messages import validate
from cpt.recipe.nodes import (
    Mistakes,
    Override,
    find,
    make_paths_absolute,
    matching,
    merge,
    normalize,
    over_bases,
    override,
    place,
    read,
    read_with_bases,
    steps_to,
)
from cpt.recipe.python_values import PYTHON, from_python
from cpt.recipe.schema import Recipe, Suite
from cpt.recipe.stages import KINDS, Sft, StageSpec, stage_class
from cpt.recipe.strategies import against_stages
from cpt.recipe.strategies import problems as strategy_problems
from cpt.recipe.suites import SUITES, LmEval, tasks_of
from cpt.recipe.user_kinds import validated
from cpt.recipe.vllm_arguments import problems as engine_problems
from cpt.recipe.yaml_reader import Node, wrap

# A recipe or a suite: the name of a shipped one, a file, or what a file would hold.
RecipeLike = str | Path | Mapping[str, Any]


def load(name: RecipeLike, overrides: Sequence[Override] = ()) -> Recipe:
    """The recipe of that name (shipped), in that file, or of that dictionary, with overrides.

    Raises:
        RecipeErrors: every mistake that was found, each with file, line, key, and the nearest valid name.
    """
    mistakes = Mistakes()
    root = composed(name, overrides)
    normalize_engine(root, mistakes)
    apply_defaults(root, mistakes)
    recipe = validate(Recipe, root, mistakes)
    check_arguments(root, mistakes)
    check_suites(root, mistakes)
    if recipe is not None:
        check_meaning(recipe, root, mistakes)
    mistakes.check()
    return recipe


def composed(name: RecipeLike, overrides: Sequence[Override]) -> Node:
    """The recipe of that name over its bases and under its overrides. Raises RecipeErrors."""
    mistakes = Mistakes()
    if isinstance(name, Mapping):
        root = over_bases(normalize(from_python(name), Path.cwd()), Path.cwd(), (Path(PYTHON),))
    else:
        root = read_with_bases(find("recipes", name), ())
    for text in overrides:
        override(root, text, mistakes)
    mistakes.check()
    normalize(root, Path.cwd())
    make_paths_absolute(root)
    return root


def unused(name: RecipeLike, overrides: Sequence[Override] = ()) -> list[str]:
    """A line for each setting of that recipe that goes with another engine than the one that it was switched to."""
    return normalize_engine(composed(name, overrides), Mistakes())


def placed(error: RecipeErrors, name: RecipeLike, overrides: Sequence[Override]) -> RecipeErrors:
    """The same mistakes with the file and line of their keys, where the recipe has them; in the order of their places."""
    root = composed(name, overrides)
    problems = []
    for problem in error.problems:
        node = root.at(steps_to(root, problem.key))
        known = problem.file is None and node is not root
        problems.append(replace(problem, file=node.file, line=node.line) if known else problem)
    return RecipeErrors(sorted(problems, key=lambda each: (each.file is None, place(each))))


def load_suite(name: RecipeLike) -> Suite | LmEval:
    """The suite of that name (shipped), in that file, of that dictionary, or that a class (module:Class) makes.

    `lm_eval:TASK,TASK` are tasks of lm-eval.

    Raises:
        RecipeErrors: every mistake that was found.
    """
    if isinstance(name, str) and (tasks := lm_eval_tasks(name)):
        name = {"lm_eval": tasks}
    if isinstance(name, str) and re.match(user_code.NAME, name):
        try:
            spec = validated(SUITES, {"kind": name, "folder": str(Path.cwd())})
        except ValidationError as error:
            raise RecipeErrors([Problem(None, None, name, each["msg"]) for each in error.errors()]) from error
        return own_suite(spec)
    root = normalize(from_python(name), Path.cwd()) if isinstance(name, Mapping) else read(find("eval", name))
    make_paths_absolute(root)
    return suite_of(root)


def own_suite(spec: Any) -> Suite:
    """The suite that a class of the user's own makes. Raises RecipeErrors, with the class's place as the file."""
    try:
        tasks = tasks_of(spec)
    except UserError as error:
        raise RecipeErrors([Problem(None, None, spec.kind, str(error))]) from error
    root = wrap({"name": spec.name or spec.label, "tasks": tasks}, f"{spec.code.place} ({spec.label}.tasks)")
    return suite_of(normalize(root, spec.folder))


def suite_of(root: Node) -> Suite | LmEval:
    """The suite of these nodes. Raises RecipeErrors."""
    mistakes = Mistakes()
    if "lm_eval" in root.value:
        made = validate(LmEval, root, mistakes)
        mistakes.check()
        return made
    suite = validate(Suite, root, mistakes)
    if suite is not None:
        check_names(suite.tasks, "tasks", root, mistakes)
    mistakes.check()
    return suite


def suites_of(recipe: Recipe) -> dict[str, Suite]:
    """The suites of rows that the recipe evaluates, by their names. Raises RecipeErrors, also where two share a name."""
    return {name: suite for name, suite in all_suites(recipe).items() if isinstance(suite, Suite)}


def benchmarks_of(recipe: Recipe) -> dict[str, LmEval]:
    """The suites of lm-eval's tasks that the recipe evaluates, by their names. Raises as `suites_of` does."""
    return {name: suite for name, suite in all_suites(recipe).items() if isinstance(suite, LmEval)}


def all_suites(recipe: Recipe) -> dict[str, Suite | LmEval]:
    """All suites that the recipe evaluates, in its order. Raises RecipeErrors, also where two share a name."""
    suites: dict[str, Suite | LmEval] = {}
    problems: list[Problem] = []
    for number, where in enumerate(recipe.evaluation.suites):
        try:
            suite = load_suite(where) if isinstance(where, str) else where
            suite = suite if isinstance(suite, Suite | LmEval) else own_suite(suite)
        except RecipeErrors as error:
            problems += error.problems
            continue
        if suite.name in suites:
            message = (
                f"two suites are called {suite.name}: rename one (`name` in its file, or beside `kind` or `lm_eval`)"
            )
            problems.append(Problem(None, None, f"evaluation.suites.{number}", message))
        suites[suite.name] = suite
    if problems:
        raise RecipeErrors(problems)
    return suites


def apply_defaults(root: Node, mistakes: Mistakes) -> None:
    """Each stage gets, under its own words, the recipe's `defaults` of its kind, and under those the kind's own."""
    defaults = root.value.pop("defaults", None) or Node({})
    if not isinstance(defaults.value, dict):
        mistakes.add(defaults, "defaults", f"must be a map of stage kinds: {', '.join(KINDS)}")
        defaults = Node({})
    kinds = [parent.value[key].value for parent, key in matching(root, ["stream", "*", "stages", "*", "kind"])]
    for kind, node in defaults.value.items():
        if ":" not in kind:
            check_defaults(kind, node, mistakes)
        elif kind not in kinds or not isinstance(node.value, dict):
            mistakes.add(node, f"defaults.{kind}", "must be a map, for a kind of your own that a stage has")
    for parent, key in matching(root, ["stream", "*", "stages", "*"]):
        stage = parent.value[key]
        kind = class_of(stage)
        if kind is not None:
            theirs = defaults.value.get(stage.value["kind"].value, Node({}))
            theirs = theirs if isinstance(theirs.value, dict) else Node({})
            ours = wrap({"args": dict(kind.defaults)}, "stage defaults")
            parent.value[key] = merge(merge(ours, theirs, ()), stage, ())
            spell_out_deleted(kind, parent.value[key])
    theirs = defaults.value.get("sft", Node({}))
    theirs = theirs.value.get("args", Node({})) if isinstance(theirs.value, dict) else Node({})
    for parent, key in matching(root, ["strategies", "*", "memory"]):
        if isinstance(parent.value[key].value, dict):
            ours = wrap({"args": dict(Sft.defaults)}, "stage defaults")
            parent.value[key] = merge(merge(ours, Node({"args": theirs}), ()), parent.value[key], ())


def class_of(stage: Node) -> type[StageSpec] | None:
    """The class of the stage's kind; None where it names none that exists."""
    fields = stage.value if isinstance(stage.value, dict) else {}
    kind, folder = (fields.get(name, Node(None)).value for name in ("kind", "folder"))
    return stage_class(kind, folder)


def check_defaults(kind: str, node: Node, mistakes: Mistakes) -> None:
    """The `defaults` of one kind by themselves: they may hold what no stage of this recipe uses, and need not be whole."""
    if kind not in KINDS:
        mistakes.add(node, f"defaults.{kind}", f"no such kind of stage{instead('kind of stage', kind, KINDS)}")
    elif not isinstance(node.value, dict):
        mistakes.add(node, f"defaults.{kind}", "must be a map, for example {args: {max_steps: 100}}")
    elif "kind" in node.value:
        mistakes.add(node.at(["kind"]), f"defaults.{kind}.kind", "the key above is the kind already; remove it")
    else:
        stage = Node({"kind": Node(kind), **node.value}, node.file, node.line)
        wholes = list(completed(KINDS[kind], stage))
        right = (each for each in wholes if not mistakes_of(KINDS[kind], each))
        validate(KINDS[kind], next(right, wholes[0]), mistakes, ("defaults", kind))
        args = node.value.get("args", Node({}))
        for name, message in (
            trl_arguments.own_problems(KINDS[kind], args.plain()) if isinstance(args.value, dict) else ()
        ):
            mistakes.add(args.at([name]), f"defaults.{kind}.args.{name}", message)


def completed(schema: type[BaseModel], stage: Node) -> Iterator[Node]:
    """The stage with each of the words that it may have where it must have one and has none (hybrid's `method`); where any
    text may stand, with one (distill's `teacher`)."""
    lacking = {
        name: get_args(field.annotation) or ("base",)
        for name, field in schema.model_fields.items()
        if field.is_required() and name not in stage.value
    }
    for choices in itertools.product(*lacking.values()):
        filled_in = {name: Node(word) for name, word in zip(lacking, choices, strict=True)}
        yield Node(stage.value | filled_in, stage.file, stage.line)


def mistakes_of(schema: type[BaseModel], node: Node) -> list:
    mistakes = Mistakes()
    validate(schema, node, mistakes)
    return mistakes.problems


def spell_out_deleted(kind: type[StageSpec], stage: Node) -> None:
    """Where null took one of ours away TRL's own default holds; said, so that the stored recipe repeats the run."""
    args = stage.value.setdefault("args", Node({}, stage.file, stage.line))
    for name in kind.defaults if isinstance(args.value, dict) else ():
        if name not in args.value:
            args.value[name] = Node(kind.value_in({}, name), args.file, args.line)


# -- checking ------------------------------------------------------------------------------------------------------------


def check_arguments(root: Node, mistakes: Mistakes) -> None:
    """Every stage's `args` against TRL's config, and the adapter against PEFT's."""
    rollouts = root.value.get("rollouts")
    given = rollouts.plain() if rollouts is not None and isinstance(rollouts.value, dict) else {}
    engine = given.get("engine", "transformers")
    for number, task in enumerate(root.value["stream"].value if isinstance(root.at(["stream"]).value, list) else []):
        for index, stage in enumerate(task.at(["stages"]).value if isinstance(task.at(["stages"]).value, list) else []):
            kind, args = class_of(stage), stage.at(["args"])
            if kind is None or not isinstance(args.value, dict):
                continue
            problems = [*trl_arguments.problems(kind, args.plain())]
            if kind.uses_engine:
                problems += trl_arguments.generation_problems(args.plain(), engine)
            for name, message in problems:
                key = f"stream.{number}.stages.{index}.args.{name}"
                mistakes.add(args.at([name]) if name in args.value else stage, key, message)
    for parent, key in matching(root, ["strategies", "*", "memory"]):
        args, number = parent.value[key].at(["args"]), root.at(["strategies"]).value.index(parent)
        for name, message in trl_arguments.problems(Sft, args.plain()) if isinstance(args.value, dict) else ():
            mistakes.add(args.at([name]), f"strategies.{number}.memory.args.{name}", message)
    for name, message in engine_problems(given, root.plain().get("adapter")):
        mistakes.add(rollouts.at([name]), f"rollouts.{name}", message)
    adapter = root.value.get("adapter")
    if adapter is not None and isinstance(adapter.value, dict) and isinstance(adapter.at(["kind"]).value, str):
        for name, message in (
            *trl_arguments.adapter_problems(adapter.plain()),
            *decided_problems(adapter.plain()),
            *initialisation_problems(adapter.plain()),
        ):
            mistakes.add(adapter.at([name]), f"adapter.{name}", message)


def check_names(tasks: Sequence, where: str, root: Node, mistakes: Mistakes) -> None:
    """No two tasks of a stream or a suite share a name: their results would be one."""
    names: dict[str, int] = {}
    for number, task in enumerate(tasks):
        if task.task in names:
            message = f"{task.task!r} is the name of {where}.{names[task.task]} too"
            mistakes.add(root.at([where, number, "task"]), f"{where}.{number}.task", message)
        names.setdefault(task.task, number)


def check_suites(root: Node, mistakes: Mistakes) -> None:
    """The suites that the recipe names are there."""
    for parent, number in matching(root, ["evaluation", "suites", "*"]):
        suite = parent.value[number].value
        try:
            find("eval", suite if isinstance(suite, str) else "general")
        except RecipeErrors as error:
            message = f"{error.problems[0].key}: {error.problems[0].message}".removeprefix(": ")
            mistakes.add(parent.value[number], f"evaluation.suites.{number}", message)


def check_meaning(recipe: Any, root: Node, mistakes: Mistakes) -> None:
    """What no schema can say: unique names, gates that can have a value."""
    check_names(recipe.stream, "stream", root, mistakes)
    for number, task in enumerate(recipe.stream):
        for index, stage in enumerate(task.stages):
            for path, message in stage.problems():
                place = ("stream", number, "stages", index, *path)
                mistakes.add(root.at(place), ".".join(map(str, place)), message)
    for name, message in bias_problems(recipe.adapter, recipe.stream):
        mistakes.add(root.at(["adapter", name]), f"adapter.{name}", message)
    problems = [*strategy_problems(recipe.strategies, recipe.adapter, recipe.rollouts.engine)]
    problems += against_stages(recipe.strategies, recipe.stream)
    for number, name, message in problems:
        mistakes.add(root.at(["strategies", number, name]), f"strategies.{number}.{name}", message)
    gates = root.at(["evaluation", "gates"])
    for name in recipe.evaluation.gates:
        if message := valueless(name, recipe):
            mistakes.add(gates.at([name]), f"evaluation.gates.{name}", message)


def suite_names(recipe: Any) -> list[str]:
    """The names of the recipe's suites; none where one cannot be read, which is told elsewhere."""
    try:
        return list(all_suites(recipe))
    except RecipeErrors:
        return []


def valueless(name: str, recipe: Any) -> str | None:
    """Why a gate can never have a value in this recipe's stream."""
    head, _, part = name.partition("/")
    tasks = [task.task for task in recipe.stream]
    if part and head in TASK_GATES:
        if part not in tasks:
            return f"no task of the stream is called {part}{nearest(part, tasks)}; there are: {', '.join(tasks)}"
        if head == "forgetting" and part == tasks[-1]:
            return f"can never have a value: {part} is the last task, which nothing comes after; remove the gate"
        return None
    if head in SUITE_GATES:
        if not recipe.evaluation.suites:
            return "can never have a value: no suite is evaluated; add evaluation.suites or remove the gate"
        suites = suite_names(recipe) if part else []
        if suites and part not in suites:
            return f"no suite is called {part}{nearest(part, suites)}; there are: {', '.join(suites)}"
        return None
    if name in METRICS and len(tasks) < METRICS[name].least_tasks:
        return f"can never have a value: {name} needs two tasks; remove the gate"
    return None
