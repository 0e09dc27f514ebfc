"""STUB (lead's, temporary: helper D replaces this file)."""

import re
from dataclasses import dataclass


@dataclass
class Score:
    value: float | None
    error: str | None = None


class Scorer:
    errors = {}

    def score(self, completions, rows, finished=None):
        out = []
        for i, (c, r) in enumerate(zip(completions, rows)):
            t = re.split(r"->|:", c)[-1]
            t = "".join(x for x in t if x.isalnum())
            out.append(Score(float(t == r["answer"] and (finished is None or finished[i]))))
        return out


class Scorers:
    def get(self, spec):
        return Scorer()

    def examples(self):
        return []

    def __enter__(self):
        return self

    def __exit__(self, *a):
        pass
