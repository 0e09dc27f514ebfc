"""Jinja over the columns of a row: what `template`, `answer`, `demonstration` and `where` of a recipe's data mean.

Sandboxed. A column that a row does not have is an error, and so is a null or a list that would be written out. Numbers are
written as the file writes them, true and false as JSON does.
"""

import json
import math
import operator
import re
from collections.abc import Callable
from datetime import date, time, timedelta
from decimal import Decimal
from functools import wraps
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

UNDEFINED = re.compile(r"'(.*)' is undefined|'[\w.]*Columns object' has no attribute '(.*)'")
SINGLE = re.compile(r"(?<![=!<>])=(?![=])")
MARKED = re.compile(r'"\\u0000([-+.0-9eE]+)\\u0000"')
ROW = "row"  # the row itself, for columns whose names are no names in Jinja: row['my column']


class TemplateProblem(ValueError):
    """Why a template cannot be used, or not on this row. `kind` is what is the same of all rows with this problem;
    `undefined` the name that the row does not have, if that is what is wrong."""

    def __init__(self, kind: str, detail: str = "", undefined: str | None = None):
        super().__init__(kind + detail)
        self.kind, self.undefined = kind, undefined


WRITABLE = (str, int, float, Decimal, date, time, timedelta, jinja2.Undefined)  # the last raises by itself
KINDS = {bytes: "bytes", dict: "a map", list: "a list", tuple: "a list"}


def written(value: Any) -> Any:
    """What `{{ value }}` writes. Raises TemplateProblem for what has no one way to be written."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value) and not str(value)[-1:].isdigit():
        raise TemplateProblem(
            f"{value} would be written, which is not a value: add a default, or drop the row with `where`"
        )
    if isinstance(value, WRITABLE):
        return value
    if value is None:
        raise TemplateProblem(
            "a null or an empty cell would be written: add a default, as in {{ column or '' }}, or drop the row "
            "with `where`"
        )
    if callable(value):
        raise TemplateProblem("a function would be written: a key of that name is read as column['items']")
    raise TemplateProblem(
        f"{KINDS.get(type(value), 'a list')} would be written: take a part of it, or write it with {{{{ column | "
        f"join(', ') }}}} or {{{{ column | tojson }}}}"
    )


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON in which numbers are as the file writes them; without the escapes that HTML would need."""
    return MARKED.sub(r"\1", json.dumps(marked(value), ensure_ascii=False, indent=indent))


def marked(value: Any) -> Any:
    """The value with each number that knows its text (`data.readers.record.Number`) as a text that `MARKED` finds."""
    if isinstance(value, dict):
        return {key: marked(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [marked(each) for each in value]
    return f"\0{value.text}\0" if isinstance(value, float) and hasattr(value, "text") else value


LONGEST = 10_000_000  # characters of a text, entries of a list, and bits of a number that a template makes
MOST_ROUNDS = 1_000_000  # of all loops over `range` while one text is made


class Columns(dict):
    """A row, as a template sees it under the name `row`."""


class Bounded(ImmutableSandboxedEnvironment):
    """A sandbox in which no template fills the memory or runs for ever."""

    intercepted_binops = frozenset({"*", "**"})
    rounds = 0

    def call_binop(self, context: Any, how: str, left: Any, right: Any) -> Any:
        if how == "**":
            size = left.bit_length() * right if isinstance(left, int) and isinstance(right, int) else 0
        else:
            sizes = [len(each) if isinstance(each, str | list | tuple) else each for each in (left, right)]
            counted = isinstance(left, str | list | tuple) or isinstance(right, str | list | tuple)
            size = sizes[0] * sizes[1] if counted and all(isinstance(each, int) for each in sizes) else 0
        if size > LONGEST:
            raise TemplateProblem(f"makes a value of more than {LONGEST:,} parts by {how}")
        return operator.pow(left, right) if how == "**" else operator.mul(left, right)

    def counted(self, *arguments: int) -> range:
        """`range`, of which one text may take `MOST_ROUNDS` numbers."""
        made = range(*arguments)
        self.rounds += len(made)
        if self.rounds > MOST_ROUNDS:
            raise TemplateProblem(f"counts further than {MOST_ROUNDS:,} by range")
        return made


def wide(filter_: Callable) -> Callable:
    """The filter (`center`, `indent`), whose first option is a width."""

    @wraps(filter_)
    def filtered(value: Any, width: Any = 4, *arguments: Any, **options: Any) -> Any:
        if isinstance(width, int) and width > LONGEST:
            raise TemplateProblem(f"makes a text of more than {LONGEST:,} characters")
        return filter_(value, width, *arguments, **options)

    return filtered


def environment() -> Bounded:
    made = Bounded(undefined=jinja2.StrictUndefined, finalize=written, keep_trailing_newline=True)
    made.globals["range"] = made.counted
    made.tests |= {name: strict(test) for name, test in made.tests.items() if name not in ("defined", "undefined")}
    del made.filters["random"], made.globals["lipsum"]  # rows are the same whenever they are read
    made.filters |= {"tojson": as_json, "join": careful_join(made.filters["join"])}
    made.filters |= {name: wide(made.filters[name]) for name in ("center", "indent")}
    return made


def careful_join(join: Callable) -> Callable:
    """The filter, which writes the parts of a list as `{{ part }}` would."""

    @wraps(join)
    def joined(context: Any, value: Any, between: str = "", attribute: str | None = None) -> str:
        return join(context, value if attribute else [written(each) for each in value], between, attribute)

    return joined


def strict(test: Callable) -> Callable:
    """The test (`is none`, ...), which a column that a row does not have fails with an error, not with false."""

    @wraps(test)
    def tested(value: Any, *arguments: Any) -> Any:
        if isinstance(value, jinja2.Undefined):
            str(value)  # raises
        return test(value, *arguments)

    return tested


ENVIRONMENT = environment()


def compiled(source: str) -> Callable[[dict[str, Any]], str]:
    """What makes a text of a row's columns.

    Raises:
        TemplateProblem: it is no Jinja template, or writes the same for all rows; later, of a row, that it cannot be used.
    """
    try:
        tree = ENVIRONMENT.parse(source)
        template = ENVIRONMENT.from_string(tree)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateProblem(f"is not a Jinja template: {one_line(error)}") from error
    if not tree.find(nodes.Name):
        hint = f"{{{{ {source} }}}}" if source.isidentifier() else "{{ column }}"
        raise TemplateProblem(f"names no column, so all rows would get the same text: write a column as {hint}")
    return lambda record: used(template.render, record)


def condition(source: str) -> Callable[[dict[str, Any]], bool]:
    """What says whether a row is kept. Raises as `compiled` does."""
    try:
        expression = ENVIRONMENT.compile_expression(source, undefined_to_none=False)
        names = columns_of("{{ " + source + " }}")
    except jinja2.TemplateSyntaxError as error:
        hint = ": == compares, and = is nothing here" if SINGLE.search(source) else ""
        raise TemplateProblem(f"is not a Jinja expression: {one_line(error)}{hint}") from error
    if not names:
        raise TemplateProblem("names no column: write for example  label != '-'")

    def holds(record: dict[str, Any]) -> bool:
        value = used(expression, record)
        if not isinstance(value, bool):
            if isinstance(value, jinja2.Undefined):
                used(str, value)
            raise TemplateProblem("must be true or false for a row", f", not {value!r:.60}")
        return value

    return holds


def used(function: Callable, argument: Any) -> Any:
    """Raises TemplateProblem instead of whatever the template raises."""
    ENVIRONMENT.rounds = 0
    try:
        return function(argument)
    except TemplateProblem:
        raise
    except jinja2.UndefinedError as error:
        name = UNDEFINED.fullmatch(str(error))
        if name:
            column = name[1] or name[2]
            raise TemplateProblem(f"no column {column!r}", undefined=column) from error
        raise TemplateProblem(one_line(error)) from error
    except Exception as error:
        raise TemplateProblem(f"{type(error).__name__}: {one_line(error)}") from error


def columns_of(source: str) -> set[str]:
    """The names of a template that the row must give. Raises jinja2.TemplateSyntaxError."""
    return meta.find_undeclared_variables(ENVIRONMENT.parse(source))


def comparisons(source: str) -> list[tuple[str, Any]]:
    """(column, text, number or truth) of each comparison of the two for equality. Raises jinja2.TemplateSyntaxError."""
    pairs = []
    for node in ENVIRONMENT.parse(source).find_all(nodes.Compare):
        for operand in node.ops:
            if operand.op in ("eq", "ne"):
                pairs += [(node.expr, operand.expr), (operand.expr, node.expr)]
            elif operand.op in ("in", "notin") and isinstance(operand.expr, nodes.List | nodes.Tuple):
                pairs += [(node.expr, item) for item in operand.expr.items]
    named = ((column_of(one), other) for one, other in pairs)
    return [(name, other.as_const()) for name, other in named if name and isinstance(other, nodes.Const | nodes.Neg)]


def column_of(node: nodes.Node) -> str | None:
    """The column that an expression is: `label`, or row['label']."""
    if isinstance(node, nodes.Getitem) and isinstance(node.node, nodes.Name) and node.node.name == ROW:
        return node.arg.value if isinstance(node.arg, nodes.Const) else None
    return node.name if isinstance(node, nodes.Name) else None


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
