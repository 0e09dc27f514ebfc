"""Batches: made of the prompts' lengths alone, so one model gives one answer to a question whatever else is asked."""

import json
from types import SimpleNamespace

import pytest

from cpt.checks import plan
from cpt.rollouts.batches import Limits, batches
from cpt.rollouts.memory import batch_text, cache_bytes, logit_bytes
from helpers.recipes import recipe, write_recipe

PROMPTS, TOKENS = 5, 90  # several batches of each task


def test_batches_of_at_most_so_many_prompts_and_tokens():
    assert batches([3, 1, 2], 10, Limits(2)) == [[0, 2], [1]]
    assert batches([10, 30, 20, 10, 10], 10, Limits(99, 60)) == [[1], [2, 0], [3, 4]]
    assert batches([100, 5], 10, Limits(99, 60)) == [[0], [1]], "one that is too long by itself is asked by itself"
    assert batches([], 10, Limits(2)) == []
    assert batches([7, 7, 7, 7], 1, Limits(99, 17)) == [[0, 1], [2, 3]], "neighbours of one length stay neighbours"


def test_the_plan_says_the_memory_of_a_batch(tmp_path):
    from cpt.recipe import load

    quickstart = load("quickstart")
    assert batch_text(quickstart, plan.config_of(quickstart)) == (
        "transformers, batches of up to 256 prompts and 16,384 tokens (25.3 MB of KV cache and logits)"
    )
    real = load("qwen3-0.6b-stream")
    config = {"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    assert batch_text(real, config | {"hidden_size": 1024, "vocab_size": 151_936}).endswith(
        "(7.57 GB of KV cache and logits)"
    )
    for strange in ("", "[]", "{", '{"text_config": 3}', '{"num_hidden_layers": "2", "n_head": 4, "n_embd": 8}'):
        (tmp_path / "config.json").write_text(strange)
        there = load("quickstart", [f"model.path={tmp_path}", "model.dtype=auto"])
        assert batch_text(there, plan.config_of(there)).endswith("16,384 tokens")


def test_the_memory_of_a_token_and_of_logits():
    llama = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}
    assert cache_bytes(llama, 4) == 2 * 30 * 3 * 64 * 4
    assert cache_bytes({"n_layer": 2, "n_head": 4, "n_embd": 32}, 2) == 2 * 2 * 32 * 2
    assert cache_bytes({"text_config": llama | {"head_dim": 128}, "vision_config": {}}, 2) == 2 * 30 * 3 * 128 * 2
    assert cache_bytes({"model_type": "mamba"}, 4) is None and logit_bytes({}, 4) is None
    assert logit_bytes(llama | {"vocab_size": 1000}, 2) == 6000


@pytest.fixture
def ask(tiny_folder, tmp_path, monkeypatch):
    """{(suite, task, row, mode, sample): (completion, the padded ids of its batch)} of an evaluation in bfloat16."""
    from cpt import ranks
    from cpt import recipe as recipes
    from cpt.data.stream import load_stream
    from cpt.evaluation import evaluate as evaluation
    from cpt.evaluation.suites import rows as asked_rows
    from cpt.rewards import Scorers
    from cpt.rollouts.transformers import TransformersEngine
    from cpt.screen import QUIET, Screen

    def asked(*tasks: str, world: int = 1, suite: dict | None = None) -> dict:
        content = recipe("sft", tasks=tasks, evaluate=17) | {"model": {"path": "tiny", "dtype": "bfloat16"}}
        content["evaluation"]["sampled"] = {"k": [2], "samples": 3}
        if suite is not None:
            content["evaluation"]["suites"] = [str(write_recipe(tmp_path / "suite.yaml", suite))]
        spec = recipes.load(write_recipe(tmp_path / "recipe.yaml", content))
        stream = load_stream(spec, recipes.suites_of(spec))
        found, seen = {}, []
        batch, generate = TransformersEngine._batch, TransformersEngine.generate

        def note_batch(self, prompts, config, watch, stop):
            seen.append((config.do_sample, tuple(map(tuple, prompts))))
            return batch(self, prompts, config, watch, stop)

        def note_answers(self, prompts, *more):
            made = generate(self, prompts, *more)
            assert len(seen) == bool(prompts), "what the engine is asked for at once is one batch"
            found["batches"] = found.get("batches", []) + [(each, seen[0]) for each in made]
            seen.clear()
            return made

        def judged(questions, texts, finished, scorers):
            lines = score_answers(questions, texts, finished, scorers)
            for line, (_, its_batch) in zip(lines, found.pop("batches", []), strict=True):
                key = line["suite"], line["task"], line["row"], line["mode"], line["sample"]
                found[key] = line["completion"], its_batch
            return lines

        score_answers = asked_rows.score_answers
        with monkeypatch.context() as patch, Scorers() as scorers:
            patch.setattr(TransformersEngine, "_batch", note_batch)
            patch.setattr(TransformersEngine, "generate", note_answers)
            patch.setattr(asked_rows, "score_answers", judged)
            patch.setattr(ranks, "gather", list)
            patch.setattr(ranks, "world_size", lambda: world)
            for rank in range(world):
                patch.setattr(ranks, "state", lambda rank=rank: SimpleNamespace(process_index=rank, device="cpu"))
                evaluation.evaluate(
                    tiny_folder,
                    tiny_folder,
                    spec,
                    stream,
                    engine=TransformersEngine(PROMPTS, TOKENS),
                    scorers=scorers,
                    screen=Screen(QUIET),
                    stop=SimpleNamespace(check=lambda: None),
                    label="",
                )
        return found

    return asked


def test_what_else_is_asked_and_in_how_many_processes_changes_no_answer(ask):
    alone = ask("reverse")
    both = ask("caesar", "reverse", suite=SUITE)
    assert alone == {key: value for key, value in both.items() if key[:2] == (None, "reverse")}
    assert len({its_batch for _, its_batch in alone.values()}) > 10, "there is nothing to spread"
    for world in (2, 7):
        assert ask("caesar", "reverse", world=world, suite=SUITE) == both
    held_out = {key[2:]: value for key, value in both.items() if key[0] == "held"}
    assert held_out == {key[2:]: value for key, value in alone.items() if key[3] == "greedy"}
    assert len({completion for key, (completion, _) in both.items() if key[3] == "sampled"}) > 17


REVERSE = {"source": "procedural", "name": "reverse", "eval": 17}
SUITE = {
    "name": "held",
    "tasks": [{"task": "reverse", "data": REVERSE, "reward": "exact", "max_completion_length": 12}],
}


def test_cpt_eval_and_the_run_answer_alike(cpt, tmp_path):
    """In bfloat16, where a batch of another size gives other answers; also from the folder of a point."""
    from cpt.api.evaluation import find
    from cpt.recipe import load
    from cpt.screen import QUIET, Screen

    content = recipe("sft", tasks=("caesar", "reverse"), evaluate=17)
    content |= {"model": {"path": "tiny", "dtype": "bfloat16"}, "rollouts": {"batch_size": PROMPTS}}
    for task in content["stream"]:
        task["stages"][0]["args"]["max_steps"] = 2
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 0, cpt.output
    ours = answers(tmp_path / "run" / "evaluations" / "02-reverse.jsonl", None)
    suite = write_recipe(tmp_path / "suite.yaml", SUITE)
    recipe_of_the_run = load(tmp_path / "run" / "recipe.yaml")
    for place in ("run", "run/points/02-reverse", "run/points/02-reverse/model", "run/final"):
        _, base, asked = find(tmp_path / place, None, Screen(QUIET))
        assert asked == recipe_of_the_run and base == tmp_path / "run" / "points" / "00-base" / "model"
        out = tmp_path / "answers.jsonl"
        assert cpt("eval", tmp_path / place, "--suite", suite, "--out", out) == 0, cpt.output
        assert answers(out, "held") == ours, place


def answers(file, suite) -> dict[str, str]:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    mine = {line["row"]: line["completion"] for line in lines if line["task"] == "reverse" and line["suite"] == suite}
    assert len(mine) == 17
    return mine


def test_answers_are_counted_as_they_end(tiny_folder):
    """Within a batch too: the first one may take minutes."""
    from cpt import models
    from cpt.recipe import load
    from cpt.rollouts import Sampling
    from cpt.rollouts.transformers import TransformersEngine

    recipe = load("quickstart")
    engine, tokenizer = TransformersEngine(2), models.load_tokenizer(tiny_folder, recipe)
    engine.sync(models.load_full(tiny_folder, recipe), tokenizer)
    prompts = tokenizer(["lastabcde=", "copyabcde=", "maxabcde="])["input_ids"]
    told = []
    made = engine.generate(prompts, Sampling(max_tokens=12), told.append)
    assert [len(each.token_ids) for each in made] == [2, 6, 2] and told == sorted(told)
    assert told[:3] == [0, 1, 1] and told[-1] == 3 and told.count(1) > 3


def test_scores_make_no_logits_of_the_prompts(tiny_folder):
    """They would be the largest tensor of all; the scores are those of a forward pass over one row."""
    import torch

    from cpt import models
    from cpt.recipe import load
    from cpt.rollouts.transformers import TransformersEngine

    recipe, engine = load("quickstart"), TransformersEngine(2)
    model, tokenizer = models.load_full(tiny_folder, recipe), models.load_tokenizer(tiny_folder, recipe)
    prompts = tokenizer(["lastabcde=", "copyabcdeabcde=", "max=", "="])["input_ids"]
    answers = tokenizer(["e", "abc", "", "abcdefghij"])["input_ids"]
    engine.sync(model, tokenizer)
    seen, forward = [], model.forward

    def noting(**inputs):
        out = forward(**inputs)
        seen.append(out.logits.shape[1])
        return out

    model.forward = noting
    model.forward.__wrapped__ = forward  # its signature
    found = engine.score(prompts, answers)
    model.forward = forward
    assert seen == [10, 1], "of the longest answer of each batch"
    for prompt, answer, scored in zip(prompts, answers, found, strict=True):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        wanted = [expected[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer)]
        assert scored.logprobs == pytest.approx(wanted, abs=1e-5)
        likeliest = expected[len(prompt) - 1 : len(prompt) - 1 + len(answer)].argmax(-1).tolist()
        assert scored.greedy == [token == best for token, best in zip(answer, likeliest, strict=True)]


def test_what_differs_in_its_last_token_is_read_once(tiny_folder):
    """The letters of a multiple choice; and the logits of a batch have a limit."""
    from cpt import models
    from cpt.recipe import load
    from cpt.rollouts import transformers

    recipe, engine = load("quickstart"), transformers.TransformersEngine(8)
    model, tokenizer = models.load_full(tiny_folder, recipe), models.load_tokenizer(tiny_folder, recipe)
    engine.sync(model, tokenizer)
    seen, forward = [], model.forward

    def noting(**inputs):
        seen.append(len(inputs["input_ids"]))
        return forward(**inputs)

    model.forward = noting
    model.forward.__wrapped__ = forward  # its signature
    prompts, answers = tokenizer(["copyabc="] * 3 + ["lastab="])["input_ids"], tokenizer([*"abc", "b"])["input_ids"]
    together = engine.score(prompts, answers)
    assert seen == [2]
    alone = [engine.score([prompt], [answer])[0] for prompt, answer in zip(prompts, answers, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5) and one.greedy == other.greedy
    assert list(transformers.scored_batches([5, 4, 3], [2, 1, 2], Limits(8), transformers.LOGITS // 4)) == [[0, 1], [2]]
