"""docs/run-directory.md names every file and every key that runs write: finished ones, and those that were killed.

In the page a word in capitals stands for any name, `[]` behind a key for the elements of a list, and a row whose text begins
with a link to another section for the keys of that section.
"""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, NotRequired, get_args, get_origin, get_type_hints

import pytest
from typing_extensions import is_typeddict

from cpt import records
from helpers.recipes import ARGS, recipe, short, write_recipe

pytestmark = pytest.mark.usefixtures("given_rewards")
PAGE = (Path(__file__).parent.parent / "docs" / "run-directory.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^###? (.*?)\n(.*?)(?=^###? |\Z)", PAGE, re.M | re.S))
CAPITALS = re.compile(r"((?!DONE|README)[A-Z]{2,}(?:_[A-Z]+)*)")
OF_LIBRARIES = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "trainer_state.json",
}
OF_LIBRARIES |= {"adapter_config.json", "special_tokens_map.json"}  # JSON whose keys are not ours
LISTS = ("filter", "pairs", "answers")  # of filter.json, pairs.json, answers.json: what is in them is not described
KeyPath = tuple[str, ...]  # the keys on the way to a value, "[]" for an element of a list


# -- what the page says ------------------------------------------------------------------------------------------------------


def rows(title: str) -> Iterator[tuple[list[str], str]]:
    """(what stands in backticks in the first cell, the second cell) of each row of a section's tables."""
    for first, second in re.findall(r"^\| (`.*?`) \| (.*) \|$", SECTIONS[title], re.M):
        yield re.findall(r"`([^`]+)`", first), second


def matches(pattern: str, name: str, any_name: str) -> bool:
    pieces = [any_name if CAPITALS.fullmatch(each) else re.escape(each) for each in CAPITALS.split(pattern)]
    return re.fullmatch("".join(pieces), name) is not None


FILES = [name for title in ("Files", "While a run is under way") for names, _ in rows(title) for name in names]


def split(key: str) -> KeyPath:
    """`a.b[][].c` -> ("a", "b", "[]", "[]", "c")."""
    parts = [(part.replace("[]", ""), part.count("[]")) for part in key.split(".")]
    return tuple(piece for name, depth in parts for piece in ([name] * bool(name) + ["[]"] * depth))


def keys_of(title: str) -> list[KeyPath]:
    """All keys of a section, those of the sections that it links to included."""
    slugs = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-"): each for each in SECTIONS}
    whole = re.match(r"\s*\[.*?\]\(#([\w-]+)\)\.\s*\Z", SECTIONS[title])
    found = keys_of(slugs[whole[1]]) if whole else []
    for names, about in rows(title):
        linked = re.match(r"\[.*?\]\(#([\w-]+)\)", about)
        inner = keys_of(slugs[linked[1]]) if linked and len(names) == 1 else [()]
        found += [(*split(name), *path) for name in names for path in inner]
    return found


def section_of(file: str) -> str:
    """The section whose heading names the file, by its path or by its end."""
    for title in sorted(SECTIONS, key=len, reverse=True):
        for pattern in re.findall(r"`([^`]+)`", title):
            if matches(pattern, file, "[^/]+") or ("/" not in pattern and file.split("/")[-1] == pattern):
                return title
    raise AssertionError(f"the page has no section for the keys of {file}")


# -- what runs write -----------------------------------------------------------------------------------------------------


def paths_in(value, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The paths of all keys within a value."""
    for key, child in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from paths_in(child, (*path, key))
    for child in value if isinstance(value, list) else ():
        if isinstance(child, dict | list):
            yield from paths_in(child, (*path, "[]"))


def is_documented(path: KeyPath, known: list[KeyPath]) -> bool:
    return any(
        len(path) <= len(each)
        and all(a == b if "[]" in (a, b) else matches(b, a, ".+") for a, b in zip(path, each, strict=False))
        for each in known
    )


def undocumented(run: Path) -> list[str]:
    """Files, and keys of JSON files, that the page does not name."""
    found = []
    for file in sorted(run.rglob("*")):
        name = str(file.relative_to(run))
        if file.is_dir() and not file.is_symlink():
            continue
        if not any(matches(pattern, name, "[^/]+") for pattern in FILES):
            found.append(name)
        elif file.name not in OF_LIBRARIES and (file.suffix in (".json", ".jsonl") or file.name == "DONE"):
            found += [f"{name}: {key}" for key in undocumented_keys(name, file.read_text(encoding="utf-8"))]
    return found


def undocumented_keys(name: str, text: str) -> list[str]:
    values = [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else [json.loads(text)]
    if Path(name).stem in LISTS:
        values = [{key: [] if key in LISTS else child for key, child in value.items()} for value in values]
    if name.endswith(".jsonl"):
        values = [value | dict.fromkeys({"prompt", "answer"} & set(value)) for value in values]
    known, seen = keys_of(section_of(name)), dict.fromkeys(path for value in values for path in paths_in(value))
    return [".".join(path) for path in seen if not is_documented(path, known)]


FORMS = {  # file: the form of its content, an element of which is a line or an entry
    "results.json": records.Results,
    "manifest.json": records.Manifest,
    "points/*/stages.json": list[records.StageRecord],
    "points/*/*/merge.json": records.MergeFile,
    "evaluations/*.cost.json": records.EvaluationCost,
}


def outside_form(value, form, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The paths of keys that a TypedDict of the form does not have."""
    while get_origin(form) in (Annotated, NotRequired):
        form = get_args(form)[0]
    for each in get_args(form) if get_origin(form) is UnionType else ():
        if each is not type(None) and value is not None:
            yield from outside_form(value, each, path)
    if isinstance(value, list) and get_origin(form) is list:
        for child in value:
            yield from outside_form(child, get_args(form)[0], (*path, "[]"))
    elif isinstance(value, dict) and get_origin(form) is dict:
        for key, child in value.items():
            yield from outside_form(child, get_args(form)[1], (*path, key))
    elif isinstance(value, dict) and is_typeddict(form):
        fields = get_type_hints(form, include_extras=True)
        for key, child in value.items():
            if key not in fields:
                yield (*path, key)
            else:
                yield from outside_form(child, fields[key], (*path, key))


def without_form(run: Path) -> list[str]:
    """Keys of JSON files that no TypedDict of `records` has, and values that have not its form."""
    found = []
    for pattern, form in FORMS.items():
        files = [*run.glob(pattern)]
        assert files, pattern
        for file in files:
            value = json.loads(file.read_text(encoding="utf-8"))
            found += [f"{file.relative_to(run)}: {'.'.join(path)}" for path in outside_form(value, form)]
            found += [f"{file.relative_to(run)}: {problem}"] if (problem := records.wrong(value, form)) else []
    return found


EMA = {"kind": "ema", "decay": 0.5}
MEMORY = {"rows": 8, "args": ARGS["sft"] | {"max_steps": 2}}


def finished() -> dict:
    """Two tasks with everything that a finished run can hold."""
    content = short("sft", "rlvr", steps=2, evaluate=4)
    for task in content["stream"]:
        task["data"]["validation"] = 4
        task["stages"][1]["filter"] = {"drop": "zero-variance", "samples": 4, "prompts": 16}
    content["strategies"] = [EMA | {"serve": "live"}, {"kind": "merge", "method": "wise", "search": [0, 0.5]}]
    content["evaluation"] |= {
        "suites": ["held.yaml"],
        "sampled": {"k": [2], "samples": 2},
        "gates": {"forgetting": 1.0},
        "during": {"every": 1, "questions": 2},
    }
    return content


def stage_of(name: str, **more) -> dict:
    content = recipe(name, tasks=("reverse",), evaluate=4)
    content["stream"][0]["data"]["demonstration"] = "terse"
    stage = content["stream"][0]["stages"][0]
    stage["args"] |= {"max_steps": 4, "save_steps": 2} | more.pop("args", {})
    stage |= more
    return content | {"strategies": [EMA]}


def relift() -> dict:
    return stage_of("rlvr", kind="hybrid", method="relift", correct_at=2.0, buffer=400)


def merged(**spec) -> dict:
    return short("sft", steps=2, evaluate=4) | {"strategies": [{"kind": "merge"} | spec]}


STEP = "cpt.stages.metrics_logger.MetricsLogger.on_step_end"
COMMIT = "cpt.rundir.RunDir.commit"
KILLED = {
    "dpo": (stage_of("dpo"), STEP, 3),
    "rlvr": (stage_of("rlvr", filter={"drop": "zero-variance", "samples": 4, "prompts": 64}), STEP, 3),
    "rejection": (stage_of("rejection", rounds=2), STEP, 7),
    "self-distillation": (stage_of("self-distillation", ema_rate=0.5), STEP, 3),
    "relift": (relift(), STEP, 3),
    "aim": (merged(method="aim", memory=MEMORY), COMMIT, 3),
    "fisher": (merged(method="fisher"), COMMIT, 3),
}


def test_a_finished_run(cpt, tmp_path):
    (tmp_path / "held.yaml").write_text(
        "name: held\ntasks:\n  - {task: copy, data: {source: procedural, name: copy, eval: 2}, reward: exact}\n"
    )
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", finished()), "--out", tmp_path / "run") == 0, cpt.output
    written = {str(file.relative_to(tmp_path / "run" / "points")) for file in (tmp_path / "run" / "points").rglob("*")}
    assert "01-reverse/strategies/0-ema/tensors.safetensors" in written
    assert json.loads((tmp_path / "run" / "results.json").read_text())["stages"][-1]["merges"][0]["curve"]
    assert not undocumented(tmp_path / "run")
    assert not without_form(tmp_path / "run")


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_run(cpt, tmp_path, name):
    content, place, call = KILLED[name]
    file, out = write_recipe(tmp_path / "recipe.yaml", content), tmp_path / "run"
    assert cpt("run", file, "--out", out, at={"place": place, "call": call}) == -signal.SIGKILL, cpt.output
    assert [folder for folder in (out / "points").iterdir() if folder.name.endswith(".work")]
    assert not undocumented(out)


@pytest.mark.parametrize(
    ("form", "title"),
    [
        (records.Results, "`results.json`"),
        (records.Manifest, "`manifest.json`"),
        (records.Answer, "`evaluations/POINT.jsonl`"),
        (records.EvaluationCost, "`evaluations/POINT.cost.json`"),
        (records.StageRecord, "A record of a stage"),
        (records.MergeRecord, "A record of a merge"),
        (records.MergeFile, "`merge.json`"),
        (records.Gate, "A gate"),
        (records.DuringLine, "`during.jsonl`"),
    ],
)
def test_every_key_of_a_form(form, title):
    """Those that these runs did not write too."""
    known = {path[0] for path in keys_of(title)}
    assert not set(form.__annotations__) - known


def test_what_no_form_has_is_found():
    record = {"merges": [{"curve": [{"value": 1.0, "colour": 2}]}], "shape": 1}
    assert list(outside_form([record], list[records.StageRecord])) == [
        ("[]", "merges", "[]", "curve", "[]", "colour"),
        ("[]", "shape"),
    ]


def test_what_is_not_named_is_found(tmp_path):
    (tmp_path / "points" / "01-a").mkdir(parents=True)
    (tmp_path / "points" / "01-a" / "stages.json").write_text(
        '[{"task": "a", "colour": 1, "merges": [{"curve": [{"b": 1}]}]}]'
    )
    (tmp_path / "points" / "new.txt").touch()
    found = undocumented(tmp_path)
    stages = "points/01-a/stages.json"
    assert found == [f"{stages}: [].colour", f"{stages}: [].merges.[].curve.[].b", "points/new.txt"]
