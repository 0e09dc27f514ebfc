"""Tasks of lm-eval (EleutherAI's evaluation harness) as a suite: its questions, prompts, filters and metrics, our engine.

lm-eval evaluates (`lm_eval.evaluator.evaluate`) through `EngineLM`; of each question one line is kept with all that lm-eval
makes of it, and its own files are written by its own writer. Examples in prompts are drawn with a seed of their own, so the
same questions are asked at every point, in every run.
"""

import contextlib
import hashlib
import io
import json
import logging
import math
import random
import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from lm_eval import evaluator
from lm_eval.api import task as task_module
from lm_eval.api.metrics import mean
from lm_eval.loggers import EvaluationTracker
from lm_eval.utils import handle_non_serializable

from cpt import models, ranks
from cpt.errors import CannotWrite, UserError
from cpt.evaluation.suites.base import Asking
from cpt.evaluation.suites.lm_adapter import MAX_GEN_TOKS, UNKNOWN_CONTEXT, EngineLM
from cpt.evaluation.suites.lm_metrics import Chosen, corpus_metrics, filters_of
from cpt.recipe.suites import LmEval
from cpt.records import Answer

SHOWN = 8  # tasks that the note of a suite names
ONCE = 1  # of the resamplings for standard errors, of which means need none
ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of a function, in its text
TALKATIVE = ("lm_eval", "datasets", "huggingface_hub")
ROUNDING = 1e-6  # by which a score may lie beyond 0 or 1


class LmEvalSuite:
    """See `data.stream.Benchmark`. `tasks` are lm-eval's task objects by name, `metrics` which metric is their score."""

    def __init__(self, spec: LmEval, tasks: dict[str, Any], metrics: dict[str, Chosen]):
        self.name, self.spec, self.tasks, self.metrics = spec.name, spec, tasks, metrics
        self._warned = False

    def questions(self, task: str) -> int:
        """How many questions of the task are asked."""
        with quiet():
            number = len(self.tasks[task].eval_docs)
        return number if self.spec.limit is None else min(number, self.spec.limit)

    def fingerprints(self) -> dict[str, dict]:
        made = {}
        for name, task in self.tasks.items():
            text = json.dumps(settings(task), sort_keys=True, default=str)
            digest = hashlib.sha256(ADDRESS.sub("", text).encode())
            with quiet():
                for _, doc in task.doc_iterator(limit=self.spec.limit):
                    digest.update(json.dumps(doc, sort_keys=True, default=handle_non_serializable).encode() + b"\n")
                made[name] = {"rows": self.questions(name), "hash": digest.hexdigest()}
        return made

    def note(self) -> str:
        tasks = [
            f"{self.questions(name):,} questions of {name} (score: {metric})" for name, metric in self.metrics.items()
        ]
        return f"suite {self.name}: {', '.join(tasks[:SHOWN])}{' and others' * (len(tasks) > SHOWN)}"

    def texts(self) -> Iterator[tuple[str, str, list[str]]]:
        """(task, question, what it says): its prompt without examples, and each text of its document."""
        for name, task in self.tasks.items():
            with quiet():
                docs = list(task.doc_iterator(limit=self.spec.limit))
            for number, doc in docs:
                prompt = task.doc_to_text(doc)
                fields = [value for value in doc.values() if isinstance(value, str)] if isinstance(doc, dict) else []
                yield name, str(number), [*([prompt] if isinstance(prompt, str) else []), *fields]

    def problems(self, context: int | None) -> Iterator[str]:
        """What is wrong between the tasks and a model of so many positions."""
        context = context or UNKNOWN_CONTEXT
        for name, task in self.tasks.items():
            if task.OUTPUT_TYPE == "generate_until":
                most = longest_answer(task)
                if most >= context:
                    yield (
                        f"{name} asks for answers of up to {most} tokens, and the model's context has {context}: set "
                        "`gen_kwargs: {max_gen_toks: ...}`"
                    )

    def ask(self, asking: Asking) -> list[Answer]:
        """The answers to all questions, on every rank.

        Raises:
            UserError: a metric gives a number that is no score from 0 to 1.
            CannotWrite: lm-eval's own files could not be written.
        """
        adapter = EngineLM(asking, models.context_length(asking.base, asking.recipe))
        for task in self.tasks.values():
            task.set_fewshot_seed(self.spec.fewshot_seed)
        with quiet(), kept_random_state():
            results = evaluator.evaluate(
                adapter,
                {"tasks": self.tasks, "groups": {}, "group_map": {}},
                limit=self.spec.limit,
                bootstrap_iters=0 if any(map(corpus_metrics, self.tasks.values())) else ONCE,
                log_samples=True,
                system_instruction=self.spec.system_instruction,
                apply_chat_template=self.spec.apply_chat_template,
                fewshot_as_multiturn=self.as_turns,
            )
        if adapter.cut and not self._warned:
            self._warned = True
            asking.screen.warn(
                f"{self.name}: {adapter.cut} prompts are longer than the model's context of {adapter.max_length} tokens "
                "holds with their answers, and lose their beginnings"
            )
        samples = results["samples"]
        lines = [self.line(name, each, adapter) for name in self.tasks for each in self.chosen(name, samples[name])]
        if asking.files is not None:
            ranks.on_main(self.write, asking, results)
        return lines

    @property
    def as_turns(self) -> bool:
        asked = self.spec.fewshot_as_multiturn
        return self.spec.apply_chat_template if asked is None else asked

    def chosen(self, task: str, samples: list[dict]) -> list[dict]:
        """The questions as the filter that counts gives them."""
        counts = self.metrics[task].filter or filters_of(self.tasks[task])[0]
        return sorted((each for each in samples if each["filter"] == counts), key=lambda each: each["doc_id"])

    def line(self, name: str, sample: dict, adapter: EngineLM) -> Answer:
        """The line of evaluations/POINT.jsonl."""
        task, chosen, doc = self.tasks[name], self.metrics[name], sample["doc_id"]
        means = [each for each in sample["metrics"] if task.aggregation().get(each) is mean]
        values = {each: number for each in means if (number := as_number(sample[each])) is not None}
        line: Answer = {
            "suite": self.name,
            "task": name,
            "row": str(doc),
            "prompt": sample["arguments"][0][0],
            "answer": str(sample["target"]),
            "mode": "greedy",
            "sample": 0,
            "completion": "",
            "finished": adapter.finished.get((name, doc, 0), True),
            "score": 0.0,
            "error": None,
            "kind": "lm_eval",
            "metric": str(chosen),
            "metrics": values,
        }
        if task.OUTPUT_TYPE == "generate_until":
            response, filtered = sample["resps"][0][0], sample["filtered_resps"][0]
            line["completion"] = filtered if isinstance(filtered, str) else json.dumps(filtered, default=str)
            if response != line["completion"]:
                line["response"] = response
        elif chosen.is_likelihood:
            add_likelihood(line, sample, adapter.tokens[name, doc, 0])
        else:
            add_choices(line, task, sample)
        line["score"] = (
            line["score"] if chosen.is_likelihood else as_score(name, doc, values.get(chosen.metric), chosen)
        )
        return line

    def write(self, asking: Asking, results: dict) -> None:
        """lm-eval's own results_*.json and samples_*.jsonl, in a folder of the suite's name."""
        folder = asking.files / self.name
        shutil.rmtree(folder, ignore_errors=True)
        samples = results.pop("samples")
        results["config"] = {
            "model": "cpt",
            "model_args": {"pretrained": asking.label.split()[-1], "engine": asking.recipe.rollouts.engine},
            "suite": self.spec.model_dump(mode="json"),
        }
        tracker = EvaluationTracker(output_path=str(folder / "results.json"))
        with quiet():
            tracker.general_config_tracker.log_experiment_args(
                model_source="cpt",
                model_args=results["config"]["model_args"],
                system_instruction=self.spec.system_instruction,
                chat_template=asking.encoding.tokenizer.chat_template if self.spec.apply_chat_template else None,
                fewshot_as_multiturn=self.as_turns,
            )
            tracker.save_results_aggregated(results, samples)
            for name, each in samples.items():
                tracker.save_results_samples(name, each)
        if len(list(folder.glob("*.json*"))) != 1 + len(samples):  # the writer only logs what goes wrong
            raise CannotWrite(f"{folder}: lm-eval could not write its results there")


def settings(task: Any) -> dict:
    """What decides how a task's questions are asked and scored."""
    left_out = (
        "metadata",
        "dataset_kwargs",
    )  # the latter has paths of this machine; the questions themselves are hashed
    return {name: value for name, value in task.dump_config().items() if name not in left_out}


def longest_answer(task: Any) -> int:
    """The tokens that an answer to a task may have."""
    kwargs = task.config.generation_kwargs or {}
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    return int(next((kwargs[name] for name in names if kwargs.get(name) is not None), MAX_GEN_TOKS))


def as_number(value: Any) -> float | None:
    """A metric's value of one question; None where it is none (what corpus metrics keep of a question)."""
    if isinstance(value, bool | int | float | np.number) and math.isfinite(value):
        return float(value)
    return None


def as_score(task: str, question: int, value: float | None, metric: Chosen) -> float:
    """Raises UserError for what is no number from 0 to 1."""
    if value is None or not -ROUNDING <= value <= 1 + ROUNDING:
        raise UserError(
            f"{task}: its {metric} of question {question} is {value}, and a score is from 0 to 1: choose another `metric` in "
            "evaluation.suites"
        )
    return min(1.0, max(0.0, value))


def add_likelihood(line: Answer, sample: dict, tokens: int) -> None:
    """Of a whole text: its log-likelihood, tokens and bytes, bits per byte, and the score."""
    loglikelihood = float(sample["resps"][0][0])
    pairs = [sample[each] for each in ("bits_per_byte", "byte_perplexity") if each in sample]
    size = int(pairs[0][1]) if pairs else len(str(sample["target"]).encode())
    line["answer"] = ""
    line["log_likelihoods"], line["tokens"], line["bytes"] = [loglikelihood], tokens, size
    line["metrics"] = {"bits_per_byte": -loglikelihood / max(1, size) / math.log(2)}
    line["score"] = min(1.0, math.exp(loglikelihood / max(1, size)))


def add_choices(line: Answer, task: Any, sample: dict) -> None:
    """The log-likelihood of each choice, how many there are, and which one is the likeliest."""
    logprobs = [float(each[0][0]) for each in sample["resps"]]
    if task.OUTPUT_TYPE != "multiple_choice":
        line["log_likelihoods"], line["completion"] = logprobs, str(sample["arguments"][0][-1])
        return
    number = len(task.doc_to_choice(sample["doc"]))
    logprobs = logprobs[:number]  # `acc_mutual_info` also asks for the choices without the question
    best = int(np.argmax(logprobs))
    line["log_likelihoods"], line["choices"], line["chosen"] = logprobs, number, best
    line["completion"] = str(task.doc_to_choice(sample["doc"])[best]) if not task.multiple_input else str(best)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars, prints and warnings of lm-eval, of `datasets`, and of the hub's client."""
    import datasets

    shown, task_module.tqdm = task_module.tqdm, lambda items, **_: items
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in TALKATIVE}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        task_module.tqdm = shown
        for logger, level in levels.items():
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def kept_random_state() -> Iterator[None]:
    """Python's and NumPy's random states as they were; a task's own code draws from a fixed one."""
    states = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
