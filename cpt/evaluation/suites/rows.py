"""Rows with a verifier, of the stream's tasks and of suites: answered greedily, and sampled where the recipe asks.

What is asked and how never depends on the training seed. The questions of each task are cut into batches by themselves, and
whole batches are spread over the ranks: what else is asked, and in how many processes, changes no answer.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from cpt import ranks, seeds
from cpt.data import encoding
from cpt.data.encoding import Encoder, Encoding
from cpt.data.rows import prompt_text
from cpt.data.stream import Stream, TaskData
from cpt.evaluation.suites.base import Asking
from cpt.recipe import Recipe
from cpt.records import Answer
from cpt.rewards import Scorers
from cpt.rollouts import Completion, Sampling
from cpt.rollouts.batches import Limits, batches

EVALUATION_SEED = 0  # of sampled answers; a constant, so that runs with other seeds are asked the same way


@dataclass(frozen=True)
class Question:
    """One prompt to answer once. `suite` is None for a task of the stream; `sample` counts the draws of one row."""

    suite: str | None
    task: TaskData
    encoder: Encoder
    row: dict
    mode: str
    sample: int

    def line(self, completion: str, finished: bool, score) -> Answer:
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


def questions_of(recipe: Recipe, stream: Stream, model: Encoding) -> list[tuple[Question, Sampling]]:
    """All questions, each with how it is to be answered; the draws of one row are neighbours."""
    asked = []
    for suite, task in stream.evaluated():
        if task.spec.by_likelihood:
            continue
        limit = task.spec.max_completion_length or recipe.evaluation.max_completion_length
        encoder = model.of(task.spec)
        greedy = Sampling(max_tokens=limit, stop_ids=encoder.stops)
        rows = list(task.eval)
        asked += [(Question(suite, task, encoder, row, "greedy", 0), greedy) for row in rows]
        sampled = recipe.evaluation.sampled
        if sampled is not None and suite is None:
            draw = replace(greedy, temperature=sampled.temperature, seed=EVALUATION_SEED)
            asked += [
                (Question(suite, task, encoder, row, "sampled", i), draw)
                for row in rows
                for i in range(sampled.samples)
            ]
    return asked


def mixed(asked: list[tuple[Question, Sampling]], order: int) -> list[tuple[Question, Sampling]]:
    """The questions of each task in another order, so that others are answered together; as they are if `order` is 0."""
    if not order:
        return asked
    rng = random.Random(order)
    return sorted(asked, key=lambda each: (each[0].suite or "", each[0].task.name, each[0].mode, rng.random()))


@dataclass(frozen=True)
class Batch:
    """Questions of one task that are answered together, and their prompts (token ids)."""

    questions: list[Question]
    prompts: list[list[int]]
    sampling: Sampling

    @property
    def tokens(self) -> int:
        """The most that it can take, padding and whole answers included."""
        return len(self.prompts) * (max(map(len, self.prompts)) + self.sampling.max_tokens)


def batches_of(asked: Sequence[tuple[Question, Sampling]], prompts: Sequence[list[int]], limits: Limits) -> list[Batch]:
    """All questions in batches, the largest first; a task's greedy and sampled ones never share one."""

    def its_task(place: int) -> tuple:
        question, _ = asked[place]
        return question.suite, question.task.name, question.mode

    batches = []
    for _, places in groupby(range(len(asked)), its_task):
        batches += batches_of_one([(*asked[place], prompts[place]) for place in places], limits)
    return sorted(batches, key=lambda batch: -batch.tokens)


def batches_of_one(asked: list[tuple[Question, Sampling, list[int]]], limits: Limits) -> Iterator[Batch]:
    """The batches of questions that are answered alike; sampled ones are drawn by a seed of their batch."""
    sampling = asked[0][1]
    lengths = [len(prompt) for *_, prompt in asked]
    for number, places in enumerate(batches(lengths, sampling.max_tokens, limits)):
        questions, _, prompts = zip(*(asked[place] for place in places), strict=True)
        yield Batch(list(questions), list(prompts), seeded(sampling, number))


def seeded(sampling: Sampling, number: int) -> Sampling:
    if sampling.seed is None:
        return sampling
    return replace(sampling, seed=seeds.derived(sampling.seed, number))


def ask(asking: Asking, stream: Stream) -> list[Answer]:
    """This rank's share of the answers to all rows that have a verifier."""
    asked = mixed(questions_of(asking.recipe, stream, asking.encoding), asking.order)
    prompts = encoding.prompts([(question.encoder, question.row) for question, _ in asked])
    mine = share_of(batches_of(asked, prompts, asking.engine.limits))
    questions = [question for batch in mine for question in batch.questions]
    completions: list[Completion] = []
    with asking.screen.progress(asking.label, len(questions), "answer") as bar:

        def on_done(count: int) -> None:
            bar.update(len(completions) + count)
            if ranks.world_size() == 1:  # several look after each batch: asking is a collective
                asking.stop.check()

        for batch in mine:
            completions += asking.engine.generate(batch.prompts, batch.sampling, on_done)
            asking.stop.check()
    with asking.screen.progress(f"{asking.label}: scoring the answers"):
        texts = [q.encoder.text(each.token_ids) for q, each in zip(questions, completions, strict=True)]
        lines = score_answers(questions, texts, [c.finished for c in completions], asking.scorers)
        asking.stop.check()
    return lines


def share_of(batches: list[Batch]) -> list[Batch]:
    """This rank's batches, every how-manieth; all ranks have equally many, some of them empty (an engine's calls may be
    collectives)."""
    world = ranks.world_size()
    mine = batches[ranks.state().process_index :: world]
    return mine + [Batch([], [], Sampling(max_tokens=1))] * (-(-len(batches) // world) - len(mine))


def score_answers(questions: list[Question], texts: list[str], finished: list[bool], scorers: Scorers) -> list[Answer]:
    """The lines of these answers, scored task by task by the task's verifier."""
    lines: list[Answer | None] = [None] * len(questions)
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
