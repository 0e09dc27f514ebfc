"""Jinja over the columns of a row: what `template`, `answer`, `demonstration` and `where` of a recipe's data mean.

Sandboxed. A column that a row does not have is an error, and so is a null or a list that would be written out. Numbers are
written as the file writes them, true and false as JSON does.
"""

import json
import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

UNDEFINED = re.compile(r"'(.*)' is undefined")
ROW = "row"  # the row itself, for columns whose names are no names in Jinja: row['my column']


class TemplateProblem(ValueError):
    """Why a template cannot be used, or not on this row. `kind` is what is the same of all rows with this problem;
    `undefined` the name that the row does not have, if that is what is wrong."""

    def __init__(self, kind: str, detail: str = "", undefined: str | None = None):
        super().__init__(kind + detail)
        self.kind, self.undefined = kind, undefined


def written(value: Any) -> Any:
    """What `{{ value }}` writes. Raises TemplateProblem for what has no one way to be written."""
    if value is None:
        raise TemplateProblem(
            "a null or an empty cell would be written: put a default, as in {{ column or '' }}, or drop the row by `where`"
        )
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        raise TemplateProblem("bytes would be written, which are no text")
    if isinstance(value, list | tuple | dict):
        raise TemplateProblem(
            f"a {'map' if isinstance(value, dict) else 'list'} would be written: take a part of it, or write it with "
            "{{ column | join(', ') }} or {{ column | tojson }}"
        )
    return value


def environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, finalize=written, keep_trailing_newline=True)
    made.tests |= {name: strict(test) for name, test in made.tests.items() if name not in ("defined", "undefined")}
    del made.filters["random"], made.globals["lipsum"]  # rows are the same whenever they are read
    made.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return made


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
        raise TemplateProblem(f"is no Jinja template: {one_line(error)}") from error
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
        raise TemplateProblem(f"is no Jinja expression: {one_line(error)}") from error
    if not names:
        raise TemplateProblem("names no column: write for example  label != '-'")

    def holds(record: dict[str, Any]) -> bool:
        value = used(expression, record)
        if not isinstance(value, bool):
            if isinstance(value, jinja2.Undefined):
                used(str, value)
            raise TemplateProblem("must be true or false of a row", f", not {value!r:.60}")
        return value

    return holds


def used(function: Callable, argument: Any) -> Any:
    """Raises TemplateProblem in the place of whatever the template raises."""
    try:
        return function(argument)
    except TemplateProblem:
        raise
    except jinja2.UndefinedError as error:
        name = UNDEFINED.fullmatch(str(error))
        if name:
            raise TemplateProblem(f"no column {name[1]!r}", undefined=name[1]) from error
        raise TemplateProblem(one_line(error)) from error
    except Exception as error:
        raise TemplateProblem(f"{type(error).__name__}: {one_line(error)}") from error


def columns_of(source: str) -> set[str]:
    """The names of a template that the row must give. Raises jinja2.TemplateSyntaxError."""
    return meta.find_undeclared_variables(ENVIRONMENT.parse(source))


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
