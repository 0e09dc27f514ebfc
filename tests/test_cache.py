"""The cache of answers: the same questions to the same model are answered once; any difference asks again."""

import dataclasses
import json
import os
import shutil

import pytest

from cpt import cache
from cpt.recipe import load
from cpt.rollouts.base import Completion, Sampling, Scored
from cpt.rollouts.cached import CachedEngine
from helpers.recipes import short, write_recipe

GREEDY = Sampling(max_tokens=4)


class Counting:
    """An engine that answers with the number of its call."""

    def __init__(self):
        self.calls = self.rollout_tokens = 0

    def generate(self, prompts, sampling, on_done=None):
        self.calls += 1
        self.rollout_tokens += len(prompts)
        return [Completion([self.calls], True) for _ in prompts]

    def score(self, prompts, completions, on_done=None):
        self.calls += 1
        return [Scored([-float(self.calls)], [True]) for _ in prompts]


@pytest.fixture
def made(tmp_path):
    return lambda **surroundings: CachedEngine(Counting(), tmp_path, {"model": 1} | surroundings)


def test_the_same_batch_is_answered_once(made):
    first, second = made(), made()
    assert first.generate([[1], [2]], GREEDY) == second.generate([[1], [2]], GREEDY) == [Completion([1], True)] * 2
    assert first.score([[1]], [[2]]) == second.score([[1]], [[2]]) == [Scored([-2.0], [True])]
    assert (second.engine.calls, second.taken, second.asked, second.rollout_tokens) == (0, 2, 2, 0)


@pytest.mark.parametrize(
    "other",
    [
        lambda made: made(model=2).generate([[1], [2]], GREEDY),
        lambda made: made(threads=2).generate([[1], [2]], GREEDY),
        lambda made: made().generate([[2], [1]], GREEDY),
        lambda made: made().generate([[1]], GREEDY),
        lambda made: made().generate([[1, 2]], GREEDY),
        *(
            lambda made, field=field, value=value: made().generate([[1], [2]], dataclasses.replace(GREEDY, **{field: value}))
            for field, value in {
                "max_tokens": 5, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 1,
                "stop_ids": (7,), "stop": ("x",), "logprobs": True, "options": {"a": 1},
            }.items()
        ),
    ],
)  # fmt: skip
def test_any_difference_asks_again(made, tmp_path, other):
    made().generate([[1], [2]], GREEDY)
    before = len([*tmp_path.rglob("*.json")])
    other(made)
    assert len([*tmp_path.rglob("*.json")]) == before + 1


def test_draws_without_a_seed_are_not_kept(made, tmp_path):
    engine = made()
    for _ in range(2):
        engine.generate([[1]], dataclasses.replace(GREEDY, temperature=1.0))
    assert engine.engine.calls == 2 and not [*tmp_path.rglob("*.json")]


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"answers": [{"token_ids": [9], "finished": true}]}', b"\xff"])
def test_a_damaged_file_is_a_miss(made, tmp_path, content):
    made().generate([[1]], GREEDY)
    [file] = tmp_path.rglob("*.json")
    file.write_bytes(content)
    again = made()
    assert again.generate([[1]], GREEDY) == [Completion([1], True)]
    assert again.engine.calls == 1


def test_a_cache_that_cannot_be_written_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    engine = CachedEngine(Counting(), tmp_path / "file", {})
    assert [engine.generate([[1]], GREEDY)[0].token_ids for _ in range(2)] == [[1], [2]]


def test_the_oldest_answers_are_deleted_first(tmp_path):
    for number in range(4):
        file = tmp_path / "aa" / f"{number}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text("x" * 100)
        os.utime(file, (number, number))
    cache.prune(tmp_path, 250)
    assert sorted(file.name for file in tmp_path.rglob("*.json")) == ["2.json", "3.json"]


def test_surroundings_tell_models_and_settings_apart(tmp_path):
    from cpt.files import seal

    def of(content: dict, weights: str = "a") -> dict | None:
        base = tmp_path / "00-base"
        shutil.rmtree(base, ignore_errors=True)
        (base / "model").mkdir(parents=True)
        (base / "model" / "model.safetensors").write_text(weights)
        seal(base)
        return cache.surroundings(load(write_recipe(tmp_path / "r.yaml", content)), base)

    plain = short("sft")
    assert of(plain) == of(plain)
    assert of(plain | {"seed": 5}) == of(plain)
    others = [of(plain, "b"), of(plain | {"rollouts": {"engine": "transformers", "batch_size": 7}})]
    others.append(of(plain | {"model": {"path": "tiny", "dtype": "bfloat16"}}))
    assert all(each != of(plain) for each in others)
    assert of(plain | {"rollouts": {"engine": "server", "url": "http://127.0.0.1:1"}}) is None


@pytest.mark.parametrize("value", ["1", "yes"])
def test_it_can_be_turned_off(monkeypatch, value):
    monkeypatch.setenv(cache.OFF, value)
    assert cache.folder("answers") is None
    monkeypatch.setenv(cache.OFF, "0")
    assert cache.folder("answers") is not None


def test_a_second_run_takes_the_base_from_the_cache(cpt, tmp_path, monkeypatch):
    """Another seed of the recipe: the base's answers are those of the first run, and nothing is generated for them."""
    file = write_recipe(tmp_path / "r.yaml", short("sft", steps=1, evaluate=6))
    environment = {cache.OFF: "0", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    runs = [tmp_path / "0", tmp_path / "1", tmp_path / "2"]
    assert cpt("run", file, "--out", runs[0], environment=environment) == 0, cpt.output
    assert "taken from cache" not in cpt.output
    assert cpt("run", file, "seed=1", "--out", runs[1], environment=environment) == 0, cpt.output
    assert "00-base: all batches of answers taken from cache: " in cpt.output
    assert cpt("run", file, "seed=1", "--no-cache", "--out", runs[2], environment=environment) == 0, cpt.output
    assert "taken from cache" not in cpt.output
    first, second, third = (json.loads((run / "results.json").read_text()) for run in runs)
    answers = [(run / "evaluations" / "00-base.jsonl").read_bytes() for run in runs]
    assert answers[0] == answers[1] == answers[2]
    assert second["sha256"] == third["sha256"]
    tokens = [each["evaluation_cost"]["00-base"]["rollout_tokens"] for each in (first, second, third)]
    assert tokens[0] == tokens[2] > 0 == tokens[1]
