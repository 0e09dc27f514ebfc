"""From the columns of a file to the fields of rows: `columns`, the templates, and `where` of a recipe's data."""

import json
import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from cpt.data.problems import RowProblem
from cpt.data.prompt_keys import edges
from cpt.data.rows import COMPLETIONS, FIELDS, Row, row_problem
from cpt.errors import listed, nearest
from cpt.recipe.row_templates import ROW, Columns, TemplateProblem, columns_of, comparisons, compiled, condition
from cpt.recipe.sources import WRITTEN

TEXTS = ("id", "answer", *COMPLETIONS)  # fields in which a number is the text that it is written as


class Mapping:
    """How a source (of the recipe) makes rows of records."""

    def __init__(self, source: Any):
        self.columns: dict[str, str] = dict(source.columns)
        sources = {field: getattr(source, key) for field, key in WRITTEN.items()}
        self.sources = {field: text for field, text in sources.items() if text is not None}
        self.templates = {field: compiled(text) for field, text in self.sources.items()}
        self.where = None if source.where is None else condition(source.where)
        self.where_source = source.where
        self.compared = [(key, column, literal) for key, text in self.texts() for column, literal in comparisons(text)]

    def texts(self) -> list[tuple[str, str]]:
        """(key, Jinja) of all templates and the condition."""
        texts = [(WRITTEN[field], text) for field, text in self.sources.items()]
        return texts + ([] if self.where_source is None else [("where", "{{ " + self.where_source + " }}")])

    def missing(self, columns: Iterable[str]) -> list[tuple[str | None, str]]:
        """(field, message) of each column that `columns` names, or that every row needs, and none has."""
        columns, problems = list(columns), []
        for field, column in self.columns.items():
            if field not in FIELDS:
                known = f"{nearest(field, FIELDS)}; there are: {', '.join(FIELDS)}"
                problems.append((field, f"columns: rows have no field {field!r}{known}"))
            elif column not in columns:
                known = f"{nearest(column, columns)}; there are: {listed(columns)}"
                problems.append((field, f"no column {column!r:.60} (for {field}){known}"))
        if not problems and not {"prompt", "messages", "raw_text"} & {*columns, *self.columns, *self.templates}:
            problems.append(
                (None, f"no column prompt or messages; there are: {listed(columns)}; {self.remedy(columns)}")
            )
        return problems

    @staticmethod
    def remedy(columns: list[str]) -> str:
        likely = [
            name for name in columns if name.lower() in ("question", "input", "text", "instruction", "query", "problem")
        ]
        chats = [
            name for name in columns if name.lower() in ("conversations", "conversation", "dialogue", "dialog", "chat")
        ]
        if chats and not likely:
            return f"name it with `columns: {{messages: {chats[0]}}}` (a list of {{role, content}})"
        column = (likely or columns or ["question"])[0]
        shown = f"{{{{ {column} }}}}" if column.isidentifier() else f"{{{{ row['{column}'] }}}}"
        return f'name it with `columns: {{prompt: {column}}}`, or write prompts with `template: "{shown}"`'

    def unused(self, columns: Iterable[str]) -> list[str]:
        """The columns of which nothing gets into a row, each with the field that it is like."""
        named = self.named()
        if ROW in named:
            return []
        left = [name for name in columns if name not in {*FIELDS, *self.columns.values(), *named}]
        given = {*columns, *self.columns, *self.templates}
        free = [field for field in FIELDS if field not in given]
        return [f"{name} ({near.removeprefix('; ')})" if (near := nearest(name, free)) else name for name in left]

    def unknown(self, columns: Iterable[str]) -> list[str]:
        """The columns that templates name and no row has (they may: `is defined`, `default`), each with its nearest."""
        columns = list(columns)
        gone = sorted(self.named() - {ROW, *columns})
        return [f"{name} ({near.removeprefix('; ')})" if (near := nearest(name, columns)) else name for name in gone]

    def named(self) -> set[str]:
        """The columns that templates and the condition name."""
        return {name for _, text in self.texts() for name in columns_of(text)}

    def row(self, record: dict[str, Any]) -> Row | None:
        """The row, without an id where the record has none; None where `where` drops it. Raises RowProblem."""
        if self.templates or self.where:
            seen = {ROW: Columns(record), **record}
            for key, column, literal in self.compared:
                if looks_equal(record.get(column), literal):
                    raise never_equal(key, column, record[column], literal)
            if self.where is not None and not self.applied("where", self.where, seen):
                return None
        row = {field: record[field] for field in FIELDS if record.get(field) is not None}
        for field, column in self.columns.items():
            row.pop(field, None)
            if record.get(column) is not None:
                row[field] = record[column]
        for field, template in self.templates.items():
            row[field] = self.applied(WRITTEN[field], template, seen)
        if isinstance(row.get("answer"), list | dict):
            column = self.columns.get("answer", "answer")
            raise RowProblem(
                f"answer must be a string, not {row['answer']!r:.60}: choose the right one, for example with "
                "`answer: "
                f'"{{{{ {column}[0] }}}}"`',
                "answer is not a text",
            )
        for field in TEXTS:
            if field in row and not isinstance(row[field], str | list | dict):
                row[field] = text(field, row[field])
        problem = row_problem(row) or answer_problem(row)
        if problem:
            raise RowProblem(problem)
        return row

    @staticmethod
    def applied(key: str, function: Any, seen: dict[str, Any]) -> Any:
        try:
            return function(seen)
        except TemplateProblem as error:
            columns = [name for name in seen if name != ROW]
            name = error.undefined
            hint = "" if name is None else f"{nearest(name, columns)}; there are: {listed(columns)}"
            raise RowProblem(f"{key}: {error}{hint}", f"{key}: {error.kind}") from error


def looks_equal(value: Any, literal: Any) -> bool:
    """Whether a text and a number (or a truth) read alike, which are never equal."""
    if isinstance(value, str) == isinstance(literal, str) or value is None or literal is None:
        return False
    text, other = (value, literal) if isinstance(value, str) else (literal, value)
    if isinstance(other, bool):
        return text.strip().lower() == str(other).lower()
    try:
        return isinstance(other, int | float) and float(text) == other
    except (ValueError, OverflowError):
        return False


def never_equal(key: str, column: str, value: Any, literal: Any) -> RowProblem:
    if isinstance(value, str):
        kind, remedy = "a text in this row", f"write {value!r} in quotes, or for example {column} | int"
    else:
        kind, remedy = "no text in this row", f"write {str(value).lower()} without quotes"
    return RowProblem(
        f"{key}: compares {column} with {literal!r}, and it is {kind} ({value!r:.40}), which is never equal: {remedy}",
        f"{key}: compares {column}",
    )


def text(field: str, value: Any) -> str:
    """A number as it is written, true and false as JSON writes them. Raises RowProblem for what is no number."""
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, int | float):
        written = str(value)
        if math.isfinite(value) or written[-1:].isdigit():
            return written
        raise RowProblem(f"{field} is {written}, which is no value: drop the row with `where`, or write what is meant")
    raise RowProblem(f"{field} must be a string, not {value!r:.60}")


def answer_problem(row: Row) -> str | None:
    answer = row.get("answer")
    hidden = edges(answer) if answer else ""
    if hidden:
        return (
            f"answer begins or ends with invisible characters ({hidden}), which no completion would have: remove them"
        )
    return None
