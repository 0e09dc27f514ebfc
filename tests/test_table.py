"""Rows on their way to TRL: nothing of one row gets into another."""

import json

import pytest

from cpt.data.rows import packed, unpack
from cpt.data.table import table

CALLS = [
    [{"role": "user", "content": "go"}, {"role": "assistant", "tool_calls": [{"arguments": {"city": "q"}}]}],
    [
        {"role": "user", "content": "go", "name": "bob"},
        {"role": "assistant", "tool_calls": [{"arguments": {"x": 0.1}}]},
    ],
    [{"role": "user", "content": "5"}, {"role": "assistant", "content": None, "deep": [1, {"a": None, "b": [2**60]}]}],
]


@pytest.mark.parametrize("number", [3, 2500])  # more than are packed at once
def test_every_row_is_as_it_was(number):
    rows = [{"messages": CALLS[i % 3], "answer": f"line {i}\u2028", "tools": CALLS[0]} for i in range(number)]
    made = table(packed(row) for row in rows).select([number - 1, *range(number - 1)])
    assert unpack(made["prompt"], made["row"]) == [rows[-1], *rows[:-1]]
    kept = made.map(lambda row: {"keys": str(list(json.loads(row["row"])["messages"][0]))})["keys"][1:3]
    assert kept == ["['role', 'content']", "['role', 'content', 'name']"]


def test_no_rows():
    assert len(table([])) == 0
