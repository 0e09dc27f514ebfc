"""Run a recipe, or check one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt.api.arguments import in_a_session, overrides_of, screen_of
from cpt.api.results import Run, read_run
from cpt.data.stream import Stream
from cpt.recipe import Override, Recipe, RecipeErrors, RecipeLike, identity, load, placed, unused
from cpt.records import Results
from cpt.screen import Screen
from cpt.sizes import many


def run(
    recipe: RecipeLike,
    overrides: Mapping[str, Any] | Sequence[Override] = (),
    *,
    out: str | Path | None = None,
    quiet: bool = False,
    verbose: bool = False,
    **values: Any,
) -> Run:
    """Train and evaluate a recipe, or resume an interrupted run, as `cpt run` does.

    Args:
        recipe: a shipped recipe's name ("quickstart"), a YAML file, or a dictionary of what the file would hold.
        overrides: {dotted key: value}, or a list of "KEY=VALUE"; a task may be named instead of its number.
        out: the run directory (runs/NAME-sSEED); where it holds a part of the same run, that is resumed.
        quiet: print results and warnings alone.
        verbose: print what the libraries warn of, too.
        values: keys of the recipe itself, e.g. seed=1.

    Returns:
        The run as `read_run` reads it from its directory.

    Raises:
        UserError: a mistake, in one line each (`RecipeErrors` has them as `problems`).
        KeyboardInterrupt: interrupted, and saved; the same call resumes from there.
    """
    with in_a_session():
        prepared = prepare(recipe, overrides_of(overrides, values), out and Path(out), screen_of(quiet, verbose))
        prepared.run()
    return read_run(prepared.out)


@dataclass(frozen=True)
class Check:
    """What `check` found out: `plan` as `cpt check` prints it, `warnings`, and `unseen`: what it could not look at."""

    recipe: Recipe
    out: Path
    plan: str
    warnings: tuple[str, ...]
    unseen: tuple[str, ...]

    def __str__(self) -> str:
        return self.plan


def check(
    recipe: RecipeLike,
    overrides: Mapping[str, Any] | Sequence[Override] = (),
    *,
    out: str | Path | None = None,
    full: bool = False,
    **values: Any,
) -> Check:
    """Find every mistake of a recipe, and plan it, as `cpt check` does. Nothing is trained or written.

    Arguments as of `run`; `full` also downloads what is not on this machine and looks at all with the libraries that train.

    Raises:
        RecipeErrors: all mistakes; `problems` has each with its file, line, key and message.
    """
    from cpt.checks import all_checks, plan

    given = overrides_of(overrides, values)
    loaded = load(recipe, given)
    place = Path(out) if out else default_out(loaded, recipe, given)
    with in_their_places(recipe, given):
        result = all_checks.check(loaded, place, full)
    text = "\n\n".join([plan.describe(loaded, place, result), *unused(recipe, given)])
    return Check(loaded, place, text, tuple(result.warnings), tuple(result.unseen))


@dataclass(frozen=True)
class Prepared:
    """A recipe in which no mistake was found, its rows, and the directory of its run."""

    recipe: Recipe
    out: Path
    stream: Stream
    screen: Screen
    written: tuple[RecipeLike, Sequence[Override]]  # what its recipe was loaded from

    def run(self) -> Results:
        """The content of results.json. Raises as `cpt.baselines.run`."""
        with self.screen.progress("loading the libraries"):
            from cpt.baselines import run
        with in_their_places(*self.written):
            return run(self.recipe, self.out, self.screen, self.stream)


def prepare(recipe: RecipeLike, overrides: Sequence[Override], out: Path | None, screen: Screen) -> Prepared:
    """Look at all that a run needs before it writes anything, and say what it is. Raises RecipeErrors."""
    loaded = load(recipe, overrides)
    out = out or default_out(loaded, recipe, overrides)
    with screen.progress("checking the recipe and its rows"), in_their_places(recipe, overrides):
        from cpt.checks import all_checks
        from cpt.checks.plan import too_little_room

        stream = all_checks.before_run(loaded, out)
    number = len(loaded.stream)
    screen.line(f"{loaded.name}: {many(number, 'task')} in {out}")
    for line in (*unused(recipe, overrides), *stream.notes()):
        screen.line(line)
    if warning := too_little_room(loaded, out):
        screen.warn(f"--out: {warning}")
    return Prepared(loaded, out, stream, screen, (recipe, overrides))


@contextmanager
def in_their_places(recipe: RecipeLike, overrides: Sequence[Override]) -> Iterator[None]:
    """The problems that are raised in this block get the file and line of their keys in the recipe."""
    try:
        yield
    except RecipeErrors as error:
        raise placed(error, recipe, overrides) from error


def default_out(loaded: Recipe, recipe: RecipeLike, overrides: Sequence[Override]) -> Path:
    """`runs/NAME-sSEED`, and six digits more where the overrides change what the run is."""
    try:
        plain = load(recipe, [("seed", loaded.seed)]) if overrides else loaded
    except RecipeErrors:  # the overrides put it right
        plain = None
    changed = "" if plain is not None and identity(loaded) == identity(plain) else f"-{identity(loaded)}"
    return Path("runs") / f"{loaded.name}-s{loaded.seed}{changed}"
