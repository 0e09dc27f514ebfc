"""Evaluate one folder of weights on every task and suite: greedy, and sampled where the recipe asks. All answers are kept.

What is asked and how never depends on the training seed. The questions are split over the ranks, and all of a rank's go to
the engine in one call.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from cpt import models, ranks
from cpt.data.rows import prompt_text
from cpt.data.stream import Stream, TaskData
from cpt.recipe import Recipe
from cpt.rewards import Scorers
from cpt.rollouts import Engine, Sampling
from cpt.screen import Screen
from cpt.stop import Stop

EVALUATION_SEED = 0  # of sampled answers; a constant, so that runs with other seeds are asked the same way


@dataclass(frozen=True)
class Question:
    """One prompt to answer once. `suite` is None for a task of the stream; `sample` counts the draws of one row."""

    suite: str | None
    task: TaskData
    row: dict
    mode: str
    sample: int

    def line(self, completion: str, finished: bool, score) -> dict:
        """The line of evaluations/POINT.jsonl."""
        return {
            "suite": self.suite,
            "task": self.task.name,
            "row": self.row["id"],
            "prompt": prompt_text(self.row["prompt"]),
            "answer": self.row.get("answer"),
            "mode": self.mode,
            "sample": self.sample,
            "completion": completion,
            "finished": finished,
            "score": 0.0 if score.value is None else min(1.0, max(0.0, score.value)),
            "error": score.error,
        }


def questions_of(recipe: Recipe, stream: Stream, tokenizer) -> list[tuple[Question, Sampling]]:
    """All questions, each with how it is to be answered; the draws of one row are neighbours."""
    sets = [(None, task) for task in stream.tasks] + [(name, task) for name, s in stream.suites.items() for task in s]
    asked = []
    for suite, task in sets:
        limit = task.spec.max_completion_length or recipe.evaluation.max_completion_length
        greedy = Sampling(max_tokens=limit, stop_ids=models.answer_stops(tokenizer, task.spec))
        rows = list(task.eval)
        asked += [(Question(suite, task, row, "greedy", 0), greedy) for row in rows]
        sampled = recipe.evaluation.sampled
        if sampled is not None and suite is None:
            draw = replace(greedy, temperature=sampled.temperature, seed=EVALUATION_SEED)
            asked += [(Question(suite, task, row, "sampled", i), draw) for row in rows for i in range(sampled.samples)]
    return asked


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
) -> tuple[list[dict], dict]:
    """The lines of evaluations/POINT.jsonl (on all ranks) and the cost, for the weights in `folder`.

    Raises:
        Interrupted: a signal came (nothing of this evaluation is kept).
    """
    start, tokens_before = time.monotonic(), engine.rollout_tokens
    tokenizer = models.load_tokenizer(folder, recipe)
    model = models.load_policy(folder, base, recipe, trainable=False).to(ranks.state().device).eval()
    engine.sync(model, tokenizer)
    rank, world = ranks.state().process_index, ranks.world_size()
    mine = questions_of(recipe, stream, tokenizer)[rank::world]
    with screen.progress(label, len(mine), "answer") as bar:

        def on_done(count: int) -> None:
            bar.update(count)
            if world == 1:
                stop.check()

        ids = models.encode_prompts(tokenizer, [question.row["prompt"] for question, _ in mine], recipe)
        completions = engine.generate(ids, [sampling for _, sampling in mine], on_done)
        texts = models.texts_of(tokenizer, completions)
        stop.check()
        lines = judge([question for question, _ in mine], texts, [c.finished for c in completions], scorers)
        stop.check()
    engine.release()
    del model
    lines = ranks.gather(lines)
    lines.sort(key=lambda line: (line["mode"], line["suite"] or "", line["task"], line["row"], line["sample"]))
    tokens = sum(ranks.gather([engine.rollout_tokens - tokens_before]))
    return lines, {"seconds": round(time.monotonic() - start, 3), "rollout_tokens": tokens}


def judge(questions: list[Question], texts: list[str], finished: list[bool], scorers: Scorers) -> list[dict]:
    """The lines of these answers, scored task by task by the task's verifier."""
    lines: list[dict | None] = [None] * len(questions)
    by_task: dict[tuple, list[int]] = {}
    for i, question in enumerate(questions):
        by_task.setdefault((question.suite, question.task.name), []).append(i)
    for where in by_task.values():
        scorer = scorers.get(questions[where[0]].task.spec.verifier.model_dump())
        rows = [questions[i].row for i in where]
        scores = scorer.score([texts[i] for i in where], rows, [finished[i] for i in where])
        for i, score in zip(where, scores, strict=True):
            lines[i] = questions[i].line(texts[i], finished[i], score)
    return lines
