"""Kinds of a user's own: found beside the recipe, looked at by `cpt check`, kept in the manifest, the same after a resume."""

import hashlib
import json
import shutil

import pytest
from safetensors.torch import load_file

from cpt.errors import RecipeErrors
from cpt.loop import points as loop
from cpt.recipe import dump, load, load_suite, suites_of
from cpt.recipe.json_schema import schema
from cpt.screen import QUIET, Screen
from helpers.launchers import LAUNCHERS, launch
from helpers.recipes import mistakes, short, write_recipe
from helpers.user_code import JUDGE, STAGE, STRENGTH, SUITE, write_strategy

COUNTED = {"kind": "mine:Counted", "options": {"strength": 0.02}}


def with_strategy(strategy: dict, *stages: str, **more) -> dict:
    return short(*stages or ("sft",), evaluate=2, **more) | {"strategies": [strategy]}


@pytest.fixture
def folder(tmp_path):
    write_strategy(tmp_path)
    return tmp_path


# -- the recipe ----------------------------------------------------------------------------------------------------------


def test_what_a_recipe_holds(folder):
    recipe = load(write_recipe(folder / "recipe.yaml", with_strategy(COUNTED)))
    (spec,) = recipe.strategies
    assert (spec.kind, spec.strength, spec.span, spec.label) == ("mine:Counted", 0.02, (), "Counted")
    assert spec.memory is None and spec.state_bytes(10, 4) == 0 and list(spec.whole_weights()) == []
    assert spec.describe() == "strength 0.02"
    plain = dump(recipe)["strategies"]
    assert plain == [{**COUNTED, "options": {"strength": 0.02, "span": []}, "folder": str(folder)}]
    assert load(write_recipe(folder / "stored.yaml", dump(recipe))) == recipe


def test_a_recipe_elsewhere_that_extends_it(folder, tmp_path_factory):
    write_recipe(folder / "recipe.yaml", with_strategy(COUNTED))
    other = tmp_path_factory.mktemp("elsewhere")
    file = write_recipe(other / "recipe.yaml", {"extends": str(folder / "recipe.yaml"), "seed": 1})
    assert load(file, ["strategies.0.options.strength=3"]).strategies[0].strength == 3


def test_the_file_as_it_is_now(folder):
    """A process that reads a recipe twice has the second file, with what it imports."""
    file = write_recipe(folder / "recipe.yaml", with_strategy(COUNTED))
    before = load(file)
    assert load(file) == before
    (folder / "strength.py").write_text(STRENGTH.replace("2 *", "3 *"))
    (after,) = load(file).strategies
    penalties = [each.implemented()(None, each, "0").penalties(None, None) for each in (before.strategies[0], after)]
    assert [penalty.strength for (penalty,) in penalties] == [0.04, 0.06]


def test_two_folders_with_modules_of_one_name(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_strategy(other)
    (other / "strength.py").write_text(STRENGTH.replace("2 *", "100 *"))
    strengths = []
    for place in (folder, other, folder):
        (spec,) = load(write_recipe(place / "recipe.yaml", with_strategy({"kind": "mine:Counted"}))).strategies
        strengths += [penalty.strength for penalty in spec.implemented()(None, spec, "0").penalties(None, None)]
    assert strengths == [0.02, 1.0, 0.02]


def test_a_module_that_two_kinds_share(folder):
    """It is one module for both, and the changed one for both."""
    (folder / "other.py").write_text((folder / "mine.py").read_text())
    content = short("sft") | {"strategies": [COUNTED, COUNTED | {"kind": "other:Counted"}]}
    file = write_recipe(folder / "recipe.yaml", content)
    for times in (2, 3):
        (folder / "strength.py").write_text(STRENGTH.replace("2 *", f"{times} *"))
        found = [spec.implemented().penalties.__globals__["doubled"] for spec in load(file).strategies]
        assert found[0] is found[1] and found[0](1) == times


def test_on_the_python_path(folder, tmp_path_factory, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    recipe = load(write_recipe(tmp_path_factory.mktemp("b") / "recipe.yaml", with_strategy(COUNTED)))
    assert set(recipe.strategies[0].code.digests()) == {"mine.py"}


@pytest.mark.parametrize(
    ("strategy", "key", "said"),
    [
        ({"kind": "mine:Count"}, "kind", "{}/mine.py has no Count; did you mean Counted?"),
        ({"kind": "nothing_here:A"}, "kind", "no module nothing_here: neither {}/nothing_here.py nor an installed"),
        (
            {"kind": "mine:plain"},
            "kind",
            "{}/mine.py:54: plain is no strategy: let it be a subclass of cpt.strategies.S",
        ),
        ({"kind": "mine:Pull"}, "kind", "{}/mine.py:10: Pull is no strategy"),
        ({"kind": "mine.py:Counted"}, "kind", "names a module, and no file: write mine:Counted"),
        ({"kind": "a/mine:Counted"}, "kind", "'a/mine:Counted' names no class: write module:Class"),
        (
            {"kind": "mine.Counted"},
            "",
            "no kind 'mine.Counted'; there are: ema, mcl, lookahead, stochastic-restore, merge",
        ),
        ({"kind": "json:JSONDecoder"}, "kind", "JSONDecoder is no strategy"),
        ({"kind": "broken:A"}, "kind", "{}/broken.py:2: ModuleNotFoundError: No module named 'nothing_here'"),
        ({"kind": "through:A"}, "kind", "{}/broken.py:2: ModuleNotFoundError: No module named 'nothing_here'"),
        ({"kind": "syntax:A"}, "kind", "{}/syntax.py:3: SyntaxError: invalid syntax"),
        ({"kind": "raises:A"}, "kind", "{}/raises.py:1: RuntimeError: on two lines"),
        ({"kind": "leaves:A"}, "kind", "{}/leaves.py:2: SystemExit: 3"),
        ({"kind": "queue:A"}, "kind", "{}/queue.py has the name of a module of Python's (or cpt) itself"),
        (
            {"kind": "options:A"},
            "kind",
            "{}/options.py:2: its Options must be a subclass of cpt.strategies.StrategySpec",
        ),
        ({"kind": "taken:A"}, "kind", "{}/taken.py:2: its Options have a field `folder`, which recipes use"),
        (COUNTED | {"options": {"strenght": 1}}, "options.strenght", "unknown key; did you mean strength?"),
        (COUNTED | {"options": {"strength": "1"}}, "options.strength", "must be a number, not '1'"),
        (COUNTED | {"options": {"strength": 0}}, "options.strength", "greater than 0, not 0"),
        (COUNTED | {"options": {"strength": 1e12}}, "options.strength", "must be at most 1,000,000,000"),
        (COUNTED | {"options": {"span": [1, 2.5]}}, "options.span.1", "integer"),
        (COUNTED | {"options": {"kind": "mine:A"}}, "options.kind", "belongs beside `options`, or is not an option"),
        ({"kind": "own:A", "options": {"size": 3}}, "options", "{}/own.py:8: KeyError: 3"),
        ({"kind": "own:A", "options": {"size": 4}}, "options.size", "not four"),
        (COUNTED | {"options": 3}, "options", "must be a map, not 3"),
        (
            COUNTED | {"strength": 3},
            "strength",
            "unknown key; there are: kind, options, folder (the class's own options",
        ),
        (COUNTED | {"folder": 3}, "folder", "must be a string, not 3"),
    ],
)
def test_mistakes(strategy, key, said, folder):
    (folder / "broken.py").write_text("import json\nimport nothing_here\n")
    (folder / "through.py").write_text("import broken\n")
    (folder / "syntax.py").write_text("a = 1\n\ndef f(:\n")
    (folder / "raises.py").write_text("raise RuntimeError('on\\ntwo lines')\n")
    (folder / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    (folder / "datasets.py").write_text("class A: ...\n")
    (folder / "queue.py").write_text("class A: ...\n")
    head = "from cpt.strategies import Strategy, StrategySpec\nclass A(Strategy):\n"
    (folder / "options.py").write_text(f"{head}    class Options: strength = 1\n")
    (folder / "taken.py").write_text(f"{head}    class Options(StrategySpec): folder: int = 1\n")
    (folder / "own.py").write_text(
        f"from pydantic import field_validator\n{head}    class Options(StrategySpec):\n        size: int = 1\n"
        "        @field_validator('size')\n        def right(cls, value):\n            {4: 0, 1: 0}[value]\n"
        "            assert value != 4, 'not four'\n            return value\n"
    )
    (line,) = mistakes(folder, with_strategy(strategy))
    where = ".".join(filter(None, ["strategies.0", key]))
    assert f": {where}: " in line and said.format(folder) in line, line


def test_the_schema_describes_it():
    text = json.dumps(schema()["$defs"]["UserKind"])
    assert "module:Class" in text and "options" in text


# -- a run ---------------------------------------------------------------------------------------------------------------


def test_a_strategy_in_a_run(folder, cpt, monkeypatch):
    """It acts, its state goes from stage to stage, the manifest has its files, and a changed file is refused."""
    file = write_recipe(folder / "recipe.yaml", with_strategy(COUNTED))
    out = folder / "run"
    assert cpt("check", file, "--out", out) == 0, cpt.output
    assert "mine:Counted, strength 0.02" in cpt.output
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
    hashes = json.loads((out / "manifest.json").read_text())["user_code"]
    names = ("mine.py", "strength.py")
    assert hashes == {
        "mine:Counted": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    }
    states = [
        out / "points" / point / "strategies" / "0-Counted" / "state.json" for point in ("01-reverse", "02-caesar")
    ]
    assert [json.loads(state.read_text())["steps"] for state in states] == [3, 6]
    final = (out / "final" / "model.safetensors").read_bytes()
    assert cpt("run", file, "strategies=[]", "--out", folder / "plain", "--quiet") == 0, cpt.output
    mine, plain = (load_file(place / "final" / "model.safetensors") for place in (out, folder / "plain"))
    assert any(not mine[name].equal(plain[name]) for name in mine)

    # resumed from the first task's point: the same bytes; with another file: refused
    shutil.rmtree(out / "points" / "02-caesar")
    (out / "evaluations" / "02-caesar.jsonl").unlink()
    (folder / "strength.py").write_text(STRENGTH + "# changed\n")
    for command in ("run", "check"):
        assert cpt(command, file, "--out", out) == 2
        said = (
            f"{out}: the code of mine:Counted has changed since this run began (strength.py; hashes in manifest.json)"
        )
        assert said in cpt.output and "Traceback" not in cpt.output
    (folder / "strength.py").write_text(STRENGTH)
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
    assert (out / "final" / "model.safetensors").read_bytes() == final


def test_a_killed_stage_goes_on(folder, cpt):
    """In-stage checkpoints hold the state of a user's strategy too."""
    content = with_strategy(COUNTED, tasks=("reverse",))
    content["stream"][0]["stages"][0]["args"] |= {"max_steps": 6, "save_steps": 2}
    file = write_recipe(folder / "recipe.yaml", content)
    assert cpt("run", file, "--out", folder / "whole", "--quiet") == 0, cpt.output
    at = {"place": "transformers.Trainer.training_step", "call": 4}
    assert cpt("run", file, "--out", folder / "run", "--quiet", at=at) == -9
    assert cpt("run", file, "--out", folder / "run", "--quiet") == 0, cpt.output
    ends = [folder / name / "final" / "model.safetensors" for name in ("whole", "run")]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    state = folder / "run" / "points" / "01-reverse" / "strategies" / "0-Counted" / "state.json"
    assert json.loads(state.read_text()) == {"steps": 6}


def test_each_process_has_it(folder):
    file = write_recipe(folder / "recipe.yaml", with_strategy(COUNTED, tasks=("reverse",)))
    done = launch(LAUNCHERS / "ddp-cpu.yaml", "run", file, "--out", folder / "run", "--quiet")
    assert done.returncode == 0, done.stderr
    state = folder / "run" / "points" / "01-reverse" / "strategies" / "0-Counted" / "state.json"
    assert json.loads(state.read_text()) == {"steps": 3}


# -- stages --------------------------------------------------------------------------------------------------------------

SHORTEST = {"kind": "short:Shortest", "options": {"share": 0.25}}


def with_stage(stage: dict, **more) -> dict:
    content = short("sft", tasks=("reverse",), evaluate=2)
    args = {name: each for name, each in content["stream"][0]["stages"][0]["args"].items() if name != "save_steps"}
    content["stream"][0]["stages"] = [{"args": args} | stage]
    return content | more


def test_a_stage_in_a_run(tmp_path, cpt):
    """Its rows, its note, its line of the plan, its place in the records."""
    (tmp_path / "short.py").write_text(STAGE)
    file, out = write_recipe(tmp_path / "recipe.yaml", with_stage(SHORTEST)), tmp_path / "run"
    assert cpt("check", file, "--out", out) == 0, cpt.output
    assert "short:Shortest: 3 steps of 8 rows, lr 0.001, on the 25% of rows with the shortest demonstr" in cpt.output
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
    (record,) = json.loads((out / "results.json").read_text())["stages"]
    assert (record["kind"], record["stage"]) == ("short:Shortest", "0-Shortest")
    assert record["notes"] == ["trained on 50 of 200 rows"]
    assert list(json.loads((out / "manifest.json").read_text())["user_code"]["short:Shortest"]) == ["short.py"]
    assert "0-Shortest" in (out / "report.md").read_text()
    assert load(out / "recipe.yaml") == load(file)


def test_defaults_of_a_stage(tmp_path):
    (tmp_path / "short.py").write_text(STAGE)
    defaults = {"short:Shortest": {"args": {"weight_decay": 0.5}, "options": {"share": 0.75}}}
    content = with_stage({"kind": "short:Shortest"}, defaults=defaults)
    (stage,) = load(write_recipe(tmp_path / "recipe.yaml", content)).stream[0].stages
    assert (stage.share, stage.args["weight_decay"], stage.args["max_steps"]) == (0.75, 0.5, 3)
    content["defaults"]["short:Other"] = {}
    (line,) = mistakes(tmp_path, content)
    assert "defaults.short:Other: must be a map, for a kind of your own that a stage has" in line


@pytest.mark.parametrize(
    ("stage", "key", "said"),
    [
        (
            SHORTEST | {"args": {"max_stepz": 1}},
            "args.max_stepz",
            "SFTConfig has no such argument; did you mean max_steps?",
        ),
        (SHORTEST | {"args": {"max_steps": "1"}}, "args.max_steps", ""),
        (SHORTEST | {"options": {"share": 2}}, "options.share", "less than or equal to 1, not 2"),
        (SHORTEST | {"options": {"shar": 1}}, "options.shar", "unknown key; did you mean share?"),
        (SHORTEST | {"share": 1}, "share", "unknown key; there are: kind, options, folder, args (the class's own"),
        ({"kind": "short:NoRun"}, "kind", "a stage must have its own `run`"),
        ({"kind": "short:NoFacts"}, "kind", "its Options must have `trl_config`, one of: SFTConfig, DPOConfig"),
        ({"kind": "short:WrongForm"}, "kind", "its Options must have `row_form`, one of: demonstration, preference"),
        ({"kind": "short:sft"}, "kind", "sft is no stage: let it be a subclass of cpt.stages.StageKind"),
        ({"kind": "short:Short"}, "kind", "has no Short; did you mean Shortest?"),
    ],
)
def test_mistakes_of_stages(stage, key, said, tmp_path):
    (tmp_path / "short.py").write_text(STAGE)
    (line,) = mistakes(tmp_path, with_stage(stage))
    assert f": stream.0.stages.0.{key}: " in line and said in line, line


# -- suites --------------------------------------------------------------------------------------------------------------

COPIES = {"kind": "held:Copies", "name": "copies", "options": {"count": 2}}


def with_suites(*suites) -> dict:
    content = short("sft", steps=1, tasks=("reverse",), evaluate=2)
    content["evaluation"]["suites"] = list(suites)
    return content


@pytest.fixture
def suite_folder(tmp_path):
    (tmp_path / "held.py").write_text(SUITE)
    (tmp_path / "judge.py").write_text(JUDGE)
    return tmp_path


def test_suites_in_a_run(suite_folder, cpt, monkeypatch):
    file, out = write_recipe(suite_folder / "recipe.yaml", with_suites("held:Copies", COPIES)), suite_folder / "run"
    assert cpt("check", file, "--out", out) == 0, cpt.output
    assert "held out, Copies: 3 questions on one" in cpt.output and "held out, copies: 2 questions on one" in cpt.output
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
    results, manifest = (json.loads((out / f"{name}.json").read_text()) for name in ("results", "manifest"))
    assert results["held_out"] == {"Copies": [0.5, 0.5], "copies": [0.5, 0.5]}, "each answer is worth a half"
    assert results["held_out_questions"] == {"Copies": 3, "copies": 2}
    assert manifest["data"]["copies/one"]["eval"]["rows"] == 2
    assert list(manifest["user_code"]) == ["held:Copies"] and list(manifest["verifiers"]) == ["judge:half"]
    assert "Copies" in (out / "report.md").read_text()
    assert load(out / "recipe.yaml") == load(file)
    monkeypatch.chdir(suite_folder)
    assert [task.task for task in load_suite("held:Copies").tasks] == ["one"]


@pytest.mark.parametrize(
    ("suite", "said"),
    [
        ("held:Copy", "held.py has no Copy; did you mean Copies?"),
        ("held:NoTasks", "a suite must have its own `tasks`"),
        ("held:random", "held.py:1: random is no suite: let it be a subclass of cpt.evaluation.SuiteKind"),
        (
            COPIES | {"options": {"count": 0}},
            "evaluation.suites.0.options.count: input should be greater than 0, not 0",
        ),
        (COPIES | {"name": "a b"}, "evaluation.suites.0.name: 'a b' has characters that cannot be used here"),
        ({"name": "general"}, "evaluation.suites.0: must be a string, not {'name': 'general'}"),
    ],
)
def test_mistakes_of_suites(suite, said, suite_folder):
    (line,) = mistakes(suite_folder, with_suites(suite))
    assert said in line, line


@pytest.mark.parametrize(
    ("suites", "said"),
    [
        (["held:Raises"], "held:Raises: {}/held.py:29: AttributeError: 'Raises' object has no attribute 'nothing'"),
        (["held:Random"], "{}/held.py:22: its tasks are others each time: give its random numbers a seed"),
        (["held:Wrong"], "{}/held.py:32 (Wrong.tasks): tasks.0.rewards: unknown key; did you mean reward?"),
        ([COPIES, COPIES], "evaluation.suites.1: two suites are called copies: rename one (`name` in its file, or be"),
    ],
)
def test_mistakes_of_tasks(suites, said, suite_folder):
    recipe = load(write_recipe(suite_folder / "recipe.yaml", with_suites(*suites)))
    with pytest.raises(RecipeErrors) as found:
        suites_of(recipe)
    assert said.format(suite_folder) in str(found.value)


def test_a_file_that_changes_while_it_runs(folder, monkeypatch):
    """The run goes on with what it began with, and says so once."""
    recipe = load(write_recipe(folder / "recipe.yaml", with_strategy(COUNTED, steps=1)))
    warned, evaluated = [], loop.add_row

    def add_row(this, point):
        (folder / "strength.py").write_text(STRENGTH + "# changed\n")
        evaluated(this, point)

    monkeypatch.setattr(loop, "add_row", add_row)
    screen = Screen(QUIET)
    monkeypatch.setattr(screen, "warn", warned.append)
    loop.run(recipe, folder / "run", screen)
    assert warned == [f"{folder / 'strength.py'} has changed: this run keeps the code that it began with"]
    hashes = json.loads((folder / "run" / "manifest.json").read_text())["user_code"]["mine:Counted"]
    assert hashes["strength.py"] == hashlib.sha256(STRENGTH.encode()).hexdigest()
