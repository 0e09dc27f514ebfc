"""Rows of any shape, files of any bytes: rows, or one line that says what is wrong; never another exception.

CPT_FUZZ: how many examples of each kind (500 where it says nothing).
"""

import csv
import json
import os
import time

import pyarrow
import pyarrow.parquet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpt.checks.findings import Findings
from cpt.checks.preflight import check_forms
from cpt.data import sources
from cpt.data.rows import FIELDS, unpack
from cpt.data.stream import load_stream, stage_rows
from cpt.errors import UserError
from cpt.recipe import File, Recipe

EXAMPLES = int(os.environ.get("CPT_FUZZ", "500"))
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)

texts = st.one_of(
    st.text(max_size=8), st.sampled_from(["", " ", "\u200b", "a\u2028b", "\ud800", "{{ x }}", "A", "1e-5", "\\$20"])
)
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([10**30, 1e300, -0.0]))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "", None, 3])},
        optional={"content": scalars, "tool_calls": scalars, "name": texts},
    ),
    max_size=3,
)
values = st.recursive(
    st.one_of(scalars, messages),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
likely = st.fixed_dictionaries(
    {"prompt": st.one_of(texts, messages)},
    optional={"answer": scalars, "demonstration": st.one_of(texts, messages), "messages": messages, "id": scalars},
)
rows = st.lists(
    st.one_of(likely, st.dictionaries(st.one_of(st.sampled_from(FIELDS), texts), values, max_size=5)), max_size=4
)
mappings = st.fixed_dictionaries(
    {},
    optional={
        "columns": st.dictionaries(
            st.sampled_from([*FIELDS, "promt"]), st.sampled_from(["prompt", "answer", "x", "id"]), max_size=2
        ),
        "template": st.sampled_from(
            ["{{ prompt }}", "{{ x }}\n", "{{ row['answer'] | tojson }}", "{{ answer.a[0] }}", "{{ id * 2 }}"]
        ),
        "answer": st.sampled_from(["{{ answer }}", "{{ x | default(answer) }}", "{{ prompt[0].content }}"]),
        "where": st.sampled_from(["answer != '-'", "x is defined", "answer > 3", "prompt is string", "row"]),
    },
)  # fmt: skip
KINDS = ("sft", "dpo", "rlvr", "hybrid", "rejection", "self-distillation", "distill")
REWARDS = ("exact", "choice", "f1", {"kind": "label", "labels": ["yes", "no"]})


def recipe_of(data: dict, kind: str, reward) -> Recipe:
    stage = {"kind": kind} | {"hybrid": {"method": "luffy"}, "distill": {"teacher": "base"}}.get(kind, {})
    reward = {"kind": reward} if isinstance(reward, str) else reward
    task = {"task": "t", "data": data, "reward": reward, "stages": (stage,)}
    return Recipe.model_validate({"name": "fuzz", "model": {"path": "tiny"}, "stream": (task,)})


def read(data: dict, kind: str = "sft", reward="exact") -> None:
    """All that `cpt check` does with rows before it asks a tokenizer, and the table that training is given; in time."""
    start = time.process_time()
    check(data, kind, reward)
    assert time.process_time() - start < 5, "seconds of this process, however busy the machine is"


def check(data: dict, kind: str, reward) -> None:
    try:
        recipe = recipe_of(data, kind, reward)
    except ValueError:  # columns.answer beside answer, and the like
        return
    findings = Findings()
    try:
        stream = load_stream(recipe, {})
        stream.manifest()
        check_forms(recipe, stream, findings)
        findings.check()
    except UserError as error:
        lines = str(error).splitlines()
        assert lines and all(len(line) < 1500 for line in lines), lines
        str(error).encode()  # can be printed
        return
    assert len(stage_rows(stream.tasks[0]).to_list()) == len(stream.tasks[0].train)


@FUZZ
@given(rows, rows, mappings, st.sampled_from(KINDS), st.sampled_from(REWARDS))
def test_rows_of_any_shape(tmp_path_factory, train, evaluation, mapping, kind, reward):
    folder = tmp_path_factory.mktemp("fuzz")
    for name, made in (("train", train), ("eval", evaluation)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    files = {name: folder / f"{name}.jsonl" for name in ("train", "eval")}
    read({"source": "file"} | files | mapping, kind, reward)


SEEDS = [
    b'{"prompt": "a", "answer": "b", "demonstration": "b"}\n{"prompt": "c", "answer": 1.50, "demonstration": 2}\n',
    b'[{"prompt": "a", "answer": "b"},\n {"prompt": "c", "answer": null}]',
    b'{"rows": [{"prompt": "a"}], "more": {"x": [1, 2]}}',
    b'prompt,answer,demonstration\n"a, ""b""\nc",1,x\nd,,y\n',
    b"prompt\tanswer\na\tb\n",
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    b"PAR1\x15\x04\x15PAR1",
]
changes = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 4), st.binary(max_size=4)), max_size=4)


@FUZZ
@given(
    st.one_of(st.sampled_from(SEEDS), st.binary(max_size=60)),
    changes,
    st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet"]),
    st.sampled_from([None, "rows"]),
)
def test_files_of_any_bytes(tmp_path_factory, content, changes, kind, field):
    for place, removed, added in changes:
        content = content[:place] + added + content[place + removed :]
    file = tmp_path_factory.mktemp("fuzz") / f"rows.{kind}"
    file.write_bytes(content)
    options = {"field": field} if kind == "json" else {}
    read({"source": "file", "train": file, "eval": 1} | options)


visible = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs", "Cn", "Co"]), min_size=1, max_size=8
)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), visible),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(visible, inner, max_size=3)),
    max_leaves=6,
)
calls = st.dictionaries(visible, plain, max_size=3)


@FUZZ
@given(
    st.lists(st.tuples(visible, visible, plain, calls), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from(["jsonl", "json", "rows"]),
    st.sampled_from(KINDS),
)
def test_rows_come_back_as_they_were_written(tmp_path_factory, drawn, as_chat, form, kind):
    folder = tmp_path_factory.mktemp("fuzz")
    written = {}
    for split in ("train", "eval"):
        rows = []
        for i, (text, answer, metadata, call) in enumerate(drawn):
            prompt = f"{split}{i} {text}"
            chat = [{"role": "user", "content": prompt}, {"role": "tool", "content": "", "extra": call}]
            row = {"prompt": chat if as_chat else prompt, "answer": f"a{answer}z", "demonstration": f"d{answer}"}
            rows.append(row if metadata is None else row | {"metadata": metadata})
        written[split] = rows
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        document = json.dumps({"rows": rows} if form == "rows" else rows, ensure_ascii=False)
        (folder / f"{split}.json").write_text(lines if form == "jsonl" else document, encoding="utf-8")
    options = {"format": "jsonl"} if form == "jsonl" else {"field": "rows"} if form == "rows" else {}
    recipe = recipe_of(
        {"source": "file"} | {name: folder / f"{name}.json" for name in written} | options, kind, "exact"
    )
    stream = load_stream(recipe, {})
    for split, rows in written.items():
        named = [row | {"id": f"t/{split}/{i}"} for i, row in enumerate(rows)]
        assert list(getattr(stream.tasks[0], split)) == named
    findings = Findings()
    check_forms(recipe, stream, findings)
    assert not findings.problems
    table = stage_rows(stream.tasks[0])
    assert unpack(table["prompt"], table["row"]) == [row | {"task": "t"} for row in stream.tasks[0].train]


awkward = st.text(st.sampled_from("a,\"'\n\r\t;|\\é\u2028 "), max_size=6)


@FUZZ
@given(
    st.lists(st.tuples(awkward, awkward), min_size=1, max_size=4),
    st.sampled_from(["csv", "tsv", ";", "parquet"]),
    st.sampled_from(["minimal", "all"]),
)
def test_cells_come_back_as_they_were_written(tmp_path_factory, drawn, form, quoting):
    folder = tmp_path_factory.mktemp("fuzz")
    rows = [{"prompt": f"{i} {text}z", "answer": f"a{answer}z"} for i, (text, answer) in enumerate(drawn)]
    file = folder / f"rows.{'csv' if form == ';' else form}"
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        delimiter = {"csv": ",", "tsv": "\t", ";": ";"}[form]
        with file.open("w", encoding="utf-8", newline="") as stream:
            quotes = csv.QUOTE_ALL if quoting == "all" else csv.QUOTE_MINIMAL
            writer = csv.DictWriter(stream, ["prompt", "answer"], delimiter=delimiter, quoting=quotes)
            writer.writeheader()
            writer.writerows(rows)
    options = {"delimiter": ";"} if form == ";" else {}
    read = sources.load(File(source="file", train=file, eval=file, **options), "eval", "t", 0)
    assert [{name: row[name] for name in ("prompt", "answer")} for row in read] == rows


def test_the_fuzz_can_pass(tmp_path):
    """Rows that are right get through it."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(SEEDS[0])
    read({"source": "file", "train": file, "eval": 1})
    assert (
        len(load_stream(recipe_of({"source": "file", "train": file, "eval": 1}, "sft", "exact"), {}).tasks[0].train)
        == 1
    )
