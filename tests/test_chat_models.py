"""Instruct models: every stage asks and teaches what evaluation asks, `check` shows it, and refuses what cannot be."""

import json
import re

import pytest

from cpt.checks import all_checks, plan
from cpt.checks.findings import Findings
from cpt.data import encoding
from cpt.data.stream import load_stream, stage_rows
from cpt.errors import RecipeErrors, UserError
from cpt.recipe import load
from helpers.contexts import stage_and_services
from helpers.fake_tokenizers import CHATML, SPECIAL, byte_level
from helpers.recipes import recipe, stage, write_recipe

TOOLS = CHATML.replace("{% for m", "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m", 1)
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
COLOURS = ("red", "green", "blue", "yes", "no")


def model_of(tokenizer, folder, stops=("<|im_end|>",), embeddings: int | None = None):
    """A small model with random weights for the tokenizer, which stops at the end of sequence and at `stops`."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    config = Qwen3Config(
        vocab_size=embeddings or len(tokenizer), intermediate_size=32, max_position_embeddings=256, **shape
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(stops))]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return model_of(byte_level(TOOLS), tmp_path_factory.mktemp("chat"))


def rows(number: int, first: int = 0, **more) -> list[dict]:
    return [
        {"prompt": f"which colour? {first + i}", "answer": COLOURS[i % 5], "demonstration": COLOURS[i % 5]} | more
        for i in range(number)
    ]


def made(folder, model, kind: str, train=None, asked=None, args=None, **task):
    """A recipe of one stage on the model, with these rows."""
    content = recipe(kind, tasks=("reverse",))
    for name, content_of in (("train", train or rows(8)), ("eval", asked or rows(4, 100))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content_of))
    own = stage(kind)
    own["args"] = own["args"] | (args or {})
    content["model"] = {"path": str(model)}
    content["stream"] = [
        {"task": "t", "data": {"source": "jsonl", "train": "train.jsonl", "eval": "eval.jsonl"}, "reward": "exact"}
        | {"stages": [own | task.pop("stage", {})]}
        | task
    ]
    return load(write_recipe(folder / "recipe.yaml", content))


def trainer_of(tmp_path, settings):
    """(the stage's trainer, as its `run` builds it instead of the training; the task; its encoder)."""
    from pathlib import Path

    from cpt.data.encoding import encoder_of
    from cpt.rollouts.transformers import TransformersEngine

    task, folder, spec = load_stream(settings, {}).tasks[0], Path(settings.model.path), settings.stream[0].stages[0]
    stage, services = stage_and_services(
        **{"recipe": settings, "task": task, "spec": spec, "source": folder, "points": (folder,)},
        **{"work": tmp_path / "work", "engine": TransformersEngine(64)},
    )
    module, found = spec.implemented(), []
    train, module.train = module.train, lambda stage, services, trainer, *_: found.append(trainer) or {}
    try:
        module.run(stage, services, stage_rows(task), [])
    finally:
        module.train = train
    return found[0], task, encoder_of(stage)


HYBRID = {"kind": "hybrid", "method": "chord"}
CASES = {
    "sft": {},
    "dpo": {"args": {"max_length": None}},
    "rlvr": {"stop": [" "]},
    "hybrid": {"stage": HYBRID},
    "self-distillation": {"stage": {"template": "{prompt} like {demonstration}"}},
    "distill": {},
}


@pytest.mark.parametrize("kind", CASES)
def test_every_stage_asks_what_evaluation_asks(kind, chat_model, tmp_path):
    """Strings become chats, with the system message and the row's tools."""
    more = {"chosen": "yes", "rejected": "no"} if kind == "dpo" else {}
    train = [*rows(4, **more), *rows(4, 4, tools=[ADD], **more)]
    options = {"system": "be brief"} | CASES[kind]
    settings = made(tmp_path, chat_model, "rlvr" if kind == "hybrid" else kind, train, **options)
    trainer, task, encoder = trainer_of(tmp_path, settings)
    asked = encoder.prompts(task.train)
    wanted = (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nwhich colour? 0<|im_end|>\n<|im_start|>assistant\n"
    )
    assert encoder.shown(asked[0]) == wanted and encoder.shown(asked[4]).startswith('[{"type": "function"')
    dataset = trainer.train_dataset
    if kind == "sft":
        found = {tuple(row["input_ids"]): row["labels"] for row in dataset}
        for prompt, row in zip(asked, task.train, strict=True):
            answer = encoder.tokenizer(row["demonstration"] + "<|im_end|>")["input_ids"]
            assert found[*prompt, *answer] == [-100] * len(prompt) + answer
    elif kind == "dpo":
        assert dataset["prompt_ids"] == asked
        assert [encoder.shown(ids) for ids in dataset["chosen_ids"]] == ["yes<|im_end|>"] * 8
        assert [encoder.shown(ids) for ids in dataset["rejected_ids"]] == ["no<|im_end|>"] * 8
    elif kind == "self-distillation":
        assert trainer._tokenize_prompts(dataset["prompt"]) == asked
        teachers = [encoder.shown(ids) for ids in trainer._tokenize_prompts(dataset["privileged_context"])]
        assert teachers[0] == wanted.replace("colour? 0", "colour? 0 like red") and teachers[4].startswith("[{")
    else:
        assert trainer._tokenize_prompts(dataset["prompt"])[0] == asked
    if kind == "rlvr":
        assert {*encoder.ends} <= {*trainer.eos_token_ids}, "answers that a task's stop ends are not cut off"
    if kind == "hybrid":
        assert [encoder.shown(ids) for ids in dataset["demonstration_ids"]][:2] == ["red<|im_end|>", "green<|im_end|>"]


def test_conversations_teach_all_or_the_answers_alone(chat_model, tmp_path):
    talk = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "yes"}]
    train = [
        {"messages": [*talk, {"role": "user", "content": str(i)}, {"role": "assistant", "content": "no"}]}
        for i in range(8)
    ]
    for args, taught in (({}, None), ({"assistant_only_loss": True}, "yes<|im_end|>no<|im_end|>")):
        trainer, _, encoder = trainer_of(tmp_path, made(tmp_path, chat_model, "sft", train, args=args))
        row = trainer.train_dataset[0]
        whole = encoder.shown(row["input_ids"])
        assert whole.endswith("no<|im_end|>") and whole.count("<|im_start|>") == 4
        assert encoder.shown([label for label in row["labels"] if label != -100]) == (taught or whole)


def test_what_of_a_prompt_and_its_answer_is_trained_on(chat_model, tmp_path):
    calls = [
        {"role": "assistant", "content": "red"},
        {"role": "tool", "content": "7"},
        {"role": "assistant", "content": "no"},
    ]
    train = [{"prompt": [{"role": "user", "content": str(i)}], "demonstration": calls} for i in range(8)]
    whole = "red<|im_end|>\n<|im_start|>tool\n7<|im_end|>\n<|im_start|>assistant\nno<|im_end|>"
    for args, taught in (
        ({}, whole),
        ({"assistant_only_loss": True}, "red<|im_end|>no<|im_end|>"),
        ({"completion_only_loss": False}, None),
    ):
        trainer, _, encoder = trainer_of(tmp_path, made(tmp_path, chat_model, "sft", train, args=args))
        row = trainer.train_dataset[0]
        found = encoder.shown([label for label in row["labels"] if label != -100])
        assert found == (taught or encoder.shown(row["input_ids"])) and encoder.shown(row["input_ids"]).endswith(whole)


def test_rows_are_cut_at_the_limit(chat_model, tmp_path):
    """At the end, or at the beginning; what keeps nothing of its answer is left out."""
    from types import SimpleNamespace

    from cpt.data.rows import dpo_row, sft_row
    from cpt.stages.examples import dpo_examples, sft_examples

    settings = made(tmp_path, chat_model, "sft", prompt="raw", overlong="truncate")
    encoder = encoding.load(chat_model, chat_model, settings).of(settings.stream[0])
    row = {"prompt": "red green", "demonstration": " blue yes no", "chosen": " blue yes no", "rejected": " no"}
    size = len(encoder.prompts([row])[0])

    def config(limit, mode="keep_start"):
        flags = {"packing": False, "assistant_only_loss": False, "completion_only_loss": None}
        return SimpleNamespace(max_length=limit, truncation_mode=mode, **flags)

    def sft(*arguments) -> list[tuple[str, str]]:
        found = sft_examples([(encoder, sft_row(row))], *arguments, "k")
        return [
            (encoder.shown(each["input_ids"]), encoder.shown([i for i in each["labels"] if i != -100]))
            for each in found
        ]

    whole = "red green blue yes no<|end|>"
    assert sft(config(None), None) == [(whole, " blue yes no<|end|>")]
    assert sft(config(size + 2), None) == sft(config(None), size + 2) == [("red green blue yes", " blue yes")]
    assert sft(config(3, "keep_end"), None) == [(" yes no<|end|>", " yes no<|end|>")]
    with pytest.raises(UserError, match="k: no row has any part of its answer within the limit"):
        sft(config(size), None)

    def dpo(*arguments) -> list[tuple[str, str, str]]:
        found = dpo_examples([(encoder, dpo_row(row))], *arguments, "k")
        return [
            tuple(encoder.shown(each[f"{name}_ids"]) for name in ("prompt", "chosen", "rejected")) for each in found
        ]

    assert dpo(config(None), None) == [("red green", " blue yes no<|end|>", " no<|end|>")]
    assert dpo(config(size + 1), None) == [("red green", " blue", " no")]
    assert dpo(config(5, "keep_end"), None) == [(" green", " blue yes no<|end|>", " no<|end|>")]
    with pytest.raises(UserError, match="k: no row has any part of its answer"):
        dpo(config(size), None)


def test_verifiers_are_given_special_tokens_where_the_task_says(tmp_path):
    from cpt.stages.rlvr import reward_function

    folder = model_of(byte_level(CHATML, (*SPECIAL, "<answer>")), tmp_path / "model")
    seen = []
    for keep in ("strip", "keep"):
        settings = made(tmp_path, folder, "rlvr", special_tokens=keep)
        encoder = encoding.load(folder, folder, settings).of(settings.stream[0])
        ids = [encoder.tokenizer(text)["input_ids"] for text in ("<answer>red<|im_end|>", "<answer>red")]

        def score(texts, rows, finished):
            seen.append((texts, finished, [row["answer"] for row in rows]))
            return [1.0] * len(texts)

        given = stage_and_services(spec=settings.stream[0].stages[0], score=score)
        packed = {"prompts": ['{"prompt": "a"}'] * 2, "row": ['{"answer": "red"}'] * 2}
        reward_function(*given, encoder, 2)(completion_ids=ids, log_metric=lambda *_: None, **packed)
    assert seen == [
        (["red", "red"], [True, False], ["red"] * 2),
        (["<answer>red", "<answer>red"], [True, False], ["red"] * 2),
    ]


# -- check -------------------------------------------------------------------------------------------------------------------


def lines_of(settings, tmp_path) -> list[str]:
    with pytest.raises(RecipeErrors) as caught:
        all_checks.check(settings, tmp_path / "run")
    lines = str(caught.value).splitlines()
    assert len(lines) == len(caught.value.problems)
    return [re.sub(r" \((train|eval)\.jsonl:\d+\)", "", line) for line in lines]


def test_the_plan_shows_a_prompt_and_an_example(chat_model, tmp_path):
    settings = made(tmp_path, chat_model, "sft", system="be brief")
    text = plan.describe(settings, tmp_path / "run", all_checks.check(settings, tmp_path / "run"))
    turns = ("system\nbe brief<|im_end|>\n", "user\nwhich colour? 0<|im_end|>\n", "assistant\n")
    prompt = repr("".join(f"<|im_start|>{turn}" for turn in turns))
    assert (
        f"prompt   chat (its chat template ends answers with '<|im_end|>', where the model stops): {prompt}\n" in text
    )
    assert f"example  demonstration: {prompt} + 'red<|im_end|>'" in text
    settings = made(tmp_path, chat_model, "rlvr", prompt="raw")
    text = plan.describe(settings, tmp_path / "run", all_checks.check(settings, tmp_path / "run"))
    assert "prompt   raw (as the recipe says): 'which colour? 0'" in text
    assert "example  none: the model's own answers are trained on" in text
    pairs = made(tmp_path, chat_model, "dpo", rows(4, chosen="yes", rejected="no"), max_completion_length=2)
    text = plan.describe(pairs, tmp_path / "run", all_checks.check(pairs, tmp_path / "run"))
    assert "example  chosen: " in text and "example  rejected: " in text and "+ 'no<|im_end|>'" in text


def test_the_letters_need_no_tokenizer_for_their_samples(tmp_path, tiny_folder):
    from cpt.checks.known import letters_samples
    from cpt.checks.samples import samples
    from cpt.data.procedural import row
    from cpt.data.stream import TaskData

    settings = load("mixed-stages")
    model = encoding.load(tiny_folder, tiny_folder, settings)
    for task in settings.stream:
        made = [row(task.data.name, "abcde", task.data.demonstration)]
        wanted = samples(TaskData(task.task, made, [], [], task), model.of(task))
        assert letters_samples(settings, {})[task.task] == wanted


CHAT = [{"role": "user", "content": "which colour?"}]
STRANGE = [{"role": "human", "content": "which colour?"}, {"role": "user", "content": "say"}]
KNOWN_ROLES = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role in ('user', 'assistant') %}")
REFUSED = {
    "ends texts by itself": (
        lambda: byte_level(None, appends=True),
        {},
        ["row t/train/0: evaluation sends 'which colour? 0<|end|>'", "add_eos_token"],
    ),
    "a token that the model does not know": (
        lambda: byte_level(CHATML, added=["<sep>"]),
        {"train": rows(4, prompt="red<sep>"), "embeddings": -1},
        [
            "row t/train/0: its prompt holds '<sep>'",
            "resize_token_embeddings",
            "(and 3 more rows like it: t/train/1, t/train/2",
        ],
    ),
    "an answer of a token that the model does not know": (
        lambda: byte_level(CHATML, added=["<sep>"]),
        {"train": rows(4, demonstration="yes<sep>"), "embeddings": -1},
        ["row t/train/0: its demonstration holds '<sep>'"],
    ),
    "no end of turn": (
        lambda: byte_level(CHATML),
        {"train": rows(4, prompt=CHAT), "stops": ()},
        [
            "row t/train/0, demonstration: what is trained on after the prompt",
            'set `stop: ["<|im_end|>"]`',
            "(and 3 more",
        ],
    ),
    "chats that are to be raw": (
        lambda: byte_level(CHATML),
        {"train": rows(4, prompt=CHAT), "prompt": "raw"},
        ["stream.0.prompt: raw sends strings as they are, and row t/train/0 is a chat"],
    ),
    "chat without a template": (
        lambda: byte_level(None),
        {"prompt": "chat"},
        ["model.chat_template", "says `prompt: chat`"],
    ),
    "system without a chat": (
        lambda: byte_level(None),
        {"system": "be brief"},
        ["stream.0.system: is a message of a chat, and its prompts are sent raw (the tokenizer has no chat template)"],
    ),
    "a system message that the template drops": (
        lambda: byte_level(KNOWN_ROLES),
        {"system": "be brief"},
        ["row t/train/0: the chat template leaves messages of the role 'system' out ('be brief')"],
    ),
    "a role that the template drops": (
        lambda: byte_level(KNOWN_ROLES),
        {"train": rows(4, prompt=STRANGE)},
        ["row t/train/0: the chat template leaves messages of the role 'human' out"],
    ),
    "tools that the template drops": (
        lambda: byte_level(CHATML),
        {"train": rows(4, tools=[ADD])},
        ["row t/train/0 has tools, and the chat template leaves them out"],
    ),
    "tools and no chat": (
        lambda: byte_level(CHATML),
        {"train": rows(4, tools=json.dumps([ADD])), "prompt": "raw"},
        ["row t/train/0 has tools, and its prompt is sent raw"],
    ),
    "a template that refuses a row": (
        lambda: byte_level("{% if messages|length > 2 %}{{ raise_exception('too much') }}{% endif %}" + CHATML),
        {"train": [{"prompt": [*CHAT, *CHAT], "demonstration": "yes", "answer": "yes"}, *rows(2, prompt=CHAT)]},
        ["row t/train/0: the chat template refuses its demonstration: too much"],
    ),
    "assistant_only_loss of texts": (
        lambda: byte_level(None),
        {"args": {"assistant_only_loss": True}},
        ["args.assistant_only_loss: is for chats, and the prompt of row t/train/0 is sent raw", "(and 7 more rows"],
    ),
    "completion_only_loss of conversations": (
        lambda: byte_level(CHATML),
        {
            "train": [{"messages": [*CHAT, {"role": "assistant", "content": "yes"}]}],
            "args": {"completion_only_loss": True},
        },
        ["args.completion_only_loss: row t/train/0 is a conversation"],
    ),
    "a stop of two tokens": (lambda: byte_level(CHATML), {"stop": ["<br>"]}, ["stop: '<br>' is 4 tokens"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_check_refuses(name, tmp_path):
    tokenizer, options, parts = REFUSED[name]
    tokenizer, options = tokenizer(), dict(options)
    embeddings = len(tokenizer) + options.pop("embeddings") if "embeddings" in options else None
    folder = model_of(tokenizer, tmp_path / "model", options.pop("stops", ("<|im_end|>",)), embeddings)
    lines = lines_of(made(tmp_path, folder, "sft", **options), tmp_path)
    assert any(all(part.replace("stream.0", "stream.t") in line for part in parts) for line in lines), lines


@pytest.mark.parametrize(
    "options, where, words",
    [
        (
            {"enable_thinkin": False},
            "enable_thinkin",
            "has no option enable_thinkin, so it would do nothing; did you mean enable_thinking?",
        ),
        (
            {"add_generation_prompt": False},
            "add_generation_prompt",
            "is set by the run, not by the recipe",
        ),
        ({"enable_thinking": False}, None, None),
    ],
)
def test_an_option_that_the_template_does_not_know(options, where, words, tmp_path):
    template = CHATML.replace("assistant\n{%", "assistant\n{% if enable_thinking is false %}{% endif %}{%")
    folder = model_of(byte_level(template), tmp_path / "model")
    settings = made(tmp_path, folder, "sft")
    settings = settings.model_copy(
        update={"model": settings.model.model_copy(update={"chat_template_kwargs": options})}
    )
    if words is None:
        assert not all_checks.check(settings, tmp_path / "run").warnings
        raw = settings.model_copy(update={"stream": (settings.stream[0].model_copy(update={"prompt": "raw"}),)})
        (warning,) = all_checks.check(raw, tmp_path / "run").warnings
        assert "no prompt goes through the chat template, so they do nothing" in warning
        return
    (line,) = lines_of(settings, tmp_path)
    assert line.startswith(f"model.chat_template_kwargs.{where}: ") and words in line


def test_a_template_that_writes_the_day(tmp_path):
    dated = "{{ date_string or strftime_now('%d') }} " + CHATML
    settings = made(tmp_path, model_of(byte_level(dated), tmp_path / "model"), "sft")
    (warning,) = all_checks.check(settings, tmp_path / "run").warnings
    assert "writes the date into every prompt" in warning and "date_string" in warning
    given = settings.model.model_copy(update={"chat_template_kwargs": {"date_string": "26 Jul 2024"}})
    assert not all_checks.check(settings.model_copy(update={"model": given}), tmp_path / "run").warnings


SPECIAL_ANSWERS = [{"prompt": f"which colour? {i}", "answer": "<answer>red", "demonstration": "red"} for i in range(4)]


@pytest.mark.parametrize(
    "train, reward, metric, words",
    [
        (None, {"kind": "format", "pattern": "<answer>.*"}, "exact", ["stream.t.reward: format looks for '<answer>'"]),
        (None, "exact", {"kind": "format", "pattern": r"\<answer\>"}, ["stream.t.metric: format looks for '<answer>'"]),
        (None, {"kind": "exact", "after": ["<answer>"]}, None, ["stream.t.reward: exact looks for '<answer>'"]),
        (
            SPECIAL_ANSWERS,
            "exact",
            None,
            ["row t/train/0: its answer '<answer>red' holds special", "given 'red'", "(and 3 more"],
        ),
    ],
)
def test_verifiers_that_look_for_special_tokens(train, reward, metric, words, tmp_path):
    folder = model_of(byte_level(CHATML, (*SPECIAL, "<answer>")), tmp_path / "model")
    more = {"reward": reward} | ({"metric": metric} if metric else {})
    lines = lines_of(made(tmp_path, folder, "rlvr", train, **more), tmp_path)
    assert any(all(word in line for word in words) and "special_tokens: keep" in line for line in lines), lines
    all_checks.check(made(tmp_path, folder, "rlvr", train, special_tokens="keep", **more), tmp_path / "run")


def test_answers_that_are_sampled_longer_than_evaluated(chat_model, tmp_path):
    looked = all_checks.check(made(tmp_path, chat_model, "rlvr", max_completion_length=8), tmp_path / "run")
    assert looked.warnings == [
        "stream.t.stages.0: samples answers of up to 12 tokens, and evaluation cuts at 8: raise max_completion_length of the "
        "task, or lower that of `args`"
    ]


def test_earlier_answers_that_are_context_only(tmp_path):
    """A template that opens the answer with a sign, and takes that out of earlier answers."""
    template = CHATML.replace(
        "{{ m.content }}", "{% if loop.last and m.role == 'assistant' %}!{% endif %}{{ m.content }}"
    )
    template = template.replace("assistant\n{%", "assistant\n!{%")
    folder = model_of(byte_level(template), tmp_path / "model")
    user, answer = {"role": "user", "content": "red"}, {"role": "assistant", "content": "yes"}
    train = [{"messages": [user, answer, user | {"content": str(i)}, answer]} for i in range(4)]
    looked = all_checks.check(
        made(tmp_path, folder, "sft", train, args={"assistant_only_loss": True}), tmp_path / "run"
    )
    assert [
        each
        for each in looked.warnings
        if "writes 1 of its 2 answers differently from how the model would give it" in each
    ]


def test_system_and_raw_are_a_contradiction(chat_model, tmp_path):
    with pytest.raises(RecipeErrors, match="`system` is a message of a chat, and `prompt: raw` sends no chats"):
        made(tmp_path, chat_model, "sft", system="be brief", prompt="raw")


def test_arguments_for_texts_are_refused(chat_model, tmp_path):
    with pytest.raises(RecipeErrors, match=r"eos_token: is not supported: answers end where the model stops"):
        made(tmp_path, chat_model, "sft", args={"eos_token": "<|im_end|>"})


@pytest.mark.parametrize("folder_stops", [True, False])
def test_where_a_model_stops_is_known_from_its_files(folder_stops, chat_model, tmp_path):
    from cpt import models

    settings = made(tmp_path, chat_model, "sft")
    folder = model_of(byte_level(), tmp_path / "model")
    if not folder_stops:
        (folder / "generation_config.json").unlink()
    tokenizer = models.load_tokenizer(folder, settings)
    assert models.stop_ids_of(folder, tokenizer, settings) == models.stop_ids(
        models.load_full(folder, settings), tokenizer
    )


def test_warnings_are_told(chat_model, tmp_path):
    settings = made(
        tmp_path, chat_model, "sft", rows(4, demonstration="yes " * 9), prompt="raw", max_completion_length=4
    )
    looked = all_checks.check(settings, tmp_path / "run")
    assert any("4 of 4 rows teach answers that evaluation would cut off" in each for each in looked.warnings)
    assert "  warning   stream.t.data.train: 4 of 4 rows" in plan.describe(settings, tmp_path / "run", looked)
    findings = Findings()
    findings.warn("k", "first", "a")
    findings.warn("k", "second", "a")
    assert findings.warnings == ["k: first (and 1 more row like it)"] and not findings.problems


# -- a run -------------------------------------------------------------------------------------------------------------------


def test_rows_that_were_too_long_are_in_results_and_report(cpt, tmp_path):
    train = [
        {"prompt": f"reverse{a}bcde=", "answer": f"edcb{a}", "demonstration": "a" * n}
        for a, n in zip("abcdef", [3] * 4 + [50] * 2, strict=True)
    ]
    asked = [{"prompt": "reversejjjjj=", "answer": "jjjjj"}, {"prompt": "a" * 120, "answer": "a"}]
    settings = {"overlong": "drop", "max_completion_length": 12}
    made(
        tmp_path,
        "tiny",
        "sft",
        train,
        asked,
        {"max_length": 40, "max_steps": 1, "per_device_train_batch_size": 4},
        **settings,
    )
    run = tmp_path / "run"
    assert cpt("run", tmp_path / "recipe.yaml", "--out", run) == 0, cpt.output
    assert "warning: stream.t.data.train: 2 of 6 rows are left out (overlong: drop): row t/train/4" in cpt.output
    results = json.loads((run / "results.json").read_text())
    assert results["overlong"] == {"t": {"train": {"rows": 6, "left_out": 2}, "eval": {"rows": 2, "left_out": 1}}}
    assert results["questions"] == {"t": 1}
    assert "t train: 2 of 6 rows were too long and left out" in (run / "report.md").read_text()
    assert json.loads((run / "manifest.json").read_text())["data"]["t"]["train"]["rows"] == 6, "what the file holds"
