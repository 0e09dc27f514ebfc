"""What readers give: records, with numbers that remember how they were written."""

from typing import Any


class Broken(str):
    """Why a record cannot be read. `kind` is what is the same of all records that are broken in this way."""

    kind: str

    def __new__(cls, kind: str, detail: str = ""):
        made = super().__new__(cls, kind + detail)
        made.kind = kind
        return made


Record = dict[str, Any] | Broken


class Number(float):
    """A number that is no integer, with the text that it was written as: `1.10`, `1e20`."""

    __slots__ = ("text",)

    def __new__(cls, text: str, value: float | None = None):
        made = super().__new__(cls, text if value is None else value)
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text

    def __format__(self, how: str) -> str:
        return float.__format__(self, how) if how else self.text

    def __reduce__(self):
        return Number, (self.text, float(self))
