"""The suites that a recipe may list under `evaluation.suites`: names, files, and classes of the user's own."""

import json
from typing import Any

from pydantic import Field

from cpt import user_code
from cpt.errors import UserError
from cpt.recipe.base import Name, SuiteSpec
from cpt.recipe.user_kinds import Family, UserKind, open_to_users


class UserSuite(UserKind):
    """A suite of your own, whose class makes its tasks (docs/extending.md)."""

    name: Name | None = Field(
        None, description="This is the suite's name, under which its scores are reported; if null, the class's name."
    )


SUITES = Family("suite", "cpt.evaluation:SuiteKind", SuiteSpec, ("tasks",), UserSuite)
SuiteName = open_to_users(str, SUITES)


def tasks_of(spec: Any) -> list[dict[str, Any]]:
    """The tasks of a suite of the user's own, as a suite's file has them. Raises UserError where they cannot be made."""
    code: user_code.Code = spec.code
    try:
        first, second = (json.dumps(spec.implemented()(spec).tasks()) for _ in range(2))
    except Exception as error:
        raise UserError(f"{user_code.line_of(error, code.files)}: {user_code.why(error)}") from error
    if first != second:
        raise UserError(f"{code.place}: its tasks are others each time: give its random numbers a seed")
    return json.loads(first)
