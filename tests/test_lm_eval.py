"""lm-eval's tasks as suites: asked of our engines as lm-eval's own models answer them, kept answer by answer."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cpt.evaluation import measured
from helpers.recipes import recipe, write_recipe

TASKS = Path(__file__).parent / "lm_eval_tasks"
NAMES = ("letters_choices", "letters_answers", "letters_texts")
FILES = {name: str(TASKS / f"{name}.yaml") for name in NAMES}
SUITES = [
    {"lm_eval": [FILES["letters_choices"], FILES["letters_answers"]], "name": "questions"},
    {"lm_eval": [FILES["letters_texts"]], "name": "texts"},
]
LORA = {"kind": "lora", "r": 2, "target_modules": "all-linear"}
VLLM = {"engine": "vllm", "max_model_len": 128, "dtype": "float32", "enforce_eager": True}


def answers(run: Path, point: str) -> dict[tuple[str, int], dict]:
    lines = map(json.loads, (run / "evaluations" / f"{point}.jsonl").read_text().splitlines())
    return {(line["task"], int(line["row"])): line for line in lines if line["suite"]}


def samples(folder: Path) -> dict[tuple[str, int], dict]:
    tasks = {file: file.name.removeprefix("samples_").split("_20")[0] for file in folder.rglob("samples_*.jsonl")}
    return {
        (tasks[file], line["doc_id"]): line for file in tasks for line in map(json.loads, file.read_text().splitlines())
    }


def results_of(folder: Path) -> dict[str, dict]:
    found = [json.loads(file.read_text())["results"] for file in folder.rglob("results_*.json")]
    return {name: each for one in found for name, each in one.items()}


# -- the command line of lm-eval -------------------------------------------------------------------------------------------

RUNNER = """
import importlib.metadata, sys
version = importlib.metadata.version
def known(name):  # vLLM for the CPU is installed under another name
    try:
        return version(name)
    except importlib.metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        import vllm
        return vllm.__version__.split("+")[0]
importlib.metadata.version = known
if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate
    sys.argv = ["lm-eval", *sys.argv[1:]]
    cli_evaluate()
"""


@pytest.mark.parametrize(
    ("engine", "adapter"),
    [
        ("transformers", None),
        pytest.param("transformers", LORA, marks=pytest.mark.slow),
        pytest.param("vllm", None, marks=pytest.mark.slow),
        pytest.param("vllm", LORA, marks=pytest.mark.slow),
        pytest.param("server", None, marks=pytest.mark.slow),
    ],
)
def test_the_command_line_of_lm_eval_gives_the_same_answers(cpt, tmp_path, engine, adapter):
    """On the final weights of a run, question by question; and lm-eval's files beside ours say the same.

    A server's are compared with lm-eval's `hf`, and so are those of an adapter: on the CPU its `vllm` fails, with vLLM's own
    error. Long texts are then left out, because the windows of the two are not the same.
    """
    if engine != "transformers":
        pytest.importorskip("vllm")
    content = recipe("sft", tasks=("reverse",), evaluate=3)
    content["stream"][0]["stages"][0]["args"] |= {"max_steps": 4, "learning_rate": 3e-4}
    content |= {"adapter": adapter} if adapter else {}
    content |= {} if engine == "transformers" else {"rollouts": VLLM | {"engine": engine}}
    content["evaluation"]["suites"] = SUITES
    run = tmp_path / "run"
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", run, "--quiet") == 0, cpt.output

    model = {"pretrained": str((run / "final").resolve()), "dtype": "float32"}
    theirs = "vllm" if engine == "vllm" and not adapter else "hf"
    if adapter:
        model |= {"pretrained": str(run / "points" / "00-base" / "model"), "peft": model["pretrained"]}
    if theirs == "vllm":
        model |= {"max_model_len": 128, "enforce_eager": True, "gpu_memory_utilization": 0.3}
    (tmp_path / "runner.py").write_text(RUNNER)
    command = [sys.executable, str(tmp_path / "runner.py"), "run"]
    command += ["--model", theirs, "--batch_size", "8", "--log_samples"]
    command += ["--model_args", json.dumps(model), "--output_path", str(tmp_path / "theirs")]
    command += ["--tasks", ",".join(FILES.values()), *(["--device", "cpu"] if theirs == "hf" else [])]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    made = subprocess.run(command, cwd=TASKS, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-3000:]

    ours, others, beside = answers(run, "01-reverse"), samples(tmp_path / "theirs"), run / "evaluations"
    assert ours.keys() == others.keys() == samples(beside / "01-reverse.lm_eval").keys() and len(ours) == 12 + 12 + 6
    windows = engine != "transformers" and theirs == "hf"
    for place, line in ours.items():
        if not (windows and len(line["prompt"]) > 120):
            same(line, others[place])
        same(line, samples(beside / "01-reverse.lm_eval")[place])
    results = json.loads((run / "results.json").read_text())
    aggregated, own = results_of(tmp_path / "theirs"), results_of(beside / "01-reverse.lm_eval")
    for suite, tasks in results["benchmarks"].items():
        for task, record in tasks.items():
            for name, values in record["metrics"].items():
                if not (windows and task == "letters_texts"):
                    assert values[-1] == pytest.approx(aggregated[task][f"{name},none"], abs=1e-5)
                assert values[-1] == pytest.approx(own[task][f"{name},none"], abs=1e-5)
            assert results["held_out_tasks"][suite][task][-1] == pytest.approx(
                sum(line["score"] for (name, _), line in ours.items() if name == task) / record["questions"]
            )
    scores = {task: {line["score"] for (name, _), line in ours.items() if name == task} for task in NAMES}
    assert scores["letters_choices"] == scores["letters_answers"] == {0.0, 1.0}, "all alike would prove little"
    assert results["score_kinds"] == {"texts/letters_texts": "likelihood"}
    report, chance = (run / "report.md").read_text(), 6 / 12 / 3 + 6 / 12 / 4
    assert f"| questions/letters\\_choices | 12 | acc (the score) | {chance:.3f} |" in report
    assert "| questions/letters\\_choices | 0." in report.split("right to wrong")[1]


def same(line: dict, theirs: dict) -> None:
    """Our line of a question says what lm-eval's sample of it says."""
    if line["task"] == "letters_answers":
        assert (line["completion"], line["score"]) == (theirs["filtered_resps"][0], theirs["exact_match"])
        assert line["prompt"] == theirs["arguments"]["gen_args_0"]["arg_0"] and line["answer"] == theirs["target"]
    elif line["task"] == "letters_choices":
        assert line["log_likelihoods"] == pytest.approx([float(each[0][0]) for each in theirs["resps"]], abs=1e-4)
        assert line["metrics"] == {name: theirs[name] for name in ("acc", "acc_norm")}
        assert line["score"] == theirs["acc"] and line["choices"] == len(theirs["doc"]["choices"])
        assert line["completion"] == theirs["doc"]["choices"][line["chosen"]]
    else:
        loglikelihood, size = theirs["bits_per_byte"]
        assert line["log_likelihoods"] == [pytest.approx(float(loglikelihood), abs=1e-3)] and line["bytes"] == size
        assert line["score"] == pytest.approx(math.exp(float(loglikelihood) / size), abs=1e-5)


@pytest.mark.slow
def test_two_processes_ask_what_one_does(cpt, tmp_path):
    """lm-eval's tasks and likelihoods: every question once, in the same batches."""
    from helpers.launchers import LAUNCHERS, launch

    content = recipe("sft", tasks=("reverse",), evaluate=5)
    content["stream"][0]["stages"][0]["args"] |= {"max_steps": 1}
    content["evaluation"] |= {"suites": SUITES, "likelihood": True}
    content["rollouts"] = {"batch_size": 4}
    file = write_recipe(tmp_path / "recipe.yaml", content)
    done = launch(LAUNCHERS / "ddp-cpu.yaml", "run", file, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stdout + done.stderr
    assert cpt("run", file, "--out", tmp_path / "one", "--quiet") == 0, cpt.output
    files = [tmp_path / name / "evaluations" / "00-base.jsonl" for name in ("one", "two")]
    lines = [list(map(json.loads, file.read_text().splitlines())) for file in files]
    assert len(lines[0]) == 5 + 5 + 30
    measured = ("score", "log_likelihoods", "metrics")
    for one, two in zip(*lines, strict=True):
        for name in measured:
            assert one.pop(name, 0) == pytest.approx(two.pop(name, 0), rel=1e-5)
        assert one == two
    assert samples(files[1].with_suffix(".lm_eval")).keys() == answers(tmp_path / "one", "00-base").keys()


# -- the adapter -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tiny_folder):
    """(what gives lm-eval's own model, an evaluation on our engine), of the built-in toy model."""
    from lm_eval.models.huggingface import HFLM

    from cpt.data import encoding
    from cpt.evaluation.suites.base import Asking
    from cpt.models import load_policy
    from cpt.recipe import load
    from cpt.rollouts.transformers import TransformersEngine
    from cpt.screen import QUIET, Screen

    spec = load("quickstart")
    theirs = HFLM(pretrained=str(tiny_folder), dtype="float32", device="cpu", batch_size=3)
    engine, encoders = TransformersEngine(4, 300), encoding.load(tiny_folder, tiny_folder, spec)
    engine.sync(load_policy(tiny_folder, tiny_folder, spec, trainable=False).eval(), encoders.tokenizer)
    stop = SimpleNamespace(check=lambda: None)
    return theirs, Asking(spec, tiny_folder, encoders, engine, None, Screen(QUIET), stop, "test")


def test_requests_are_answered_as_lm_evals_own_model_answers_them(both):
    """Empty contexts, spaces at their ends, continuations longer than the context, texts of several windows, stop texts."""
    from lm_eval.api.instance import Instance

    from cpt.evaluation.suites.lm_adapter import EngineLM

    theirs, asking = both
    engine, ours = asking.engine, EngineLM(asking, 128)
    before = engine.rollout_tokens

    def requests(kind: str, *arguments: tuple) -> list[Instance]:
        return [Instance(kind, {}, each, 0, metadata=("test", i, 1)) for i, each in enumerate(arguments)]

    long = "abcdefghij" * 20
    pairs = [("copyabcde=", "abcde"), ("copyabc=", "abd"), ("copyabc=", "a"), ("", "abc"), ("copyabc= ", "abc")]
    pairs += [(long, "abc"), (long[:126], "abc"), ("a", long[:127]), ("sortcba=", "abc<eos>"), ("<eos>", "abc")]
    asked = requests("loglikelihood", *pairs)
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    for (mine, greedy), (other, their_greedy) in zip(ours.loglikelihood(asked), expected, strict=True):
        assert mine == pytest.approx(other, abs=1e-4) and greedy == their_greedy
    assert {greedy for _, greedy in expected} == {True, False} and ours.cut == 1
    texts = requests("loglikelihood_rolling", *((long[:n],) for n in (1, 100, 127, 128, 129, 200)), ("ab ij",))
    assert ours.loglikelihood_rolling(texts) == pytest.approx(
        theirs.loglikelihood_rolling(texts, disable_tqdm=True), abs=1e-3
    )
    kwargs = {"until": ["gh", "cd"], "max_gen_toks": 9, "do_sample": False}
    prompts = ["copyabcde=", "copyefghi=", "copycdcdc=", "copyaab=", f"copy{long}=", "swapab="]
    for stops in (kwargs, {"max_gen_toks": 7}, {"until": "\n", "max_new_tokens": 5, "temperature": 0.0}):
        asked = requests("generate_until", *((prompt, stops) for prompt in prompts))
        made = ours.generate_until(asked)
        assert made == theirs.generate_until(asked, disable_tqdm=True)
    assert ours.generate_until(requests("generate_until", *((prompt, kwargs) for prompt in prompts)))[:2] == [
        "ab",
        "ef",
    ]
    assert engine.rollout_tokens - before < 9 * 6 * 4, "an answer ends where a stop text does"
    chat = [{"role": "user", "content": "copyabc"}]
    assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat)
    assert ours.tok_encode("copyabc=") == theirs.tok_encode("copyabc=")


CONTEXTS = {  # the choices are contexts of one continuation, as in winogrande
    "doc_to_text": "{{gold}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{question}}",
}
SEVERAL = {  # two filters of one answer
    "filter_list": [
        {"name": "first", "filter": [{"function": "take_first"}]},
        {
            "name": "letters",
            "filter": [{"function": "regex", "regex_pattern": "([ab]+)"}, {"function": "take_first"}],
        },
    ]
}
EXACT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
VARIETY = {
    "examples in the prompt": ("letters_choices", {}, {"num_fewshot": 2}),
    "examples as turns of a chat": ("letters_answers", {}, {"num_fewshot": 2, "apply_chat_template": True}),
    "one turn of a chat": (
        "letters_choices",
        {},
        {"num_fewshot": 1, "apply_chat_template": True, "fewshot_as_multiturn": False},
    ),
    "contexts to choose from": ("letters_choices", CONTEXTS, {}),
    "two filters": ("letters_answers", SEVERAL, {"metric": "exact_match,letters"}),
    "a target that is likely": (
        "letters_answers",
        {"output_type": "loglikelihood", "target_delimiter": "", "metric_list": [EXACT | {"metric": "acc"}]},
        {},
    ),
    "the first questions": ("letters_answers", {}, {"limit": 5}),
    "shorter answers": ("letters_answers", {}, {"gen_kwargs": {"max_gen_toks": 3}}),
    "a normalised metric": ("letters_choices", {}, {"metric": "acc_norm"}),
}


@pytest.mark.parametrize("name", VARIETY)
def test_suites_ask_as_lm_eval_does(both, tmp_path, monkeypatch, name):
    """What the recipe says reaches lm-eval: prompts, answers, log-likelihoods and scores are those of its own evaluation."""
    from lm_eval import evaluator, simple_evaluate
    from lm_eval.tasks import TaskManager

    from cpt.evaluation.suites import lm_loading
    from cpt.recipe.suites import LmEval

    task, changes, options = VARIETY[name]
    file = task_file(tmp_path, task, **changes)
    suite = lm_loading.load(LmEval(lm_eval=(file,), **options), fetch=False)
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)  # seconds, for what nobody reads here
    known = {key: value for key, value in options.items() if key != "metric"}
    manager = TaskManager(include_defaults=False)
    expected = simple_evaluate(both[0], tasks=[file], bootstrap_iters=0, task_manager=manager, **known)
    metric, _, chosen = (options.get("metric") or str(suite.metrics["changed"])).partition(",")
    samples = [each for each in expected["samples"]["changed"] if not chosen or each["filter"] == chosen]
    lines = suite.ask(both[1])
    assert [line["row"] for line in lines] == [str(each["doc_id"]) for each in samples]
    assert len(lines) == options.get("limit", 12)
    for mine, theirs in zip(lines, samples, strict=True):
        assert mine["prompt"] == theirs["arguments"][0][0] and mine["score"] == theirs[metric]
        if mine["metric"].startswith("exact_match"):
            assert mine["completion"] == theirs["filtered_resps"][0]
            assert mine.get("response", mine["completion"]) == theirs["resps"][0][0]
        else:
            assert mine["log_likelihoods"] == pytest.approx([each[0][0] for each in theirs["resps"]], abs=1e-4)
    again = [(line["prompt"], line["completion"], line["score"]) for line in suite.ask(both[1])]
    assert again == [(line["prompt"], line["completion"], line["score"]) for line in lines], "the same at every point"


def test_the_plan_says_what_is_asked(cpt, tmp_path):
    content = recipe("sft", tasks=("reverse",), evaluate=3)
    content["evaluation"]["suites"] = [SUITES[0] | {"limit": 5}, "lm_eval:" + FILES["letters_texts"]]
    assert cpt("check", write_recipe(tmp_path / "recipe.yaml", content)) == 0, cpt.output
    said = "suite questions: 5 questions of letters_choices (score: acc), 5 questions of letters_answers (score: exact_match)"
    assert said in cpt.output and "suite lm_eval: 6 questions of letters_texts (score: likelihood)" in cpt.output
    assert f"held out, questions: {FILES['letters_choices']}" in cpt.output


def test_other_questions_have_another_fingerprint(tmp_path):
    """So a resumed run refuses them; the same questions have the same in every process."""
    from cpt.evaluation.suites import lm_loading
    from cpt.recipe.suites import LmEval

    def fingerprint(**changes) -> str:
        file = task_file(tmp_path, "letters_choices", **changes)
        return lm_loading.load(LmEval(lm_eval=(file,)), fetch=False).fingerprints()["changed"]

    (tmp_path / "fewer.jsonl").write_text("".join((TASKS / "choices.jsonl").open().readlines()[:-1]))
    fewer = fingerprint(dataset_kwargs={"data_files": {"test": str(tmp_path / "fewer.jsonl")}})
    found = [fingerprint(), fewer, fingerprint(doc_to_text="{{question}} ")]
    assert [each["rows"] for each in found] == [12, 11, 12]
    assert len({each["hash"] for each in found}) == 3 and found[0] == fingerprint()


# -- mistakes --------------------------------------------------------------------------------------------------------------


def refused(cpt, tmp_path, suite: dict, *parts: str) -> None:
    """`cpt check` of a recipe with this suite is refused in one line that has these parts."""
    content = recipe("sft", tasks=("reverse",), evaluate=3)
    content["evaluation"]["suites"] = [suite]
    assert cpt("check", write_recipe(tmp_path / "recipe.yaml", content)) == 2, cpt.output
    lines = cpt.output.strip().splitlines()
    assert len(lines) == 1 and "Traceback" not in cpt.output, cpt.output
    assert all(part in lines[0] for part in parts), cpt.output


def task_file(tmp_path, name: str, **changes) -> str:
    """A file of the task that multiple choice is tested with, changed."""
    from ruamel.yaml import YAML

    content = YAML(typ="safe", pure=True).load((TASKS / f"{name}.yaml").read_text())
    data = {"data_files": {"test": str(TASKS / content["dataset_kwargs"]["data_files"]["test"])}}
    content |= {"task": "changed", "dataset_kwargs": data} | changes
    return str(write_recipe(tmp_path / "task.yaml", content))


def test_a_task_that_there_is_not(cpt, tmp_path):
    near = {"lm_eval": ["arc_esay"]}
    refused(cpt, tmp_path, near, "evaluation.suites.0: ", "no task arc_esay", "did you mean arc_easy")
    refused(cpt, tmp_path, {"lm_eval": ["no/such.yaml"]}, "no file ", "no/such.yaml")
    refused(cpt, tmp_path, {"lm_eval": []}, "evaluation.suites.0.lm_eval: must not be empty")
    refused(cpt, tmp_path, {"lm_eval": ["a"], "limt": 3}, "unknown key; did you mean limit?")


def test_a_task_that_cannot_be_asked(cpt, tmp_path):
    lost = {"dataset_kwargs": {"data_files": {"test": "/no/such.jsonl"}}}
    refused(cpt, tmp_path, {"lm_eval": [task_file(tmp_path, "letters_choices", **lost)]}, "task.yaml: ", "such.jsonl")
    broken = {"doc_to_text": "{{question"}
    refused(cpt, tmp_path, {"lm_eval": [task_file(tmp_path, "letters_choices", **broken)]}, "task.yaml: ")
    corpus = {"metric_list": [{"metric": "f1", "aggregation": "f1", "higher_is_better": True}]}
    file = task_file(tmp_path, "letters_choices", **corpus)
    refused(cpt, tmp_path, {"lm_eval": [file]}, "changed has no metric that one question can have by itself (f1)")
    file = task_file(tmp_path, "letters_answers", generation_kwargs={"max_gen_toks": 128})
    refused(cpt, tmp_path, {"lm_eval": [file]}, "answers of up to 128 tokens, and the model's context has 128")
    few = {"lm_eval": [FILES["letters_choices"]], "num_fewshot": 20}
    refused(cpt, tmp_path, few, "letters_choices: its first prompt with 20 examples cannot be made")
    file = task_file(tmp_path, "letters_answers", generation_kwargs={"num_beams": 4})
    refused(cpt, tmp_path, {"lm_eval": [file]}, "generation_kwargs.num_beams cannot be used")


def test_a_metric_that_is_no_score(cpt, tmp_path):
    file = FILES["letters_choices"]
    refused(cpt, tmp_path, {"lm_eval": [file], "metric": "acc_nrom"}, "has no metric acc_nrom; did you mean acc_norm?")
    refused(cpt, tmp_path, {"lm_eval": [file], "metric": "acc,strict"}, "has no filter strict; it has: none")
    refused(cpt, tmp_path, {"lm_eval": [file], "metric": {"other": "acc"}}, "metric: no task other in this suite")
    refused(cpt, tmp_path, {"lm_eval": [file], "fewshot_as_multiturn": True}, "set `apply_chat_template: true` too")
    refused(cpt, tmp_path, {"lm_eval": [file, FILES["letters_texts"]]}, "they have no common mean")


def test_a_question_that_is_trained_on(cpt, tmp_path):
    """Its prompt, or a text of its document; in another case and with other spaces, too."""
    rows = [json.loads(line) for line in (TASKS / "texts.jsonl").open()]
    leak = " ".join(rows[1]["text"].upper().split())
    content = recipe("sft", tasks=("reverse",), evaluate=3)
    content["stream"][0]["data"] = {
        "source": "rows",
        "train": [{"id": "leak", "prompt": leak.lower(), "demonstration": "a"}],
        "eval": [{"id": "b", "prompt": "copya", "answer": "a"}],
    }
    content["evaluation"]["suites"] = ["lm_eval:" + FILES["letters_texts"]]
    assert cpt("check", write_recipe(tmp_path / "recipe.yaml", content)) == 2
    said = "row reverse/train/leak has the same prompt as a question of lm-eval's (lm_eval/letters_texts/1): remove it"
    assert said in cpt.output, cpt.output


def test_data_on_a_hub_that_cannot_be_reached(cpt, tmp_path):
    """A plain check does not look; a run refuses in one line before anything is trained."""
    file = task_file(tmp_path, "letters_choices", dataset_path="nobody/no-such-data", dataset_kwargs={})
    content = recipe("sft", tasks=("reverse",), evaluate=3)
    content["evaluation"]["suites"] = [{"lm_eval": [file]}]
    written = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("check", written) == 0 and f"the questions of lm_eval ({file} of lm-eval, on the hub)" in cpt.output
    assert cpt("run", written, "--out", tmp_path / "run") == 2
    assert "its data are on the hub, which cannot be reached" in cpt.output and "Traceback" not in cpt.output
    assert not (tmp_path / "run" / "points").exists()


def test_without_lm_eval(tmp_path, monkeypatch):
    import importlib.util

    from cpt.checks.benchmarks import load_benchmarks
    from cpt.checks.findings import Findings
    from cpt.recipe.suites import LmEval

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "lm_eval" else found(name, *a))
    findings = Findings()
    assert load_benchmarks({"lm_eval": LmEval(lm_eval=("arc_easy",))}, findings, False, str) == ({}, [])
    assert [each.message for each in findings.problems] == [
        "lm-eval is not installed: pip install 'continual-post-training[eval]'"
    ]


def test_a_score_beyond_its_bounds():
    from cpt.errors import UserError
    from cpt.evaluation.suites.lm_eval import as_score
    from cpt.evaluation.suites.lm_metrics import Chosen

    assert as_score("task", 3, 1 + 1e-9, Chosen("acc")) == 1.0
    for value in (23.5, -0.5, None):
        with pytest.raises(UserError, match=r"task: its rouge1 of question 3 is .*, and a score is from 0 to 1"):
            as_score("task", 3, value, Chosen("rouge1"))


# -- what is made of the answers -------------------------------------------------------------------------------------------


def line(row: int, right: int, choices: int | None, **more) -> dict:
    known = {} if choices is None else {"choices": choices}
    base = {"suite": "s", "task": "t", "row": str(row), "mode": "greedy", "score": float(right), "kind": "lm_eval"}
    return base | {"metric": "acc", "metrics": {"acc": float(right), "acc_norm": 1.0}} | known | more


def test_flips_beyond_chance():
    """By hand: of ten questions with four choices, 6 and 4 right; 4 lost and 2 gained; .4 * .6 / 3 = .08 by guessing."""
    before, after = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 1, 1, 0, 0]
    lines = {name: [line(i, each, 4) for i, each in enumerate(row)] for name, row in (("a", before), ("b", after))}
    record = measured.benchmarks(["a", "b"], lines)["s"]["t"]
    assert record["metrics"] == {"acc": [pytest.approx(0.6), pytest.approx(0.4)], "acc_norm": [1.0, 1.0]}
    assert record["chance"] == 0.25 and record["questions"] == 10
    assert record["flips"][1] == pytest.approx(
        {"lost": 0.4, "gained": 0.2, "lost_beyond_chance": 0.32, "gained_beyond_chance": 0.12}
    )
    assert record["flips"][0] == {"lost": 0, "gained": 0, "lost_beyond_chance": 0, "gained_beyond_chance": 0}
    unknown = {name: [line(i, each, None) for i, each in enumerate(row)] for name, row in (("a", before), ("b", after))}
    record = measured.benchmarks(["a", "b"], unknown)["s"]["t"]
    assert record["chance"] is None and record["flips"][1]["lost_beyond_chance"] is None


def test_guessing_alone_loses_nothing_beyond_chance():
    import numpy as np

    rng = np.random.default_rng(0)
    before, after = (rng.random((2, 100_000)) < 0.25).astype(float)
    found = measured.flips(before, after, [4] * 100_000)
    assert found["lost"] == pytest.approx(0.1875, abs=5e-3) and found["lost_beyond_chance"] < 5e-3


def test_bits_per_byte_are_of_all_bytes():
    lines = [line(0, 0, None, log_likelihoods=[-8 * math.log(2)], bytes=4, metrics={"bits_per_byte": 2.0})]
    lines += [line(1, 0, None, log_likelihoods=[-math.log(2)], bytes=4, metrics={"bits_per_byte": 0.25})]
    assert measured.benchmarks(["a"], {"a": lines})["s"]["t"]["metrics"] == {"bits_per_byte": [pytest.approx(9 / 8)]}
