"""Where rows come from: the letter tasks, reasoning-gym, JSON-lines files, and the hub.

`load` gives the rows of one split; `count` says how many there will be, without a heavy import, for `cpt check`.
"""

import dataclasses
import functools
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpt.data import procedural
from cpt.data.rows import FIELDS, Row, prompt_key, prompt_of, row_problem
from cpt.errors import UserError, nearest, nearest_or_all
from cpt.recipe import Hub, Jsonl, Procedural, ReasoningGym, Source

SPLITS = ("train", "validation", "eval")
HELD_OUT_OF = "rows can only be held out of `train`, and there is none: name the file to ask"


def load(source: Source, split: str, task: str, seed: int) -> Sequence[Row]:
    """The rows of one split of a task; `seed` is the recipe's data seed. Empty where the source has no such split.

    Raises:
        UserError: a missing file or column, a broken line, too few rows, an unknown name.
    """
    return LOADERS[type(source)](source, split, task, seed)


def count(source: Source, split: str) -> int | None:
    """How many rows the split will have; None where only loading can tell (the hub).

    Raises:
        UserError: a missing file, a broken line, an unknown skill or data set, more strings than there are.
    """
    if isinstance(source, Procedural):
        procedural.check_count(source.name, split, getattr(source, split), source.length)
        return getattr(source, split)
    if isinstance(source, ReasoningGym):
        check_reasoning_gym(source)
        return getattr(source, split)
    if isinstance(source, Jsonl):
        if split == "eval" and isinstance(source.eval, int):
            if source.train is None:
                raise UserError(HELD_OUT_OF)
            return source.eval
        file = getattr(source, split)
        held_out = source.eval if split == "train" and isinstance(source.eval, int) else 0
        return 0 if file is None else scan(file).rows - held_out
    words = getattr(source, split)
    if words is None or isinstance(words, int):
        return words or 0
    slice_of = re.fullmatch(r"\w+\[(\d*):(\d+)\]", words)  # at most; the hub may hold fewer
    return int(slice_of[2]) - int(slice_of[1] or 0) if slice_of else None


# -- procedural and reasoning-gym ----------------------------------------------------------------------------------------


def load_procedural(source: Procedural, split: str, task: str, seed: int) -> list[Row]:
    made = procedural.rows(source.name, split, getattr(source, split), source.length, source.demonstration, seed)
    return [row | {"id": f"{task}/{split}/{i}"} for i, row in enumerate(made)]


GYM_SIZE = 1000  # entries of one data set of reasoning-gym


def load_reasoning_gym(source: ReasoningGym, split: str, task: str, seed: int) -> list[Row]:
    """Entries of one of reasoning-gym's data sets, no prompt twice in any split; the entry travels for its scorer.

    One stream of entries feeds the splits in turn (eval first), so that the evaluation rows do not depend on how much
    is trained on.
    """
    wanted = {"eval": source.eval, "validation": source.validation, "train": source.train}
    order = list(wanted)
    seen: set[bytes] = set()
    entries = reasoning_gym_entries(source, seed)
    for name in order[: order.index(split) + 1]:
        taken = list(itertools.islice(unseen(entries, seen), wanted[name]))
        if len(taken) < wanted[name]:
            raise UserError(
                f"stream.{task}.data: reasoning_gym {source.name} gave only {len(taken)} new prompts for {name}, "
                f"{wanted[name]} were asked for: ask for fewer, or make its config harder"
            )
    return [reasoning_gym_row(source, f"{task}/{split}/{i}", entry) for i, entry in enumerate(taken)]


def unseen(entries: Iterator[dict], seen: set[bytes]) -> Iterator[dict]:
    """Entries whose question did not come before; gives up after a thousand repetitions in a row."""
    repeated = 0
    for entry in entries:
        key = prompt_key(entry["question"])
        if key in seen:
            repeated += 1
            if repeated == 1000:
                return
            continue
        repeated = 0
        seen.add(key)
        yield entry


def check_reasoning_gym(source: ReasoningGym) -> None:
    """Raises UserError for a data set or a field of its config that reasoning-gym does not have, or refuses."""
    import reasoning_gym  # noqa: F401 (fills the registry)
    from reasoning_gym.factory import DATASETS

    if source.name not in DATASETS:
        raise UserError(f"reasoning_gym has no data set {source.name!r}{nearest(source.name, DATASETS)}")
    config = DATASETS[source.name][1]
    known = [field.name for field in dataclasses.fields(config)]
    for key in source.config:
        if key not in known or key in ("seed", "size"):
            there = [field for field in known if field not in ("seed", "size")]
            hint = nearest_or_all(key, there)
            raise UserError(f"reasoning_gym {source.name} has no config field {key!r} that can be set{hint}")
    with refusals(source):
        config(**source.config).validate()


@contextmanager
def refusals(source: ReasoningGym) -> Iterator[None]:
    try:
        yield
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"reasoning_gym {source.name} refuses its config: {' '.join(str(error).split())}") from error


def reasoning_gym_entries(source: ReasoningGym, seed: int) -> Iterator[dict]:
    """An endless stream of entries: data sets of GYM_SIZE, each with a seed of its own.

    Most data sets draw entry i by seed + i, so two seeds less than GYM_SIZE apart would give nearly the same entries.
    """
    import reasoning_gym

    check_reasoning_gym(source)
    for part in itertools.count():
        with refusals(source):
            own = (seed * 1_000_003 + part * GYM_SIZE) % 2**31  # some data sets draw by numpy, which takes no more
            yield from reasoning_gym.create_dataset(source.name, seed=own, size=GYM_SIZE, **source.config)


def reasoning_gym_row(source: ReasoningGym, name: str, entry: dict) -> Row:
    question = entry["question"]
    prompt = [{"role": "user", "content": question}] if source.conversational else question
    metadata = {"reasoning_gym": source.name, "entry": json.dumps(entry, default=str)}
    row = {"id": name, "prompt": prompt, "metadata": metadata}
    return row if entry.get("answer") is None else row | {"answer": str(entry["answer"])}


# -- JSON lines and the hub ----------------------------------------------------------------------------------------------


def json_lines(file: Path) -> Iterator[tuple[int, dict]]:
    """(line number, object) of every line that is not empty. Raises UserError for a missing file or a broken line."""
    if not os.path.isfile(file):
        raise UserError(f"{file}: no such file")
    try:
        stream = file.open("rb")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    with stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"), object_pairs_hook=once)
                if b"\\ud" in line.lower():
                    json.dumps(value, ensure_ascii=False).encode()
            except UnicodeDecodeError as error:
                raise UserError(f"{file}:{number}: not UTF-8 ({error.reason}): save the file as UTF-8 text") from error
            except UnicodeEncodeError as error:
                raise UserError(f"{file}:{number}: holds half of a surrogate pair: {shown(line)}") from error
            except json.JSONDecodeError as error:
                raise UserError(f"{file}:{number}: not valid JSON ({error.msg}): {shown(line)}") from error
            except RecursionError as error:
                raise UserError(f"{file}:{number}: nested too deeply: {shown(line)}") from error
            except ValueError as error:
                raise UserError(f"{file}:{number}: {error}: {shown(line)}") from error
            if not isinstance(value, dict):
                raise UserError(f"{file}:{number}: each line must be a JSON object, not {shown(line)}")
            yield number, value


def once(pairs: list[tuple[str, Any]]) -> dict:
    """The object of these pairs. Raises ValueError where a key stands twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise ValueError(f"the key {twice!r} stands twice")
    return made


@dataclasses.dataclass(frozen=True)
class Scan:
    """What one reading of a file of JSON lines shows."""

    rows: int
    columns: tuple[str, ...]


def scan(file: Path) -> Scan:
    """Read once as long as the file is the same. Raises UserError as `json_lines` does."""
    there = os.stat(file) if os.path.isfile(file) else None
    return _scan(file, there and (there.st_mtime_ns, there.st_size, there.st_ino))


@functools.lru_cache(maxsize=64)
def _scan(file: Path, version: Any) -> Scan:
    rows, columns = 0, {}
    for _, record in json_lines(file):
        rows += 1
        columns |= dict.fromkeys(record)
    return Scan(rows, tuple(columns))


def shown(line: bytes) -> str:
    return repr(line.decode("utf-8", errors="replace").strip()[:60])


def load_jsonl(source: Jsonl, split: str, task: str, seed: int) -> Sequence[Row]:
    def read(file: Path | None, name: str) -> Sequence[Row]:
        if file is None:
            return []
        return mapped(JsonTable(file), source.columns, str(file), f"{task}/{name}")

    if split == "validation":
        return read(source.validation, split)
    if isinstance(source.eval, int):
        if source.train is None:
            raise UserError(f"stream.{task}.data.eval: {HELD_OUT_OF}")
        return held_out(read(source.train, "row"), source.eval, split, task)
    return read(source.train if split == "train" else source.eval, split)


class JsonTable:
    """A file of JSON lines through `datasets`, memory-mapped as text. Each line is read as it is asked for: types that are
    guessed from a column would make dates of its texts, or 7.0 of its 7. Raises UserError for a line that is broken."""

    def __init__(self, file: Path):
        import datasets

        scanned = scan(file)
        if scanned.rows == 0:
            raise UserError(f"{file}: holds no rows")
        self.column_names = list(scanned.columns)
        lines = datasets.load_dataset("text", data_files=str(file), split="train")
        full = [place for place, text in enumerate(lines["text"]) if text.strip("\ufeff \t\r")]
        if len(full) != scanned.rows:
            raise UserError(f"{file}: a carriage return stands alone within a line: save it with \\n after each line")
        self.lines = lines if len(full) == len(lines) else lines.select(full)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, place: int | str) -> Any:
        if isinstance(place, str):
            return [record.get(place) for record in self]
        return json.loads(self.lines[place]["text"].lstrip("\ufeff"))

    def __iter__(self) -> Iterator[dict]:
        return (json.loads(line["text"].lstrip("\ufeff")) for line in self.lines)


def load_hub(source: Hub, split: str, task: str, seed: int) -> Sequence[Row]:
    import datasets

    def read(words: str | None, name: str) -> Sequence[Row]:
        if words is None:
            return []
        try:
            table = datasets.load_dataset(source.path, source.name, split=words, revision=source.revision)
        except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            made = isinstance(error, datasets.exceptions.DatasetGenerationError) and error.__cause__
            first = (str(made or error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"stream.{task}.data: {source.path} ({words}) is not to be had from the hub: {first}"
            ) from error
        return mapped(table, source.columns, f"{source.path} ({words})", f"{task}/{name}")

    if split == "validation":
        return read(source.validation, split)
    if isinstance(source.eval, int):
        return held_out(read(source.train, "row"), source.eval, split, task)
    return read(source.train if split == "train" else source.eval, split)


def mapped(table: Any, columns: dict[str, str], where: str, prefix: str) -> Sequence[Row]:
    """The table's rows under the names of our fields; columns that are no field of ours are left out.

    Numbers in a text field are written as JSON writes them (7 -> "7"). Raises UserError for a column that is missing.
    """
    for _, problem in column_problems(table.column_names, columns):
        raise UserError(f"{where}: {problem}")
    taken = {field: field for field in FIELDS if field in table.column_names} | columns
    return MappedRows(table, taken, where, prefix)


def column_problems(there: Sequence[str], columns: dict[str, str]) -> Iterator[tuple[str | None, str]]:
    """(field of `columns`, what is wrong with it) for a table of the columns `there`; the field is None where one lacks."""
    for field, column in columns.items():
        if field not in FIELDS:
            yield (
                field,
                f"columns: rows have no field {field!r}{nearest(field, FIELDS)}; there are: {', '.join(FIELDS)}",
            )
        elif column not in there:
            yield field, f"no column {column!r} (for {field}){nearest(column, there)}; there are: {', '.join(there)}"
    if not {"prompt", "messages"} & {*there, *columns}:
        yield (
            None,
            f"no column prompt or messages; there are: {', '.join(there)}; name them with columns, e.g. {{prompt: question}}",
        )


class MappedRows(Sequence):
    """Rows of a memory-mapped table, made as they are asked for; a row that is wrong raises UserError with its number."""

    def __init__(
        self, table: Any, columns: dict[str, str], where: str, prefix: str, places: Sequence[int] | None = None
    ):
        self.table, self.columns, self.where, self.prefix = table, columns, where, prefix
        self.numbered = repeats(table, columns.get("id"))
        self.places = range(len(table)) if places is None else places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = self.places[index]
        return self.row(place, self.table[place])

    def __iter__(self) -> Iterator[Row]:
        if isinstance(self.places, range):
            return (self.row(place, record) for place, record in zip(self.places, self.table, strict=True))
        return (self[i] for i in range(len(self)))

    def row(self, place: int, record: dict) -> Row:
        row = {field: record[column] for field, column in self.columns.items() if record.get(column) is not None}
        for field in ("id", "answer"):
            if isinstance(row.get(field), int | float):
                row[field] = json.dumps(row[field])
        problem = row_problem(row)
        if problem:
            raise UserError(f"{self.where}: row {place + 1}: {problem}")
        name = row.get("id", place)
        row["id"] = f"{self.prefix}/{name}#{place + 1}" if self.numbered else f"{self.prefix}/{name}"
        return row

    def at(self, places: Sequence[int]) -> "MappedRows":
        return MappedRows(self.table, self.columns, self.where, self.prefix, places)


def repeats(table: Any, column: str | None) -> bool:
    """Whether two rows of the table would have one id: then the number of the row is appended to every id."""
    if column is None:
        return False
    names = [str(place if name is None else name) for place, name in enumerate(table[column])]
    return len(set(names)) < len(names)


def held_out(rows: MappedRows, number: int, split: str, task: str) -> Sequence[Row]:
    """`number` different prompts with the smallest hashes are evaluated; all rows with such a prompt leave training."""
    keys = [prompt_key(prompt_of(row)) for row in rows]
    chosen = set(sorted(set(keys))[:number])
    if len(chosen) < number or len(chosen) == len(set(keys)):
        raise UserError(
            f"stream.{task}.data.eval: {number} rows to hold out, but {rows.where} has {len(set(keys))} different prompts"
        )
    if split == "train":
        return rows.at([place for place, key in enumerate(keys) if key not in chosen])
    first = {key: place for place, key in reversed(list(enumerate(keys))) if key in chosen}
    return rows.at(sorted(first.values()))


LOADERS = {
    Procedural: load_procedural,
    ReasoningGym: load_reasoning_gym,
    Jsonl: load_jsonl,
    Hub: load_hub,
}
