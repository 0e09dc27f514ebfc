"""Rows in memory, packed as JSON text: a million of them take little more than their text does."""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from datetime import date, time
from decimal import Decimal

from cpt.data.problems import RowProblem
from cpt.data.rows import Row, prompt_keys

KEY = 16  # bytes of the key of a prompt


def plain(value: object) -> str:
    """What JSON has no form for, within metadata. Raises RowProblem."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, date | time):
        return value.isoformat()
    raise RowProblem(f"holds a value of the type {type(value).__name__}, which JSON cannot hold: leave it out")


PACK = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=plain).encode


class ReadRow(dict):
    """A row that knows where it was read; anything else takes it for a dict."""

    __slots__ = ("index", "rows")

    @property
    def place(self) -> str:
        return self.rows.place(self.index)

    def __reduce__(self):
        return dict, (dict(self),)


class Rows(Sequence):
    """Rows of one split; each is made again whenever it is looked at.

    A row is called PREFIX/NAME: its name in the data, else its number in the file from 0; where two would share a name, the
    number (from 1) is added to all: NAME#3. `notes` are what a person should know of how the rows were read.
    """

    def __init__(self) -> None:
        self.prefix = ""
        self.notes: list[str] = []
        self.shared = False  # whether two rows have one name
        self._packed: list[bytes] = []
        self._keys: list[bytes] = []  # those of all prompts of a row in one
        self._names: list[str | None] = []
        self._numbers = array("Q")  # in the file, from 0
        self._lines = array("Q")
        self._sources = array("L")  # number of the file in `_files`
        self._files: list[str] = []  # what stands before the line in a place

    def begin(self, file: str) -> None:
        """What is added from here on has its place in `file` (`train.jsonl:`)."""
        self._files.append(file)

    def add(self, row: Row, number: int, line: int = 0) -> None:
        """Row `number` of all that were read, from `line`. Raises RowProblem for a value that JSON cannot hold."""
        name = row.pop("id", None)
        self._packed.append(PACK(row).encode())
        self._keys.append(b"".join(prompt_keys(row)))
        self._names.append(name)
        self._numbers.append(number)
        self._lines.append(line)
        self._sources.append(max(0, len(self._files) - 1))

    def finished(self) -> "Rows":
        """Itself, when all rows are added."""
        if any(name is not None for name in self._names):
            names = [
                str(number) if name is None else name for name, number in zip(self._names, self._numbers, strict=True)
            ]
            self.shared = len(set(names)) < len(names)
        return self

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = ReadRow(json.loads(self._packed[index]))
        row["id"], row.rows, row.index = self.id(index), self, index
        return row

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    def id(self, index: int) -> str:
        name, number = self._names[index], self._numbers[index]
        label = number if name is None else name
        return f"{self.prefix}/{label}#{number + 1}" if self.shared else f"{self.prefix}/{label}"

    def place(self, index: int) -> str:
        """Where the row was read: `train.jsonl:7`; "" where it was made here."""
        return f"{self._files[self._sources[index]]}{self._lines[index]}" if self._files else ""

    def key(self, index: int) -> bytes:
        """The key (`rows.prompt_key`) of the prompt that evaluation asks."""
        return self._keys[index][:KEY]

    def keys(self, index: int) -> Iterator[bytes]:
        """The keys of every prompt that training on the row answers."""
        joined = self._keys[index]
        return (joined[first : first + KEY] for first in range(0, len(joined), KEY))

    def called(self, prefix: str) -> "Rows":
        """The same rows under names with this prefix."""
        renamed = copy(self)
        renamed.prefix = prefix
        return renamed

    def at(self, indices: Sequence[int]) -> "Rows":
        """These rows alone, under the same names."""
        chosen = copy(self)
        for name in ("_packed", "_keys", "_names"):
            setattr(chosen, name, [getattr(self, name)[i] for i in indices])
        for name in ("_numbers", "_lines", "_sources"):
            kept = getattr(self, name)
            setattr(chosen, name, array(kept.typecode, (kept[i] for i in indices)))
        return chosen


class Joined(Rows):
    """Rows of several sources, each under the id that it has in its own."""

    def id(self, index: int) -> str:
        return self._names[index]

    def place(self, index: int) -> str:
        file = self._files[self._sources[index]]
        return f"{file}{self._lines[index]}" if file else ""


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, in their order."""
    together = Joined()
    for part in parts:
        first = len(together._files)
        together._files += part._files or [""]
        together._packed += part._packed
        together._keys += part._keys
        together._names += [part.id(index) for index in range(len(part))]
        together._numbers.extend(part._numbers)
        together._lines.extend(part._lines)
        together._sources.extend(first + each for each in part._sources)
        together.notes += part.notes
    return together


def made(rows: Iterable[Row], prefix: str) -> Rows:
    """Rows that were made here, not read."""
    packed = Rows()
    for number, row in enumerate(rows):
        packed.add(dict(row), number)
    return packed.finished().called(prefix)
