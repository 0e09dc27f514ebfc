"""Recipes: extends, defaults, overrides, and every mistake at once, each with its file, line, key and the nearest name."""

import json
from pathlib import Path

import pytest

from cpt.cli.main import parsed
from cpt.errors import RecipeErrors
from cpt.metric_kinds import GATES
from cpt.recipe import dump, identity, load, load_suite
from cpt.recipe.json_schema import schema
from helpers.recipe_text import BASE, changed, problems
from helpers.recipes import RECIPES, recipe, write_recipe

ONE_MISTAKE = {
    "misspelt key": (
        changed("reward: exact", "rewards: exact"),
        "recipe.yaml:6: stream.0.rewards: unknown key; did you mean reward?",
    ),
    "misspelt key at the top": (BASE + "sed: 3\n", "recipe.yaml:10: sed: unknown key; did you mean seed?"),
    "wrong type": (BASE + "seed: three\n", "recipe.yaml:10: seed: must be an integer, not 'three'"),
    "a number in quotes": (BASE + "seed: '3'\n", "recipe.yaml:10: seed: must be an integer, not '3'"),
    "a truth for a number": (BASE + "seed: true\n", "recipe.yaml:10: seed: must be an integer, not True"),
    "duplicate key": (BASE + "name: again\n", "recipe.yaml:10: name: this key appears twice; keep one"),
    "unknown skill of args": (
        changed("max_steps: 3", "max_step: 3"),
        "recipe.yaml:9: stream.0.stages.0.args.max_step: GRPOConfig has no such argument; did you mean max_steps?",
    ),
    "wrong type of args": (
        changed("max_steps: 3", "max_steps: three"),
        "recipe.yaml:9: stream.0.stages.0.args.max_steps: must be an integer, not 'three'",
    ),
    "refused argument": (
        changed("max_steps: 3", "output_dir: here"),
        "recipe.yaml:9: stream.0.stages.0.args.output_dir: is not supported: the run directory decides it: use --out",
    ),
    "refused vllm argument": (
        changed("max_steps: 3", "vllm_mode: server"),
        "recipe.yaml:9: stream.0.stages.0.args.vllm_mode: is not supported: use `rollouts`",
    ),
    "unknown stage": (
        changed("kind: rlvr", "kind: rlv"),
        "recipe.yaml:8: stream.0.stages.0: no kind 'rlv'; did you mean rlvr?",
    ),
    "group that does not fill the batch": (
        changed("max_steps: 3", "num_generations: 6, per_device_train_batch_size: 16"),
        "recipe.yaml:9: stream.0.stages.0.args.num_generations: (6) must divide the batch (16 completions): use 4 or 8",
    ),
    "missing key": (changed("model: {path: tiny}\n", ""), "recipe.yaml:1: model: is missing"),
    "no kind": (
        changed("- kind: rlvr\n        args", "- args"),
        "recipe.yaml:8: stream.0.stages.0: kind is missing: one of sft, dpo, rlvr, hybrid, rejection, self-distillation, ",
    ),
    "unknown source": (
        changed("source: procedural", "source: proceduralx"),
        "recipe.yaml:5: stream.0.data: no source 'proceduralx'; did you mean procedural?",
    ),
    "unknown reward": (
        changed("reward: exact", "reward: exacte"),
        "recipe.yaml:6: stream.0.reward: no kind 'exacte'; did you mean exact?",
    ),
    "no verifier": (
        changed("    reward: exact\n", ""),
        "recipe.yaml:4: stream.0: has no verifier to score answers with: add `reward` (exact, math, choice, ...) or `metric`",
    ),
    "a broken regular expression": (
        changed("reward: exact", "reward: {kind: format, pattern: '('}\n    metric: exact"),
        "recipe.yaml:6: stream.0.reward.pattern: not a regular expression: missing ), unterminated subpattern at "
        "position 0",
    ),
    "unknown adapter": (
        BASE + "adapter: {kind: lorra}\n",
        "recipe.yaml:10: adapter.kind: PEFT has no adapter 'lorra'; did you mean lora?",
    ),
    "unknown field of the adapter": (
        BASE + "adapter: {kind: lora, rank: 4}\n",
        "recipe.yaml:10: adapter.rank: LoraConfig has no such field",
    ),
    "an adapter that TRL cannot train": (
        BASE + "adapter: {kind: poly, r: 4}\n",
        "recipe.yaml:10: adapter.kind: poly needs task_ids with each batch, which no TRL trainer gives",
    ),
    "an adapter of no tokens": (
        BASE + "adapter: {kind: p_tuning}\n",
        "recipe.yaml:10: adapter.kind: p_tuning needs `num_virtual_tokens` beside it",
    ),
    "unknown strategy": (
        BASE + "strategies: [{kind: ewc}]\n",
        "recipe.yaml:10: strategies.0: no kind 'ewc'; there are: ema, mcl, lookahead, stochastic-restore, merge",
    ),
    "unknown suite": (
        BASE + "evaluation: {suites: [generl]}\n",
        "recipe.yaml:10: evaluation.suites.0: generl: no suite of that name; did you mean general?",
    ),
    "a gate without a value": (
        BASE + "evaluation: {gates: {forgetting: 0.1}}\n",
        "recipe.yaml:10: evaluation.gates.forgetting: can never have a value: forgetting needs two tasks; remove the gate",
    ),
    "a gate that does not exist": (
        BASE + "evaluation: {gates: {forgeting: 0.1}}\n",
        f"recipe.yaml:10: evaluation.gates.forgeting: must be one of {', '.join(GATES)}, not 'forgeting'; did you mean "
        "forgetting?",
    ),
    "more k than samples": (
        BASE + "evaluation: {sampled: {k: [8], samples: 4}}\n",
        "recipe.yaml:10: evaluation.sampled: pass@8 needs at least 8 samples, not 4",
    ),
    "a path in a task's name": (
        changed("task: reverse", "task: ../reverse"),
        "recipe.yaml:4: stream.0.task: '../reverse' has characters that cannot be used here",
    ),
    "not YAML": (BASE + "seed: [1\n", "not valid YAML"),
    "a list": ("- a\n- b\n", "recipe.yaml: must be a map of keys to values"),
    "nothing": ("", "recipe.yaml: must be a map of keys to values"),
    "an unknown base": (
        "extends: quikstart\n" + BASE,
        "recipe.yaml:1: extends: quikstart: no recipe of that name; did you mean quickstart?",
    ),
}


@pytest.mark.parametrize("name", ONE_MISTAKE)
def test_a_mistake_is_named(name, tmp_path):
    text, message = ONE_MISTAKE[name]
    found = problems(text, tmp_path)
    assert len(found) == 1, found
    assert message in found[0]


def test_all_mistakes_at_once(tmp_path):
    text = BASE.replace("task: reverse", "task: reverse\n    difficulty: 3").replace("max_steps: 3", "max_step: 3")
    found = problems(
        text + "seed: x\nadapter: {kind: lora, rank: 4}\n", tmp_path, "seeed=1", "stream.sort.reward=exact"
    )
    # A wrong override is told alone: what it would have changed is not known.
    assert found == [
        "command line: stream.sort.reward: there is no stream.sort (tasks: reverse)",
    ]
    found = problems(text + "seed: x\nadapter: {kind: lora, rank: 4}\n", tmp_path, "seeed=1")
    assert [each.split(": ")[1] for each in found] == [  # in the order of their places
        "stream.0.difficulty",
        "stream.0.stages.0.args.max_step",
        "seed",
        "adapter.rank",
        "seeed",
    ]
    assert found[-1] == "command line: seeed: unknown key; did you mean seed?"


@pytest.mark.parametrize(
    "override, message",
    [
        ("seed", "command line: seed: must be KEY=VALUE, for example seed=3"),
        ("seed=three", "command line: seed: must be an integer, not 'three'"),
        ("stream.7.reward=exact", "command line: stream.7.reward: there is no stream.7 (tasks: reverse)"),
        ("seed=[", "command line: seed: the value '[' is not valid YAML"),
        ("seed=\x00", "command line: seed: the value '\\x00' is not valid YAML"),
        ("model=null", "recipe.yaml:1: model: is missing"),
        ("stream=null", "recipe.yaml:1: stream: is missing"),
        (
            "extends=quickstart",
            "command line: extends: belongs in a recipe's file: write `extends: quickstart` there, and give that file",
        ),
        ("stream.\u00b2=3", "command line: stream.\u00b2: there is no such entry (tasks: reverse)"),
        ("description=#1", "command line: description: the value '#1' is a comment in YAML: put it in quotes"),
        ("name.first=x", "command line: name.first: there is no such entry (it is a single value)"),
        (
            "stream.reverse.stages.0.args.max_step=3",
            "command line: stream.0.stages.0.args.max_step: GRPOConfig has no such argument; did you mean max_steps?",
        ),
    ],
)
def test_a_wrong_override(override, message, tmp_path):
    assert problems(BASE, tmp_path, override) == [message]


def test_precedence(tmp_path):
    """TRL's default < the kind's defaults < `defaults` < the stage < the command line."""
    file = tmp_path / "recipe.yaml"
    file.write_text(BASE + "defaults: {rlvr: {args: {max_steps: 2, temperature: 0.7, learning_rate: 3e-4}}}\n")
    args = load(file, ["stream.reverse.stages.0.args.num_generations=4"]).stream[0].stages[0].args
    assert args == {"beta": 0.0, "temperature": 0.7, "max_steps": 3, "learning_rate": 3e-4, "num_generations": 4}
    assert load(file, ["stream.0.stages.0.args.max_steps=9"]).stream[0].stages[0].args["max_steps"] == 9


def test_null_takes_a_key_out(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(BASE + "seed: 3\ndescription: x\ndefaults: {rlvr: {args: {beta: 0.1}}}\n")
    recipe = load(file, ["seed=null", "description=null", "defaults=null"])
    assert (recipe.seed, recipe.description, recipe.stream[0].stages[0].args["beta"]) == (0, "", 0.0)


def test_extends(tmp_path):
    """Maps merge, lists replace, the stream merges by name, null deletes, paths belong to their own file."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "parent.yaml").write_text(
        BASE
        + "  - task: words\n    data: {source: jsonl, train: rows.jsonl, eval: 5}\n    reward: exact\n"
        + "    stages: [{kind: sft}]\n"
        + "description: of the parent\nevaluation: {suites: [general], gates: {forgetting: 0.1, learning_accuracy: 0.5}}\n"
    )
    (tmp_path / "child.yaml").write_text(
        "extends: base/parent.yaml\nname: child\ndescription: null\n"
        "evaluation: {suites: [], gates: {forgetting: 0.2}}\n"
        "stream:\n  - {task: reverse, stages: [{kind: dpo}]}\n"
        "  - {task: more, data: {source: jsonl, train: mine.jsonl, eval: 3}, reward: exact, stages: [{kind: sft}]}\n"
    )
    recipe = load(tmp_path / "child.yaml")
    assert [task.task for task in recipe.stream] == ["reverse", "words", "more"]
    assert [stage.kind for stage in recipe.stream[0].stages] == ["dpo"]
    assert recipe.stream[0].data.name == "reverse"
    assert recipe.stream[1].data.train == tmp_path / "base" / "rows.jsonl"
    assert recipe.stream[2].data.train == tmp_path / "mine.jsonl"
    assert recipe.description == "" and recipe.evaluation.suites == ()
    assert {name: gate.limit for name, gate in recipe.evaluation.gates.items()} == {
        "forgetting": 0.2,
        "learning_accuracy": 0.5,
    }


def test_extends_in_a_circle(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b\nname: a\n")
    (tmp_path / "b.yaml").write_text("extends: a\nname: b\n")
    with pytest.raises(RecipeErrors, match=r"extends: is circular: a\.yaml -> b\.yaml -> a\.yaml"):
        load(tmp_path / "a.yaml")


def test_a_misspelt_recipe():
    with pytest.raises(RecipeErrors, match="quikstart: no recipe of that name; did you mean quickstart"):
        load("quikstart")
    with pytest.raises(RecipeErrors, match=r"nowhere\.yaml: no such file"):
        load("nowhere.yaml")


def test_two_tasks_of_one_name(tmp_path):
    again = BASE[BASE.index("  - task") :]
    assert problems(BASE + again, tmp_path) == ["recipe.yaml:10: stream.1.task: 'reverse' is the name of stream.0 too"]


def test_yaml_1_2_numbers(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(BASE.replace("max_steps: 3", "learning_rate: 3e-4").replace("mine", "no"))
    recipe = load(file)
    assert recipe.stream[0].stages[0].args["learning_rate"] == 3e-4
    assert recipe.name == "no"


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_dumped_loads_again(name, tmp_path):
    recipe = load(write_recipe(tmp_path / "recipe.yaml", RECIPES[name]))
    again = load(write_recipe(tmp_path / "again.yaml", dump(recipe)))
    assert again == recipe
    assert identity(again) == identity(recipe)


def test_identity(tmp_path):
    """Gates and the description do not change what a run is; the seed and the arguments do."""
    plain = load("quickstart")
    same = [["evaluation.gates.forgetting=0.5"], ["description=other"]]
    other = [["seed=1"], ["stream.0.stages.0.args.max_steps=3"], ["evaluation.suites=[]", "evaluation.gates={}"]]
    assert {identity(load("quickstart", each)) for each in same} == {identity(plain)}
    assert len({identity(load("quickstart", each)) for each in other} | {identity(plain)}) == 4


def test_a_recipe_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load("quickstart").seed = 3


def test_rewards_in_short(tmp_path):
    (tmp_path / "mine.py").write_text("def judge(completion, row):\n    return 1.0\n")
    file = tmp_path / "recipe.yaml"
    file.write_text(
        BASE.replace("reward: exact", "reward: [exact, {reward: 'mine:judge', weight: 0.5}]\n    metric: exact")
    )
    reward = load(file).stream[0].reward
    assert reward.kind == "sum" and [part.weight for part in reward.parts] == [1.0, 0.5]
    assert reward.parts[1].reward.path == "mine:judge" and reward.parts[1].reward.folder == tmp_path


def test_a_suite_has_its_mistakes_too(tmp_path):
    file = tmp_path / "suite.yaml"
    file.write_text("name: x\ntasks:\n  - {task: a, data: {source: procedural, name: copy}, rewrd: exact}\n")
    with pytest.raises(RecipeErrors) as caught:
        load_suite(file)
    assert "suite.yaml:3: tasks.0.rewrd: unknown key; did you mean reward?" in str(caught.value)
    task = "  - {task: a, data: {source: procedural, name: copy}, reward: exact}\n"
    file.write_text(f"name: x\ntasks:\n{task}{task}")
    with pytest.raises(RecipeErrors, match=r"suite\.yaml:4: tasks\.1\.task: 'a' is the name of tasks\.0 too"):
        load_suite(file)


def test_the_schema_accepts_the_shipped_recipes():
    """The JSON Schema for editors is a valid schema, and every shipped recipe fits it."""
    jsonschema = pytest.importorskip("jsonschema")
    from ruamel.yaml import YAML

    made = json.loads(json.dumps(schema()))
    jsonschema.Draft202012Validator.check_schema(made)
    for file in sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml")):
        content = json.loads(json.dumps(YAML(typ="safe", pure=True).load(file.read_text())))
        jsonschema.Draft202012Validator(made).validate(content)
    alone, change = json.loads(json.dumps(recipe("rlvr"))), {"extends": "quickstart", "seed": None, "stream": []}
    for right in (alone, change, change | {"stream": [{"reverse": None}, {"task": "sort", "data": {"train": 9}}]}):
        jsonschema.Draft202012Validator(made).validate(right)
    task = alone["stream"][0]
    for wrong in (
        *({"name": "x", "sead": 3}, alone | {"sead": 3}, change | {"sead": 3}, alone | {"stream": [{"task": "sort"}]}),
        alone | {"stream": [task | {"data": {"source": "procedural", "nam": "sort"}}]},
        change | {"stream": [{"task": "sort", "data": {"trian": 9}}]},
        change | {"stream": [{"task": "sort", "stages": [{"kind": "rlv"}]}]},
        {name: value for name, value in alone.items() if name != "model"},
    ):
        assert list(jsonschema.Draft202012Validator(made).iter_errors(wrong)), wrong


def test_overrides_stand_anywhere_on_the_command_line(capsys):
    assert parsed(["check", "quickstart", "a=1", "--full", "b=2"]).overrides == ["a=1", "b=2"]
    assert parsed(["check", "quickstart", "--full", "b=2"]).overrides == ["b=2"]
    for words, strange in [(["check", "q", "--full", "b=2", "c"], "c"), (["report", "run", "a=1"], "a=1")]:
        with pytest.raises(SystemExit) as ended:
            parsed(words)
        assert ended.value.code == 2
        assert f"unrecognized arguments: {strange};" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        ("rnu quickstart", "cpt: unknown command 'rnu'; did you mean run?; `cpt --help`"),
        ("run", "cpt run: the following arguments are required: recipe; `cpt run --help`"),
        ("run quickstart --oot x", "cpt run: unrecognized arguments: --oot x; did you mean --out?; `cpt run"),
        ("merge a b --method tiess --out o", "cpt merge: argument --method: no tiess; did you mean ties?; `cpt merge"),
        ("merge a b --method xyz --out o", "--method: no xyz; there are: linear, soup, "),
        ("merge a b --method wise --weight x --out o", "--weight: invalid float value: 'x'; `cpt merge --help`"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        parsed(words.split())
    complaint = capsys.readouterr().err
    assert ended.value.code == 2 and said in complaint and complaint.count("\n") == 1
