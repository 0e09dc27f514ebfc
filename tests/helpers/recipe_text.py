"""A recipe as text with mistakes in it, and what the user is told."""

from pathlib import Path

import pytest

from cpt.errors import RecipeErrors
from cpt.recipe import load

BASE = """\
name: mine
model: {path: tiny}
stream:
  - task: reverse
    data: {source: procedural, name: reverse}
    reward: exact
    stages:
      - kind: rlvr
        args: {max_steps: 3}
"""


def changed(old: str, new: str) -> str:
    assert old in BASE
    return BASE.replace(old, new)


def problems(text: str, folder: Path, *overrides: str) -> list[str]:
    """The mistakes of a recipe, as the user sees them, without the folder."""
    file = folder / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeErrors) as caught:
        load(file, overrides)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]
