"""ttrl: votes and labels by hand, the alarm, and that no row's answer is read; its resume is in test_baselines."""

import json
from types import SimpleNamespace

import pytest

from cpt.data import procedural
from cpt.recipe import RecipeErrors, load
from cpt.rewards import Scorer
from cpt.stages.rl.ttrl import FEWEST, LOOKED_AT, Vote, majority
from helpers.contexts import stage_and_services
from helpers.recipes import write_recipe
from helpers.rlvr_runs import rlvr, run, weights
from helpers.same_end import logged

# -- votes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "completion", "row", "answer"),
    [
        ({"kind": "exact"}, " 42 ", {}, "42"),
        ({"kind": "exact", "after": ["####"], "ignore_case": True}, "so #### Yes", {}, "yes"),
        ({"kind": "exact"}, "so ans is edcba.", {"answer_markers": ["is"]}, "edcba"),
        ({"kind": "exact"}, "42", {"finished": False}, None),
        ({"kind": "exact"}, "  ", {}, None),
        ({"kind": "choice"}, "A is wrong, so the answer is c", {}, "C"),
        ({"kind": "choice"}, "I do not know", {}, None),
        ({"kind": "f1"}, "The cat sat.", {}, "cat sat"),
        ({"kind": "math"}, r"so $\boxed{\frac{1}{2}}$", {}, r"\frac{1}{2}"),
        ({"kind": "math"}, "who knows", {}, None),
    ],
)
def test_the_answer_that_a_completion_gives(spec, completion, row, answer):
    """And the verifier takes that answer for right, as the row's."""
    with Scorer(spec, workers=1) as scorer:
        finished = [row.pop("finished", True)]
        [found] = scorer.read([completion], [row], finished)
        assert found.value == answer and found.error is None
        if answer is not None:
            assert scorer.score([completion], [row | {"answer": answer}], finished)[0].value == 1


def test_majorities_by_hand():
    assert majority(["a", "b", "a", None]) == ("a", 0.5, 2)
    assert majority(["b", "a", "a", "b"]) == ("b", 0.5, 2), "of two that are even, the first"
    assert majority([None, None]) == (None, 0.0, 0)


def vote(alarm: float = 0.8, said=None) -> Vote:
    """One whose answers are the texts; `said` collects its warnings."""
    stage, services = stage_and_services(
        task=SimpleNamespace(name="reverse"),
        name="0-rlvr",
        spec=SimpleNamespace(ttrl=SimpleNamespace(alarm=alarm)),
        read=lambda texts, rows, finished: [text or None for text in texts],
        score=lambda texts, rows, finished: [
            float(text == row["answer"]) for text, row in zip(texts, rows, strict=True)
        ],
        screen=SimpleNamespace(warn=(said if said is not None else []).append),
    )
    return Vote(stage, services, 4)


def test_a_group_is_judged_by_its_majority():
    rows = [{"id": name} for name in "xyz" for _ in range(4)]
    one = vote()
    values = one.score(["a", "b", "a", "", "c", "c", "c", "c", "", "", "", ""], rows, [True] * 12)
    assert values == [1, 0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    expected = {"ttrl/majority_share": 1.5 / 3, "ttrl/distinct_answers": 1.0, "ttrl/distinct_majorities": 2 / 3}
    assert one.measured == pytest.approx(expected)


def test_the_alarm():
    """Unanimous about the same answer everywhere: said once. Not for answers that differ, nor for few prompts."""

    def warned(texts_of, prompts=LOOKED_AT, **options) -> list[str]:
        said = []
        one = vote(said=said, **options)
        for number in range(prompts):
            one.score(texts_of(number), [{"id": str(number)}] * 4, [True] * 4)
        return said

    [line] = warned(lambda number: ["a"] * 4)
    assert "reverse 0-rlvr: ttrl has collapsed" in line and "100% of the votes" in line
    assert f"{FEWEST} of the last {FEWEST} prompts have one answer, 'a'" in line
    [line] = warned(lambda number: [""] * 4)
    assert f"no completion of {FEWEST} of the last {FEWEST} prompts gives an answer" in line
    assert not warned(lambda number: [str(number)] * 4), "sure, and of different answers"
    assert not warned(lambda number: ["a", "a", "b", "c"]), "one answer everywhere, and not sure"
    assert not warned(lambda number: ["a"] * 4, prompts=FEWEST - 1)
    assert not warned(lambda number: ["a" if number % 2 else "b"] * 4)
    assert warned(lambda number: ["a" if number % 2 else "b"] * 4, alarm=0.5)


# -- in a stage ------------------------------------------------------------------------------------------------------------


def with_answers(folder, answer) -> dict:
    """A ttrl recipe on rows from a file, whose training answers `answer(row)` gives (None: there is none)."""
    for split in ("train", "eval"):
        rows = procedural.rows("reverse", split, 24)
        if split == "train":
            rows = [row | {"answer": answer(row), "demonstration": None} for row in rows]
        lines = [json.dumps({key: value for key, value in row.items() if value is not None}) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    content = rlvr(ttrl={}, dynamic_sampling={})
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "eval")}
    content["stream"][0]["data"] = {"source": "jsonl", **files}
    return content


def test_no_answer_of_a_row_is_read(cpt, tmp_path):
    ends = []
    for number, answer in enumerate((lambda row: row["answer"], lambda row: "aaaaa", lambda row: None)):
        folder = tmp_path / str(number)
        folder.mkdir()
        ends.append(run(cpt, folder, with_answers(folder, answer), given=["answers"]))
    assert weights(ends[0]) == weights(ends[1]) == weights(ends[2])
    assert logged(ends[0]) == logged(ends[1]) == logged(ends[2])
    for line in logged(ends[0]):
        assert line["reward"] >= 0.25 and 0.25 <= line["ttrl/majority_share"] <= 1
        assert 1 <= line["ttrl/distinct_answers"] <= 4


def test_a_collapse_in_a_run_is_told_once(cpt, tmp_path):
    """No completion of 72 prompts gives an answer."""
    content = rlvr(ttrl={}, steps=9)
    content["stream"][0]["stages"][0]["args"] |= {"per_device_train_batch_size": 32}
    out = run(cpt, tmp_path, content, given=["silence"])
    assert logged(out)[-1]["ttrl/majority_share"] == 0
    assert cpt.output.count("reverse 0-rlvr: ttrl has collapsed: no completion of") == 1


def test_labels_are_wanted_where_another_stage_reads_them(cpt, tmp_path):
    content = with_answers(tmp_path, lambda row: None)
    content["stream"][0]["stages"].append(rlvr()["stream"][0]["stages"][0])
    run(cpt, tmp_path, content, code=2)
    assert "has no answer" in cpt.output and "the verifier exact needs it" in cpt.output


WRONG = {
    "judged by the answers": (
        {"ttrl": {}, "filter": {}},
        "filter scores by the rows' answers, and ttrl trains without",
    ),
    "no such": ({"ttrl": {"votes": 64}}, "ttrl.votes: unknown key; there are: alarm"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line(name, tmp_path):
    options, message = WRONG[name]
    with pytest.raises(RecipeErrors, match=message) as caught:
        load(write_recipe(tmp_path / "recipe.yaml", rlvr(**options)))
    assert len(caught.value.problems) == 1


def test_a_reward_without_an_answer(tmp_path):
    content = rlvr(ttrl={})
    content["stream"][0] |= {"reward": {"kind": "format", "pattern": "a"}, "metric": "exact"}
    message = (
        "ttrl votes on the answers that the task's reward reads, and format reads none: let `reward` be one of exact"
    )
    with pytest.raises(RecipeErrors, match=message) as caught:
        load(write_recipe(tmp_path / "recipe.yaml", content))
    assert len(caught.value.problems) == 1
