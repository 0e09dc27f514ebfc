"""`metric: likelihood`, and likelihoods beside a verifier's scores: what is measured, of which tokens, and how it is said."""

import json
import math

import pytest

from helpers.recipes import mistakes, recipe, write_recipe

QUESTION, ANSWER = "copyabc", "abc"
CHAT = [
    {"role": "user", "content": "copyab"},
    {"role": "assistant", "content": "ab"},
    {"role": "user", "content": "sortcba"},
    {"role": "assistant", "content": "abc"},
]
ROWS = [
    {"id": "shown", "prompt": [{"role": "user", "content": QUESTION}], "demonstration": ANSWER},
    {"id": "talk", "messages": CHAT},
]
OTHERS = [
    {"id": "a", "prompt": [{"role": "user", "content": "copyfgh"}], "demonstration": "fgh"},
    {"id": "b", "prompt": [{"role": "user", "content": "copyhij"}], "demonstration": "hij"},
]


def task(name: str, evaluated: list[dict], **more) -> dict:
    """A task of the stream that is trained a step on its own rows."""
    data = {"source": "rows", "train": OTHERS, "eval": evaluated}
    stage = recipe("sft", tasks=("reverse",))["stream"][0]["stages"][0]
    stage["args"] |= {"max_steps": 1, "per_device_train_batch_size": 2}
    return {"task": name, "data": data, "stages": [stage]} | more


def likelihood(model, tokenizer, context: str, measured: str) -> list[float]:
    """The log-probabilities of the tokens of `measured` after `context`, computed by the model itself."""
    import torch

    before, ids = tokenizer(context)["input_ids"], tokenizer(context + measured)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return [logits[place - 1, ids[place]].item() for place in range(len(before), len(ids))]


@pytest.fixture(scope="module")
def run(cpt, tmp_path_factory):
    """A finished run: a task that is measured, one that is answered with likelihoods beside, and a suite that is measured."""
    folder = tmp_path_factory.mktemp("likelihood")
    content = recipe("sft", tasks=("reverse",), evaluate=5)
    content["stream"][0]["stages"][0]["args"] |= {"max_steps": 1}
    content["stream"].insert(0, task("shown", ROWS, metric="likelihood"))
    held = {
        "task": "texts",
        "metric": "likelihood",
        "data": {"source": "rows", "eval": [{"id": "t", "raw_text": "abcabc"}]},
    }
    suite = write_recipe(folder / "held.yaml", {"name": "held", "tasks": [held]})
    content["evaluation"] |= {"suites": [str(suite)], "likelihood": True, "gates": {"held_out_drop": 0.5}}
    assert cpt("run", write_recipe(folder / "recipe.yaml", content), "--out", folder / "run") == 0, cpt.output
    return folder / "run", cpt.output


def answers(run, point: str) -> dict[tuple, dict]:
    lines = map(json.loads, (run / "evaluations" / f"{point}.jsonl").read_text().splitlines())
    return {(line["task"], line["row"].rpartition("/")[2], line["mode"]): line for line in lines}


def test_what_is_measured_is_what_training_teaches(run):
    """The demonstration with the token that ends it, after the prompt; of a chat both answers, each after all before it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = run[0] / "points" / "01-shown" / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    eos = tokenizer.eos_token
    spoken = likelihood(model, tokenizer, f"{QUESTION}=", f"{ANSWER}{eos}")
    talked = likelihood(model, tokenizer, "copyab=", f"ab{eos}")
    talked += likelihood(model, tokenizer, f"copyab=ab{eos}sortcba=", f"abc{eos}")
    lines = answers(run[0], "01-shown")
    for row, logprobs in (("shown", spoken), ("talk", talked)):
        line = lines["shown", row, "greedy"]
        assert line["tokens"] == len(logprobs) and line["kind"] == line["metric"] == "likelihood"
        assert line["log_likelihoods"] == [pytest.approx(sum(logprobs), abs=1e-3)]
        assert line["score"] == pytest.approx(math.exp(sum(logprobs) / len(logprobs)), abs=1e-4)
    assert lines["shown", "shown", "greedy"]["answer"] == ANSWER
    last = answers(run[0], "02-reverse")["texts", "t", "greedy"]
    folder = run[0] / "points" / "02-reverse" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    logprobs = likelihood(model, tokenizer, eos, "abcabc")
    assert last["tokens"] == 6 and last["log_likelihoods"] == [pytest.approx(sum(logprobs), abs=1e-3)]


def test_the_matrix_and_the_columns_beside_it(run):
    results = json.loads((run[0] / "results.json").read_text())
    assert results["tasks"] == ["shown", "reverse"] and results["questions"] == {"shown": 2, "reverse": 5}
    measured = results["likelihood"]
    assert measured.keys() == {"shown", "reverse", "held/texts"}
    for number, point in enumerate(("00-base", "01-shown", "02-reverse")):
        lines = answers(run[0], point)
        mine = [line for (name, _, mode), line in lines.items() if name == "shown" and mode == "greedy"]
        assert results["accuracy"][number][0] == pytest.approx(sum(line["score"] for line in mine) / 2)
        assert measured["shown"]["likelihood"][number] == pytest.approx(results["accuracy"][number][0])
        total = sum(line["log_likelihoods"][0] for line in mine) / sum(line["tokens"] for line in mine)
        assert measured["shown"]["logprob"][number] == pytest.approx(total)
        assert measured["shown"]["perplexity"][number] == pytest.approx(math.exp(-total))
        beside = [line for (name, _, mode), line in lines.items() if name == "reverse" and mode == "likelihood"]
        assert len(beside) == measured["reverse"]["rows"] == 5 and not any(line["completion"] for line in beside)
        assert results["accuracy"][number][1] == pytest.approx(
            sum(line["score"] for (name, _, mode), line in lines.items() if (name, mode) == ("reverse", "greedy")) / 5
        )
    assert results["score_kinds"] == {"shown": "likelihood", "held/texts": "likelihood"}
    assert all(0 <= low <= high <= 1 for row in results["intervals"]["accuracy"] for low, high in row)


def test_the_plan_shows_what_is_measured(cpt, run):
    assert cpt("check", run[0].parent / "recipe.yaml") == 0
    assert "measured by the likelihood of its demonstrations" in cpt.output
    assert "measured 'copyabc=' + 'abc<eos>'" in cpt.output and "texts measured '<eos>' + 'abcabc'" in cpt.output
    assert "the likelihood of demonstrations beside, where rows have some" in cpt.output
    assert "warning   stream: the score of shown is a likelihood" in cpt.output


def test_what_the_screen_says(run):
    assert "the score of shown is a likelihood, and that of the other tasks an accuracy" in run[1]


def test_the_report_says_which_scores_are_likelihoods(run):
    html, markdown = ((run[0] / f"report.{kind}").read_text() for kind in ("html", "md"))
    said = "The score of shown, held/texts is no accuracy: it is a likelihood"
    assert said in html and said in markdown
    perplexities = json.loads((run[0] / "results.json").read_text())["likelihood"]["shown"]["perplexity"]
    row = " | ".join(f"{value:.3g}" for value in perplexities)
    assert f"| | | perplexity of a token | {row} |" in markdown, markdown
    assert "reverse (beside its accuracy)" in markdown and "reverse (beside its accuracy)" in html


def test_likelihoods_cost_no_answers_and_change_none(cpt, tmp_path):
    """With `likelihood: true` the answers of an evaluation are those without it."""
    found = {}
    for beside in (False, True):
        content = recipe("sft", tasks=("reverse",), evaluate=5)
        content["stream"][0]["stages"][0]["args"] |= {"max_steps": 1}
        content["evaluation"]["likelihood"] = beside
        out = tmp_path / str(beside)
        assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", out, "--quiet") == 0, cpt.output
        results = json.loads((out / "results.json").read_text())
        assert ("likelihood" in results) == beside and "score_kinds" not in results
        found[beside] = [line for line in answers(out, "01-reverse").values() if line["mode"] == "greedy"]
        found[beside].append(results["evaluation_cost"]["01-reverse"]["rollout_tokens"])
    assert found[False] == found[True]


def test_several_ranks_measure_what_one_does(tiny_folder, monkeypatch):
    from types import SimpleNamespace

    from cpt import ranks
    from cpt.evaluation.suites import spread
    from cpt.rollouts.batches import Limits
    from cpt.screen import QUIET, Screen

    calls = []

    def score(prompts, completions, on_done):
        calls.append(len(prompts))
        return [sum(prompt) + sum(completion) for prompt, completion in zip(prompts, completions, strict=True)]

    engine = SimpleNamespace(limits=Limits(3), score=score)
    asking = SimpleNamespace(
        engine=engine, screen=Screen(QUIET), stop=SimpleNamespace(check=lambda: None), label="", order=0
    )
    pairs = [([i] * (1 + i % 4), [1]) for i in range(11)]
    alone = spread.score(asking, pairs, "")
    assert alone == [i * (1 + i % 4) + 1 for i in range(11)] and sorted(calls) == [2, 3, 3, 3]
    mixed = SimpleNamespace(**vars(asking) | {"order": 1})
    assert spread.score(mixed, pairs, "") == alone, "in another order the same is answered"
    calls.clear()
    parts: list = []
    monkeypatch.setattr(ranks, "world_size", lambda: 3)
    for rank in range(3):
        calls.clear()
        monkeypatch.setattr(ranks, "state", lambda rank=rank: SimpleNamespace(process_index=rank))
        monkeypatch.setattr(ranks, "gather", lambda mine: parts.extend(mine) or [])
        spread.score(asking, pairs, "")
        assert len(calls) == 2, "all ranks call equally often, some with nothing"
    monkeypatch.setattr(ranks, "gather", lambda mine: parts)
    assert [value for _, value in sorted(parts)] == alone


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reward": "likelihood"}, "no kind 'likelihood'"),
        (
            {},
            "has no verifier to score answers with: add `reward` (exact, math, choice, ...) or `metric` (`likelihood`",
        ),
        (
            {"metric": "likelihood", "stages": [{"kind": "rlvr"}]},
            "has no verifier for its rlvr stage: add `reward` (exact, math, choice, ...), which may stand beside `metric:",
        ),
    ],
)
def test_mistakes(tmp_path, changes, said):
    content = recipe("sft", tasks=("reverse",))
    content["stream"][0].pop("reward")
    content["stream"][0] |= changes
    assert any(said in line for line in mistakes(tmp_path, content)), mistakes(tmp_path, content)


def test_rows_that_cannot_be_measured(cpt, tmp_path):
    lacking = [{"id": "none", "prompt": QUESTION, "answer": ANSWER}]
    long = [{"id": "long", "prompt": [{"role": "user", "content": "copy" + "a" * 80}], "demonstration": "a" * 80}]
    content = recipe("sft", tasks=("reverse",))
    for evaluated, said in (
        (lacking, "none (eval row 1) has no demonstration (it has prompt, answer); `metric: likelihood` measures one"),
        (long, "the model's context of 128 holds no more: shorten the row, or set `overlong: drop` in the task"),
    ):
        content["stream"] = [task("shown", evaluated, metric="likelihood")]
        assert cpt("check", write_recipe(tmp_path / "recipe.yaml", content)) == 2 and said in cpt.output, cpt.output
        assert "Traceback" not in cpt.output
    mixed = [
        {"task": "a", "metric": "likelihood", "data": {"source": "rows", "eval": OTHERS[:1]}},
        {"task": "b", "reward": "exact", "data": {"source": "rows", "eval": [{"prompt": "x", "answer": "y"}]}},
    ]
    content["evaluation"]["suites"] = [
        str(write_recipe(tmp_path / "held.yaml", {"name": "held", "tasks": mixed})),
    ]
    assert cpt("check", write_recipe(tmp_path / "recipe.yaml", content)) == 2
    assert "the score of a is a likelihood and that of others is not" in cpt.output
