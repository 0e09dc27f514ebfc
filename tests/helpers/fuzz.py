"""Recipes and rows as nobody should write them: strategies that mutate right ones, and a check that says what came of it."""

import io
import json
import os
import signal
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from cpt.cli import main as cli
from cpt.recipe.stages import STAGE_MODELS
from helpers.recipes import recipe, stage

SECONDS = 5.0  # that looking at a recipe may take
LONGEST = 2000  # characters of a line that a user is shown
MANY = int(os.environ.get("CPT_FUZZ", "1"))  # CPT_FUZZ=10: ten times the examples, and other ones each time


def examples(number: int) -> settings:
    """Settings for `number` examples: the same ones in every run of the suite."""
    return settings(
        max_examples=number * MANY,
        derandomize=MANY == 1,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate] + ([Phase.shrink] if MANY > 1 else []),
        suppress_health_check=list(HealthCheck),
    )


# -- recipes that are right -------------------------------------------------------------------------------------------------


def bases() -> list[dict]:
    """Small recipes that together have nearly every key that a recipe may have."""
    letters = {"source": "procedural", "name": "reverse", "length": 5, "train": 40, "validation": 4, "eval": 4}
    gym = {"source": "reasoning_gym", "name": "leg_counting", "config": {"min_animals": 3}, "train": 8, "eval": 4}
    rows = {"source": "jsonl", "train": "train.jsonl", "eval": 2, "columns": {"prompt": "prompt"}}
    hub = {"source": "hub", "path": "openai/gsm8k", "name": "main", "train": "train[:100]", "eval": "test[:20]"}
    rlvr = {
        "kind": "rlvr",
        "reference": "stage-start",
        "filter": {"drop": "all-wrong", "samples": 4, "prompts": 16, "temperature": 1.0},
        "overlong": {"buffer": 4},
        "dynamic_sampling": {"rounds": 2},
        "args": {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 12, "beta": 0.0},
    }
    oblr = {
        "kind": "rlvr",
        "advantage": "gradient-weighted",
        "snr_step": {"min": 0.1, "max": 1.0},
        "args": {"gradient_accumulation_steps": 2, "max_completion_length": 12, "reward_weights": [1.0]},
    }
    hybrid = {"kind": "hybrid", "method": "hpt", "gamma": 1, "gate": "soft", "args": {"max_completion_length": 12}}
    dpo = {"kind": "dpo", "pairs": {"prompts": 8, "samples": 2}, "args": {"loss_type": ["sigmoid"], "max_length": 64}}
    stages = [[rlvr], [oblr], [hybrid], [dpo], [stage("rejection")], [stage("self-distillation")], [stage("distill")]]
    made = [recipe("sft", "rlvr")]
    made += [recipe(tasks=("reverse",)) for _ in (*stages, gym, rows, hub)]
    for content, each in zip(made[1:], stages, strict=False):
        content["stream"][0] |= {"stages": each, "data": dict(letters)}
    for content, data, kind in zip(made[-3:], (gym, rows, hub), ("rlvr", "sft", "sft"), strict=True):
        content["stream"][0] |= {"stages": [{"kind": kind, "args": {"max_steps": 2}}], "data": data}
    made[8]["model"] = {
        "path": "owner/of-a-hub",
        "dtype": "bfloat16",
        "chat_template_kwargs": {"enable_thinking": False},
    }
    made[1] |= {
        "description": "words",
        "seed": 3,
        "adapter": {"kind": "lora", "r": 4, "target_modules": ["q_proj"], "lora_alpha": 8},
        "strategies": [{"kind": "ema", "decay": 0.9, "serve": "live"}, {"kind": "lookahead", "every": 3}],
    }
    made[2] |= {"strategies": [{"kind": "merge", "method": "ties", "density": 0.3, "search": [0.5, 1.0]}]}
    made[3] |= {"defaults": {"hybrid": {"args": {"learning_rate": 1e-5}}}, "data": {"seed": 4}}
    made[4]["stream"][0] |= {"reward": [{"reward": "exact", "weight": 1.0}, "f1"], "metric": "exact", "stop": ["+"]}
    made[5]["evaluation"] |= {"suites": ["general"], "sampled": {"k": [1], "samples": 2}}
    made[5]["evaluation"]["gates"] = {"held_out_drop": 0.1, "learning_accuracy": {"limit": 0.5, "rule": "interval"}}
    made[6]["rollouts"] = {"engine": "transformers", "batch_size": 4}
    return made


SUITE = {
    "name": "held",
    "description": "words",
    "tasks": [
        {"task": "copy", "data": {"source": "procedural", "name": "copy", "eval": 4}, "reward": "exact", "stop": ["="]},
        {
            "task": "rows",
            "data": {"source": "jsonl", "eval": "held.jsonl"},
            "metric": {"kind": "choice", "choices": "ab"},
        },
        {
            "task": "sum",
            "data": {"source": "jsonl", "eval": "held.jsonl"},
            "reward": ["exact", "f1"],
            "metric": "exact",
        },
    ],
}
HELD = [{"prompt": f"copy{letter}a=", "answer": "a"} for letter in "abcd"]


# -- what is done to them ---------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *(
            "",
            " ",
            "x",
            "tiny",
            "sft",
            "rlvr",
            "grpo",
            "exact",
            "math",
            "null",
            "~",
            "no",
            "3e-4",
            "0x1F",
            "2026-01-02",
        ),
        *(
            "json:check",
            "mine:judge",
            "../x",
            "/dev/zero",
            "~root",
            "$HOME/x",
            "a/b",
            "a\nb",
            "\x00",
            "\x1b[31m",
            "é",
            "名",
        ),
        *(
            "\U0001f600",
            "\u202e",
            "\u2028",
            "{prompt}",
            "{% x %}",
            "(((",
            "[",
            "%",
            "*",
            "&a",
            "train[:10]",
            "x" * 5000,
        ),
    ]
)
NUMBERS = st.sampled_from(
    [
        *(-1, 0, 1, 2, 3, 7, 8, 10**6, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, 10**500),
        *(0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 1e-300, 5e-324, 1e30, 1.7e308, float("nan"), float("inf"), -float("inf")),
    ]
)
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(WORDS.map(str) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        *(
            "kind",
            "args",
            "task",
            "data",
            "source",
            "name",
            "path",
            "reward",
            "metric",
            "stages",
            "stream",
            "seed",
            "model",
        ),
        *("extends", "defaults", "adapter", "rollouts", "strategies", "evaluation", "lr", "learning_rate", "max_steps"),
        *("num_generations", "beta", "temperature", "r", "method", "filter", "folder", "pattern", "choices", "length"),
    ]
)


def places(value, path: tuple = ()) -> list[tuple]:
    """The paths of all values in plain data, but for that of the whole."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, each in children:
        found += [(*path, key), *places(each, (*path, key))]
    return found


ARGUMENTS = st.sampled_from(sorted({name for spec in STAGE_MODELS for name in spec.arguments()} - {"output_dir"}))
SMALL_NUMBERS = st.sampled_from([0, 1, 2, 4, 8, 64, 0.1, 0.5, 1.0])
SMALL_WORDS = st.sampled_from(["linear", "cosine", "adamw_torch", "sgd", "steps", "no", "a", "reverse", "copy", "base"])
SMALL = SMALL_NUMBERS | SMALL_WORDS | st.booleans()


def alike(value) -> st.SearchStrategy:
    """Values of the same type, which may well be right."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int | float):
        return SMALL_NUMBERS | SMALL_NUMBERS | NUMBERS
    return SMALL_WORDS | WORDS if isinstance(value, str) else SCALARS


def value_at(content, path):
    for step in path:
        content = content[step]
    return content


@st.composite
def changed(draw, content: dict) -> dict:
    """The recipe with a few of its values taken out, replaced, doubled, nested, or called otherwise."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        there = places(content)
        leaves = [path for path in there if not isinstance(value_at(content, path), dict | list)]
        if not leaves:
            break
        *steps, last = draw(st.sampled_from(leaves if draw(st.integers(0, 3)) else there))
        here = value_at(content, steps)
        maps = [value_at(content, path) for path in there if path[-1] in ("args", "adapter", "rollouts")]
        maps = [each for each in maps if isinstance(each, dict)]
        what = draw(
            st.sampled_from(["alike"] * 3 + ["argument"] * 3 + ["value", "out", "key", "wrap", "double", "rename"])
        )
        if what == "out":
            del here[last]
        elif what == "wrap":
            here[last] = draw(st.sampled_from([[here[last]], {"x": here[last]}, [here[last], here[last]]]))
        elif what == "double" and isinstance(here, list):
            here.append(here[last])
        elif what == "rename" and isinstance(here, dict):
            here[draw(KEYS | WORDS)] = here.pop(last)
        elif what == "key" and isinstance(here, dict):
            here[draw(KEYS | WORDS)] = draw(VALUES)
        elif what == "argument" and maps:
            draw(st.sampled_from(maps))[draw(ARGUMENTS)] = draw(SMALL | SMALL | SCALARS | st.lists(SMALL, max_size=2))
        else:
            here[last] = draw(VALUES if what == "value" else alike(here[last]))
    return content


def as_yaml(content) -> str:
    """Plain data as a YAML document: JSON, with YAML's words for what is no number."""
    text = json.dumps(content, ensure_ascii=False)
    for word, yaml in (("-Infinity", "-.inf"), ("Infinity", ".inf"), ("NaN", ".nan")):
        text = text.replace(f" {word}", f" {yaml}").replace(f"[{word}", f"[{yaml}")
    return text


PIECES = st.sampled_from(
    [
        *(
            "&a ",
            "*a ",
            "*a",
            "<<: *a\n",
            "<<: [*a, *a]\n",
            "- ",
            "? ",
            ": ",
            "\n",
            "\n  ",
            "\t",
            "# ",
            "---\n",
            "...\n",
        ),
        *("'", '"', "[", "]", "{", "}", "|\n", ">\n", "!!set ", "!x ", "!!binary ", "!!int ", "%YAML 1.1\n", "\x00"),
        *("`", ",", "null", ".nan", "\u2028", "\U0001f600", "é", "\\", "\r", "  ", "x: &a [*a]\n", "a: &a {b: *a}\n"),
        *("\x07", "\ufeff", "@"),
    ]
)


@st.composite
def spoiled(draw, text: str) -> str:
    """The text with pieces of YAML put in, cut out, or lines doubled."""
    for _ in range(draw(st.integers(1, 4))):
        place, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        what = draw(st.sampled_from(["put", "put", "cut", "double", "swap"]))
        if what == "put":
            text = text[:place] + draw(PIECES) + text[place:]
        elif what == "cut":
            text = text[:place] + text[min(end, place + 12) :]
        else:
            lines = text.split("\n")
            one, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
            lines[one] = lines[other] if what == "swap" else f"{lines[one]}\n{lines[one]}"
            text = "\n".join(lines)
    return text


@st.composite
def overrides(draw, content: dict) -> list[str]:
    """What somebody may write after the recipe on the command line."""
    made = []
    for _ in range(draw(st.integers(1, 3))):
        steps = [str(step) for step in draw(st.sampled_from(places(content)))]
        if draw(st.booleans()):
            steps[draw(st.integers(0, len(steps) - 1))] = draw(KEYS | WORDS | st.sampled_from(["9", "-1", "²", "*"]))
        value = draw(VALUES.map(as_yaml) | WORDS | PIECES)
        made.append(".".join(steps) + draw(st.sampled_from(["=", "=", "=", "", "=="])) + value)
    return [each.replace("\x00", "") for each in made if not each.startswith("-")]  # no command line has a NUL


# -- rows -------------------------------------------------------------------------------------------------------------------


def right_rows(kind: str) -> list[dict]:
    """Eight rows that a stage of this kind can be trained on."""
    made = []
    for letter in "abcdefgh":
        row = {"id": letter, "prompt": f"reverse{letter}bcde=", "answer": f"edcb{letter}"}
        if kind == "dpo":
            row |= {"chosen": f"edcb{letter}", "rejected": "aaaaa"}
        elif kind == "messages":
            row["messages"] = [{"role": "user", "content": f"copy{letter}"}, {"role": "assistant", "content": letter}]
        else:
            row["demonstration"] = f"edcb{letter}"
        made.append(row)
    return made


FIELDS = st.sampled_from(
    [
        *("id", "prompt", "answer", "demonstration", "completion", "chosen", "rejected", "messages", "answer_markers"),
        *("metadata", "tools", "tool_calls", "role", "content", "system", "weight", "x"),
    ]
)


@st.composite
def changed_rows(draw, rows: list[dict]) -> list:
    rows = json.loads(json.dumps(rows))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(rows) - 1))
        if not isinstance(rows[place], dict) or draw(st.integers(0, 9)) == 0:
            rows[place] = draw(VALUES)
            continue
        there = places(rows[place])
        *steps, last = draw(st.sampled_from(there)) if there and draw(st.booleans()) else (draw(FIELDS),)
        here = rows[place]
        for step in steps:
            here = here[step]
        if draw(st.booleans()):
            here[last] = draw(VALUES | st.lists(st.fixed_dictionaries({"role": WORDS, "content": VALUES}), max_size=2))
        elif isinstance(here, dict):
            here.pop(last, None)
    return rows


def as_lines(rows: list) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")


@st.composite
def spoiled_bytes(draw, content: bytes) -> bytes:
    """The file with bytes put in, changed or cut out."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(content)))
        piece = draw(
            st.sampled_from(
                [b"", b"\n", b"\r", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"', b"{", b"}", b"["]
            )
            | st.sampled_from(
                [b",", b"\\", b"\\ud800", b"1e999", b"NaN", b"9" * 5000, b"[" * 5000, b"\xe2\x80\xa8", b"\r\n"]
            )
            | st.binary(max_size=3)
        )
        content = content[:place] + piece + content[place + draw(st.integers(0, 6)) :]
    return content


# -- what comes of it -------------------------------------------------------------------------------------------------------


class TooLong(BaseException):
    """The command took too long. No handler of ours takes it for an error of its own."""


@contextmanager
def within(seconds: float):
    """Raise TooLong after `seconds` of the processor's time, or six times as long of waiting (the machine may be busy)."""

    def ring(*_):
        raise TooLong(f"more than {seconds} s")

    clocks = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, 6 * seconds))
    before = [signal.signal(number, ring) for number, *_ in clocks]
    for _, clock, limit in clocks:
        signal.setitimer(clock, limit)
    try:
        yield
    finally:
        for (number, clock, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(number, handler)


def looked_at(folder: Path, *words: str) -> int:
    """The exit code of `cpt check` in the folder: 0, or 2 with lines that each say one thing in characters that print."""
    out, err, here = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with within(SECONDS), redirect_stdout(out), redirect_stderr(err):
            cli.main(["check", *words])
    except SystemExit as ended:
        code = ended.code
    finally:
        os.chdir(here)
    lines = err.getvalue().splitlines()
    assert code in (0, 2), f"exit code {code}:\n{err.getvalue()}"
    assert bool(lines) == (code == 2), f"exit code {code}:\n{err.getvalue()}"
    for line in lines:
        assert line.startswith("cpt") and len(line) <= LONGEST and line.isprintable(), repr(line)
    assert len(lines) <= 101, f"{len(lines)} lines"
    return code
