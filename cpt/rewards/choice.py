"""1 where the letter that the completion chooses is the row's answer, 0 otherwise.

The choice is what follows "answer is" or "answer:", else a letter in brackets or alone, the last one (as lm-eval's
multiple-choice filters do); a completion without any is wrong.
"""

import re


def build(spec: dict):
    """spec: choices, e.g. "ABCD"."""
    letter = f"[{re.escape(spec.get('choices', 'ABCD'))}]"
    patterns = [
        re.compile(rf"answer\s*(?:is|:)\s*:?\s*\**\(?({letter})\b", re.IGNORECASE),
        re.compile(rf"\(({letter})\)"),
        re.compile(rf"(?<![\w'])({letter})(?![\w'])"),
    ]

    def choice(completion: str, row: dict) -> float:
        if not row.get("finished", True):
            return 0.0  # cut off at the limit: no answer
        for pattern in patterns:
            found = pattern.findall(completion)
            if found:
                return float(found[-1].upper() == row["answer"].strip().strip("().").upper())
        return 0.0

    return choice
