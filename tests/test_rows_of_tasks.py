"""Rows know their task: those of several tasks stand in one batch, and each is scored by the verifier of its own."""

from datasets import concatenate_datasets

from cpt.data.stream import stage_rows
from cpt.loop import points as loop
from cpt.recipe import load
from cpt.rewards import Score, TaskScorers
from cpt.rewards.scorer import Scorer
from cpt.screen import QUIET, Screen
from cpt.strategies.base import Strategy
from helpers import given
from helpers.recipes import short, write_recipe


class Replay(Strategy):
    """Every stage trains on the rows of all tasks so far."""

    def before_stage(self, stage, services, rows):
        earlier = [stage_rows(task) for task in services.earlier_tasks]
        return concatenate_datasets([rows.select(range(8)), *(each.select(range(8)) for each in earlier)])


def test_rlvr_on_rows_of_two_tasks(tmp_path, monkeypatch):
    """The second task is rewarded for an answer that ends in 00 (`format`), which `exact` never finds right."""
    content = short("rlvr", steps=4, evaluate=1)
    content["stream"][1] |= {"reward": {"kind": "format", "pattern": "00$"}, "metric": "exact"}
    for task in content["stream"]:
        task["stages"][0]["args"] |= {"per_device_train_batch_size": 32}
    batches, score = [], Scorer.score

    def recorded(self, texts, rows, finished=None):
        scores = score(self, texts, rows, finished)
        if "task" in rows[0]:  # of training
            batches.append(
                [
                    (self.spec["kind"], row["task"], text, each.value)
                    for row, text, each in zip(rows, texts, scores, strict=True)
                ]
            )
        return scores

    given.answers(monkeypatch)
    monkeypatch.setattr(Scorer, "score", recorded)
    monkeypatch.setattr(loop, "make_strategies", lambda recipe: [Replay(recipe, None, "0-replay")])
    loop.run(load(write_recipe(tmp_path / "recipe.yaml", content)), tmp_path / "run", Screen(QUIET))
    scored = [each for batch in batches for each in batch]
    assert {(kind, task) for kind, task, *_ in scored} == {("exact", "reverse"), ("format", "caesar")}
    second = batches[4:]  # after the four steps of the first task, one call for each task in a step
    assert len(second) == 8 and sum(map(len, second)) == 4 * 32, "both tasks in each batch of 32"
    for kind, _, text, value in scored:
        if kind == "format":
            assert value == text.endswith("00")
    assert {value for kind, *_, value in scored if kind == "format"} == {0.0, 1.0}
    assert {value for kind, *_, value in scored if kind == "exact"} == {0.0, 1.0}


class Known:
    """A scorer that gives each text its own number."""

    def __init__(self, number: float):
        self.number = number

    def score(self, texts, rows, finished):
        return [
            Score(self.number) if end else Score(None, "timeout: took more than 5 s")
            for _, end in zip(texts, finished, strict=True)
        ]

    read = score


def test_the_order_is_that_of_the_rows():
    scorers = TaskScorers(lambda task: Known({"a": 1.0, "b": 2.0}[task]))
    rows = [{"task": task} for task in "abbab"]
    assert scorers.score(list("vwxyz"), rows, [True, True, False, True, True]) == [1.0, 2.0, None, 1.0, 2.0]
    assert scorers.errors == {"timeout": 1}
