"""What is refused before the first step: rows that a stage, the verifier, the template or the context cannot take."""

import json
import re
import shutil

import pytest

from cpt.checks.adapter import check_adapter
from cpt.checks.all_checks import check
from cpt.checks.findings import Findings
from cpt.checks.preflight import check_forms
from cpt.checks.tokens import TokenChecks
from cpt.data import encoding
from cpt.data.stream import Stream, load_stream
from cpt.errors import UserError
from cpt.models import load_tokenizer
from cpt.recipe import load
from helpers.recipes import recipe, write_recipe


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def rows(number: int, **more) -> list[dict]:
    """Rows of the letters' task, each with a prompt of its own, and these fields in all of them."""
    return [{"prompt": f"reverse{'abcdefghij'[i]}bcde=", "answer": "edcba"} | more for i in range(number)]


def checked(
    folder, tiny_folder, train, kind="sft", context=128, validation=None, template=None, **task
) -> tuple[TokenChecks, Stream]:
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
    model = encoding.load(tiny_folder, tiny_folder, made)
    model.tokenizer.chat_template = template or model.tokenizer.chat_template
    stream, findings = load_stream(made, {}), Findings()
    check_forms(made, stream, findings)
    checks = TokenChecks(made, model, context, None, findings)
    kept = checks.check(stream)
    findings.check()
    return checks, kept


def unplaced(line: str) -> str:
    """The line without the places of rows in their files."""
    return re.sub(r" \([a-z]+\.jsonl:\d+\)", "", line)


GYM = {"reasoning_gym": "chain_sum", "entry": "{}"}
TALK = [user("copyab"), assistant("ab"), user("lastab"), assistant("b")]


@pytest.mark.parametrize(
    "train, more",
    [
        (rows(3, demonstration="a" * 120), {}),  # 7 tokens of prompt, 120 of answer, and the end: 128
        (rows(3, demonstration="a" * 300), {"args": {"max_length": 100}, "overlong": "truncate"}),
        (rows(3, demonstration="a" * 300), {"args": {"max_length": 100}, "overlong": "truncate", "context": None}),
        (rows(3, demonstration="a" * 300), {"args": {"max_length": None}, "overlong": "truncate"}),
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
            [
                "row reverse/train/0 has 129 tokens with its demonstration",
                "context of 128",
                "(3 of 3 rows",
                "overlong: drop",
            ],
        ),
        (rows(3, demonstration="a" * 300), {"args": {"max_length": 200}}, ["the model's context of 128"]),
        (
            [*rows(1, demonstration="a"), *rows(3, demonstration="a" * 99)[1:]],
            {"args": {"max_length": 100}},
            [
                "row reverse/train/1 has 107 tokens with its",
                "args.max_length of stream.reverse.stages.0 is 100",
                "(2 of 3 rows",
            ],
        ),
        (rows(3, demonstration="a" * 300), {"args": {"max_length": None}}, ["the model's context of 128"]),
        (
            rows(3, demonstration="a" * 1100),
            {"context": None},
            [
                "args.max_length of stream.reverse.stages.0 is not set, and the default of SFTConfig is 1024",
                "(null: no limit)",
            ],
        ),
        ([{"messages": LONG}], {}, ["has 135 tokens with its messages"]),
        (rows(3, chosen="a" * 130, rejected="b"), {"kind": "dpo", "args": {"max_length": None}}, ["with its chosen"]),
        (rows(3, chosen="a", rejected="b" * 130), {"kind": "dpo", "args": {"max_length": None}}, ["with its rejected"]),
        (
            [{"prompt": "reverseabcde="}],
            {"kind": "rlvr"},
            ["data.train: row reverse/train/0 (train.jsonl:1) has no", "exact"],
        ),
        (
            [{"prompt": "reverseabcde="}],
            {"kind": "dpo"},
            ["data.train: row reverse/train/0 (train.jsonl:1) has no answer"],
        ),
        (
            rows(1),
            {"kind": "rlvr", "reward": "reasoning_gym", "metric": "exact"},
            ["row reverse/train/0 (train.jsonl:1) has no entry of reasoning-gym's", "use `source: reasoning_gym`"],
        ),
        (
            [{"prompt": "reverseabcde=", "answer": "d"}],
            {"kind": "rlvr", "reward": [{"kind": "choice", "choices": "ABC"}], "metric": "exact"},
            [
                "row reverse/train/0 (train.jsonl:1): no completion could match its answer 'd': it is none of the choices"
            ],
        ),
        (
            [*rows(2), *({"prompt": row["prompt"], "answer": "\\$20"} for row in rows(5)[2:])],
            {"kind": "rlvr", "reward": "math"},
            [
                "row reverse/train/2 (train.jsonl:3): no completion could match its answer '\\\\$20': math-verify cannot",
                "(and 2 more rows like it: reverse/train/3, reverse/train/4)",
            ],
        ),
        (
            [{"prompt": "reverseabcde=", "answer": ""}],
            {"kind": "rlvr"},
            ["row reverse/train/0 (train.jsonl:1): no completion could match its answer ''", "leave the row out"],
        ),
        (
            rows(1),
            {"kind": "sft"},
            ["row reverse/train/0 (train.jsonl:1) has answer, id, prompt; a sft stage needs"],
        ),
        (
            rows(1, demonstration="a"),
            {"validation": [{"prompt": "copyZ=", "answer": "a"}]},
            ["row reverse/validation/0: the tokenizer cannot encode 'Z'"],
        ),
        (
            rows(1, demonstration="a"),
            {"validation": [{"prompt": "a" * 120, "answer": "a"}]},
            ["row reverse/validation/0 has a prompt of 120 tokens", "with an answer of up to 12"],
        ),
        (
            [{"messages": [user("copyab"), assistant("aZ")]}],
            {},
            ["row reverse/train/0: the tokenizer cannot encode 'Z' (character 2 of messages 'aZ')"],
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
    plain = [unplaced(line) for line in lines]
    assert any(all(unplaced(part) in line for part in parts) for line in plain), lines


MIXED = [*rows(2, demonstration="a"), *rows(5, demonstration="a" * 9)[2:4], rows(5, demonstration="a" * 300)[4]]


@pytest.mark.parametrize(
    "args, overlong, kept, counts, words",
    [
        (
            {"max_length": 12},
            "drop",
            [0, 1],
            {"left_out": 3},
            "3 of 5 rows are left out (overlong: drop): row reverse/train/2",
        ),
        ({"max_length": 12}, "truncate", [0, 1, 2, 3, 4], {"cut": 3}, "3 of 5 rows are cut"),
        ({"max_length": None}, "drop", [0, 1, 2, 3], {"left_out": 1}, "the model's context of 128 holds no more"),
        ({"max_length": 7}, "truncate", None, {"left_out": 5}, "all 5 rows are too long"),
    ],
)
def test_rows_that_are_too_long_are_counted(args, overlong, kept, counts, words, tmp_path, tiny_folder):
    """A prompt has 7 tokens; what loses its whole answer is left out."""
    if kept is None:
        with pytest.raises(UserError, match=words):
            checked(tmp_path, tiny_folder, MIXED, args=args, overlong=overlong)
        return
    checks, stream = checked(tmp_path, tiny_folder, MIXED, args=args, overlong=overlong)
    assert [row["id"] for row in stream.tasks[0].train] == [f"reverse/train/{place}" for place in kept]
    assert checks.counts == {"reverse": {"train": {"rows": 5} | counts}}
    assert any(words in warning for warning in checks.findings.warnings), checks.findings.warnings


def test_questions_that_are_too_long_are_left_out_or_refused_but_never_cut(tmp_path, tiny_folder):
    asked = [{"prompt": "a" * 120, "answer": "a"}, {"prompt": "b" * 5, "answer": "b"}]
    train = rows(2, demonstration="a")
    checks, stream = checked(tmp_path, tiny_folder, train, validation=asked, overlong="drop")
    assert [row["prompt"] for row in stream.tasks[0].validation] == ["bbbbb"]
    assert checks.counts == {"reverse": {"validation": {"rows": 2, "left_out": 1}}}
    with pytest.raises(UserError, match="`overlong: truncate` cuts no prompts"):
        checked(tmp_path, tiny_folder, train, validation=asked, overlong="truncate")


def test_answers_that_evaluation_would_cut_off_are_told(tmp_path, tiny_folder):
    train = [*rows(1, demonstration="a"), *rows(3, demonstration="a" * 20)[1:]]
    checks, _ = checked(tmp_path, tiny_folder, train, max_completion_length=12)
    (warning,) = checks.findings.warnings
    said = "2 of 3 rows teach answers that evaluation would cut off, such as row reverse/train/1 of 21 tokens"
    assert said in unplaced(warning)


def test_every_row_is_counted_once_and_the_first_named(tmp_path, tiny_folder):
    train = [row | {"answer": "Z", "demonstration": "Z"} for row in rows(7)] + rows(3, demonstration="a")[2:]
    train = [row | {"prompt": row["prompt"].replace("bcde", "bcdZ")} for row in train[:7]]
    with pytest.raises(UserError) as caught:
        checked(tmp_path, tiny_folder, train)
    line = next(line for line in str(caught.value).splitlines() if "cannot encode" in line)
    assert "row reverse/train/0 (train.jsonl:1): the tokenizer cannot encode 'Z'" in line
    named = ", ".join(f"reverse/train/{place}" for place in range(1, 5))
    assert line.endswith(f"(and 6 more rows like it: {named}, ...)")


HEAD = "adapter: it changes the head"
UNUSED = {
    "a pattern of ranks": (
        {"rank_pattern": {"nix": 8}},
        "adapter.rank_pattern: no module of this model is named 'nix'",
    ),
    "a pattern of alphas": (
        {"alpha_pattern": {"o_proj": 8}},
        "adapter.alpha_pattern: no module of this model is named",
    ),
    "one of two targets": ({"target_modules": ["q_proj", "kproj"]}, "named 'kproj'; did you mean k_proj?"),
    "a module to save": (
        {"modules_to_save": ["nope"]},
        "adapter.modules_to_save: no module of this model is named 'nope'",
    ),
    "the head": ({"target_modules": ["lm_head"]}, HEAD),
    "tokens of a tied embedding": ({"trainable_token_indices": [1, 2]}, HEAD),
}


@pytest.mark.parametrize("options, message", UNUSED.values(), ids=UNUSED)
def test_a_part_of_an_adapter_that_would_not_be_trained_is_refused(options, message, tmp_path, tiny_folder):
    content = recipe("sft") | {"adapter": {"kind": "lora", "r": 2, "target_modules": ["q_proj"]} | options}
    with pytest.raises(UserError, match=re.escape(message)):
        check_adapter(tiny_folder, load(write_recipe(tmp_path / "recipe.yaml", content)))


@pytest.mark.parametrize(
    "options",
    [{"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.0.*.q_proj": 3}}, {"modules_to_save": ["norm"]}],
)
def test_a_part_of_an_adapter_that_is_there_is_taken(options, tmp_path, tiny_folder):
    content = recipe("sft") | {"adapter": {"kind": "lora", "r": 2, "target_modules": ["q_proj"]} | options}
    check_adapter(tiny_folder, load(write_recipe(tmp_path / "recipe.yaml", content)))


def test_a_padding_token_without_an_id_is_the_end_of_sequence(tmp_path, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((tiny_folder / "tokenizer_config.json").read_text())
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": ""}))
    content = recipe("sft") | {"model": {"path": str(tmp_path / "model")}}
    tokenizer = load_tokenizer(tmp_path / "model", load(write_recipe(tmp_path / "recipe.yaml", content)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


LIBRARIES = {
    "a cache that transformers does not have": (
        {"cache_implementation": "foo"},
        "Invalid `cache_implementation` (foo)",
    ),
    "offloading without a GPU": (
        {"activation_offloading": True},
        "activation_offloading: moves activations from a GPU",
    ),
}


@pytest.mark.parametrize("args, message", LIBRARIES.values(), ids=LIBRARIES)
def test_what_only_the_libraries_can_tell_is_refused_before_training(args, message, tmp_path):
    content = recipe("rlvr" if "cache_implementation" in args else "sft")
    content["stream"][0]["stages"][0]["args"] |= args
    with pytest.raises(UserError, match=re.escape(message)):
        check(load(write_recipe(tmp_path / "recipe.yaml", content)), tmp_path / "run")


def test_attention_that_cannot_train_on_the_cpu_is_refused(tmp_path):
    content = recipe("sft") | {"model": {"path": "tiny", "attn_implementation": "flex_attention"}}
    with pytest.raises(UserError, match="flex_attention cannot train on the CPU"):
        check(load(write_recipe(tmp_path / "recipe.yaml", content)), tmp_path / "run")


@pytest.mark.parametrize("kind", ["lora", "shira", "unilora"])
def test_an_adapter_that_reads_weights_is_laid_over_them(kind, tmp_path, tiny_folder):
    """Most kinds are tried without any."""
    content = recipe("sft") | {"adapter": {"kind": kind, "target_modules": ["q_proj"]}}
    check_adapter(tiny_folder, load(write_recipe(tmp_path / "recipe.yaml", content)))
