"""Answers and rewards that a test gives: what is trained on then does not depend on what the model can do.

`answers` and `rewards` patch the process that they are called in: that of a test (with its monkeypatch), a child of the
`cpt` fixture (`cpt("run", ..., given=["answers"])`), or the ranks of a launcher:

    python -m helpers.given answers run recipe.yaml --out DIR
"""

import hashlib
import sys
from collections import Counter

import pytest

PATTERNS = ((1, 0, 0, 1), (0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 0, 0))  # which of a prompt's four answers are right
SALT = 72  # with it the first four prompts of test_hybrid have one pattern each, and so have the next four


def pattern(of: str) -> tuple[int, ...]:
    """Which answers are right to the prompt, or of the row with the id, `of`."""
    return PATTERNS[hashlib.sha256(f"{SALT}{of}".encode()).digest()[0] % len(PATTERNS)]


def answer(prompt: str, number: int) -> str:
    """The answer number `number` (from 0) to a prompt of a letter skill. Wrong ones are of different lengths."""
    from cpt.skills import SKILLS

    skill = next(name for name in SKILLS if prompt.startswith(name))
    right = SKILLS[skill](prompt.removeprefix(skill).removesuffix("="))
    return right if pattern(prompt)[number % 4] else right[: 1 + number % 4] + "00"


def answers(patch: pytest.MonkeyPatch) -> None:
    """Let every rollout be `answer`; evaluations ask the model as always."""
    from cpt import tiny
    from cpt.rollouts.base import Completion, Sampling
    from cpt.rollouts.transformers import TransformersEngine

    tokenizer, generate = tiny.tokenizer(), TransformersEngine.generate

    def given(self, prompts, sampling, on_done=None):
        if not isinstance(sampling, Sampling) or sampling.temperature == 0:  # an evaluation
            return generate(self, prompts, sampling, on_done)
        seen, completions = Counter(), []
        for ids in prompts:
            prompt = tokenizer.decode(ids)
            text = answer(prompt, seen[prompt])
            completions.append(Completion([*tokenizer(text)["input_ids"], tokenizer.eos_token_id], finished=True))
            seen[prompt] += 1
        self.rollout_tokens += sum(len(each.token_ids) for each in completions)
        return completions

    patch.setattr(TransformersEngine, "generate", given)


def rewards(patch: pytest.MonkeyPatch) -> None:
    """Let sampled answers be right or wrong as `pattern` says for their row, whatever they are; evaluations are judged as
    always."""
    from cpt.loop import tasks
    from cpt.rewards import Score

    class Given:
        def __init__(self, scorer):
            self.scorer = scorer

        def __getattr__(self, name: str):
            return getattr(self.scorer, name)

        def score(self, texts, rows, finished):
            seen, scores = Counter(), []
            for row in rows:
                scores.append(Score(float(pattern(row["id"])[seen[row["id"]] % 4])))
                seen[row["id"]] += 1
            return scores

    scorer_of = tasks.scorer_of
    patch.setattr(tasks, "scorer_of", lambda *of: Given(scorer_of(*of)))


def silence(patch: pytest.MonkeyPatch) -> None:
    """Let every rollout end at once, without an answer."""
    patch.setattr(sys.modules[__name__], "answer", lambda prompt, number: "")
    answers(patch)


GIVEN = {"answers": answers, "rewards": rewards, "silence": silence}


if __name__ == "__main__":
    from cpt.cli import main as cli

    GIVEN[sys.argv.pop(1)](pytest.MonkeyPatch())
    cli.main()
