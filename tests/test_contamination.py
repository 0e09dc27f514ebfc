"""Training rows that hold questions of evaluations: planted ones are found, named, and stop, are left out or are listed."""

import json
import random

import pytest

import cpt
from cpt.data.contamination import Search
from cpt.data.memory import kept
from cpt.data.ngrams import COMMON, Questions, words
from cpt.data.stream import read_stream
from cpt.errors import UserError
from cpt.recipe import load, suites_of
from cpt.screen import Screen
from cpt.stages.examples import uncontaminated
from helpers.contexts import stage_and_services
from helpers.fake_run import make_run
from helpers.recipes import mistakes, rows_task, short, write_recipe

WORDS = [f"{a}{b}{c}" for a in "bdfg" for b in "aeiou" for c in "klmnprst"]


def text(seed: object, count: int = 30) -> str:
    return " ".join(random.Random(str(seed)).choices(WORDS, k=count))


def jsonl(file, rows) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file.name


def recipe_of(folder, action=None, leak=None, **settings):
    """Two tasks and a suite on files; `leak` goes into the second task's training rows."""
    content = short("sft", tasks=("first", "second"))
    for number, task in enumerate(content["stream"]):
        name = task["task"]
        train = [{"prompt": text((name, i)), "demonstration": "yes", "answer": "yes"} for i in range(20)]
        if number == 1 and leak:
            train[7] |= leak
        asked = [{"prompt": text((name, "eval", i)), "answer": "yes"} for i in range(5)]
        task["data"] = {
            "source": "jsonl",
            "train": jsonl(folder / f"{name}.jsonl", train),
            "eval": jsonl(folder / f"{name}.eval.jsonl", asked),
        }
    held = jsonl(folder / "held.jsonl", [{"prompt": text(("held", i)), "answer": "yes"} for i in range(5)])
    suite = {"name": "held", "tasks": [{"task": "out", "reward": "exact", "data": {"source": "jsonl", "eval": held}}]}
    write_recipe(folder / "held.yaml", suite)
    content["evaluation"]["suites"] = ["held.yaml"]
    content["data"] = settings | ({} if action is None else {"contamination": action})
    return load(write_recipe(folder / "recipe.yaml", content))


def read(folder, *arguments, **settings):
    recipe = recipe_of(folder, *arguments, **settings)
    return read_stream(recipe, suites_of(recipe))


def spoiled(seed: object) -> str:
    """A question inside of another text, in capitals, with a word changed."""
    changed = text(seed).split()
    changed[3] = "other"
    return f"{text('before')} {' '.join(changed).upper()}! {text('after')}"


LEAKS = {  # field of the training row, the question, whose it is, its file
    "an earlier task's question in a prompt": ({"prompt": spoiled(("first", "eval", 2))}, "first/eval/2", "first"),
    "its own in an answer": ({"demonstration": spoiled(("second", "eval", 1))}, "second/eval/1", "second"),
    "a suite's": ({"prompt": spoiled(("held", 4))}, "out/eval/4", "held/out"),
}


@pytest.mark.parametrize(("leak", "question", "whose"), LEAKS.values(), ids=LEAKS)
def test_a_planted_leak_is_found_and_named(tmp_path, leak, question, whose):
    stream, problems = read(tmp_path, "report", leak)
    assert not problems and len(stream.tasks[1].train) == 20
    (found,) = stream.contamination["found"]
    assert (found["task"], found["row"], found["question"], found["evaluation"]) == (
        "second",
        "second/train/7",
        question,
        whose,
    )
    assert found["place"].endswith("second.jsonl:8") and found["question_place"].endswith(f":{int(question[-1]) + 1}")
    assert 0.5 <= found["share"] < 1 and found["shared"] in spoiled_words(leak)
    assert stream.contamination["rows"] == {"first": 0, "second": 1}
    assert any("1 row(s) hold" in each and "second/train/7" in each for each in stream.notes())


def spoiled_words(leak) -> str:
    return " ".join(words(next(iter(leak.values()))))


def test_what_becomes_of_it(tmp_path):
    leak = {"prompt": spoiled(("first", "eval", 2))}
    stream, problems = read(tmp_path, None, leak)
    assert not problems and len(stream.tasks[1].train) == 20, "by default it is said, and trained on"
    assert stream.contamination["rows"]["second"] == 1 and "kept" in stream.notes()[-1]
    _, (problem,) = read(tmp_path, "stop", leak)
    assert problem.key == "stream.second.data" and "second/train/7 = first/eval/2" in problem.message
    assert "second.jsonl:8 = first.eval.jsonl:3" in problem.message
    stream, problems = read(tmp_path, "drop", leak)
    assert not problems and [row["id"] for row in stream.tasks[1].train] == [
        f"second/train/{i}" for i in range(20) if i != 7
    ]
    assert "left out" in stream.notes()[-1] and stream.contamination["rows"]["second"] == 1
    assert "second/train/7" not in {row["id"] for row in kept(stream.tasks[1], 2, 0, 20)}, "nor kept for later tasks"


def test_the_same_prompt(tmp_path):
    leak = {"prompt": text(("first", "eval", 2)).title()}
    _, (problem,) = read(tmp_path, None, leak)
    assert "1 row(s) have the same prompt" in problem.message
    stream, problems = read(tmp_path, "drop", leak)
    (found,) = stream.contamination["found"]
    assert not problems and len(stream.tasks[1].train) == 19 and found["shared"] is None and found["share"] == 1


def test_nothing_is_found_where_nothing_is(tmp_path):
    stream, problems = read(tmp_path)
    assert not problems and stream.contamination is None and not stream.notes()
    stream, problems = read(tmp_path, "stop")
    assert not problems and sum(stream.contamination["rows"].values()) == 0 and "no training row" in stream.notes()[-1]


def test_more_or_less_must_be_shared(tmp_path):
    leak = {"prompt": spoiled(("first", "eval", 2))}
    assert read(tmp_path, "report", leak, ngram_share=0.95)[0].contamination["found"] == []
    assert read(tmp_path, "report", leak, ngram=30)[0].contamination["found"] == []


def test_no_row_is_left(tmp_path):
    recipe_of(tmp_path)
    (tmp_path / "second.jsonl").write_text(json.dumps({"prompt": spoiled(("held", 1)), "demonstration": "yes"}) + "\n")
    recipe = load(tmp_path / "recipe.yaml", ["data.contamination=drop"])
    _, (problem,) = read_stream(recipe, suites_of(recipe))
    assert problem.key == "stream.second.data.train" and "leaves none" in problem.message


def test_mistakes(tmp_path):
    content = short("sft")
    (line,) = mistakes(tmp_path, content | {"data": {"contamination": "dropp"}})
    assert "data.contamination" in line and "drop" in line
    (line,) = mistakes(tmp_path, content | {"data": {"ngram": 3}})
    assert "data.ngram" in line and "8" in line


# -- n-grams -------------------------------------------------------------------------------------------------------------


def share_by_hand(question: str, other: str, n: int) -> float:
    """The definition, word by word."""
    mine, theirs = words(question), words(other)
    n = min(n, len(mine))
    runs = {tuple(theirs[i : i + n]) for i in range(len(theirs) - n + 1)}
    covered = {i + j for i in range(len(mine) - n + 1) if tuple(mine[i : i + n]) in runs for j in range(n)}
    return len(covered) / len(mine)


def test_shares_are_those_of_the_definition():
    rng = random.Random(0)
    questions = [text(("q", i), rng.randint(8, 60)) for i in range(40)]
    texts = []
    for number in range(200):
        parts = text(("t", number), rng.randint(0, 50)).split()
        source = rng.choice(questions).split()
        start, length = rng.randrange(len(source)), rng.randint(1, 50)
        place = rng.randint(0, len(parts))
        texts.append(" ".join(parts[:place] + source[start : start + length] + parts[place:]))
    found = {each.text: each for each in Questions(questions, 13).overlaps(texts, 0.3)}
    expected = {
        number: share
        for number, each in enumerate(texts)
        if (share := max(share_by_hand(question, each, 13) for question in questions)) >= 0.3
    }
    assert 20 < len(expected) < 180
    assert {number: pytest.approx(each.share) for number, each in found.items()} == expected
    assert all(each.shared in " ".join(words(texts[number])) for number, each in found.items())


def test_what_many_questions_share_is_a_template():
    template = text("template", 40)
    questions = [f"{template} {text(i, 15)}" for i in range(COMMON + 1)]
    index = Questions(questions, 13)
    assert not list(index.overlaps([f"{template} {text('other', 15)}"], 0.5))
    (found,) = index.overlaps([f"{template} {text(3, 15)}"], 0.5)
    assert found.question == 3 and found.share == 1
    last = questions[3].split()[-1]  # a run of words that ends in the template stands in it and in a question
    index = Questions([f"{text(i, 9)} {template}" for i in range(COMMON + 1)], 13)
    assert not list(index.overlaps([f"{text('other', 9)} {text(3, 9).split()[-1]} {template}", last], 0.2))


def test_texts_without_words_and_short_questions():
    index = Questions(["", "what is 3 + 5?", text(1, 8)], 13)
    (found,) = index.overlaps(["", "so what is 3 + 5? I asked", "!", f"so {text(1, 8)}", ""], 0.5)
    assert (found.text, found.question, found.share) == (3, 2, 1)
    assert not Questions(["sortabcde="], 13).sizes and not list(Questions([], 13).overlaps([text(1)], 0.5))


# -- answers that are sampled, and trained on -----------------------------------------------------------------------------


def sampled(tmp_path, action):
    """(lessons that are left, notes, the first of three lessons that holds a question of a suite)."""
    recipe = recipe_of(tmp_path, action)
    stream, _ = read_stream(recipe, suites_of(recipe))
    stage, services = stage_and_services(
        recipe=recipe, task=stream.tasks[0], screen=Screen(0), leaks=Search(stream, recipe.data).texts
    )
    answers = [text(1), spoiled(("held", 3)), text(2)]
    made = [{"prompt": "say something", "completion": each} for each in answers]
    return uncontaminated(stage, services, made, ("completion",)), services.notes


def test_a_sampled_answer_that_holds_a_question(tmp_path):
    left, (note,) = sampled(tmp_path, "drop")
    assert len(left) == 2 and note == "1 of 3 sampled answers hold a question of an evaluation, and are left out"
    for action in (None, "report"):
        left, (note,) = sampled(tmp_path, action)
        assert len(left) == 3 and "trained on" in note
    with pytest.raises(
        UserError, match=r"stream.one.stages.0: 1 of 3 .* holds out/eval/3, in common: '.*contamination: drop"
    ):
        sampled(tmp_path, "stop")


# -- what is written -----------------------------------------------------------------------------------------------------


def test_a_run_writes_what_it_left_out(tmp_path):
    rows = [{"prompt": f"reverse{a}bcde=", "answer": f"edcb{a}", "demonstration": f"edcb{a}"} for a in "abcdefghij"]
    content = rows_task(tmp_path, rows, rows[:2], kind="sft") | {"data": {"contamination": "drop"}}
    content["stream"][0]["stages"][0]["args"]["max_steps"] = 1
    write_recipe(tmp_path / "recipe.yaml", content)
    run = cpt.run(tmp_path / "recipe.yaml", out=tmp_path / "run", quiet=True)
    manifest, results = (
        json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("manifest", "results")
    )
    assert manifest["data"]["reverse"]["train"]["rows"] == 8
    assert results["contamination"] == manifest["contamination"] and results["contamination"]["rows"] == {"reverse": 2}
    assert [each["row"] for each in results["contamination"]["found"]] == ["reverse/train/0", "reverse/train/1"]
    assert "left out of training" in (tmp_path / "run" / "report.md").read_text() and run.metrics


def test_the_report_lists_it(tmp_path):
    from cpt.report import build

    run = make_run(tmp_path / "run", count=20, samples=0)
    stream, _ = read(tmp_path, "drop", {"prompt": spoiled(("first", "eval", 2))})
    results = json.loads((run / "results.json").read_text())
    results.pop("sha256", None)
    (run / "results.json").write_text(json.dumps(results | {"contamination": stream.contamination}))
    html, markdown = (path.read_text() for path in build(run))
    for page in (html, markdown):
        assert "1 row" in page and "second/train/7" in page and "left out of training" in page
    (run / "results.json").write_text(json.dumps(results))
    assert "Contamination" not in build(run)[0].read_text()
