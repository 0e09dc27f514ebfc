"""Every shipped recipe and suite loads, tells its plan offline, is taken by TRL, and travels in the wheel."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cpt.checks import all_checks, plan
from cpt.checks.findings import Findings
from cpt.recipe import RecipeErrors, load, load_suite, suites_of

ROOT = Path(__file__).parent.parent
RECIPES = [file.stem for file in sorted((ROOT / "recipes").glob("*.yaml"))]
SUITES = [file.stem for file in sorted((ROOT / "eval").glob("*.yaml"))]
OF_THE_USER = ("smollm2-stream", "smollm2-rlvr")  # rows and model are files that the user names
OPENING = ("# ", "#   cpt run ")


def test_they_are_there():
    wanted = {"quickstart", "quickstart-sft", "quickstart-dpo", "mixed-stages", "reasoning-gym", "qwen3-0.6b-stream"}
    assert wanted | {"unsolved", "unsolved-sft", "unsolved-sft-rlvr"} <= set(RECIPES)
    assert "general" in SUITES


@pytest.mark.parametrize("name", RECIPES)
def test_it_loads_and_its_plan_is_told(name, tmp_path):
    recipe = load(name)
    assert recipe.name == name
    if name in OF_THE_USER:
        with pytest.raises(RecipeErrors) as missing:
            all_checks.check(recipe, tmp_path / "run")
        assert all("no such file" in str(each) or "no folder" in str(each) for each in missing.value.problems)
        return
    told = plan.describe(recipe, tmp_path / "run", all_checks.check(recipe, tmp_path / "run"))
    for task in recipe.stream:
        assert task.task in told
    for suite in suites_of(recipe):
        assert suite in told


@pytest.mark.parametrize("name", RECIPES)
def test_it_opens_with_its_command_and_what_to_expect(name):
    head = [line for line in (ROOT / "recipes" / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    text = "\n".join(head)
    assert f"#   cpt run {name}" in text
    assert "Measured" in text or "not measured" in text


@pytest.mark.parametrize("name", RECIPES)
def test_trl_takes_its_arguments(name):
    """The real configs are built; what `ast` accepted is not refused there."""
    from cpt.stages.configs import check_configs

    findings = Findings()
    check_configs(load(name), findings)
    findings.check()


@pytest.mark.parametrize("name", ["unsolved", "unsolved-sft", "unsolved-sft-rlvr"])
def test_the_unsolved_stream_keeps_its_order_and_its_rows_serve_every_stage(name):
    from cpt.data.sources import load as load_rows

    recipe = load(name)
    assert [task.task for task in recipe.stream] == ["evens", "sort", "add", "reverse"]
    for task in recipe.stream:
        source = task.data.model_copy(update={"train": 20, "eval": 20})
        for row in load_rows(source, "train", task.task, 0):
            assert row["prompt"] and row["answer"] and row["demonstration"] == row["answer"]


@pytest.mark.parametrize("name", SUITES)
def test_suites_load(name):
    suite = load_suite(name)
    assert suite.name == name


def test_the_suite_in_the_docs_is_one(tmp_path):
    text = (ROOT / "docs" / "data.md").read_text()
    (tmp_path / "held-out.yaml").write_text(text.split("# held-out.yaml\n")[1].split("```")[0])
    suite = load_suite(tmp_path / "held-out.yaml")
    assert suite.name == "held-out" and suite.tasks[0].data.eval == tmp_path / "faq.jsonl"


@pytest.mark.slow
def test_recipes_suites_and_the_toy_model_travel_in_the_wheel(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for kind, stems in (("recipes", RECIPES), ("eval", SUITES)):
        for stem in stems:
            assert f"cpt/_data/{kind}/{stem}.yaml" in names
    assert "cpt/_data/recipes/accelerate/ddp-cpu.yaml" in names
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    code = "from cpt import tiny; from cpt.recipe import load; print(tiny.path(), load('quickstart').name)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(tmp_path / "site/cpt/tiny_model"), "quickstart"]
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as source:
        kept = {Path(name).name for name in source.getnames() if "/cpt/tiny_model/" in name}
    assert kept == {file.name for file in (ROOT / "cpt/tiny_model").iterdir()}
