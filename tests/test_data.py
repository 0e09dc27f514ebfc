"""Sources and the stream: JSON lines with their line numbers, columns, rows held out, and the proof that splits are apart."""

import gzip
import json
import os

import pytest

from cpt.data import sources
from cpt.data.rows import prompt_key
from cpt.data.stream import form_problems, load_stream
from cpt.errors import RecipeErrors, UserError
from cpt.recipe import File, Hub, ReasoningGym, load
from cpt.recipe.stages import KINDS, Dpo
from helpers.recipes import mistakes, recipe, write_recipe


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def jsonl(train, evaluation, **more) -> File:
    return File(source="jsonl", train=train, eval=evaluation, **more)


def questions(number: int, first: int = 0) -> list[dict]:
    return [{"prompt": f"what is {i}+{i}?", "answer": str(2 * i)} for i in range(first, first + number)]


# -- JSON lines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"prompt": "a"}\n{"prompt": \n', "rows.jsonl:2: not valid JSON"),
        ('{"prompt": "a"}\n\n["b"]\n', "rows.jsonl:3: each line must be a JSON object"),
        ('{"prompt": "a"}\n{"prompt": 5}\n', "rows.jsonl:2: prompt must be a string or a list of messages, not 5"),
        ('{"prompt": "a"}\n{"prompt": "b", "prompt": "c"}\n', "rows.jsonl:2: the key 'prompt' appears twice"),
        ('{"prompt": "a"}\n{"prompt": "b\\ud800"}\n', "rows.jsonl:2: holds half of a surrogate pair"),
        ("", "rows.jsonl: holds no rows"),
        ("\n\n", "rows.jsonl: holds no rows"),
        ('{"question": "a"}\n', "no column prompt or messages; there are: question; name it with"),
        (
            '{"prompt": "a", "answer": null}\n{"prompt": null, "answer": null}\n',
            "rows.jsonl:2: has neither a prompt nor messages",
        ),
    ],
)
def test_broken_files(text, message, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        list(sources.load(jsonl(file, file), "train", "words", 0))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, place",
    [
        ('{"prompt": "a"}\n{"prompt": "café"}\n'.encode("latin-1"), "rows.jsonl:2: not UTF-8"),
        ('{"prompt": "a"}\n'.encode("utf-16"), "rows.jsonl: is UTF-16, not UTF-8"),
        (gzip.compress(b'{"prompt": "a"}\n', mtime=0)[:-4], "rows.jsonl: its compressed data is damaged"),
        (b'{"prompt": "a"}\n' + b'{"prompt": ' + b"[" * 100_000, "rows.jsonl:2: nested too deeply"),
    ],
    ids=["latin-1", "utf-16", "gzip", "nested"],
)
def test_files_that_are_no_utf8_json(content, place, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    for read in (
        lambda: sources.count(jsonl(file, file), "train"),
        lambda: sources.load(jsonl(file, file), "train", "words", 0),
    ):
        with pytest.raises(UserError) as caught:
            read()
        assert place in str(caught.value) and len(str(caught.value)) < 300 and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["data [v1]/rows.jsonl", "rows*.jsonl", "r::s?{a,b}.jsonl", "rows.jsonl"])
def test_the_file_of_that_name_is_read(name, tmp_path):
    """Not one that a pattern would find."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    for other in ("rows1.jsonl", "rows.jsonl", "data v/rows.jsonl"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        write(tmp_path / other, questions(3, 50))
    write(file, questions(3))
    assert [row["prompt"] for row in sources.load(jsonl(file, file), "eval", "t", 0)] == [
        row["prompt"] for row in questions(3)
    ]


def test_a_changed_file_is_read_anew(tmp_path):
    """Of the same size and time stamp; what was read before stays as it was."""
    file = write(tmp_path / "rows.jsonl", questions(3))
    os.utime(file, (1_700_000_000, 1_700_000_000))
    before = sources.load(jsonl(file, file), "eval", "t", 0)
    assert sources.load(jsonl(file, file), "eval", "t", 0)[0] == before[0]
    file.write_text(file.read_text().replace("what", "whut"))
    os.utime(file, (1_700_000_000, 1_700_000_000))
    assert sources.load(jsonl(file, file), "eval", "t", 0)[0]["prompt"] == "whut is 0+0?"
    assert sources.count(jsonl(file, file), "eval") == 3 and before[0]["prompt"] == "what is 0+0?"


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    rows = sources.load(jsonl(tmp_path / "rows.jsonl", tmp_path / "rows.jsonl"), "train", "words", 0)
    assert [row["prompt"] for row in rows] == ["a", "b"]


@pytest.mark.parametrize(
    "ids, names",
    [
        (["x", "y", "z"], ["x", "y", "z"]),
        (["x", "y", "x"], ["x#1", "y#2", "x#3"]),
        ([7, 7, 8], ["7#1", "7#2", "8#3"]),
        (["2", None, None], ["2#1", "1#2", "2#3"]),  # the last would be called by its place, 2
    ],
)
def test_rows_never_share_an_id(ids, names, tmp_path):
    """A document's id on several of its questions: the row's number tells them apart, held out or not."""
    rows = [row | {"id": name} for row, name in zip(questions(3), ids, strict=True)]
    file = write(tmp_path / "rows.jsonl", rows)
    assert [row["id"] for row in sources.load(jsonl(file, file), "eval", "t", 0)] == [
        f"t/eval/{name}" for name in names
    ]
    split = [row["id"] for part in ("train", "eval") for row in sources.load(jsonl(file, 1), part, "t", 0)]
    assert sorted(split) == sorted(f"t/row/{name}" for name in names)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"gone\.jsonl: no such file"):
        sources.load(jsonl(tmp_path / "gone.jsonl", 1), "train", "words", 0)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"prompt": "questoin"}, "no column 'questoin' (for prompt); did you mean question?"),
        ({"promt": "question"}, "columns: rows have no field 'promt'; did you mean prompt?"),
    ],
)
def test_wrong_columns(columns, message, tmp_path):
    file = write(tmp_path / "rows.jsonl", [{"question": "a", "solution": "b"}])
    with pytest.raises(UserError) as caught:
        sources.load(jsonl(file, file, columns=columns), "train", "words", 0)
    assert message in str(caught.value)


def test_columns_are_mapped(tmp_path):
    file = write(tmp_path / "rows.jsonl", [{"question": "a", "solution": 7, "other": 1}])
    rows = sources.load(jsonl(file, file, columns={"prompt": "question", "answer": "solution"}), "train", "words", 0)
    assert list(rows) == [{"id": "words/train/0", "prompt": "a", "answer": "7"}]


def test_held_out_rows_never_depend_on_order_or_copies(tmp_path):
    """The same prompts are held out whatever the order, and every copy of a held-out prompt leaves training."""
    rows = questions(40)
    one = jsonl(write(tmp_path / "a.jsonl", rows), 10)
    two = jsonl(write(tmp_path / "b.jsonl", [*reversed(rows), *rows[:20]]), 10)
    asked = [{row["prompt"] for row in sources.load(each, "eval", "t", 0)} for each in (one, two)]
    trained = [{row["prompt"] for row in sources.load(each, "train", "t", 0)} for each in (one, two)]
    assert asked[0] == asked[1] and len(asked[0]) == 10
    assert trained[0] == trained[1] == {row["prompt"] for row in rows} - asked[0]


def test_too_many_held_out(tmp_path):
    with pytest.raises(UserError, match=r"40 rows to hold out, but .* has 40 different prompts"):
        sources.load(jsonl(write(tmp_path / "a.jsonl", questions(40)), 40), "eval", "t", 0)


def test_rows_of_the_hub_go_the_same_way(monkeypatch):
    """Columns of JSON are read as JSON, numbers keep the width of their column, and no row gets keys of another."""
    import datasets
    import pyarrow

    chats = [[{"role": "user", "content": f"go {i}"} | ({"name": "bob"} if i else {})] for i in range(3)]
    made = datasets.Dataset.from_dict({"chat": chats, "label": ["a", "-", "b"]}, on_mixed_types="use_json")
    single = datasets.Dataset(pyarrow.table({"weight": pyarrow.array([0.1, 7, 2.5], pyarrow.float32())}))
    made = datasets.concatenate_datasets([made, single], axis=1)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, split, **__: made)
    columns = {"prompt": "chat", "id": "label"}
    spec = Hub(source="hub", path="some/where", columns=columns, answer="{{ weight }} kg", where="label != '-'")
    rows = sources.load(spec, "train", "t", 0)
    assert list(rows) == [
        {"id": "t/train/a", "prompt": chats[0], "answer": "0.1 kg"},
        {"id": "t/train/b", "prompt": chats[2], "answer": "2.5 kg"},
    ]
    assert rows.place(1) == "some/where (train): row 3"


# -- reasoning-gym -------------------------------------------------------------------------------------------------------


def gym(**more) -> ReasoningGym:
    return ReasoningGym(source="reasoning_gym", name="chain_sum", train=30, eval=10, **more)


def test_reasoning_gym_rows_and_their_own_scorer():
    from cpt.rewards import Scorer

    rows = list(sources.load(gym(), "train", "sums", 0))
    asked = list(sources.load(gym(), "eval", "sums", 0))
    assert len(rows) == 30 and len(asked) == 10
    keys = [prompt_key(row["prompt"]) for row in [*rows, *asked]]
    assert len(set(keys)) == 40
    assert list(sources.load(gym().model_copy(update={"train": 5}), "eval", "sums", 0)) == asked, (
        "eval depends on train"
    )
    assert list(sources.load(gym(), "eval", "sums", 1)) != asked
    with Scorer({"kind": "reasoning_gym"}) as scorer:
        scores = scorer.score([rows[0]["answer"], "no idea"], [rows[0], rows[0]])
    assert scores[0].value == 1.0 and scores[1].value < 1.0


def test_reasoning_gym_gives_more_rows_than_one_of_its_data_sets_has():
    """Entry i is drawn by seed + i, so that data sets of neighbouring seeds are nearly the same."""
    rows = sources.load(gym().model_copy(update={"train": 2500}), "train", "sums", 0)
    assert len({row["prompt"][0]["content"] for row in rows}) == 2500


@pytest.mark.parametrize(
    "source, message",
    [
        (gym().model_copy(update={"name": "chain_sums"}), "no data set 'chain_sums'; did you mean chain_sum?"),
        (gym(config={"max_term": 3}), "no config field 'max_term' that can be set; did you mean max_terms?"),
        (gym(config={"seed": 3}), "no config field 'seed' that can be set"),
        (gym(config={"min_terms": 9, "max_terms": 2}), "chain_sum refuses its config"),
        (
            gym(config={"max_terms": 2, "min_terms": 2, "max_digits": 1, "min_digits": 1}).model_copy(
                update={"train": 9000}
            ),
            "new prompts for train, 9000 were asked for",
        ),
    ],
)
def test_reasoning_gym_mistakes(source, message):
    with pytest.raises(UserError) as caught:
        sources.load(source, "train", "sums", 0)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# -- the stream ----------------------------------------------------------------------------------------------------------


def stream_of(folder, train, evaluation, validation=None):
    """A recipe of one JSON-lines task with these rows."""
    content = recipe("rlvr", tasks=("reverse",))
    data = {"source": "jsonl", "train": str(write(folder / "train.jsonl", train))}
    data["eval"] = str(write(folder / "eval.jsonl", evaluation))
    if validation is not None:
        data["validation"] = str(write(folder / "validation.jsonl", validation))
    content["stream"][0] |= {"task": "sums", "data": data}
    return load(write_recipe(folder / "recipe.yaml", content))


def test_what_is_apart_is_accepted(tmp_path):
    stream = load_stream(stream_of(tmp_path, questions(5), questions(3, 10), questions(2, 20)), {})
    sizes = {split: found["rows"] for split, found in stream.manifest()["sums"].items()}
    assert sizes == {"train": 5, "validation": 2, "eval": 3}


@pytest.mark.parametrize(
    "train, evaluation, validation, names",
    [
        (questions(5), questions(3, 4), None, "sums/train/4 = sums/eval/0"),
        ([{"prompt": "What  is 10+10?", "answer": "20"}], questions(3, 10), None, "sums/train/0 = sums/eval/0"),
        (
            [{"prompt": "what\u00a0is 10\u200b+10?\ufeff"}],
            questions(3, 10),
            None,
            "sums/eval/0 (train.jsonl:1 = eval.jsonl:1)",
        ),
        (questions(5), questions(3, 10), questions(2, 4), "sums/train/4 = sums/validation/0"),
        (questions(5), questions(3, 10), questions(2, 12), "sums/validation/0 = sums/eval/2"),
    ],
)
def test_a_leak_stops_the_run_and_names_the_rows(train, evaluation, validation, names, tmp_path):
    with pytest.raises(UserError) as caught:
        load_stream(stream_of(tmp_path, train, evaluation, validation), {})
    assert names in str(caught.value) and "remove them from one of the two" in str(caught.value)


def test_a_leak_into_another_task_or_a_suite_is_found(tmp_path):
    """What one task trains on may not be asked by another task, nor by a held-out suite."""
    from cpt.recipe import Suite, SuiteTask

    one = stream_of(tmp_path, questions(5), questions(3, 10))
    spec = {"source": "jsonl", "eval": write(tmp_path / "asked.jsonl", questions(2, 3))}
    suite = Suite(name="probe", tasks=(SuiteTask(task="held", data=File(**spec), reward={"kind": "exact"}),))
    with pytest.raises(UserError, match="sums/train/3 = held/eval/0"):
        load_stream(one, {"probe": suite})
    other = one.stream[0].model_copy(update={"task": "again", "data": File(train=spec["eval"], **spec | {"eval": 1})})
    with pytest.raises(UserError, match=r"stream\.sums\.data: .* = again/row/"):
        load_stream(one.model_copy(update={"stream": (one.stream[0], other)}), {})


def test_what_another_task_judges_merges_on_is_not_trained_on(tmp_path):
    (tmp_path / "other").mkdir()
    one = stream_of(tmp_path, questions(5), questions(3, 10), questions(2, 20))
    other = (
        stream_of(tmp_path / "other", questions(3, 19), questions(3, 30)).stream[0].model_copy(update={"task": "new"})
    )
    with pytest.raises(UserError, match="new/train/1 = sums/validation/0"):
        load_stream(one.model_copy(update={"stream": (one.stream[0], other)}), {})


def test_all_is_told_at_once(tmp_path):
    """Of all tasks: what cannot be read, leaks, and questions that are asked twice."""
    (tmp_path / "other").mkdir()
    one = stream_of(tmp_path, questions(5), questions(3, 4) + questions(2, 4))
    other = (
        stream_of(tmp_path / "other", questions(3, 20), questions(2, 30)).stream[0].model_copy(update={"task": "new"})
    )
    with (tmp_path / "other" / "train.jsonl").open("a") as stream:
        stream.write('{"prompt":\n{"prompt": 5}\n{"prompt": 6}\n')
    with pytest.raises(RecipeErrors) as caught:
        load_stream(one.model_copy(update={"stream": (one.stream[0], other)}), {})
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for part, line in zip(
        [
            "stream.new.data.train: ",
            "train.jsonl:5: prompt must be a string or a list of messages, not 5 (and 1 more row like it: train.jsonl:6)",
            (
                "rows sums/eval/0 and sums/eval/3 have the same prompt; keep one (eval.jsonl:1 and eval.jsonl:4) (and 1 "
                "more row like"
            ),
            "stream.sums.data: 1 row(s) have the same prompt as a row of another split",
        ],
        lines,
        strict=True,
    ):
        assert part in line


def test_one_question_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="rows sums/eval/0 and sums/eval/3 have the same prompt; keep one"):
        load_stream(stream_of(tmp_path, questions(5), questions(3, 10) + questions(1, 10)), {})


@pytest.mark.parametrize(
    "kind, row, message",
    [
        ("sft", {"prompt": "q", "answer": "a"}, "a sft stage needs a demonstration"),
        ("rlvr", {"messages": [{"role": "assistant", "content": "q"}]}, "a rlvr stage needs a `prompt`"),
    ],
)
def test_rows_that_a_stage_cannot_use(kind, row, message, tmp_path):
    stream = load_stream(stream_of(tmp_path, [row], questions(2, 10)), {})
    ((_, _, said),) = form_problems(stream.tasks[0].train, KINDS[kind].model_construct(kind=kind))
    assert message in said and "row sums/train/0 (" in said and "train.jsonl:1)" in said


def test_rows_of_two_forms(tmp_path):
    train = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "d", "chosen": None, "rejected": None}]
    stream = load_stream(stream_of(tmp_path, train, questions(2, 10)), {})
    ((_, _, said),) = form_problems(stream.tasks[0].train, Dpo(kind="dpo"))
    assert "the rows of one task must have one form" in said


TALK = [
    {"role": "user", "content": "what is 1+1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "twice that?"},
    {"role": "assistant", "content": "4"},
]


@pytest.mark.parametrize("asked", [TALK[:1], TALK[:3], [{"role": "user", "content": "What is  1+1?"}]])
def test_what_a_conversation_answers_on_its_way_is_a_leak(asked, tmp_path):
    with pytest.raises(UserError, match="sums/train/0 = sums/eval/0"):
        load_stream(stream_of(tmp_path, [{"messages": TALK}], [{"prompt": asked, "answer": "2"}]), {})


@pytest.mark.parametrize(
    "answers, read",
    [
        (["2024-01-05", "2023-11-30"], ["2024-01-05", "2023-11-30"]),  # a column of dates is one of texts
        ([7, 8.5], ["7", "8.5"]),  # a 7 beside a 8.5 is no 7.0
        ([10**30, 1], [str(10**30), "1"]),
        ([True, "x"], ["true", "x"]),
    ],
)
def test_values_are_read_as_they_are_written(answers, read, tmp_path):
    rows = [row | {"answer": answer, "metadata": {"day": "2024-01-05"}} for row, answer in zip(questions(2), answers)]  # noqa: B905
    file = write(tmp_path / "rows.jsonl", rows)
    found = sources.load(jsonl(file, file), "train", "words", 0)
    assert [row["answer"] for row in found] == read and found[1]["metadata"] == {"day": "2024-01-05"}


def test_rows_written_in_the_recipe(tmp_path):
    """Mapped and checked as those of a file are."""
    content = recipe("sft", tasks=("reverse",))
    rows = {
        "train": [{"q": "ab=", "answer": "ba"}, {"q": "cd=", "answer": "dc"}],
        "eval": [{"q": "ef=", "answer": "fe"}],
    }
    data = {"source": "rows", "columns": {"prompt": "q"}, "demonstration": "{{ answer }}", **rows}
    content["stream"][0]["data"] = data
    loaded = load(write_recipe(tmp_path / "recipe.yaml", content))
    (task,) = load_stream(loaded, {}).tasks
    assert [row["prompt"] for row in (*task.train, *task.eval)] == ["ab=", "cd=", "ef="]
    assert (task.train[0]["demonstration"], task.eval[0]["id"], len(task.validation)) == ("ba", "reverse/eval/0", 0)
    data["train"][1] = {"answer": "dc"}
    with pytest.raises(RecipeErrors, match=r"stream\.reverse\.data\.train: train row 2"):
        load_stream(load(write_recipe(tmp_path / "recipe.yaml", content)), {})
    data["eval"] = []
    assert "stream.0.data.eval: must not be empty" in mistakes(tmp_path, content)[0]
