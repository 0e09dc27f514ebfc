"""Files of rows as people have them: every value as it is written, every broken record named, nothing guessed."""

import bz2
import datetime
import decimal
import gzip
import json
import lzma
import os
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from cpt.data.readers import Options, records
from cpt.data.readers.folder import files
from cpt.errors import UserError


def read(folder, name: str, content: bytes | str, **options) -> list:
    """[(line or row, record)] of a file with this content."""
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(records(file, Options(**options)))


def texts(found: list) -> list:
    """Values as they would be written into a prompt."""
    return [{key: str(value) for key, value in record.items()} for _, record in found]


# -- what is read --------------------------------------------------------------------------------------------------------

NUMBERS = (
    '{"a": 0.00001, "b": 1e20, "c": 1.10, "d": 12345678901234567890123, "e": -0, "f": 1E400, "g": 0.123456789012345678}'
)
WRITTEN = {"a": "0.00001", "b": "1e20", "c": "1.10", "d": "12345678901234567890123", "e": "-0", "f": "1E400"}
WRITTEN |= {"g": "0.123456789012345678"}


@pytest.mark.parametrize("name, content", [("a.jsonl", NUMBERS + "\n"), ("a.json", f"[{NUMBERS}]")])
def test_numbers_keep_what_they_were_written_as(name, content, tmp_path):
    found = read(tmp_path, name, content)
    assert texts(found) == [WRITTEN]
    assert found[0][1]["c"] == 1.1 and found[0][1]["c"] * 2 == 2.2, "and are numbers all the same"


ROWS = [{"q": "a\nb", "n": "1"}, {"q": 'say "x", é', "n": "2"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = 'q,n\n"a\nb",1\n"say ""x"", é",2\n'


@pytest.mark.parametrize(
    "name, content, options, numbers",
    [
        ("a.jsonl", "\ufeff" + LINES.replace("\n", "\r\n\r\n"), {}, [1, 3]),  # byte order mark, CRLF, empty lines
        ("a.ndjson", LINES.rstrip(), {}, [1, 2]),
        ("a.json", LINES, {}, [1, 2]),  # lines under another name
        ("a.json", LINES.splitlines()[0] + "\n" + LINES.splitlines()[1], {"format": "jsonl"}, [1, 2]),
        ("a.json", json.dumps(ROWS, indent=1), {}, [2, 6]),
        ("a.json", "\ufeff" + json.dumps(ROWS), {}, [1, 1]),
        ("a.json", json.dumps({"v": {"n": [1]}, "rows": ROWS, "w": []}), {"field": "rows"}, [1, 1]),
        ("a.csv", CSV, {}, [2, 4]),
        ("a.csv", "\ufeff" + CSV.replace("\n", "\r\n").replace("a\r\n", "a\n"), {}, [2, 4]),
        ("a.csv", CSV.replace(",1", ";1").replace(",2", ";2").replace("q,n", "q;n"), {"delimiter": ";"}, [2, 4]),
        ("a.tsv", CSV.replace(",1", "\t1").replace(",2", "\t2").replace("q,n", "q\tn"), {}, [2, 4]),
        ("a.txt", CSV, {"format": "csv"}, [2, 4]),
        ("a.csv", ",q,n\n0,\"a\nb\",1\n1,\"say \"\"x\"\", é\",2\n", {}, [2, 4]),  # the index that pandas writes
    ],
)  # fmt: skip
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_rows_are_read_as_they_are(name, content, options, numbers, compress, tmp_path):
    found = read(tmp_path, name, compress(content.encode()), **options)
    assert [record for _, record in found] == ROWS and [number for number, _ in found] == numbers


def test_empty_cells_are_no_values(tmp_path):
    assert read(tmp_path, "a.csv", "a,b\n,x\n") == [(2, {"a": None, "b": "x"})]


def test_a_long_line(tmp_path):
    long = "é" * 1_000_000
    for name, content in (
        ("a.jsonl", json.dumps({"q": long})),
        ("a.csv", f"q\n{long}\n"),
        ("b.json", f'[{{"q": "{long}"}}]'),
    ):
        assert read(tmp_path, name, content)[0][1] == {"q": long}


def test_parquet(tmp_path):
    noon = datetime.datetime(2024, 1, 5, 12, 0, 0)
    columns = {
        "double": pyarrow.array([0.00001, 1.5]),
        "single": pyarrow.array([0.1, 7], pyarrow.float32()),
        "decimal": pyarrow.array([decimal.Decimal("1.10"), decimal.Decimal("20.00")]),
        "integer": pyarrow.array([2**62, 3]),
        "date": pyarrow.array([noon.date(), noon.date()]),
        "time": pyarrow.array([noon, noon.replace(microsecond=500)], pyarrow.timestamp("ns")),
        "name": pyarrow.array(["x", "y"]).dictionary_encode(),
        "gap": pyarrow.array([None, "z"]),
    }
    chats = [[{"role": "user", "content": "hi", "name": None}], [{"role": "user", "content": "ho", "name": "bob"}]]
    pyarrow.parquet.write_table(pyarrow.table(columns | {"chat": chats}), tmp_path / "a.parquet")
    (one, first), (two, second) = records(tmp_path / "a.parquet", Options())
    assert (one, two) == (1, 2) and first.pop("gap") is None and second.pop("gap") == "z"
    assert first.pop("chat") == [{"role": "user", "content": "hi"}], "a null in a struct is a key that is not there"
    assert second.pop("chat") == chats[1]
    written = ["0.00001", "0.1", "1.10", str(2**62), "2024-01-05", "2024-01-05 12:00:00", "x"]
    assert [str(value) for value in first.values()] == written
    written = ["1.5", "7.0", "20.00", "3", "2024-01-05", "2024-01-05 12:00:00.0005", "y"]
    assert [str(value) for value in second.values()] == written


def test_parquet_within_lists_and_structs(tmp_path):
    day, single = datetime.date(2024, 1, 5), pyarrow.float32()
    struct = pyarrow.struct([("score", single), ("day", pyarrow.date32()), ("parts", pyarrow.list_(single))])
    columns = {
        "scores": pyarrow.array([[0.1, None], None, []], pyarrow.list_(single)),
        "pair": pyarrow.array([[0.1, 0.2], None, [1, 2]], pyarrow.list_(single, 2)),
        "map": pyarrow.array([{"score": 0.1, "day": day, "parts": [1.1]}, None, {"parts": None}], struct),
        "deep": pyarrow.array([[["a"], None], [], None]),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    one, two, three = (record for _, record in records(tmp_path / "a.parquet", Options()))
    assert [*map(str, one["scores"])] == ["0.1", "None"] and [*map(str, one["pair"])] == ["0.1", "0.2"]
    assert (str(one["map"]["score"]), one["map"]["day"]) == ("0.1", "2024-01-05")
    assert [*map(str, one["map"]["parts"])] == ["1.1"] and one["deep"] == [["a"], None]
    assert two == {"scores": None, "pair": None, "map": None, "deep": []}
    assert three == {"scores": [], "pair": [1.0, 2.0], "map": {}, "deep": None}


def test_two_columns_of_one_name_in_parquet(tmp_path):
    table = pyarrow.table([["x"], ["y"]], names=["a", "a"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="two columns are called 'a': rename one"):
        list(records(tmp_path / "a.parquet", Options()))


# -- what is broken ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, content, options, told",
    [
        ("a.jsonl", '{"a": 1}\n{"a":\n{"a": 2}\n[3]\n', {}, {2: "not valid JSON (Expecting", 4: "Then set `source: file`"}),
        ("a.jsonl", '{"a": 1, "a": 2}\n', {}, {1: "the key 'a' appears twice"}),
        ("a.jsonl", '{"a": {"b": 1, "b": 2}}\n', {}, {1: "the key 'b' appears twice"}),
        ("a.jsonl", '{"a": "\\ud800"}\n', {}, {1: "half of a surrogate pair"}),
        ("a.jsonl", b'{"a": "\xe9"}\n', {}, {1: "not UTF-8"}),
        ("a.jsonl", '{"a": ' + "[" * 100_000, {}, {1: "nested too deeply"}),
        ("a.jsonl", '{"a": ' + "1" * 5000 + "}", {}, {1: "a number of more than 4000 digits"}),
        ("a.jsonl", '{"a": ' + "[" * 300 + "]" * 300 + "}", {}, {1: "nested too deeply"}),  # json can, others cannot
        ("a.json", '[{"a": ' + '{"b":' * 300 + "1" + "}" * 300 + "}]", {}, {1: "nested too deeply"}),
        ("a.jsonl", '{"a": 1,}\n', {}, {1: "not valid JSON"}),
        ("a.json", '[{"a": 1},\n{"a": 2},\n]', {}, {3: "a comma before the closing ]"}),
        ("a.json", '[{"a": 1}\n{"a": 2}]', {}, {2: "Expecting ',' or ']'"}),
        ("a.json", '[{"a": 1}, 2]', {}, {1: "each row must be a JSON object, not '2]'"}),
        ("a.json", '[{"a": 1}] x', {}, {1: "Extra data"}),
        ("a.json", '[{"a": 1},\n{"a": 2, "a": 3}]', {}, {2: "the key 'a' appears twice"}),
        ("a.json", '{"r": [{"a": 1}], "r": []}', {"field": "r"}, {1: "the key 'r' appears twice"}),
        ("a.json", '{"r": [{"a": 1}],}', {"field": "r"}, {1: "Expecting a key in double quotes"}),
        ("a.json", b'[{"a": "\xe9"}]', {}, {1: "not UTF-8"}),
        ("a.csv", "a,b\n1\n1,2\n1,2,3\n", {}, {2: "1, not 2: a cell is missing", 4: "3, not 2: put cells that hold the"}),
        ("a.csv", 'a,b\n1,"2\n', {}, {2: "a quote that does not close"}),
        ("a.csv", b"a,b\n1,2\n\xe9,2\n", {}, {3: "not UTF-8"}),
        ("a.csv", "a,b\r1,2\r", {}, {1: "a carriage return alone"}),
    ],
)  # fmt: skip
def test_broken_records_are_named(name, content, options, told, tmp_path):
    broken = {number: record for number, record in read(tmp_path, name, content, **options) if isinstance(record, str)}
    assert broken.keys() == told.keys()
    for number, part in told.items():
        assert part in broken[number] and len(broken[number]) < 250 and "\n" not in broken[number]


@pytest.mark.parametrize(
    "name, content, options, told",
    [
        ("a.json", '{"rows": [{"a": 1}]}', {}, "is a JSON object, not an array: name the key of its rows"),
        ("a.json", '{"rows": [{"a": 1}]}', {"field": "row"}, "has no key 'row'; did you mean rows?"),
        ("a.json", '{"prompt": ["a"], "answer": ["b"]}', {}, "is a JSON object that holds no array of rows"),
        ("a.json", '{"rows": [], "v": 1}', {"field": "v"}, "under the key 'v' is no array of rows; the arrays in the file"),
        ("a.json", '[{"a": 1}]', {"field": "rows"}, "is a JSON array, so there is no key 'rows' in it"),
        ("a.json", '"text"', {}, "must hold a JSON array of rows"),
        ("a.csv", "a;b\n1;2\n", {}, "is it separated by ';'? Then set `delimiter: ';'`"),
        ("a.csv", "a,b,a\n1,2,3\n", {}, "two columns are called 'a': rename one"),
        ("a.parquet", "no parquet", {}, "cannot be read as Parquet"),
        ("a.txt", LINES, {}, "its ending does not tell the format: set `format`"),
        ("a.csv.zst", "a", {}, "unpack it first"),
        ("a.xlsx", "a", {}, "spreadsheets are not read: save it as CSV"),
        ("a.jsonl", gzip.compress(LINES.encode(), mtime=0)[:-9], {}, "its compressed data is damaged"),
        ("a.jsonl", LINES.encode("utf-16"), {}, "is UTF-16, not UTF-8"),
        ("a.csv", b"PK\x03\x04....", {}, "is compressed by zip: unpack it first"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(name, content, options, told, tmp_path):
    with pytest.raises(UserError) as caught:
        read(tmp_path, name, content, **options)
    assert told in str(caught.value) and str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


# -- folders -------------------------------------------------------------------------------------------------------------


def folder_of(place, *names: str):
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(LINES)
    return place


def test_a_folder_is_its_files_in_order(tmp_path):
    names = ("b.jsonl", "a/c.jsonl.gz", "README.md", ".hidden.jsonl", "_x/d.jsonl", ".git/e.jsonl")
    place = folder_of(tmp_path / "rows [v1]*?", *names)
    os.symlink(place / "b.jsonl", place / "d.jsonl")
    assert [str(file.relative_to(place)) for file in files(place, Options())] == ["a/c.jsonl.gz", "b.jsonl", "d.jsonl"]


@pytest.mark.parametrize(
    "names, options, told",
    [
        (["a.jsonl", "b.csv"], {}, "files of several formats, csv (1), jsonl (1): say which with `format`"),
        (["README.md"], {}, "holds no jsonl, json, csv, tsv or parquet files; it holds: README.md"),
        (["a.csv"], {"format": "parquet"}, "holds no parquet files; it holds: a.csv"),
        (["data-0.arrow", "state.json"], {}, "is a data set that `save_to_disk` wrote: write it as Parquet"),
        (["train-0.jsonl", "train-1.jsonl", "test-0.jsonl"], {}, "holds several splits (test-0.jsonl, train-1.jsonl)"),
    ],
)
def test_folders_of_which_it_is_not_clear_what_is_meant(names, options, told, tmp_path):
    with pytest.raises(UserError) as caught:
        files(folder_of(tmp_path, *names), Options(**options))
    assert told in str(caught.value)


def test_one_format_of_several(tmp_path):
    place = folder_of(tmp_path, "a.jsonl", "b.csv")
    assert files(place, Options(format="csv")) == [place / "b.csv"]


@pytest.mark.parametrize(
    "there, asked, told",
    [
        ("rows.jsonl", "row.jsonl", "no such file; did you mean rows.jsonl?"),
        ("cafe\u0301.jsonl", "caf\u00e9.jsonl", "whose accents are other Unicode characters"),
        ("rows.jsonl", "gone/rows.jsonl", "there is no folder"),
        ("rows.jsonl", "*.jsonl", "a path is taken literally: for several files name their folder"),
        ("rows.jsonl", "https:/somewhere/rows.jsonl", "files are read from this machine: download it first"),
    ],
)
def test_files_that_are_not_there(there, asked, told, tmp_path):
    (tmp_path / there).write_text(LINES)
    with pytest.raises(UserError, match=told.replace("?", r"\?")):
        files(tmp_path / asked, Options())


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    os.symlink(tmp_path / "gone.jsonl", tmp_path / "link.jsonl")
    for name, told in (
        ("pipe.jsonl", "is not a regular file .a pipe"),
        ("link.jsonl", "is a link to a file that is not there"),
    ):
        with pytest.raises(UserError, match=told):
            files(tmp_path / name, Options())


def test_no_library_is_imported_for_text(tmp_path):
    """Nor is anything cached: a home that cannot be written does not matter."""
    for name, content in (("a.jsonl", LINES), ("a.json", json.dumps(ROWS)), ("a.csv", CSV)):
        (tmp_path / name).write_text(content)
    code = (
        "import sys\nfrom pathlib import Path\nfrom cpt.data import sources\nfrom cpt.recipe import File\n"
        "for file in sys.argv[1:]:\n"
        "    source = File(source='file', train=Path(file), eval=1, columns={'prompt': 'q', 'answer': 'n'})\n"
        "    assert len(sources.load(source, 'eval', 't', 0)) == 1\n"
        "sys.exit(str(found) if (found := {'datasets', 'pyarrow', 'pandas', 'torch'} & set(sys.modules)) else 0)\n"
    )
    environment = os.environ | {"HOME": "/proc/none", "HF_HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none"}
    asked = [sys.executable, "-c", code, *(str(tmp_path / name) for name in ("a.jsonl", "a.json", "a.csv"))]
    done = subprocess.run(asked, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
