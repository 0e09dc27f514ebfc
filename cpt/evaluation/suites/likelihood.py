"""How likely a model finds the demonstrations of rows: of tasks with `metric: likelihood`, and of all where it is asked for.

Measured is what SFT trains on (`data.encoding`): the answer with the token that ends it, after the prompt as evaluation asks
it; of a conversation every answer of the assistant, after all that stands before it. Of a row with `raw_text` it is the text
after the token that begins one (that of the tokenizer, else its end of sequence, as in lm-eval); no end is asked for.

A row's score is exp(mean log-probability of its tokens), the geometric mean of their probabilities: a number from 0 to 1,
higher is better, the inverse of the row's perplexity. A task's score is the mean over its rows, as accuracy is.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from cpt import models
from cpt.data.encoding import Encoder
from cpt.data.rows import prompt_of, prompt_text, sft_row
from cpt.data.stream import Stream, TaskData
from cpt.evaluation.suites import spread
from cpt.evaluation.suites.base import Asking
from cpt.records import Answer
from cpt.rollouts import Scored

COUNTED, BESIDE = "greedy", "likelihood"  # modes of lines: those of the matrix, and those beside a verifier's


@dataclass(frozen=True)
class Measured:
    """A row's tokens: `ids[start:]` follow `ids[:start]`, and those at `places` (of `ids`) are measured."""

    suite: str | None
    task: TaskData
    row: dict
    mode: str
    ids: list[int]
    start: int
    places: list[int]

    def line(self, scored: Scored, text: str) -> Answer:
        """The line of evaluations/POINT.jsonl."""
        logprobs = [scored.logprobs[place - self.start] for place in self.places]
        mean = math.fsum(logprobs) / len(logprobs)
        return {
            "suite": self.suite,
            "task": self.task.name,
            "row": self.row["id"],
            "prompt": "" if self.row.get("raw_text") is not None else prompt_text(prompt_of(self.row)),
            "answer": text,
            "mode": self.mode,
            "sample": 0,
            "completion": "",
            "finished": True,
            "score": min(1.0, math.exp(mean)),
            "error": None,
            "kind": "likelihood",
            "metric": "likelihood",
            "log_likelihoods": [math.fsum(logprobs)],
            "tokens": len(logprobs),
        }


def ask(asking: Asking, stream: Stream) -> list[Answer]:
    """The lines of all rows that are measured, on every rank."""
    asked = list(measured(asking, stream))
    if not asked:
        return []
    pairs = [(each.ids[: each.start], each.ids[each.start :]) for each in asked]
    scored = spread.score(asking, pairs, "measuring demonstrations")
    encoders = {id(each.task): asking.encoding.of(each.task.spec) for each in asked}
    lines = []
    for each, one in zip(asked, scored, strict=True):
        ids = [each.ids[place] for place in each.places]
        lines.append(each.line(one, encoders[id(each.task)].text(ids)))
    return lines


def measured(asking: Asking, stream: Stream) -> Iterator[Measured]:
    """The rows that are measured: they are the same at every point."""
    context = models.context_length(asking.base, asking.recipe)
    most = math.inf if context is None else context + min(0, asking.engine.scored_beyond)
    for suite, task in stream.evaluated():
        if not task.spec.by_likelihood and not asking.recipe.evaluation.likelihood:
            continue
        encoder = asking.encoding.of(task.spec)
        mode = COUNTED if task.spec.by_likelihood else BESIDE
        for row in task.eval:
            tokens = tokens_of(encoder, row)
            if tokens is not None and len(tokens[0]) <= most:
                yield Measured(suite, task, row, mode, *tokens)


def tokens_of(encoder: Encoder, row: dict) -> tuple[list[int], int, list[int]] | None:
    """(ids, start, places) of a row (`Measured`); None where it has nothing to measure."""
    if row.get("raw_text") is not None:
        ids = encoder.raw_text(row["raw_text"])
        return ids, 1, list(range(1, len(ids)))
    form = sft_row(row)
    if form is None:
        return None
    [taught] = encoder.taught([form])
    spans = encoder.answers(form, taught)[0] if "messages" in form else [(taught.start, len(taught.ids))]
    spans = spans or [(taught.answer or taught.start, taught.end or len(taught.ids))]
    places = [place for start, end in spans for place in range(max(1, start), end)]
    return (taught.ids[: places[-1] + 1], places[0], places) if places else None
