"""YAML as nodes that know where they were written, within bounds that no recipe comes near.

YAML 1.2 by ruamel (`3e-4` is a number, `no` is a string). Anchors, aliases and merge keys (`<<`) are followed; what they
make is counted, so that a small file cannot become a large recipe.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.nodes import Node as Composed
from ruamel.yaml.reader import ReaderError

from cpt.errors import Problem, RecipeErrors, cut, shown

MOST_CHARACTERS, LONGEST_LINE = 500_000, 100_000
MOST_NODES, DEEPEST = 30_000, 40  # of a file with its aliases followed
TAG = "tag:yaml.org,2002:"


@dataclass
class Node:
    """A value and where it was written. `value` holds Nodes where it is a map or a list. `layer` is 0 in the recipe's own
    file, below 0 in those that it extends, 1 on the command line (known of the keys of `rollouts`)."""

    value: Any
    file: Path | str | None = None
    line: int | None = None
    layer: int = 0

    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value

    def at(self, path: Sequence) -> "Node":
        """The node at a path, or the deepest one on the way that exists."""
        here = self
        for step in path:
            inside = isinstance(here.value, dict) and step in here.value
            inside = inside or (isinstance(here.value, list) and isinstance(step, int) and step < len(here.value))
            if not inside:
                break
            here = here.value[step]
        return here


def wrap(data: Any, file: Path | str | None, line: int | None = None) -> Node:
    """Plain data as nodes that all stand in one place."""
    if isinstance(data, dict):
        return Node({str(key): wrap(value, file, line) for key, value in data.items()}, file, line)
    if isinstance(data, list):
        return Node([wrap(value, file, line) for value in data], file, line)
    return Node(data, file, line)


def parse(text: str, file: Path | str) -> Node:
    """The nodes of a YAML document; an empty one is a Node of None.

    Raises:
        RecipeErrors: not YAML, a key that appears twice, a value that no recipe has, or more than the bounds allow.
    """
    longest = max(map(len, text.splitlines()), default=0)
    if len(text) > MOST_CHARACTERS or longest > LONGEST_LINE:
        size = f"{len(text):,} characters" if len(text) > MOST_CHARACTERS else f"a line of {longest:,} characters"
        message = f"holds {size}; a recipe has at most {MOST_CHARACTERS:,}, and {LONGEST_LINE:,} in a line"
        raise RecipeErrors([Problem(file, None, "", message)])
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = BoundedComposer
    try:
        with warnings.catch_warnings(action="ignore"):  # an anchor may be given again
            composed = yaml.compose(text)
    except RecipeErrors as error:
        raise RecipeErrors([replace(each, file=file) for each in error.problems]) from error
    except Exception as error:  # ruamel lets IndexError and the like through
        line, message = what_is_not_yaml(error, text)
        raise RecipeErrors([Problem(file, line, "", message)]) from error
    builder = Builder(yaml.constructor, file)
    root = Node(None, file) if composed is None else builder.build(composed, ())
    if builder.problems:
        raise RecipeErrors(builder.problems)
    return root


def what_is_not_yaml(error: Exception, text: str) -> tuple[int | None, str]:
    """(line, message) of an error that reading YAML raised."""
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return line, f"not valid YAML: the control character {chr(error.character)!r} is not allowed here"
    if not isinstance(error, MarkedYAMLError):
        return None, f"not valid YAML: {' '.join(str(error).split())}"
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark else None, f"not valid YAML: {' '.join(str(error.problem or error).split())}"


TOO_DEEP = f"nested more than {DEEPEST} deep, or a value that holds itself"
TOO_MUCH = f"with its aliases it holds more than {MOST_NODES:,} values, which no recipe does"


class BoundedComposer(Composer):
    """ruamel's composer, which gives up where a document is nested deeper than any recipe or holds more than any."""

    level = nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.level, self.nodes = self.level + 1, self.nodes + 1
        if self.level > DEEPEST or self.nodes > MOST_NODES:
            line = self.parser.peek_event().start_mark.line + 1
            raise RecipeErrors([Problem(None, line, "", TOO_DEEP if self.level > DEEPEST else TOO_MUCH)])
        try:
            return super().compose_node(parent, index)
        finally:
            self.level -= 1


class Builder:
    """Makes Nodes of what ruamel composed, and collects what is wrong with single keys and values in `problems`."""

    def __init__(self, constructor: Any, file: Path | str):
        self.constructor, self.file = constructor, file
        self.problems: list[Problem] = []
        self.count = 0

    def build(self, composed: Composed, path: tuple[str, ...]) -> Node:
        """The node at the keys `path`, its aliases followed."""
        self.count += 1
        line = composed.start_mark.line + 1
        if len(path) > DEEPEST or self.count > MOST_NODES:
            message = TOO_DEEP if len(path) > DEEPEST else TOO_MUCH
            raise RecipeErrors([Problem(self.file, line, ".".join(path[:3]), message)])
        if isinstance(composed, MappingNode) and composed.tag == f"{TAG}map":
            return Node(self.mapping(composed, path), self.file, line)
        if isinstance(composed, SequenceNode) and composed.tag == f"{TAG}seq":
            items = [self.build(each, (*path, str(place))) for place, each in enumerate(composed.value)]
            return Node(items, self.file, line)
        if isinstance(composed, ScalarNode):
            return Node(self.scalar(composed, path), self.file, line)
        self.note(composed, path, f"the tag {shown(composed.tag)} has no meaning here: remove it")
        return Node(None, self.file, line)

    def mapping(self, composed: MappingNode, path: tuple[str, ...]) -> dict[str, Node]:
        """A map's own keys, and those that a merge key brings and the map itself does not have."""
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key_node, value_node in composed.value:
            if key_node.tag == f"{TAG}merge":
                for key, node in self.merged(value_node, path).items():
                    merged.setdefault(key, node)
                continue
            key = self.key(key_node, path)
            if key in own:
                self.note(key_node, (*path, key), "this key appears twice; keep one")
            own[key] = self.build(value_node, (*path, key))
            own[key].line = key_node.start_mark.line + 1
        return merged | own

    def merged(self, composed: Composed, path: tuple[str, ...]) -> dict[str, Node]:
        """What `<<: *one` or `<<: [*one, *two]` brings; of a key in both, the first."""
        parts = composed.value if isinstance(composed, SequenceNode) else [composed]
        merged: dict[str, Node] = {}
        for part in parts:
            if not isinstance(part, MappingNode):
                self.note(composed, (*path, "<<"), "a merge key takes a map, or a list of maps")
                break
            merged = self.build(part, (*path, "<<")).value | merged
        return merged

    def key(self, composed: Composed, path: tuple[str, ...]) -> str:
        if not isinstance(composed, ScalarNode):
            self.note(composed, path, "a key must be a word, not a map or a list")
            return "?"
        value = self.scalar(composed, path)
        return value if isinstance(value, str) else str(value)

    def scalar(self, composed: ScalarNode, path: tuple[str, ...]) -> Any:
        """A text, number, true, false or null. A date is the text that was written."""
        if composed.tag == f"{TAG}timestamp":
            return composed.value
        if composed.tag.removeprefix(TAG) not in ("null", "bool", "int", "float", "str"):
            self.note(composed, path, f"the tag {shown(composed.tag)} has no meaning here: remove it")
            return None
        beyond = f"({cut(composed.value, 40)}) is beyond 64 bits, which no number of a recipe is"
        if composed.tag == f"{TAG}int" and len(composed.value) > 100:  # Python reads no number of 4,300 digits
            self.note(composed, path, beyond)
            return None
        try:
            value = self.constructor.construct_object(composed)
        except Exception:  # of ruamel, for a text that is called !!int or !!bool and is none
            self.note(composed, path, f"{shown(composed.value)} is not of the type {composed.tag.removeprefix(TAG)}")
            return None
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            self.note(composed, path, beyond)
        elif isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
            self.note(composed, path, f"must be a finite number, not {cut(composed.value, 40)}")
        elif isinstance(value, float) and value == 0 and re.search("[1-9]", re.split("[eE]", composed.value)[0]):
            self.note(composed, path, f"({cut(composed.value, 40)}) is too near to 0 for a number of 64 bits: write 0")
        else:
            return value
        return None

    def note(self, composed: Composed, path: tuple[str, ...], message: str) -> None:
        self.problems.append(Problem(self.file, composed.start_mark.line + 1, ".".join(path), message))
