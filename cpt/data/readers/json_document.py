"""One JSON document: an array of rows, or an object that holds such an array under the key `field`. Read row by row: the
text is in memory, the rows are not. A file of JSON lines is often called .json too, and is read as lines."""

import re
from collections.abc import Iterator
from json import JSONDecodeError
from json.decoder import scanstring
from pathlib import Path

from cpt.data.readers import json_lines
from cpt.data.readers.json_values import DECODER, MISTAKES, broken, check_depth, check_surrogates
from cpt.data.readers.opened import opened
from cpt.data.readers.record import Broken, Record
from cpt.errors import UserError, listed, nearest_or_all

SPACE = re.compile(r"[ \t\r\n]*")


def records(file: Path, options) -> Iterator[tuple[int, Record]]:
    """(line on which the row begins, record). After text that is not JSON nothing more is read.

    Raises:
        UserError: the file is no array, and `field` names none in it.
    """
    with opened(file) as stream:
        content = stream.read()
    try:
        document = Document(file, content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        yield content.count(b"\n", 0, error.start) + 1, broken(error, content)
        return
    if options.field is None and is_lines(document):
        yield from json_lines.records(file, options)
        return
    try:
        yield from document.rows(options.field)
    except MISTAKES as error:
        if isinstance(error, UserError):
            raise
        place = error.pos if isinstance(error, JSONDecodeError) else document.place
        yield document.line(place), broken(error, document.text[place : place + 100])


def is_lines(document: "Document") -> bool:
    """Whether the first of several lines is an object by itself: JSON lines under another name."""
    begin, end = document.place, document.text.find("\n", document.place)
    if not document.text.startswith("{", begin) or end < 0 or document.after(end) == len(document.text):
        return False
    try:
        return DECODER.raw_decode(document.text[begin:end])[1] > 0
    except MISTAKES:
        return False


class Document:
    """A JSON text and how far it is read."""

    def __init__(self, file: Path, text: str):
        self.file, self.text = file, text
        self.place = self.after(0)
        self.counted, self.lines = 0, 1  # up to which place line ends are counted, and the line there

    def after(self, place: int) -> int:
        """The place behind white space."""
        return SPACE.match(self.text, place).end()

    def line(self, place: int) -> int:
        if place < self.counted:
            return self.text.count("\n", 0, place) + 1
        self.lines += self.text.count("\n", self.counted, place)
        self.counted = place
        return self.lines

    def step(self, wanted: str, message: str) -> str:
        """Go over one of the characters `wanted` and the space around it; which one it was."""
        character = self.text[self.place : self.place + 1]
        if not character or character not in wanted:
            raise JSONDecodeError(message, self.text, self.place)
        self.place = self.after(self.place + 1)
        return character

    def value(self):
        """The value here, the place then behind it."""
        begin = self.place
        value, end = DECODER.raw_decode(self.text, begin)
        check_surrogates(self.text[begin:end], value)
        check_depth(self.text[begin:end], value)
        self.place = self.after(end)
        return value

    def rows(self, field: str | None) -> Iterator[tuple[int, Record]]:
        begins = self.text[self.place : self.place + 1]
        if not begins:
            return
        if field is not None and begins == "[":
            raise UserError(f"{self.file}: is a JSON array, so there is no key {field!r} in it: remove `field`")
        if begins == "[":
            yield from self.array()
        elif begins == "{":
            yield from self.under(field)
        else:
            raise UserError(f"{self.file}: must hold a JSON array of rows, not {self.text[self.place :][:60]!r}")
        if self.place < len(self.text):
            raise JSONDecodeError("Extra data", self.text, self.place)

    def array(self) -> Iterator[tuple[int, Record]]:
        """The rows of the array here."""
        self.step("[", "Expecting '['")
        ended = self.text.startswith("]", self.place) and self.step("]", "")
        while not ended:
            begin = self.place
            if self.text.startswith("]", begin):
                raise JSONDecodeError("a comma before the closing ]", self.text, begin)
            value = self.value()
            line = self.line(begin)
            if isinstance(value, dict):
                yield line, value
            else:
                yield line, Broken("each row must be a JSON object", f", not {self.text[begin : begin + 60]!r}")
            ended = self.step(",]", "Expecting ',' or ']'") == "]"

    def under(self, field: str | None) -> Iterator[tuple[int, Record]]:
        """The rows of the array under the key `field` of the object here."""
        self.step("{", "Expecting '{'")
        keys: dict[str, bool] = {}  # whether an array stands there
        ended = self.text.startswith("}", self.place) and self.step("}", "")
        while not ended:
            key = self.key()
            if key in keys:
                raise ValueError(f"the key {key!r} appears twice")
            keys[key] = self.text.startswith("[", self.place) and self.text[self.after(self.place + 1)] in "{]"
            if key == field and keys[key]:
                yield from self.array()
            else:
                self.value()
            ended = self.step(",}", "Expecting ',' or '}'") == "}"
        if not keys.get(field):
            raise UserError(f"{self.file}: {self.lacks(field, keys)}")

    def key(self) -> str:
        if not self.text.startswith('"', self.place):
            raise JSONDecodeError("Expecting a key in double quotes", self.text, self.place)
        key, end = scanstring(self.text, self.place + 1)
        self.place = self.after(end)
        self.step(":", "Expecting ':'")
        return key

    @staticmethod
    def lacks(field: str | None, keys: dict[str, bool]) -> str:
        """What is wrong where no rows were found; `keys` says of each key whether it holds an array."""
        arrays = [key for key, is_array in keys.items() if is_array]
        if field in keys:
            return f"under the key {field!r} is no array of rows; the arrays in the file: {listed(arrays) or 'none'}"
        if field is not None:
            return f"has no key {field!r}{nearest_or_all(field, keys)}"
        if arrays:
            return (
                f"is a JSON object, not an array: name the key of its rows, for example `field: {listed(arrays[:1])}`"
            )
        return (
            "is a JSON object that holds no array of rows: write an array of objects, or one object a line (JSON lines)"
        )
