"""What is refused before the first step: rows that a stage, the verifier, the template or the context cannot take."""

import json

import pytest
from fakes import recipe, write_recipe

from cpt import models
from cpt.checks import check_evaluated
from cpt.data.stream import load_stream
from cpt.errors import UserError
from cpt.recipe import load


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def rows(number: int, **more) -> list[dict]:
    """Rows of the letters' task, each with a prompt of its own, and these fields in all of them."""
    return [{"prompt": f"reverse{'abcdefghij'[i]}bcde=", "answer": "edcba"} | more for i in range(number)]


def checked(folder, tiny_folder, train, kind="sft", context=128, validation=None, template=None, **task) -> None:
    """Run the checks of a recipe of one stage with these rows."""
    content = recipe(kind, tasks=("reverse",))
    data = {"source": "jsonl", "eval": "eval.jsonl", "train": "train.jsonl"}
    asked = [{"prompt": "reversejjjjj=", "answer": "jjjjj"}]
    for name, made in (("train", train), ("eval", asked), ("validation", validation)):
        if made is not None:
            data[name] = f"{name}.jsonl"
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    args = content["stream"][0]["stages"][0]["args"] | task.pop("args", {})
    content["stream"][0]["stages"][0]["args"] = args
    content["stream"][0] |= {"data": data} | task
    made = load(write_recipe(folder / "recipe.yaml", content))
    tokenizer = models.load_tokenizer(tiny_folder, made)
    tokenizer.chat_template = template or tokenizer.chat_template
    check_evaluated(made, load_stream(made, {}), tokenizer, context)


GYM = {"reasoning_gym": "chain_sum", "entry": "{}"}
TALK = [user("copyab"), assistant("ab"), user("lastab"), assistant("b")]


@pytest.mark.parametrize(
    "train, more",
    [
        (rows(3, demonstration="a" * 120), {}),  # 7 tokens of prompt, 120 of answer, and the end: 128
        (rows(3, demonstration="a" * 300), {"args": {"max_length": 100}}),
        (rows(3, demonstration="a" * 300), {"args": {"max_length": 100}, "context": None}),
        (rows(3, demonstration="a" * 2000), {"args": {"max_length": None}, "context": None}),
        ([{"messages": TALK}], {}),
        (rows(3, chosen="a", rejected="b"), {"kind": "dpo"}),
        ([{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows(3, chosen="a", rejected="b")],
         {"kind": "dpo"}),
        ([{"prompt": "reverseabcde=", "metadata": GYM}], {"kind": "rlvr", "reward": "reasoning_gym", "metric": "exact"}),
    ],
)  # fmt: skip
def test_what_passes(train, more, tmp_path, tiny_folder):
    checked(tmp_path, tiny_folder, train, **more)


LONG = [user("copyab"), assistant("a" * 130)]


@pytest.mark.parametrize(
    "train, more, parts",
    [
        (
            rows(3, demonstration="a" * 121),
            {},
            ["row reverse/train/0 has 129 tokens with its demonstration", "context of 128", "stream.reverse.stages.0"],
        ),
        (rows(3, demonstration="a" * 300), {"args": {"max_length": 200}}, ["the model's context of 128"]),
        (rows(3, demonstration="a" * 300), {"args": {"max_length": None}}, ["the model's context of 128"]),
        (
            rows(3, demonstration="a" * 1100),
            {"context": None},
            ["SFTConfig cuts at 1024 by default", "(null: nowhere)"],
        ),
        ([{"messages": LONG}], {}, ["has 135 tokens with its messages"]),
        (rows(3, chosen="a" * 130, rejected="b"), {"kind": "dpo", "args": {"max_length": None}}, ["with its chosen"]),
        (rows(3, chosen="a", rejected="b" * 130), {"kind": "dpo", "args": {"max_length": None}}, ["with its rejected"]),
        ([{"prompt": "reverseabcde="}], {"kind": "rlvr"}, ["data.train: row reverse/train/0 has no answer", "exact"]),
        ([{"prompt": "reverseabcde="}], {"kind": "dpo"}, ["data.train: row reverse/train/0 has no answer"]),
        (
            rows(1),
            {"kind": "rlvr", "reward": "reasoning_gym", "metric": "exact"},
            ["row reverse/train/0 has no entry of reasoning-gym's", "take `source: reasoning_gym`"],
        ),
        (
            [{"prompt": "reverseabcde=", "answer": "d"}],
            {"kind": "rlvr", "reward": [{"kind": "choice", "choices": "ABC"}], "metric": "exact"},
            ["row reverse/train/0: no completion could match its answer 'd': it is none of the choices A, B, C"],
        ),
        (
            [*rows(2), *({"prompt": row["prompt"], "answer": "\\$20"} for row in rows(5)[2:])],
            {"kind": "rlvr", "reward": "math"},
            [
                "row reverse/train/2: no completion could match its answer '\\\\$20': math-verify cannot read it",
                "(3 rows",
            ],
        ),
        (
            [{"prompt": "reverseabcde=", "answer": ""}],
            {"kind": "rlvr"},
            ["row reverse/train/0: no completion could match its answer ''", "leave the row out"],
        ),
        (rows(1), {"kind": "sft"}, ["row reverse/train/0 has answer, id, prompt; a sft stage needs a demonstration"]),
        (
            rows(1, demonstration="a"),
            {"validation": [{"prompt": "copyZ=", "answer": "a"}]},
            ["row reverse/validation/0: the tokenizer cannot spell 'Z'"],
        ),
        (
            rows(1, demonstration="a"),
            {"validation": [{"prompt": "a" * 120, "answer": "a"}]},
            ["row reverse/validation/0 has a prompt of 120 tokens"],
        ),
        (
            [{"messages": [user("copyab"), assistant("aZ")]}],
            {},
            ["row reverse/train/0: the tokenizer cannot spell 'Z' (character 2 of messages 'aZ')"],
        ),
        (
            [{"messages": TALK[:2]}, {"messages": TALK[1:2]}],
            {"template": "{% if messages[0].role != 'user' %}{{ raise_exception('a user\nfirst') }}{% endif %}a"},
            ["row reverse/train/1: the chat template refuses its messages: a user first"],
        ),
    ],
)
def test_what_is_refused(train, more, parts, tmp_path, tiny_folder):
    with pytest.raises(UserError) as caught:
        checked(tmp_path, tiny_folder, train, **more)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(caught.value.problems), lines
    assert any(all(part in line for part in parts) for line in lines), lines


@pytest.mark.parametrize("kind", ["lora", "shira", "unilora"])
def test_an_adapter_that_reads_weights_is_laid_over_them(kind, tmp_path, tiny_folder):
    """Most kinds are tried without any."""
    content = recipe("sft") | {"adapter": {"kind": kind, "target_modules": ["q_proj"]}}
    models.check_adapter(tiny_folder, load(write_recipe(tmp_path / "recipe.yaml", content)))
