"""Rows on their way to TRL: nothing of one row gets into another."""

import pytest

from cpt.data.table import table, with_column

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
    rows = [{"messages": CALLS[i % 3], "text": f"line {i}\u2028"} for i in range(number)]
    made = table(iter(rows))
    assert made.to_list() == rows and made[number - 1] == rows[-1] and made["messages"][:3] == CALLS
    kept = with_column(made.select([2, 0]), "options", [{"a": 1}, {"b": [None]}])
    assert kept.to_list() == [rows[2] | {"options": {"a": 1}}, rows[0] | {"options": {"b": [None]}}]
    assert made.map(lambda row: {"keys": str(list(row["messages"][0]))})["keys"][:2] == [
        "['role', 'content']",
        "['role', 'content', 'name']",
    ]


def test_no_rows():
    assert len(table([])) == 0
