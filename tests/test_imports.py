"""The direction of imports (docs/architecture.md): a module imports its own room and the rooms below, never one above."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "cpt"
LEVELS = (  # from the ground up; a module that stands in no room is of the ground
    ("recipe",),
    ("data", "rewards", "merging"),
    ("rollouts",),
    ("evaluation",),
    ("stages", "strategies"),
    ("checks",),
    ("report",),
    ("comparison",),
    ("sweeps",),
    ("loop",),
    ("baselines",),
    ("api",),
    ("cli",),
    ("__main__",),
)
LEVEL = {room: number for number, rooms in enumerate(LEVELS, start=1) for room in rooms}
ONLY = {"trl": ("stages",), "vllm": ("rollouts",), "lm_eval": ("evaluation",)}
WITHOUT_TORCH = ("recipe", "report", "comparison", "sweeps")  # as they are imported
# All that the report may use of other rooms.
OF_REPORT = {f"cpt.evaluation.{name}" for name in ("answers", "limits", "metrics", "statistics", "verdict")}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, path: Path) -> set[str]:
    """Dotted names that a tree imports; `from cpt import models` counts as cpt.models, and so on."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                place = ROOT.parent.joinpath(*node.module.split("."), alias.name)
                is_module = place.is_dir() or place.with_suffix(".py").is_file()
                found.add(f"{node.module}.{alias.name}" if is_module or node.module == "cpt" else node.module)
    return found


def room_of(name: str) -> str:
    """`cpt.rewards.math` -> `rewards`."""
    return name.split(".")[1] if "." in name else ""


def level_of(name: str) -> int:
    return LEVEL.get(room_of(name), 0)


def own(path: Path) -> set[str]:
    """What a file imports of the package, wherever in the file, but for what only a type checker sees."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    return {name for name in imported(tree, path) if name.startswith("cpt.")}


def upwards(name: str, imports: set[str]) -> set[str]:
    """Those of the `imports` of the module `name` that run upwards, or into another room of the same level."""
    mine = level_of(name)
    return {
        each
        for each in imports
        if level_of(each) > mine or (level_of(each) == mine and mine and room_of(each) != room_of(name))
    }


FILES = sorted(ROOT.rglob("*.py"))
NAMES = [module_name(path) for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_import_runs_upwards(path):
    name = module_name(path)
    if name != "cpt":  # the package's face imports lazily what a caller asks for
        assert not upwards(name, own(path))


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_only_their_home_imports_a_library(path):
    for each in imported(ast.parse(path.read_text(encoding="utf-8")), path):
        homes = ONLY.get(each.split(".")[0])
        assert homes is None or room_of(module_name(path)) in homes, f"{module_name(path)} imports {each}"


@pytest.mark.parametrize("path", [path for path in FILES if room_of(module_name(path)) == "report"])
def test_the_report_reads_json_alone(path):
    others = {each for each in own(path) if level_of(each) and room_of(each) != "report"}
    assert not others - OF_REPORT


def test_no_circle():
    """Module by module, imports within functions too."""
    graph = {module_name(path): beneath(path) for path in FILES}
    done, way = set(), []

    def walk(name: str) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            way.append(name)
            for each in sorted(graph.get(name, ())):
                walk(each)
            done.add(way.pop())

    for name in graph:
        walk(name)


def beneath(path: Path) -> set[str]:
    """The modules of the package that a module imports, anywhere; a package's own face is not a way into it."""
    name = module_name(path)
    return {each for each in own(path) if not f"{name}.".startswith(f"{each}.")}


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_without_torch(room):
    program = "import importlib, sys\n"
    for name in NAMES:
        if room_of(name) == room:
            program += f"importlib.import_module({name!r})\n"
    done = subprocess.run([sys.executable, "-c", program + "assert 'torch' not in sys.modules"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_no_test_imports_a_test():
    for path in Path(__file__).parent.rglob("*.py"):
        tests = {
            each for each in imported(ast.parse(path.read_text(encoding="utf-8")), path) if each.startswith("test_")
        }
        assert not tests, f"{path.name} imports {tests}: what they share goes into tests/helpers"


def test_an_evaluation_loads_nothing_that_trains():
    program = "import sys, cpt.api.evaluation\n"
    program += "assert not [each for each in sys.modules if each.startswith(('trl', 'cpt.stages', 'cpt.strategies'))]"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_the_rule_can_fail():
    assert upwards("cpt.models", {"cpt.recipe"}) and upwards("cpt.stages.sft", {"cpt.strategies.base"})
    assert not upwards("cpt.stages.sft", {"cpt.data.rows", "cpt.stages.trainer", "cpt.models"})


def test_the_table_of_the_documentation():
    text = (ROOT.parent / "docs" / "architecture.md").read_text()
    order = [tuple(re.findall(r"`(\w+)/?`", line)) for line in re.findall(r"^\d+\. (.*?):", text, re.M)]
    assert order[1:] == list(LEVELS)


@pytest.mark.parametrize("said, kept", [(None, "1"), ("0", "0")])
def test_no_telemetry_unless_the_user_wants_it(said, kept):
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_DISABLE_TELEMETRY"}
    environment |= {} if said is None else {"HF_HUB_DISABLE_TELEMETRY": said}
    program = "import os, cpt; print(os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == kept
