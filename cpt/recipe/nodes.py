"""A recipe's file as nodes that know where they were written; `extends`, merging, and command-line overrides.

`extends`: maps merge, lists replace, `stream` merges by task name, null deletes. Paths are relative to the file that wrote
them; overrides come last.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpt import user_code
from cpt.errors import Problem, RecipeErrors, nearest, nearest_or_all, shown
from cpt.recipe.base import lm_eval_tasks
from cpt.recipe.python_values import PYTHON, from_python
from cpt.recipe.yaml_reader import DEEPEST, MOST_CHARACTERS, Node, parse, wrap
from cpt.shipped import shipped

COMMAND_LINE = "command line"


@dataclass
class Mistakes:
    """Collects problems, and raises them all at once. What one node has wrong is reported once, by its first key."""

    problems: list[Problem] = field(default_factory=list)
    _told: dict[tuple[int, str], Node] = field(default_factory=dict)  # holds the nodes, so that no id is another's

    def add(self, node: Node, key: str, message: str) -> None:
        if (id(node), message) not in self._told:
            self._told[id(node), message] = node
            self.problems.append(Problem(node.file, node.line, key, message))

    def check(self) -> None:
        if self.problems:
            raise RecipeErrors(sorted(self.problems, key=place))


def place(problem: Problem) -> tuple:
    """The order in which mistakes are reported: file and line, the command line last."""
    return problem.file in (COMMAND_LINE, PYTHON), str(problem.file), problem.line or 0


# -- reading -------------------------------------------------------------------------------------------------------------


def find(kind: str, name: str | Path) -> Path:
    """A file, or a shipped recipe (`recipes`), sweep or suite (`eval`) by its name. Raises RecipeErrors."""
    path, known = Path(os.path.expanduser(name)), shipped(kind)
    if str(name) in known:
        return known[str(name)]
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1 or os.path.lexists(path):
        if os.path.isfile(path):
            return path
        raise RecipeErrors([Problem(path, None, "", why_no_file(path))])
    what = {"recipes": "recipe", "recipes/sweeps": "sweep"}.get(kind, "suite")
    message = f"no {what} of that name{nearest_or_all(str(name), known, 'shipped')}; or give a .yaml file"
    raise RecipeErrors([Problem(None, None, str(name), message)])


def why_no_file(path: Path) -> str:
    """What stands in the place where a YAML file was looked for, and what to give instead."""
    if os.path.isdir(path):
        run = next((each for each in (path, *path.absolute().parents) if (each / "recipe.yaml").is_file()), None)
        if run is not None and (run / "points").is_dir():
            file = run / "recipe.yaml"
            return f"is the folder of a run: give its recipe, {file} (`cpt run {file} --out {run}` resumes it)"
        inside = ", ".join(each.name for each in sorted(path.glob("*.y*ml"))[:5])
        return "is a folder: give a .yaml file" + (f" of it ({inside})" if inside else "")
    if os.path.islink(path) and not os.path.exists(path):
        return "is a link to a file that is not there"
    if os.path.lexists(path):
        return "is not a regular file (a pipe, a socket or a device): give a .yaml file"
    folder = path.parent if os.path.isdir(path.parent) else Path()
    beside = [each.name for each in folder.glob("*.y*ml")] if folder == path.parent else []
    hint = "; environment variables are not filled in" if "$" in str(path) else ""
    return f"no such file{nearest(path.name, beside)}{hint}"


def read(file: Path) -> Node:
    """The file as nodes, its rewards in their long form. Raises RecipeErrors for what is not YAML."""
    root = parse(text_of(file), file)
    if not isinstance(root.value, dict):
        raise RecipeErrors([Problem(file, None, "", "must be a map of keys to values")])
    return normalize(root, file.resolve().parent)


def normalize(root: Node, folder: Path) -> Node:
    """Rewards and kinds of the user's own in the form in which the schema has them. `folder` is that of the recipe."""
    normalize_rewards(root, folder)
    normalize_kinds(root, folder)
    return root


def text_of(file: Path) -> str:
    """The text of a file that `find` found. Raises RecipeErrors where it cannot be read."""
    try:
        with file.open("rb") as stream:
            content = stream.read(4 * MOST_CHARACTERS + 1)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = "is not UTF-8 text: save it as such (a recipe or a suite is a YAML file)"
        raise RecipeErrors([Problem(file, line, "", message)]) from error
    except OSError as error:
        raise RecipeErrors([Problem(file, None, "", f"cannot be read ({error.strerror})")]) from error


DATA = tuple(f"{tasks}.*.data.{split}" for tasks in ("stream", "tasks") for split in ("train", "validation", "eval"))
DATA += tuple(each.replace(".data.", ".data.of.*.data.") for each in DATA)  # of a mixture
PATHS = ("model.chat_template", "rollouts.directory", "evaluation.suites.*.include_path", "include_path", *DATA)
MODELS = ("model.path", "stream.*.stages.*.teacher", "defaults.distill.teacher")  # a folder, a hub id, or one of ours


def make_paths_absolute(root: Node) -> None:
    """Relative paths belong to the file that wrote them; those of the command line to where the command is given.

    Of a whole recipe, for only that says whether `train` is a file or a split of the hub.
    """
    for pattern in PATHS:
        for parent, key in matching(root, pattern.split(".")):
            node, source = parent.value[key], parent.value.get("source")
            if isinstance(node.value, str) and (source is None or source.value in ("file", "jsonl")):
                node.value = absolute(node) if node.value else node.value
    for pattern in MODELS:
        for parent, key in matching(root, pattern.split(".")):
            node = parent.value[key]
            if isinstance(node.value, str) and node.value not in ("tiny", "base"):
                here = node.value.startswith((".", "~")) or os.path.isdir(absolute(node))
                node.value = os.path.abspath(absolute(node)) if here else node.value
    for pattern in (["evaluation", "suites", "*"], ["evaluation", "suites", "*", "lm_eval", "*"], ["lm_eval", "*"]):
        for parent, key in matching(root, pattern):
            node = parent.value[key]
            if isinstance(node.value, str) and node.value.endswith((".yaml", ".yml")):
                node.value = absolute(node)


def absolute(node: Node) -> str:
    folder = Path.cwd() if node.file in (None, COMMAND_LINE, PYTHON) else Path(node.file).resolve().parent
    return str(folder / os.path.expanduser(node.value))


def normalize_rewards(root: Node, folder: Path) -> None:
    """All rewards and metrics in their long form."""
    for tasks in ("stream", "tasks"):
        for name in ("reward", "metric"):
            for parent, key in matching(root, [tasks, "*", name]):
                parent.value[key] = normalize_reward(parent.value[key], folder)


KINDS = (
    ["strategies", "*"],
    ["stream", "*", "stages", "*"],
    ["evaluation", "suites", "*"],
)  # where a class of the user's own may stand


def normalize_kinds(root: Node, folder: Path) -> None:
    """Kinds (module:Class) and metrics (module:function) of the user's own remember the folder of their recipe."""
    for parent, key in matching(root, ["evaluation", "suites", "*"]):
        node = parent.value[key]
        if isinstance(node.value, str) and (tasks := lm_eval_tasks(node.value)):
            parent.value[key] = wrap({"lm_eval": tasks}, node.file, node.line)
        elif isinstance(node.value, str) and re.match(user_code.NAME, node.value):
            parent.value[key] = wrap({"kind": node.value}, node.file, node.line)
    for parent, key in matching(root, ["evaluation", "metrics", "*"]):
        node = parent.value[key]
        if isinstance(node.value, str):
            node = parent.value[key] = wrap({"function": node.value}, node.file, node.line)
        if isinstance(node.value, dict):
            remember_folder(node, folder)
    for pattern in KINDS:
        for parent, key in matching(root, pattern):
            node = parent.value[key]
            kind = node.value.get("kind") if isinstance(node.value, dict) else None
            if kind is not None and isinstance(kind.value, str) and ":" in kind.value:
                remember_folder(node, folder)


def remember_folder(node: Node, folder: Path) -> None:
    place = node.value.setdefault("folder", Node(str(folder), node.file, node.line))
    if isinstance(place.value, str):
        place.value = absolute(place)


def matching(node: Node, pattern: Sequence[str]) -> Iterator[tuple[Node, Any]]:
    """(parent, key) of the nodes that fit a pattern in which `*` is any place of a list."""
    step, rest = pattern[0], pattern[1:]
    keys: list = []
    if step == "*" and isinstance(node.value, list):
        keys = list(range(len(node.value)))
    elif isinstance(node.value, dict) and step in node.value:
        keys = [step]
    for key in keys:
        if rest:
            yield from matching(node.value[key], rest)
        else:
            yield node, key


def expand_reward(value: Any) -> Any:
    """`exact` -> {kind: exact}; `module:function` -> {kind: function, ...}; a list -> {kind: sum, parts: ...}."""
    if isinstance(value, str):
        return {"kind": "function", "path": value} if ":" in value else {"kind": value}
    if isinstance(value, list):
        return {"kind": "sum", "parts": [v if isinstance(v, dict) and "reward" in v else {"reward": v} for v in value]}
    return value


def normalize_reward(node: Node, folder: Path) -> Node:
    """A reward in its long form; a user's function remembers the folder of its recipe."""
    if isinstance(node.value, str | list):
        node = wrap(expand_reward(node.plain()), node.file, node.line)
    if isinstance(node.value, dict):
        kind = node.value.get("kind")
        if kind is not None and kind.value == "function":
            remember_folder(node, folder)
        for parent, key in matching(node, ["parts", "*", "reward"]):
            parent.value[key] = normalize_reward(parent.value[key], folder)
    return node


# -- merging -------------------------------------------------------------------------------------------------------------


LONGEST_CHAIN = 20  # of recipes that extend one another


def read_with_bases(file: Path, seen: tuple[Path, ...]) -> Node:
    """The file over the recipe that it extends. Raises RecipeErrors for a circle."""
    if len(seen) > LONGEST_CHAIN:
        raise RecipeErrors([Problem(file, None, "extends", f"is a chain of more than {LONGEST_CHAIN} files")])
    if file.resolve() in seen:
        circle = " -> ".join(each.name for each in (*seen, file))
        raise RecipeErrors([Problem(file, None, "extends", f"is circular: {circle}")])
    return over_bases(read(file), file.resolve().parent, (*seen, file.resolve()))


def over_bases(root: Node, folder: Path, seen: tuple[Path, ...]) -> Node:
    """A recipe's nodes over the recipe that it extends; `seen` is what was read on the way to it, its own file included."""
    for parent, _ in matching(root, ["rollouts"]):
        set_layer(parent.value["rollouts"], 1 - len(seen))
    base = root.value.pop("extends", None)
    if base is None:
        return root
    if not isinstance(base.value, str):
        raise RecipeErrors([Problem(root.file, base.line, "extends", "must be the name or the file of one recipe")])
    written = base.value if base.value.endswith((".yaml", ".yml")) else f"{base.value}.yaml"
    beside = folder / written
    try:
        parent = beside if os.path.isfile(beside) else find("recipes", base.value)
    except RecipeErrors as error:
        raise RecipeErrors([Problem(root.file, base.line, "extends", str(error))]) from error
    return merge(read_with_bases(parent, seen), root, ())


def set_layer(node: Node, layer: int) -> None:
    """Of the node and, where it is a map, of its keys."""
    for each in (node, *(node.value.values() if isinstance(node.value, dict) else ())):
        each.layer = layer


def merge(base: Node, over: Node, path: tuple) -> Node:
    """`over` on `base`: maps merge, lists replace, null deletes, `stream` merges by task name."""
    if isinstance(base.value, dict) and isinstance(over.value, dict):
        merged = dict(base.value)
        for key, node in over.value.items():
            if node.value is None and (key in merged or not path):
                merged.pop(key, None)
            else:
                merged[key] = merge(merged[key], node, (*path, key)) if key in merged else node
        return Node(merged, over.file, over.line, over.layer)
    if path == ("stream",) and isinstance(base.value, list) and isinstance(over.value, list):
        return merge_streams(base, over)
    return over


def merge_streams(base: Node, over: Node) -> Node:
    """Tasks of the same name merge in the base's place, new ones follow, and `- NAME: null` takes a task out."""
    tasks = {task_name(task) or number: task for number, task in enumerate(base.value)}
    for number, task in enumerate(over.value):
        gone = [
            name for name in tasks if isinstance(task.value, dict) and name in task.value and "task" not in task.value
        ]
        name = task_name(task) or f"new {number}"
        if gone and all(node.value is None for node in task.value.values()):
            for each in gone:
                del tasks[each]
        else:
            tasks[name] = merge(tasks[name], task, ("stream", name)) if name in tasks else task
    return Node(list(tasks.values()), over.file, over.line)


def task_name(task: Node) -> str | None:
    name = task.value.get("task") if isinstance(task.value, dict) else None
    return name.value if name is not None and isinstance(name.value, str) else None


Override = str | tuple[str, Any]  # `KEY=VALUE`, the value in YAML, or the dotted key and a value of Python's


def override(root: Node, given: Override, mistakes: Mistakes) -> None:
    """Set one dotted key; a task may be named instead of its number."""
    here = Node(None, COMMAND_LINE if isinstance(given, str) else PYTHON)
    key, equals, written = given.partition("=") if isinstance(given, str) else (str(given[0]), "=", given[1])
    if not equals or not key:
        mistakes.add(here, key, "must be KEY=VALUE, for example seed=3")
    elif key == "extends":
        mistakes.add(here, key, f"belongs in a recipe's file: write `extends: {written}` there, and give that file")
    elif key.count(".") > DEEPEST:
        mistakes.add(here, key, f"has {key.count('.') + 1} steps, and no recipe is nested more than {DEEPEST} deep")
    elif (made := value_of(given, mistakes)) is not None:
        if made.value is None and isinstance(written, str) and written.strip().startswith("#"):
            mistakes.add(here, key, f"the value {shown(written)} is a comment in YAML: put it in quotes")
        else:
            set_key(root, key, made, mistakes)


def value_of(given: Override, mistakes: Mistakes) -> Node | None:
    """The value of an override, or None where it is none."""
    if not isinstance(given, str):
        try:
            made = from_python(given[1], given[0])
        except RecipeErrors as error:
            mistakes.problems += error.problems
            return None
        set_layer(made, 1)
        return made
    key, _, written = given.partition("=")
    try:
        made = wrap(parse(written, COMMAND_LINE).plain() if written else "", COMMAND_LINE)
    except RecipeErrors as error:
        for problem in error.problems:
            bad = problem.message.startswith("not valid YAML")
            message = f"the value {shown(written)} is not valid YAML" if bad else problem.message
            mistakes.add(Node(None, COMMAND_LINE), ".".join(filter(None, (key, problem.key))), message)
        return None
    set_layer(made, 1)
    return made


def set_key(root: Node, key: str, made: Node, mistakes: Mistakes) -> None:
    """Set the dotted key to a value; null takes it out."""
    *steps, last = key.split(".")
    here, node = Node(None, made.file), root
    for depth, step in enumerate(steps):
        if isinstance(node.value, dict):
            node = node.value.setdefault(step, Node({}, made.file))
        else:
            number = place_in_list(node, step)
            if number is None:
                entries = "no list here" if not isinstance(node.value, list) else known_places(node)
                mistakes.add(here, key, f"there is no {'.'.join(steps[: depth + 1])} ({entries})")
                return
            node = node.value[number]
    if isinstance(node.value, dict) and made.value is None and (last in node.value or "args" not in steps):
        node.value.pop(last, None)
        return
    if isinstance(node.value, dict):
        node.value[last] = made
    else:
        number = place_in_list(node, last)
        if number is None:
            mistakes.add(here, key, f"there is no such entry ({known_places(node)})")
            return
        node.value[number] = made


def place_in_list(node: Node, step: str) -> int | None:
    if not isinstance(node.value, list):
        return None
    names = [task_name(task) for task in node.value]
    if step in names:
        return names.index(step)
    return int(step) if step.isdecimal() and int(step) < len(node.value) else None


def steps_to(root: Node, key: str) -> list[str | int]:
    """The way to a key in which a task may stand by its name (which may have dots)."""
    steps = key.split(".")
    tasks = root.at(["stream"]).value if steps[0] == "stream" else None
    for number, task in enumerate(tasks if isinstance(tasks, list) else []):
        start = f"stream.{task_name(task)}."
        if key.startswith(start):
            steps = ["stream", number, *key.removeprefix(start).split(".")]
    return [int(step) if isinstance(step, str) and step.isdecimal() else step for step in steps]


def known_places(node: Node) -> str:
    if not isinstance(node.value, list):
        return "it is a single value"
    names = [name for name in map(task_name, node.value) if name]
    return f"tasks: {', '.join(names)}" if names else f"0 to {len(node.value) - 1}"
