"""Damage to the files of a run, drawn at random."""

import json
import os
import random
import shutil
from pathlib import Path

VALUES = [
    None,
    True,
    0,
    -1,
    3,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "ä\u2028",
    [],
    [1],
    [[]],
    {},
    {"a": 1},
]


def nodes(value, path=()):
    """Every place in a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from nodes(child, (*path, key))


def with_another_value(draw: random.Random, value):
    """The JSON value with one node replaced, taken away, or doubled; and what was done."""
    value = json.loads(json.dumps(value))
    path = draw.choice(list(nodes(value)))
    if not path:
        return draw.choice(VALUES), "the whole"
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    way = draw.choice(["replaced", "replaced", "removed", "doubled"])
    if way == "removed":
        del parent[path[-1]]
    elif way == "doubled" and isinstance(parent, list):
        parent.append(parent[path[-1]])
    else:
        parent[path[-1]] = draw.choice(VALUES)
    return value, f"{'.'.join(map(str, path))} {way}"


def harm(draw: random.Random, file: Path) -> str:
    """Damage the file in one of the ways that disks, editors and people do; what was done."""
    content = file.read_bytes()
    ways = ["cut", "empty", "flipped", "garbage", "a folder", "a dangling link", "gone"]
    if file.suffix in (".json", ".jsonl") or file.name in ("DONE", ".lock.json"):
        ways += ["values"] * 5
    way = draw.choice(ways)
    if way == "cut":
        file.write_bytes(content[: draw.randrange(len(content) + 1)])
    elif way == "empty":
        file.write_bytes(b"")
    elif way == "flipped":
        place = draw.randrange(max(1, len(content)))
        file.write_bytes(content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :])
    elif way == "garbage":
        file.write_bytes(draw.randbytes(draw.randrange(1, 200)))
    elif way in ("a folder", "a dangling link", "gone"):
        file.unlink()
        if way == "a folder":
            file.mkdir()
        elif way == "a dangling link":
            file.symlink_to("nowhere")
    else:
        lines = content.decode().splitlines() if file.suffix == ".jsonl" else [content.decode()]
        number = draw.randrange(len(lines)) if lines else 0
        value, what = with_another_value(draw, json.loads(lines[number]) if lines else {})
        lines[number : number + 1] = [json.dumps(value)]
        file.write_text("\n".join(lines) + "\n")
        return f"{file.name}:{number + 1}: {what}"
    return f"{file.name}: {way}"


def other_types(value):
    """The JSON value with all its keys and another type for every value in it."""
    if isinstance(value, dict):
        return {key: other_types(child) for key, child in value.items()} or 0
    if isinstance(value, list):
        return [other_types(child) for child in value] or 0
    return 0 if isinstance(value, str) else "0"


def of_other_types(file: Path) -> bytes | None:
    """The file's content, with the right keys and values of wrong types; None where it is no JSON."""
    try:
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines() if file.suffix == ".jsonl" else [text]
        return "".join(json.dumps(other_types(json.loads(line))) + "\n" for line in lines).encode()
    except ValueError:
        return None


def in_its_place(file: Path) -> None:
    file.unlink()
    file.mkdir()


WAYS = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "text": lambda file: file.write_bytes(b"this is not what was written\n"),
    "a list": lambda file: file.write_bytes(b"[1, 2]\n"),
    "other types": lambda file: file.write_bytes(of_other_types(file)),
    "binary": lambda file: file.write_bytes(bytes(range(256)) * 4),
    "a folder": in_its_place,
    "no permission": lambda file: file.chmod(0),
    "gone": lambda file: file.unlink(),
}


def copy(run: Path, to: Path) -> Path:
    """The run with its files as files of their own (hard links would be harmed too)."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(run, to, symlinks=True)
    return to


def files_of(run: Path) -> list[Path]:
    return sorted(Path(folder, name) for folder, _, names in os.walk(run) for name in names if name != ".lock")
