"""Evaluate one folder of weights on every task and suite. All answers are kept."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cpt import models, ranks
from cpt.data import encoding
from cpt.data.encoding import Encoding
from cpt.data.stream import Stream
from cpt.evaluation.suites import likelihood, rows
from cpt.evaluation.suites.base import Asking
from cpt.recipe import Recipe
from cpt.records import Answer, Spent
from cpt.rewards import Scorers
from cpt.rollouts import Engine
from cpt.screen import Screen
from cpt.stop import Stop

PROBES = 4  # prompts on which an engine's copy of the policy is compared with it after every sync


def evaluate(
    folder: Path,
    base: Path,
    recipe: Recipe,
    stream: Stream,
    *,
    engine: Engine,
    scorers: Scorers,
    screen: Screen,
    stop: Stop,
    label: str,
    files: Path | None = None,
    variation: int = 0,
) -> tuple[list[Answer], Spent]:
    """The lines of evaluations/POINT.jsonl (on all ranks) and the cost, for the weights in `folder`.

    `files` is a folder for the files of lm-eval's own; without it they are not written. A `variation` other than 0 mixes the
    order of the questions and makes that many times smaller batches (`cpt.evaluation.noise`).

    Raises:
        Interrupted: a signal came (nothing of this evaluation is kept).
        UserError: lm-eval gives a score that is none (`Benchmark.ask`).
    """
    start, tokens_before = time.monotonic(), engine.rollout_tokens
    with screen.progress(f"{label}: loading the model"):
        encoders = encoding.load(folder, base, recipe)
        model = models.load_policy(folder, base, recipe, trainable=False).to(ranks.state().device).eval()
        engine.sync(model, encoders.tokenizer)
    asking = Asking(recipe, base, encoders, engine, scorers, screen, stop, label, files, variation)
    with smaller_batches(engine, stream, variation):
        lines = ranks.gather(rows.ask(asking, stream))
        lines += likelihood.ask(asking, stream)
        for benchmark in stream.benchmarks.values():
            lines += benchmark.ask(asking)
    engine.release()
    del model
    lines.sort(key=lambda line: (line["mode"], line["suite"] or "", line["task"], line["row"], line["sample"]))
    tokens = sum(ranks.gather([engine.rollout_tokens - tokens_before]))
    return lines, {"seconds": round(time.monotonic() - start, 3), "rollout_tokens": tokens}


@contextmanager
def smaller_batches(engine: Engine, stream: Stream, variation: int) -> Iterator[None]:
    """Batches of at most 1 / (variation + 1) of what they would be."""
    limits = engine.limits
    largest = min(limits.prompts, max((len(task.eval) for _, task in stream.evaluated()), default=limits.prompts))
    if variation:
        engine.limits = replace(limits, prompts=max(1, largest // (variation + 1)))
    try:
        yield
    finally:
        engine.limits = limits


def probes(stream: Stream, model: Encoding) -> list[list[int]]:
    """The first evaluation prompts of the tasks, in turn; a letter where none is asked (a text may fill the context)."""
    tasks = [task for _, task in stream.evaluated() if not task.spec.by_likelihood]
    asked = [(model.of(task.spec), task.eval[i]) for i in range(PROBES) for task in tasks if i < len(task.eval)]
    return encoding.prompts(asked[:PROBES]) or [model.tokenizer.encode("a")]


def always_failing(lines: list[Answer]) -> list[str]:
    """A line for each task no answer of which its verifier could score, seen before anything is trained."""
    by_task: dict[str, list[str | None]] = {}
    for line in lines:
        name = line["task"] if line["suite"] is None else f"{line['suite']}/{line['task']}"
        by_task.setdefault(name, []).append(line["error"])
    return [
        f"{name}: its verifier failed on all {len(errors)} answers of the base model, for example: {errors[0]}"
        for name, errors in by_task.items()
        if all(errors)
    ]
