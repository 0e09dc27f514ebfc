"""1 where the letter that the completion chooses is the row's answer, 0 otherwise.

The choice is what follows "answer is" or "answer:", else a letter in brackets or alone, the last one (as lm-eval's
multiple-choice filters do); a completion without any is wrong.
"""

import re


def reader(spec: dict):
    """spec: choices, e.g. "ABCD"."""
    letter = f"[{re.escape(spec.get('choices', 'ABCD'))}]"
    patterns = [
        re.compile(rf"answer\s*(?:is|:)\s*:?\s*\**\(?({letter})\b", re.IGNORECASE),
        re.compile(rf"\(({letter})\)"),
        re.compile(rf"(?<![\w'])({letter})(?![\w'])"),
    ]

    def chosen(completion: str, row: dict) -> str | None:
        if not row.get("finished", True):
            return None  # cut off at the limit: no answer
        found = next((found for pattern in patterns if (found := pattern.findall(completion))), None)
        return found[-1].upper() if found else None

    return chosen


def build(spec: dict):
    chosen = reader(spec)

    def choice(completion: str, row: dict) -> float:
        return float(chosen(completion, row) == row["answer"].strip().strip("().").upper())

    return choice
