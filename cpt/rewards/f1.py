"""F1 of the completion's tokens against the answer's, in [0, 1], as SQuAD does it (1606.05250): case, punctuation and
articles do not count."""

import re
import string
from collections import Counter


def reader(spec: dict):
    def tokens_of(completion: str, row: dict) -> str | None:
        return " ".join(tokens(completion)) if row.get("finished", True) else None  # cut off at the limit: no answer

    return tokens_of


def build(spec: dict):
    def f1(completion: str, row: dict) -> float:
        if not row.get("finished", True):
            return 0.0  # cut off at the limit: no answer
        given, wanted = tokens(completion), tokens(row["answer"])
        common = sum((Counter(given) & Counter(wanted)).values())
        if not given or not wanted:
            return float(given == wanted)
        precision, recall = common / len(given), common / len(wanted)
        return 2 * precision * recall / (precision + recall) if common else 0.0

    return f1


def problem(spec: dict):
    """See `verifiers.problem`."""

    def wordless(answer: str) -> str | None:
        if tokens(answer) or not answer.strip():  # SQuAD has questions without an answer
            return None
        return "it has no words (punctuation and articles do not count): write the right answer, or leave the row out"

    return wordless


def tokens(text: str) -> list[str]:
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()
