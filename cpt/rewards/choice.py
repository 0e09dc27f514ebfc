"""1 where the letter that the completion chooses is the row's answer, 0 otherwise.

The choice is what follows "answer is" or "answer:", else a letter in brackets or alone, the last one (as lm-eval's
multiple-choice filters do); a completion without any is wrong.
"""

import re


def reader(spec: dict):
    """spec: choices, e.g. "ABCD"."""
    letters = spec.get("choices", "ABCD")
    letter = f"[{re.escape(letters)}]"
    small = f"[{re.escape(letters.lower())}](?=[\\s).,;:!*]*$|[).,;:!*])"  # "the answer is a ..." chooses nothing
    patterns = [
        re.compile(rf"(?i:answer\s*(?:is|:)\s*:?)\s*\**\(?({letter}\b|{small})", re.MULTILINE),
        re.compile(rf"\(({letter})\)"),
        re.compile(rf"(?<![\w'])({letter})(?![\w'])"),
    ]

    def chosen(completion: str, row: dict) -> str | None:
        if not row.get("finished", True):
            return None  # cut off at the limit: no answer
        found = next((found for pattern in patterns if (found := pattern.findall(completion))), None)
        return found[-1].upper() if found else None

    return chosen


def wanted(answer: str) -> str:
    """The letter that a row's answer names."""
    return answer.strip().strip("().").upper()


def problem(spec: dict):
    """See `verifiers.PROBLEMS`."""
    choices = spec.get("choices", "ABCD")

    def unreadable(answer: str) -> str | None:
        if wanted(answer) in list(choices.upper()):
            return None
        return f"it is none of the choices {', '.join(choices)}: write the letter, or name the letters with `choices`"

    return unreadable


def build(spec: dict):
    chosen = reader(spec)

    def choice(completion: str, row: dict) -> float:
        return float(chosen(completion, row) == wanted(row["answer"]))

    return choice
