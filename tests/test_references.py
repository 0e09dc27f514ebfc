"""The KL's reference by numbers: all weights or an adapter, from the stage's start, the base or the previous task.

TRL reloads the reference from the path the model came from: over several stages that silently anchors to an older one.
Here the numbers that TRL logs at the first step are compared with ones computed from the saved weights alone.
"""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from cpt import models
from cpt.data import procedural
from cpt.recipe import load
from cpt.rollouts.transformers import TransformersEngine
from cpt.rundir import RunDir
from cpt.screen import QUIET, Screen

BETA = 0.1
ROWS = 8
ADAPTERS = {
    "all weights": "",
    "lora": "adapter: {kind: lora, r: 4, target_modules: all-linear}",
    "pissa": "adapter: {kind: lora, r: 4, target_modules: all-linear, init_lora_weights: pissa_niter_2}",
}


def write_rows(file: Path, split: str) -> Path:
    """Plain rows that serve every stage: prompt, answer, demonstration, and a preference."""
    with file.open("w") as stream:
        for row in procedural.rows("reverse", split, ROWS):
            text = row["prompt"][0]["content"]
            fields = {"prompt": f"{text}=", "answer": row["answer"], "demonstration": row["demonstration"]}
            stream.write(json.dumps(fields | {"chosen": row["answer"], "rejected": row["answer"] + "a"}) + "\n")
    return file


def recipe_text(folder: Path, adapter: str, reference: str) -> str:
    common = (
        "bf16: false, gradient_checkpointing: false, logging_steps: 1, learning_rate: 1e-2, lr_scheduler_type: constant"
    )
    groups = "num_generations: 4, max_completion_length: 8"
    return f"""
name: references
model: {{path: tiny}}
{ADAPTERS[adapter]}
stream:
  - task: reverse
    data:
      source: jsonl
      train: {write_rows(folder / "train.jsonl", "train")}
      eval: {write_rows(folder / "eval.jsonl", "eval")}
    reward: exact
    stages:
      - {{kind: sft, args: {{{common}, max_steps: 3, per_device_train_batch_size: {ROWS}}}}}
      - kind: dpo
        reference: {reference}
        args: {{{common}, max_steps: 2, per_device_train_batch_size: {ROWS}, beta: {BETA}, max_length: 64}}
      - kind: rlvr
        reference: {reference}
        args: {{{common}, max_steps: 1, per_device_train_batch_size: 16, {groups}, beta: {BETA}}}
evaluation: {{max_completion_length: 8}}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_folder):
    """A run for each case: its metrics, the model after its SFT, and the first rollouts with the policy's logprobs."""
    from cpt.loop import run

    made = {}

    def get(adapter: str, reference: str):
        if (adapter, reference) in made:
            return made[adapter, reference]
        folder = tmp_path_factory.mktemp("references")
        (folder / "recipe.yaml").write_text(recipe_text(folder, adapter, reference))
        recipe, first = load(folder / "recipe.yaml"), []
        with pytest.MonkeyPatch.context() as patch:
            commit, generate = RunDir.commit_stage, TransformersEngine.generate

            def commit_and_keep(self, point, name, record):
                commit(self, point, name, record)
                shutil.copytree(self.stage(point, name) / "model", folder / name)

            def generate_and_keep(self, prompts, sampling, on_done=None):
                completions = generate(self, prompts, sampling, on_done)
                if not first and sampling.temperature > 0:  # evaluation is greedy
                    ids = [completion.token_ids for completion in completions]
                    first.append((prompts, ids, [each.logprobs for each in self.score(prompts, ids)]))
                return completions

            patch.setattr(RunDir, "commit_stage", commit_and_keep)
            patch.setattr(TransformersEngine, "generate", generate_and_keep)
            run(recipe, folder / "run", Screen(QUIET))
        lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        by_stage = {name: [line for line in lines if line["stage"] == name] for name in ("0-sft", "1-dpo", "2-rlvr")}
        made[adapter, reference] = (folder, recipe, by_stage, first[0])
        return made[adapter, reference]

    return get


def logprobs(folder: Path, recipe, run: Path, prompts: list[list[int]], completions: list[list[int]]) -> list[float]:
    """The log-probability of each completion, one forward pass a row: no batching, no padding, no code of ours."""
    base = run / "points" / "00-base" / "model"
    model = models.load_policy(folder, base, recipe, trainable=False).eval()
    found = []
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = torch.tensor([prompt + completion])
        with torch.no_grad():
            logps = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        picked = logps.gather(-1, ids[0, 1:, None]).squeeze(-1)
        found.append(picked[len(prompt) - 1 :])
    return found


CASES = [(adapter, reference) for adapter in ADAPTERS for reference in ("stage-start", "base")]


@pytest.mark.parametrize("adapter, reference", CASES)
def test_dpo_measures_from_its_reference(runs, adapter, reference):
    folder, recipe, metrics, _ = runs(adapter, reference)
    first = metrics["1-dpo"][0]
    tokenizer = models.load_tokenizer(folder / "0-sft", recipe)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    prompts = [tokenizer(row["prompt"])["input_ids"] for row in rows]
    expected = {}
    for name in ("chosen", "rejected"):
        completions = [tokenizer(row[name] + tokenizer.eos_token)["input_ids"] for row in rows]
        start = logprobs(folder / "0-sft", recipe, folder / "run", prompts, completions)
        base_folder = folder / "run" / "points" / "00-base" / "model"
        compared = folder / "0-sft" if reference == "stage-start" else base_folder
        against = logprobs(compared, recipe, folder / "run", prompts, completions)
        expected[name] = [BETA * (a - b).sum().item() for a, b in zip(start, against, strict=True)]
        assert first[f"rewards/{name}"] == pytest.approx(sum(expected[name]) / ROWS, abs=1e-4)
    margins = [a - b for a, b in zip(expected["chosen"], expected["rejected"], strict=True)]
    assert first["loss"] == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / ROWS, abs=1e-4)
    if reference == "stage-start":
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    else:
        assert max(map(abs, expected["chosen"])) > 0.05, "SFT moved nothing: the two references cannot be told apart"


@pytest.mark.parametrize("adapter, reference", CASES)
def test_grpo_measures_from_its_reference(runs, adapter, reference):
    folder, recipe, metrics, (prompts, completions, policy) = runs(adapter, reference)
    base_folder = folder / "run" / "points" / "00-base" / "model"
    compared = folder / "1-dpo" if reference == "stage-start" else base_folder
    against = logprobs(compared, recipe, folder / "run", prompts, completions)
    gaps = torch.cat([ref - torch.tensor(mine).double() for ref, mine in zip(against, policy, strict=True)])
    expected = (gaps.exp() - gaps - 1).mean().item()  # the k3 estimator
    assert metrics["2-rlvr"][0]["kl"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert expected < 1e-6 if reference == "stage-start" else expected > 1e-2


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_point_loads_without_cpt(runs, adapter):
    """Any folder of a point loads with from_pretrained (or PEFT), tokenizer inside, and its config is the base's."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder, _, _, _ = runs(adapter, "stage-start")
    point = folder / "run" / "final"
    kind = AutoModelForCausalLM if adapter == "all weights" else AutoPeftModelForCausalLM
    model = kind.from_pretrained(point)
    assert AutoTokenizer.from_pretrained(point).chat_template
    names = [name for name in model.state_dict() if ".ref." in name]
    assert not names, "TRL's copy of the adapter was saved"
    if adapter == "all weights":
        base, mine = (AutoConfig.from_pretrained(p) for p in (folder / "run" / "points" / "00-base" / "model", point))
        assert mine.use_cache == base.use_cache
        assert mine.to_diff_dict() == base.to_diff_dict()


# -- previous-task -------------------------------------------------------------------------------------------------------


def previous_task_recipe(folder: Path, adapter: str) -> Path:
    """Two tasks of SFT and RLVR; the KL of both RLVR stages is measured from the point before the task."""
    common = "bf16: false, gradient_checkpointing: false, logging_steps: 1, learning_rate: 1e-2"
    sft = f"{{kind: sft, args: {{{common}, max_steps: 3, per_device_train_batch_size: {ROWS}}}}}"
    groups = "per_device_train_batch_size: 16, num_generations: 4, max_completion_length: 8"
    rlvr = f"{{kind: rlvr, reference: previous-task, args: {{{common}, max_steps: 1, {groups}, beta: {BETA}}}}}"
    data = f"{{source: jsonl, train: {write_rows(folder / 'train.jsonl', 'train')}, eval: 2}}"
    text = "name: previous\nmodel: {path: tiny}\nevaluation: {max_completion_length: 8}\n"
    text += f"{ADAPTERS[adapter]}\n"
    text += "stream:\n"
    for name in ("one", "two"):
        text += f"  - {{task: {name}, data: {data}, reward: exact, stages: [{sft}, {rlvr}]}}\n"
    (folder / "recipe.yaml").write_text(text)
    return folder / "recipe.yaml"


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_grpo_measures_from_the_previous_task(adapter, tmp_path, tiny_folder, monkeypatch):
    from cpt.loop import run

    recipe, drawn = load(previous_task_recipe(tmp_path, adapter)), []
    generate = TransformersEngine.generate

    def generate_and_keep(self, prompts, sampling, on_done=None):
        completions = generate(self, prompts, sampling, on_done)
        if sampling.temperature > 0:  # evaluation is greedy
            ids = [completion.token_ids for completion in completions]
            drawn.append((prompts, ids, [each.logprobs for each in self.score(prompts, ids)]))
        return completions

    monkeypatch.setattr(TransformersEngine, "generate", generate_and_keep)
    run(recipe, tmp_path / "run", Screen(QUIET))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    told = [line["kl"] for line in lines if line["stage"] == "1-rlvr"]
    assert len(told) == len(drawn) == 2
    for point, kl, (prompts, completions, policy) in zip(("00-base", "01-one"), told, drawn, strict=True):
        compared = tmp_path / "run" / "points" / point / "model"
        against = logprobs(compared, recipe, tmp_path / "run", prompts, completions)
        gaps = torch.cat([ref - torch.tensor(mine).double() for ref, mine in zip(against, policy, strict=True)])
        expected = (gaps.exp() - gaps - 1).mean().item()
        assert kl == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert expected > 1e-3, "the SFT moved nothing: the references cannot be told apart"
