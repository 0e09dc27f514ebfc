"""Recipes with values of a wrong kind or size, and YAML that no reader takes: always one line with its place."""

import os
import time

import pytest

from cpt.errors import RecipeErrors
from cpt.recipe import dump, load, load_suite
from cpt.recipe.yaml_reader import parse
from helpers.recipe_text import BASE, changed, problems
from helpers.recipes import write_recipe

WRONG = {
    "a kind that is a list": (
        changed("kind: rlvr", "kind: [rlvr]"),
        "recipe.yaml:8: stream.0.stages.0: no kind \"['rlvr']\"; did you mean rlvr?",
    ),
    "a kind that is a map": (changed("kind: rlvr", "kind: {a: b}"), "recipe.yaml:8: stream.0.stages.0: no kind"),
    "a group that is null": (
        changed("max_steps: 3", "num_generations: null"),
        "recipe.yaml:9: stream.0.stages.0.args.num_generations: must be a number, not null",
    ),
    "no accumulation": (
        changed("max_steps: 3", "gradient_accumulation_steps: 0"),
        "recipe.yaml:9: stream.0.stages.0.args.gradient_accumulation_steps: (0) must be at least 1",
    ),
    "no batch": (
        changed("max_steps: 3", "per_device_train_batch_size: 0"),
        "recipe.yaml:9: stream.0.stages.0.args.per_device_train_batch_size: (0) must be at least 1",
    ),
    "words that generation does not know": (
        changed("max_steps: 3", "generation_kwargs: {nonsense: 1}"),
        "recipe.yaml:9: stream.0.stages.0.args.generation_kwargs: transformers' GenerationConfig has no nonsense",
    ),
    "a length of answers in two places": (
        changed("max_steps: 3", "generation_kwargs: {max_new_tokens: 3}"),
        "recipe.yaml:9: stream.0.stages.0.args.generation_kwargs: max_new_tokens is not supported: set",
    ),
    "a search of beams": (
        changed("max_steps: 3", "generation_kwargs: {num_beams: 4}"),
        "recipe.yaml:9: stream.0.stages.0.args.generation_kwargs: num_beams is not supported: each rollout is sampled",
    ),
    "a package that is not installed": (
        changed("max_steps: 3", "use_liger_kernel: true"),
        "recipe.yaml:9: stream.0.stages.0.args.use_liger_kernel: needs the package liger-kernel",
    ),
    "a number that 64 bits make 0": (
        changed("max_steps: 3", "learning_rate: 1e-400"),
        "recipe.yaml:9: stream.0.stages.0.args.learning_rate: (1e-400) is too near to 0",
    ),
    "a way of packing that TRL does not have": (
        BASE + "defaults: {sft: {args: {packing_strategy: foo}}}\n",
        "recipe.yaml:10: defaults.sft.args.packing_strategy: must be one of bfd, bfd_split, wrapped, not 'foo'",
    ),
    "an end that is none": (
        BASE + "defaults: {sft: {args: {truncation_mode: middle}}}\n",
        "recipe.yaml:10: defaults.sft.args.truncation_mode: must be one of keep_start, keep_end, not 'middle'",
    ),
    "a weight beyond all use": (
        changed("max_steps: 3", "reward_weights: [1e30]"),
        "recipe.yaml:9: stream.0.stages.0.args.reward_weights: (1e+30) must be at most 2,147,483,647",
    ),
    "parts of a reward that weigh nothing": (
        changed("reward: exact", "metric: exact\n    reward: [{reward: exact, weight: 0}]"),
        "reward.parts: has only parts of weight 0, so nothing would be learnt: give one of them another weight",
    ),
    "a field of an adapter that the run decides": (
        BASE + "adapter: {kind: lora, inference_mode: true}\n",
        "recipe.yaml:10: adapter.inference_mode: is not supported",
    ),
    "a mistake in the defaults of a kind that no stage has": (
        BASE + "defaults: {sft: {args: {learning_rat: 1}}}\n",
        "recipe.yaml:10: defaults.sft.args.learning_rat: SFTConfig has no such argument; did you mean learning_rate?",
    ),
    "a misspelt key of defaults": (
        BASE + "defaults: {sft: {argz: {max_steps: 1}}}\n",
        "recipe.yaml:10: defaults.sft.argz: unknown key; did you mean args?",
    ),
    "defaults of the wrong type": (
        BASE + "defaults: {rlvr: {args: [x]}}\n",
        "recipe.yaml:10: defaults.rlvr.args: must be a map, not ['x']",
    ),
    "a mistake in defaults that a stage takes over": (
        BASE + "defaults: {rlvr: {args: {learning_rat: 1}}}\n",
        "recipe.yaml:10: defaults.rlvr.args.learning_rat: GRPOConfig has no such argument",
    ),
    "a limit that is no number": (
        BASE + "evaluation: {gates: {learning_accuracy: .nan}}\n",
        "recipe.yaml:10: evaluation.gates.learning_accuracy: must be a finite number, not .nan",
    ),
    "a limit in percent": (
        BASE + "evaluation: {gates: {learning_accuracy: 93}}\n",
        "recipe.yaml:10: evaluation.gates.learning_accuracy: input should be less than or equal to 1, not 93",
    ),
    "a limit in words": (
        BASE + "evaluation: {gates: {learning_accuracy: x}}\n",
        "recipe.yaml:10: evaluation.gates.learning_accuracy: must be a number, or a map with `limit`, not 'x'",
    ),
    "a reward that is a number": (
        changed("reward: exact", "reward: 3"),
        "recipe.yaml:6: stream.0.reward: must be a reward's name, module:function, a list of these, or a map, not 3",
    ),
    "a file or a number": (
        changed("{source: procedural, name: reverse}", "{source: jsonl, train: a.jsonl, eval: true}"),
        "recipe.yaml:5: stream.0.data.eval: must be a string or an integer, not True",
    ),
    "an adapter of no kind": (
        BASE + "adapter: {kind: null}\n",
        "recipe.yaml:10: adapter.kind: must be a string, not None",
    ),
    "an adapter of rank 0": (
        BASE + "adapter: {kind: lora, r: 0}\n",
        "recipe.yaml:10: adapter.r: (0) must be at least 1",
    ),
    "a control character": (
        BASE + "description: 'a\x00b'\n",
        "recipe.yaml:10: not valid YAML: the control character '\\x00' is not allowed here",
    ),
    "a date where a number belongs": (BASE + "seed: 2026-13-45\n", "seed: must be an integer, not '2026-13-45'"),
    "a value that holds itself": (
        BASE + "description: &x [*x]\n",
        "recipe.yaml:10: description.0.0: nested more than 40 deep, or a value that holds itself",
    ),
    "five thousand brackets": (
        BASE + f"description: {'[' * 5000}{']' * 5000}\n",
        "recipe.yaml:10: nested more than 40 deep",
    ),
    "a key that is null": (BASE + "null: 1\n", "recipe.yaml:10: None: unknown key"),
    "half of a surrogate pair": (BASE + 'description: "\\ud800"\n', "holds what no file can"),
    "defaults that are a list": (BASE + "defaults: [rlvr]\n", "recipe.yaml:10: defaults: must be a map of stage kinds"),
    "a seed that torch cannot take": (
        changed("{path: tiny}", "{path: tiny, seed: 9223372036854775808}"),
        "recipe.yaml:2: model.seed: (9223372036854775808) is beyond 64 bits",
    ),
    "a module's name that is none": (
        changed("reward: exact", "reward: '.:judge'\n    metric: exact"),
        "recipe.yaml:6: stream.0.reward.path: '.:judge' has characters that cannot be used here",
    ),
    "a home that is nobody's": (
        "extends: ~nobody-of-that-name/r.yaml\n" + BASE,
        "recipe.yaml:1: extends: ~nobody-of-that-name/r.yaml: no such file",
    ),
    "a name too long for a file": (f"extends: {'a' * 300}\n" + BASE, "recipe.yaml:1: extends: aaa"),
    "the root as base": ("extends: /\n" + BASE, "recipe.yaml:1: extends: /: is a folder: give a .yaml file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_one_line(name, tmp_path):
    text, message = WRONG[name]
    (found,) = problems(text, tmp_path)
    assert message in found


@pytest.mark.parametrize("args", ["{beta: null}", "{beta: null, temperature: null}", "null"])
def test_one_of_ours_taken_out_is_stored_as_what_holds(args, tmp_path):
    """Where null deletes one of our defaults, TRL's default is written down: what is stored repeats the run."""
    from cpt.recipe.stages import Rlvr

    file = tmp_path / "recipe.yaml"
    file.write_text(changed("args: {max_steps: 3}", f"args: {args}"))
    recipe = load(file)
    assert recipe.stream[0].stages[0].args["beta"] == Rlvr.arguments()["beta"].default
    assert load(write_recipe(tmp_path / "again.yaml", dump(recipe))) == recipe


def test_an_unknown_suite_is_told_beside_other_mistakes(tmp_path):
    found = problems(BASE + "sed: 3\nevaluation: {suites: [generl, probe]}\n", tmp_path)
    assert len(found) == 2 and "recipe.yaml:11: evaluation.suites.0: generl: no suite of that name" in found[1], found


def bomb(levels: int) -> str:
    """YAML in which each line holds the one before it nine times."""
    lines = ["description: x", "a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(9), "with its aliases it holds more than 30,000 values"),
        (bomb(40), "with its aliases it holds more than 30,000 values"),
        (
            "a: &a {x: 1}\nb: &b {<<: [*a, *a, *a]}\n" + "c: {<<: [*b, 3]}\n",
            "recipe.yaml:3: c.<<: a merge key takes a map",
        ),
        ("x" * 100_001, "holds a line of 100,001 characters; a recipe has at most 500,000, and 100,000 in a line"),
        ("- x\n" * 130_000, "holds 520,000 characters"),
        ("[" * 90_000, "recipe.yaml:1: nested more than 40 deep"),
        (f"seed: {'9' * 500}\n", "recipe.yaml:1: seed: (9999999999999999999999999999999999999...) is beyond 64 bits"),
        (f"seed: 0x{'F' * 5000}\n", "recipe.yaml:1: seed: (0xFFF"),
        (f"seed: {'9' * 5000}\n", "recipe.yaml:1: seed: "),
        ("seed: -.inf\n", "recipe.yaml:1: seed: must be a finite number, not -.inf"),
        ("a: !!binary aGk=\n", "recipe.yaml:1: a: the tag 'tag:yaml.org,2002:binary' has no meaning here: remove it"),
        ("a: !!python/object:os.system x\n", "recipe.yaml:1: a: the tag"),
        ("a: !!set {x}\n", "recipe.yaml:1: a: the tag"),
        ("a: !!int ''\n", "recipe.yaml:1: a: '' is not of the type int"),
        ("a: !!bool maybe\n", "recipe.yaml:1: a: 'maybe' is not of the type bool"),
        ("? [a]\n: 1\n", "a key must be a word, not a map or a list"),
        ('1: a\n"1": b\n', "recipe.yaml:2: 1: this key appears twice; keep one"),
    ],
)
def test_a_document_that_no_recipe_is(text, message, tmp_path):
    """Refused at once, in one line, whatever it would unfold to."""
    start = time.monotonic()
    (found,) = problems(text, tmp_path)
    assert message in found and time.monotonic() - start < 5


def test_merge_keys_and_anchors_that_are_given_anew(tmp_path):
    """The map's own keys win over merged ones, and an earlier merged map over a later; dates are text."""
    root = parse("a: &a {x: 1, y: 1}\nb: &a {y: 2, z: 2}\nc: {x: 3, <<: [*a, {w: 4, z: 4}]}\nd: 2026-01-02\n", "file")
    assert root.at(["c"]).plain() == {"x": 3, "y": 2, "z": 2, "w": 4} and root.at(["d"]).plain() == "2026-01-02"
    assert (root.at(["c", "x"]).line, root.at(["c", "z"]).line) == (3, 2)


def test_long_values_are_not_echoed_whole(tmp_path):
    for text in (
        changed("max_steps: 3", f"max_steps: {'x' * 90_000}"),
        changed("task: reverse", f"task: {'?' * 90_000}"),
        changed("reward: exact", f"reward: {'x' * 90_000}"),
        changed("kind: rlvr", f"kind: {'x' * 90_000}"),
        BASE + f"{'x' * 900}: 1\n",
        BASE + f"adapter: {{kind: {'x' * 90_000}}}\n",
        BASE + f"evaluation: {{suites: [{'x' * 90_000}]}}\n",
        BASE + f"strategies: {['x' * 90_000]}\n",
        BASE + f"strategies: {[1] * 20_000}\n",
        f"extends: {'x' * 90_000}\n" + BASE,
    ):
        (tmp_path / "recipe.yaml").write_text(text)
        with pytest.raises(RecipeErrors) as caught:
            load(tmp_path / "recipe.yaml")
        lines = str(caught.value).splitlines()
        assert all(len(line) < 2000 for line in lines) and len(lines) <= 101, [len(line) for line in lines]


def test_a_problem_is_one_line_of_what_can_be_printed(tmp_path):
    (found,) = problems(BASE + '"a\\n\\e[31mb": 1\n', tmp_path)
    assert "a\\n\\x1b[31mb: unknown key" in found


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda place: place.mkdir(), "is a folder: give a .yaml file"),
        (os.mkfifo, "is not a regular file (a pipe, a socket or a device): give a .yaml file"),
        (lambda place: place.symlink_to("/dev/zero"), "is not a regular file"),
        (lambda place: place.symlink_to("gone"), "is a link to a file that is not there"),
        (lambda place: place.write_bytes(b"name: a\n\xff\xfe"), "recipe.yaml:2: is not UTF-8 text"),
        (lambda place: place.write_text("name: a", encoding="utf-16"), "recipe.yaml:1: is not UTF-8 text"),
        (lambda place: place.write_bytes(b"\x7fELF\0\0"), "control character '\\x7f' is not allowed here"),
        (lambda place: place.write_text(""), "recipe.yaml: must be a map of keys to values"),
        (lambda place: place.write_text("\n# only this\n"), "recipe.yaml: must be a map of keys to values"),
        (lambda place: os.truncate(place.open("w").name, 2**40), "holds 2,000,001 characters"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_yaml(make, message, tmp_path):
    """Also as a base and as a suite; nothing is waited for or read without end."""
    place, start = tmp_path / "recipe.yaml", time.monotonic()
    make(place)
    other = tmp_path / "other.yaml"
    other.write_text(f"extends: {place}\n")
    for loading in (lambda: load(place), lambda: load(other), lambda: load_suite(place)):
        with pytest.raises(RecipeErrors) as caught:
            loading()
        assert message in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - start < 5


def test_a_file_with_a_byte_order_mark(tmp_path):
    (tmp_path / "recipe.yaml").write_text(BASE, encoding="utf-8-sig")
    assert load(tmp_path / "recipe.yaml").name == "mine"


def test_the_folder_of_a_run_is_no_recipe(tmp_path, monkeypatch):
    (tmp_path / "runs/mine-s0/points/00-base").mkdir(parents=True)
    (tmp_path / "runs/mine-s0/recipe.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    for name in ("runs/mine-s0", "runs/mine-s0/points/00-base"):
        with pytest.raises(RecipeErrors, match=r"folder of a run: give its recipe, .*runs/mine-s0/recipe\.yaml"):
            load(name)
    with pytest.raises(RecipeErrors, match=r"runs: is a folder: give a \.yaml file"):
        load("runs")


def test_recipes_that_extend_one_another_without_end(tmp_path):
    for number in range(1500):
        (tmp_path / f"r{number}.yaml").write_text(f"extends: r{number + 1}.yaml\n")
    with pytest.raises(RecipeErrors, match="extends: is a chain of more than 20 files"):
        load(tmp_path / "r0.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"seed={'9' * 5000}", "command line: seed: (999"),
        (f"seed={'[' * 5000}", "command line: seed: nested more than 40 deep"),
        (f"description={'x' * 90_000}: : x", "command line: description: the value 'xxx"),
        (f"{'a.' * 9000}b=1", "has 9001 steps, and no recipe is nested more than 40 deep"),
        (f"{'a' * 90_000}=1", "unknown key"),
        ("a" * 90_000, "must be KEY=VALUE"),
        ("seed={a: 1, a: 2}", "command line: seed.a: this key appears twice; keep one"),
        ("model.seed=.nan", "command line: model.seed: must be a finite number, not .nan"),
    ],
)
def test_overrides_that_no_recipe_has(override, message, tmp_path):
    (found,) = problems(BASE, tmp_path, override)
    assert message in found and len(found) < 2000
