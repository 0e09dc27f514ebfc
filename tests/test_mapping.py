"""From columns to rows: templates, conditions, what is named of columns and rows that do not fit."""

import json

import pytest

from cpt.data import sources
from cpt.data.readers.record import Number
from cpt.errors import RecipeErrors
from cpt.recipe import File, load
from cpt.recipe.row_templates import Columns, TemplateProblem, compiled, condition
from helpers.recipes import recipe, write_recipe

ROW = {
    "q": "x",
    "n": Number("1.10"),
    "e": Number("1e20"),
    "i": 5,
    "yes": True,
    "gap": None,
    "l": ["p", "q"],
    "m": {"k": "<'"},
}
ROW |= {"my col": "s", "items": "it"}
ROW |= {"nan": float("nan")}
SEEN = {"row": Columns(ROW), **ROW}


@pytest.mark.parametrize(
    "source, written",
    [
        ("{{ q }} {{ n }} {{ e }} {{ i }} {{ yes }}\n", "x 1.10 1e20 5 true\n"),
        ("{{ row['my col'] }}", "s"),
        ("{{ items }}", "it"),
        ("{{ gap or '-' }}", "-"),
        ("{{ l | join(', ') }} {{ [n, yes] | join('/') }}", "p, q 1.10/true"),
        ("{{ m | tojson }} {{ l | tojson }}", '{"k": "<\'"} ["p", "q"]'),
        ("{{ n * 2 }}", "2.2"),
        ("{{ {'a': [n, e, i]} | tojson }}", '{"a": [1.10, 1e20, 5]}'),
        ("{{ l | map('upper') | join }}{{ m['k'] | e }}", "PQ&lt;&#39;"),
        ("{{ ['A', 'B'][l | length - 1] }}", "B"),
        ("{% for each in l %}{{ loop.index }}) {{ each }}\n{% endfor %}", "1) p\n2) q\n"),
        ("{% if z is defined %}{{ z }}{% else %}{{ q }}{% endif %}", "x"),
    ],
)
def test_templates(source, written):
    assert compiled(source)(SEEN) == written


@pytest.mark.parametrize(
    "source, told",
    [
        ("{{ gap }}", "a null or an empty cell would be written: add a default"),
        ("{{ l }}", "a list would be written"),
        ("{{ m }}", "a map would be written"),
        ("{{ m.items }}", "a function would be written"),
        ("{{ [q, gap] | join }}", "a null or an empty cell would be written"),
        ("{{ l | map('upper') }}", "a list would be written"),  # a generator
        ("{{ z }}", "no column 'z'"),
        ("{{ 1 if z is none else q }}", "no column 'z'"),
        ("{{ m.z }}", "has no attribute 'z'"),
        ("{{ q.__class__ }}", "SecurityError"),
        ("{{ l.append(3) }}", "SecurityError"),
        ("{{ i / 0 }}", "ZeroDivisionError"),
        ("{{ i + q }}", "TypeError"),
        ("{{ row['my column'] }}", "no column 'my column'"),
        ("{{ nan }}", "nan would be written, which is not a value"),
        ("{{ q * 10**10 }}", "makes a value of more than 10,000,000 parts by \\*"),
        ("{{ [q] * 10**9 }}", "makes a value of more than 10,000,000 parts by \\*"),
        ("{{ i ** (10**9) }}", "makes a value of more than 10,000,000 parts by \\*\\*"),
        ("{{ q | center(10**10) }}", "makes a text of more than 10,000,000 characters"),
        (
            "{% for a in range(10**5) %}{% for b in range(10**5) %}{% endfor %}{% endfor %}{{ q }}",
            "counts further than",
        ),
    ],
)
def test_rows_that_a_template_cannot_use(source, told):
    with pytest.raises(TemplateProblem, match=told):
        compiled(source)(SEEN)


@pytest.mark.parametrize(
    "source, told",
    [
        ("{{ q", "is not a Jinja template"),
        ("label", r"names no column, .*: write a column as \{\{ label \}\}"),
        ("{{ 'x' }}", "names no column"),
        ("{{ l | random }}", "No filter named 'random'"),  # every process would have other rows
    ],
)
def test_what_is_no_template(source, told):
    with pytest.raises(TemplateProblem, match=told):
        compiled(source)


@pytest.mark.parametrize(
    "source, kept",
    [
        ("q != '-'", True),
        ("n > 1 and i in [4, 5]", True),
        ("gap is none", True),
        ("not yes", False),
        ("n == 1.1", True),
    ],
)
def test_conditions(source, kept):
    assert condition(source)(SEEN) is kept


@pytest.mark.parametrize(
    "source, told",
    [
        ("q", "must be true or false for a row, not 'x'"),
        ("i > q", "'>' not supported between instances of 'int' and 'str'"),
        ("gap > 3", "TypeError"),
        ("z == 1", "no column 'z'"),
        ("z", "no column 'z'"),
        ("row['z'] == 1", "no column 'z'"),
    ],
)
def test_rows_of_which_a_condition_cannot_be_said(source, told):
    with pytest.raises(TemplateProblem, match=told):
        condition(source)(SEEN)


# -- files ---------------------------------------------------------------------------------------------------------------

COMMON = [{"text": f"film {i}", "label": label, "stars": i} for i, label in enumerate(["good", "bad", "-", "good"])]


def source(folder, rows=COMMON, **more) -> File:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return File(source="file", train=file, eval=file, **more)


def test_rows_of_a_table(tmp_path):
    made = source(
        tmp_path,
        template="Review: {{ text }}\nIs it good?",
        answer="{{ 'yes' if label == 'good' else 'no' }}",
        demonstration="{{ stars }} stars: {{ label }}",
        where="label != '-'",
    )
    rows = sources.load(made, "train", "films", 0)
    assert [rows[0], rows[2]] == [
        {
            "id": "films/train/0",
            "prompt": "Review: film 0\nIs it good?",
            "answer": "yes",
            "demonstration": "0 stars: good",
        },
        {
            "id": "films/train/3",
            "prompt": "Review: film 3\nIs it good?",
            "answer": "yes",
            "demonstration": "3 stars: good",
        },
    ]
    assert len(rows) == 3 and rows.place(2).endswith("rows.jsonl:4") and rows[2].place == rows.place(2)
    assert rows.notes == [f"{tmp_path}/rows.jsonl: `where` keeps 3 of 4 rows"]


def told(made: File) -> list[str]:
    with pytest.raises(RecipeErrors) as caught:
        sources.load(made, "train", "films", 0)
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


@pytest.mark.parametrize(
    "more, parts",
    [
        ({}, ["train: ", "no column prompt or messages; there are: text, label, stars; name it with"]),
        ({"columns": {"prompt": "txt"}}, ["columns.prompt: ", "no column 'txt' (for prompt); did you mean text?"]),
        ({"columns": {"promt": "text"}}, ["columns.promt: ", "rows have no field 'promt'; did you mean prompt?"]),
        ({"template": "{{ txt }}"}, ["rows.jsonl:1: template: no column 'txt'; did you mean text?; there are: text,",
                                     "(and 3 more rows like it: rows.jsonl:2, rows.jsonl:3, rows.jsonl:4)"]),
        ({"template": "{{ text }}", "where": "stars > 'a'"}, ["rows.jsonl:1: where: TypeError", "(and 3 more rows like it"]),
        ({"template": "{{ text }}", "where": "label == '1'"}, ["train: ", "rows.jsonl: `where` drops all of its 4 rows"]),
        ({"template": "{{ text }}", "where": "stars in ['x', '1']"}, ["rows.jsonl:2: where: compares stars with '1',",
                                                                       "(1), which is never equal: write 1 without quotes"]),
        ({"template": "{{ 'a' if row['stars'] != '2' else text }}"}, ["rows.jsonl:3: template: compares stars with '2'"]),
        ({"columns": {"prompt": "stars"}}, ["rows.jsonl:1: prompt must be a string or a list of messages", "(and 3"]),
    ],
)  # fmt: skip
def test_every_row_is_counted_and_the_first_named(more, parts, tmp_path):
    (line,) = told(source(tmp_path, **more))
    assert all(part in line for part in parts), line


@pytest.mark.parametrize("where", ["label != -1", "row['label'] not in [-1, -2]", "1 == label", "{{"])
def test_the_cells_of_a_csv_are_texts(where, tmp_path):
    """A comparison with a number that they read like would be wrong in silence, in templates too."""
    file = tmp_path / "rows.csv"
    file.write_text("text,label\na,1\nb,-1\n")
    more = {"where": where} if where != "{{" else {"answer": "{{ 'yes' if label == 1 else 'no' }}"}
    (line,) = told(File(source="file", train=file, eval=file, template="{{ text }}", **more))
    assert "compares label with" in line and "in quotes, or for example label | int" in line
    more = {
        key: text.replace("label", "label | int").replace("row['label | int']", "label | int")
        for key, text in more.items()
    }
    assert sources.load(File(source="file", train=file, eval=file, template="{{ text }}", **more), "eval", "t", 0)


def test_a_column_of_several_types_may_be_compared(tmp_path):
    rows = [{"prompt": "a", "label": 1}, {"prompt": "b", "label": "-"}]
    assert len(sources.load(source(tmp_path, rows, where="label != '-'"), "train", "t", 0)) == 1
    assert len(sources.load(source(tmp_path, rows, where="label == 1"), "train", "t", 0)) == 1


def test_several_things_are_told_at_once(tmp_path):
    made = source(tmp_path, columns={"prompt": "text", "answer": "label"})
    file = made.train
    file.write_text(
        '{"text": "a", "label": ["x"]}\n{"text":\n{"text": "\u200b \u2800", "label": "b"}\n'
        '{"text": "c", "label": "x\u200b"}\n'
    )
    lines = told(made)
    assert len(lines) == 4
    for part, line in zip(
        [":2: not valid JSON", ":1: answer must be a string", ":3: prompt is empty", "(U+200B)"], lines, strict=True
    ):
        assert part in line
    assert max(map(len, lines)) < 300


def test_values_in_messages_are_cut(tmp_path):
    (line,) = told(source(tmp_path, [{"prompt": {"x": "y" * 1_000_000}}]))
    assert len(line) < 300


@pytest.mark.parametrize(
    "value, text",
    [(7, "7"), (True, "true"), (Number("1.10"), "1.10"), (10**30, str(10**30)), ("True", "True"), ("", "")],
)
def test_numbers_as_answers_and_demonstrations(value, text, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(
        json.dumps({"prompt": "a", "answer": 0}).replace(
            "0", str(value) if not isinstance(value, str | bool) else json.dumps(value)
        )
    )
    assert sources.load(File(source="file", train=file, eval=file), "eval", "t", 0)[0]["answer"] == text


@pytest.mark.parametrize("value", ["NaN", "Infinity", "[1]", '{"a": 1}'])
def test_answers_that_are_no_text(value, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"prompt": "a", "answer": {value}}}\n')
    (line,) = told(File(source="file", train=file, eval=file))
    assert "rows.jsonl:1: answer" in line


def test_columns_that_are_not_used_are_named(tmp_path):
    rows = [{"prompt": "a", "anwser": "b", "url": "c"}]
    assert sources.load(source(tmp_path, rows), "train", "t", 0).notes == [
        f"{tmp_path}/rows.jsonl: columns that are not used: anwser (did you mean answer?), url"
    ]
    made = source(tmp_path, rows, answer="{{ row['anwser'] }} {{ url }}")
    assert sources.load(made, "train", "t", 0).notes == []
    made = source(tmp_path, rows, answer="{{ answr | default(anwser) }}", where="url != '-'")
    assert sources.load(made, "train", "t", 0).notes == [
        f"{tmp_path}/rows.jsonl: `where` keeps all of 1 rows",
        f"{tmp_path}/rows.jsonl: columns that templates use and no row has: answr (did you mean anwser?)",
    ]


# -- what a recipe may say -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data, told",
    [
        ({"template": "{{ q"}, "data.template: is not a Jinja template"),
        ({"answer": "label"}, "data.answer: names no column, so all rows would get the same text: write a column as"),
        ({"where": "label =="}, "data.where: is not a Jinja expression"),
        ({"answer": "{{ a }}", "columns": {"answer": "b"}}, "columns.answer and answer both say what answer is: keep one"),
        ({"format": "csv", "field": "rows"}, "`field` is a key of a JSON document, and the format is csv"),
        ({"format": "json", "delimiter": ";"}, "`delimiter` is of CSV files, and the format is json"),
        ({"source": "jsonl", "format": "csv"}, "write `source: file` for csv"),
        ({"format": "xml"}, "must be one of jsonl, json, csv, tsv, parquet"),
        ({"eval": -1}, "data.eval"),
        ({"eval": ""}, "data.eval: is empty: name a file or a folder"),
        ({"source": "csv"}, "no source 'csv'; did you mean file?"),
        ({"filter": "label != '-'"}, "data.filter: unknown key; did you mean where?"),
    ],
)  # fmt: skip
def test_mistakes_in_the_recipe(data, told, tmp_path):
    content = recipe("rlvr", tasks=("reverse",))
    content["stream"][0]["data"] = {"source": "file", "train": "rows.csv", "eval": 2} | data
    with pytest.raises(RecipeErrors) as caught:
        load(write_recipe(tmp_path / "recipe.yaml", content))
    assert told in str(caught.value) and "\n" not in str(caught.value), caught.value


def test_paths_are_relative_to_the_recipe(tmp_path):
    content = recipe("rlvr", tasks=("reverse",))
    content["stream"][0]["data"] = {"source": "file", "train": "rows [v1]", "eval": "~/x.csv"}
    data = load(write_recipe(tmp_path / "recipe.yaml", content)).stream[0].data
    assert data.train == tmp_path / "rows [v1]" and data.eval.is_absolute() and data.eval.name == "x.csv"
