"""1 where a regular expression is found in the completion (`.` matches line ends too), 0 otherwise: rewards of form."""

import re

MAY_HANG = True


def build(spec: dict):
    """spec: pattern."""
    pattern = re.compile(spec["pattern"], re.DOTALL)

    def format(completion: str, row: dict) -> float:
        return float(pattern.search(completion) is not None)

    return format
