"""What is wrong with many rows, in a few lines: the first of each kind in full, the others counted, some of them named."""

NAMED = 4  # further rows of a kind that are named


class RowProblem(ValueError):
    """What is wrong with a row. `kind` is what is the same of all rows with this problem."""

    def __init__(self, message: str, kind: str | None = None):
        super().__init__(message)
        self.kind = kind or message.partition(" not ")[0].partition(":")[0].partition("(")[0]


class Others:
    """The rows that have the same thing wrong as the row `first`, which a message is about; as text, what is added to it."""

    def __init__(self, first: str | None = None) -> None:
        self.last = first
        self.number = 0
        self.named: list[str] = []

    def add(self, name: str | None) -> None:
        """One more; a row that has it wrong several times, one after the other, counts once."""
        if name and name == self.last:
            return
        self.last = name
        self.number += 1
        if name and len(self.named) < NAMED:
            self.named.append(name)

    def __str__(self) -> str:
        if not self.number:
            return ""
        names = [*self.named, *["..."] * (self.number > len(self.named))]
        shown = f": {', '.join(names)}" if self.named else ""
        return f" (and {self.number} more row{'s' * (self.number > 1)} like it{shown})"


class RowProblems:
    """Collects what is wrong with the rows of one file or folder."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, Others]] = {}  # {kind: message about the first row, the others}

    def add(self, kind: str, place: str, message: str) -> None:
        """What is wrong at `place` (`data/rows.jsonl:7`); problems of the same `kind` are reported together."""
        if kind in self._found:
            self._found[kind][1].add(place.rpartition("/")[2])
        else:
            self._found[kind] = message, Others(place.rpartition("/")[2])

    def lines(self) -> list[str]:
        return [f"{message}{others}" for message, others in self._found.values()]
