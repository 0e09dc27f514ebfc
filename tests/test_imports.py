"""The direction of imports (DESIGN.md): each module imports only what its row allows."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "cpt"
EVERYWHERE = {"cpt", "cpt.disk", "cpt.errors", "cpt.files", "cpt.processes", "cpt.screen", "cpt.stop", "cpt.ranks"}
ALL = {"cpt."}
MAY_IMPORT = {  # the longest matching prefix of a module's name is its row
    "cpt.errors": set(),
    "cpt.disk": set(),
    "cpt.files": {"cpt.disk", "cpt.stop"},
    "cpt.records": set(),
    "cpt.json_lines": {"cpt.records"},
    "cpt.layout": {"cpt.files"},
    "cpt.metrics_log": {"cpt.json_lines", "cpt.records"},
    "cpt.processes": set(),
    "cpt.progress": set(),
    "cpt.screen": {"cpt.errors", "cpt.progress"},
    "cpt.ranks": {"cpt.errors"},
    "cpt.stop": {"cpt.errors", "cpt.ranks"},
    "cpt.plain_text": set(),
    "cpt.rewards": {"cpt.plain_text", "cpt.rewards"},
    "cpt.recipe.row_templates": set(),
    "cpt.data.prompt_keys": set(),
    "cpt.data.rows": {"cpt.data.prompt_keys"},
    "cpt.data.readers": {"cpt.data.readers"},
    "cpt.evaluation.metrics": set(),
    "cpt.evaluation.statistics": set(),
    "cpt.recipe.config_fields": set(),
    "cpt.recipe.trl_arguments": {"cpt.recipe.hints", "cpt.recipe.config_fields", "cpt.recipe.trl_bounds"},
    "cpt.recipe.trl_bounds": {"cpt.recipe.config_fields"},
    "cpt.recipe.vllm_arguments": {"cpt.recipe.hints", "cpt.recipe.config_fields"},
    "cpt.rollouts.fingerprints": set(),
    "cpt.rollouts.buckets": set(),
    "cpt.rollouts.supervisor": {"cpt.processes"},
    "cpt.recipe": {
        "cpt.recipe.sources",
        "cpt.recipe.loading",
        "cpt.recipe.nodes",
        "cpt.recipe.rewards",
        "cpt.recipe.stages",
        "cpt.recipe.strategies",
    },
    "cpt.recipe.stages": set(),
    "cpt.recipe.rewards": {"cpt.plain_text", "cpt.recipe.stages"},
    "cpt.recipe.strategies": {"cpt.recipe.merge", "cpt.recipe.stages", "cpt.recipe.trl_arguments"},
    "cpt.recipe.adapter": {"cpt.lora", "cpt.recipe.trl_arguments"},
    "cpt.recipe.merge": {"cpt.lora", "cpt.recipe.stages"},
    "cpt.recipe.engine": {"cpt.recipe.nodes", "cpt.recipe.yaml_reader", "cpt.recipe.vllm_arguments"},
    "cpt.recipe.loading": {
        *("cpt.recipe.adapter", "cpt.recipe.engine", "cpt.recipe.hints", "cpt.recipe.messages", "cpt.recipe.nodes"),
        *("cpt.recipe.strategies", "cpt.recipe.yaml_reader"),
        *("cpt.recipe.vllm_arguments", "cpt.recipe.trl_arguments", "cpt.recipe.trl_bounds"),
    },
    "cpt.recipe.messages": {"cpt.recipe.hints", "cpt.recipe.nodes", "cpt.recipe.yaml_reader"},
    "cpt.recipe.hints": set(),
    "cpt.recipe.json_schema": {"cpt.recipe", "cpt.recipe.stages"},
    "cpt.recipe.nodes": {"cpt.recipe.yaml_reader"},
    "cpt.recipe.yaml_reader": set(),
    "cpt.recipe.sources": {"cpt.recipe.stages", "cpt.recipe.row_templates"},
    "cpt.data": {"cpt.recipe", "cpt.recipe.sources", "cpt.data", "cpt.recipe.row_templates"},
    "cpt.data.encoding": {"cpt.data.rows", "cpt.models"},
    "cpt.checks.tokenizer_coverage": set(),
    "cpt.tiny": {"cpt.data.procedural", "cpt.tiny"},
    "cpt.pissa": {"cpt.lora", "cpt.pissa"},
    "cpt.models": {"cpt.lora", "cpt.pissa", "cpt.recipe", "cpt.tiny"},
    "cpt.rundir": {"cpt.layout", "cpt.metrics_log", "cpt.recipe", "cpt.records"},
    "cpt.merging": {"cpt.merging"},
    "cpt.rollouts": {"cpt.lora", "cpt.models", "cpt.pissa", "cpt.recipe", "cpt.rollouts"},
    "cpt.strategies": {
        "cpt.recipe",
        "cpt.recipe.merge",
        "cpt.recipe.strategies",
        "cpt.evaluation.gates",
        "cpt.evaluation.metrics",
        "cpt.losses",
        "cpt.models",
        "cpt.merging",
        "cpt.optim",
        "cpt.data.rows",
        "cpt.strategies",
    },
    "cpt.stages": {
        "cpt.pissa",
        "cpt.recipe",
        "cpt.recipe.stages",
        "cpt.losses",
        "cpt.models",
        "cpt.rollouts",
        "cpt.optim",
        "cpt.data.encoding",
        "cpt.data.roundtrip",
        "cpt.data.rows",
        "cpt.data.table",
        "cpt.stages",
    },
    "cpt.evaluation": {"cpt.recipe", "cpt.data", "cpt.models", "cpt.rewards", "cpt.rollouts", "cpt.evaluation"},
    "cpt.report": {
        "cpt.json_lines",
        "cpt.layout",
        "cpt.records",
        "cpt.evaluation.metrics",
        "cpt.evaluation.gates",
        "cpt.evaluation.statistics",
        "cpt.report",
    },
    "cpt": ALL,
}
ONLY = {"trl": "cpt.stages", "vllm": "cpt.rollouts"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in the file; `from cpt import models` counts as cpt.models, and so on."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                place = ROOT.parent.joinpath(*node.module.split("."), alias.name)
                is_module = place.is_dir() or place.with_suffix(".py").is_file()
                found.add(f"{node.module}.{alias.name}" if is_module or node.module == "cpt" else node.module)
    return found


def covered(name: str, prefixes: set[str]) -> bool:
    return any(name == prefix or name.startswith(prefix.rstrip(".") + ".") for prefix in prefixes)


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[module_name(path) for path in FILES])
def test_imports_go_one_way(path):
    name = module_name(path)
    row = max((prefix for prefix in MAY_IMPORT if covered(name, {prefix})), key=len)
    allowed = MAY_IMPORT[row] | {name}
    own = {each for each in imports(path) if each == "cpt" or each.startswith("cpt.")}
    leaves = EVERYWHERE if row == "cpt" or MAY_IMPORT[row] else {"cpt", "cpt.errors"}
    leaves = leaves | {"cpt.__version__"}
    wrong = {each for each in own if not covered(each, allowed) and each not in leaves}
    assert not wrong, f"{name} may not import {sorted(wrong)}"


@pytest.mark.parametrize("path", FILES, ids=[module_name(path) for path in FILES])
def test_only_their_home_imports_trl_and_vllm(path):
    for each in imports(path):
        top = each.split(".")[0]
        if top in ONLY:
            assert covered(module_name(path), {ONLY[top]}), f"{module_name(path)} imports {each}"


def test_stages_and_strategies_never_import_each_other():
    for path in FILES:
        name = module_name(path)
        if covered(name, {"cpt.stages"}):
            assert not any(covered(each, {"cpt.strategies"}) for each in imports(path)), name
        if covered(name, {"cpt.strategies"}):
            assert not any(covered(each, {"cpt.stages"}) for each in imports(path)), name


def test_the_rule_can_fail():
    """A wrong import is seen."""
    assert not covered("cpt.loop", MAY_IMPORT["cpt.models"])
    assert covered("cpt.data.rows", MAY_IMPORT["cpt.stages"])
    assert not covered("cpt.data.stream", MAY_IMPORT["cpt.stages"])


@pytest.mark.parametrize("said, kept", [(None, "1"), ("0", "0")])
def test_no_telemetry_unless_the_user_wants_it(said, kept):
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_DISABLE_TELEMETRY"}
    environment |= {} if said is None else {"HF_HUB_DISABLE_TELEMETRY": said}
    program = "import os, cpt; print(os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == kept
