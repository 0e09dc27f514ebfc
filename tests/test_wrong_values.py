"""Recipes with values of a wrong kind or size, and YAML that no reader takes: always one line with its place."""

import pytest
from fakes import write_recipe
from test_recipe import BASE, changed, problems

from cpt.recipe import dump, load

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
        "recipe.yaml:10: evaluation.gates.learning_accuracy: input should be a finite number, not nan",
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
        "recipe.yaml:10: not valid YAML: the control character '\\x00' cannot stand here",
    ),
    "a date that is none": (BASE + "description: 2026-13-45\n", "recipe.yaml: not valid YAML: month must be in 1..12"),
    "a value that holds itself": (BASE + "description: &x [*x]\n", "nested too deeply, or a value that holds itself"),
    "five thousand brackets": (BASE + f"description: {'[' * 5000}{']' * 5000}\n", "nested too deeply"),
    "a key that is null": (BASE + "null: 1\n", "recipe.yaml:10: None: unknown key"),
    "half of a surrogate pair": (BASE + 'description: "\\ud800"\n', "holds what no file can"),
    "defaults that are a list": (BASE + "defaults: [rlvr]\n", "recipe.yaml:10: defaults: must be a map of stage kinds"),
    "a seed that torch cannot take": (
        changed("{path: tiny}", "{path: tiny, seed: 9223372036854775808}"),
        "recipe.yaml:2: model.seed: input should be less than",
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
    "the root as base": ("extends: /\n" + BASE, "recipe.yaml:1: extends: /: no recipe of that name"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_one_line(name, tmp_path):
    text, message = WRONG[name]
    (found,) = problems(text, tmp_path)
    assert message in found


@pytest.mark.parametrize("args", ["{beta: null}", "{beta: null, temperature: null}", "null"])
def test_one_of_ours_taken_out_is_stored_as_what_holds(args, tmp_path):
    """Where null deletes one of STAGE_DEFAULTS, TRL's default is written down: what is stored repeats the run."""
    from cpt.stages.arguments import arguments

    file = tmp_path / "recipe.yaml"
    file.write_text(changed("args: {max_steps: 3}", f"args: {args}"))
    recipe = load(file)
    assert recipe.stream[0].stages[0].args["beta"] == arguments("rlvr")["beta"].default
    assert load(write_recipe(tmp_path / "again.yaml", dump(recipe))) == recipe


def test_an_unknown_suite_is_told_beside_other_mistakes(tmp_path):
    found = problems(BASE + "sed: 3\nevaluation: {suites: [generl, probe]}\n", tmp_path)
    assert len(found) == 2 and "recipe.yaml:11: evaluation.suites.0: generl: no suite of that name" in found[1], found
