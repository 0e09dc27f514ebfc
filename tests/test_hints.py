"""What people who come from other tools write is answered with what it is called here."""

import pytest

from cpt.cli.main import parsed
from cpt.recipe import Evaluation, Model, Recipe, Suite, Task
from cpt.recipe.config_fields import class_fields
from cpt.recipe.hints import PLACES, instead
from cpt.recipe.rewards import Reward
from cpt.recipe.stages import KINDS, STAGE_MODELS, Rlvr
from cpt.recipe.trl_arguments import adapter_kinds
from cpt.recipe.vllm_arguments import OURS
from helpers.recipe_text import BASE, changed, problems

KNOWN = {
    "Recipe": Recipe.model_fields,
    "Task": Task.model_fields,
    "SuiteTask": Task.model_fields,
    "Suite": Suite.model_fields,
    "Model": Model.model_fields,
    "Evaluation": Evaluation.model_fields,
    "kind of stage": KINDS,
    "stage": [*Rlvr.model_fields, "teacher"],
    "args": {name for spec in STAGE_MODELS for name in spec.arguments()},
    "adapter": ["kind", *class_fields(*adapter_kinds()["lora"])],
    "rollouts": [*OURS["server"], *OURS["transformers"], *class_fields("vllm", "engine/arg_utils.py", "EngineArgs")],
    "engine": OURS,
    "kind of strategy": ["stochastic-restore"],
}


@pytest.mark.parametrize("place", KNOWN)
def test_what_is_suggested_is_there(place):
    """An entry of one word is a key of its place."""
    known = [*KNOWN[place], *(["system"] if "Task" in place else [])]  # `system` comes with section 2
    assert {each for each in PLACES[place].values() if " " not in each} <= set(known)


def test_kinds_of_rewards_and_sources_are_there():
    from typing import get_args

    kinds = {get_args(each.model_fields["kind"].annotation)[0] for each in get_args(get_args(Reward)[0])}
    assert set(PLACES["kind of reward"].values()) <= kinds
    data = get_args(get_args(Task.model_fields["data"].annotation)[0] or Task.model_fields["data"].annotation)
    sources = data or get_args(Task.model_fields["data"].annotation)
    assert {name for each in sources for name in each.model_fields} >= set(
        each for each in PLACES["data"].values() if " " not in each
    )
    assert {get_args(each.model_fields["source"].annotation)[0] for each in sources} >= set(PLACES["source"].values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed("max_steps: 3", "lr: 1e-5"), "args.lr: GRPOConfig has no such argument; did you mean learning_rate?"),
        (changed("max_steps: 3", "kl-coef: 1"), "args.kl-coef: GRPOConfig has no such argument; did you mean beta?"),
        (changed("max_steps: 3", "max_seq_length: 1"), "args.max_seq_length: GRPOConfig has no such argument"),
        (changed("max_steps: 3", "max_prompt_length: 1"), "no prompt is cut: shorten or drop long rows"),
        (changed("kind: rlvr", "kind: GRPO"), "no kind 'GRPO'; did you mean rlvr?"),
        (changed("kind: rlvr", "kind: orpo"), "no kind 'orpo'; did you mean dpo?"),
        (changed("kind: rlvr", "kind: luffy"), "no kind 'luffy'; write `kind: hybrid, method: luffy`"),
        (changed("kind: rlvr", "type: grpo"), "stream.0.stages.0: kind is missing (not `type`): one of sft, dpo,"),
        (changed("kind: rlvr", "kind: rlvr\n        lr: 1"), "lr: unknown key; write `args: {learning_rate: ...}`"),
        (BASE + "lr: 1\n", "lr: unknown key; write it under `args` of a stage, or `defaults: {sft: {args: {learning_rate:"),
        (BASE + "dataset: x\n", "dataset: unknown key; name it in a task: `stream: [{task: mine, data: {source: file,"),
        (BASE + "model_name_or_path: x\n", "unknown key; write `model: {path: ...}`"),
        (BASE + "defaults: {grpo: {args: {}}}\n", "defaults.grpo: no such kind of stage; did you mean rlvr?"),
        (BASE + "adapter: {kind: lora, rank: 3}\n", "adapter.rank: LoraConfig has no such field; did you mean r?"),
        (BASE + "rollouts: {engine: hf}\n", "rollouts: no engine 'hf'; did you mean transformers?"),
        (BASE + "strategies: [{kind: ties}]\n", "strategies.0: no kind 'ties'; write `kind: merge, method: ...`"),
        (BASE + "evaluation: {benchmarks: [x]}\n", "evaluation.benchmarks: unknown key; did you mean suites?"),
        (changed("reward: exact", "reward: exact_match"), "reward: no kind 'exact_match'; did you mean exact?"),
        (changed("source: procedural", "source: hf"), "data: no source 'hf'; did you mean hub?"),
        (changed("procedural, name", "procedural, skill: x, name"), "data.skill: unknown key; did you mean name?"),
        (changed("task: reverse", "task: reverse\n    dataset: x"), "dataset: unknown key; did you mean data?"),
        (changed("path: tiny", "path: tiny, torch_dtype: x"), "model.torch_dtype: unknown key; did you mean dtype?"),
    ],
)  # fmt: skip
def test_words_of_other_tools(text, message, tmp_path):
    assert any(message in line for line in problems(text, tmp_path)), problems(text, tmp_path)


def test_a_word_that_nobody_uses_is_answered_with_all_that_there_are():
    assert instead("Model", "zzz", ["path", "seed"]) == "; there are: path, seed"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--seed 3", "--seed 3; write seed=3;"),
        ("--seed=3", "--seed=3; write seed=3;"),
        ("--learning-rate 1e-5", "write stream.0.stages.0.args.learning_rate=1e-5;"),
        ("--epochs 2", "write stream.0.stages.0.args.num_train_epochs=2;"),
        ("--output_dir x", "did you mean --out?"),
        ("--model x", "write model.path=..."),
        ("--resume", "the same command resumes by itself: leave it out"),
        ("--dry-run", "write `cpt check` instead of `cpt run`"),
        ("--config mine.yaml", "give the recipe without a flag: cpt run my.yaml"),
        ("--num_processes 2", "start it with `accelerate launch"),
        ("--wandb", "curves are in metrics.jsonl"),
    ],
)
def test_flags_of_other_tools(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(["run", "quickstart", *words.split()])
    complaint = capsys.readouterr().err
    assert ended.value.code == 2 and said in complaint and complaint.count("\n") == 1
