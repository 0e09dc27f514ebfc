"""Soft overlong punishment (DAPO, 2503.14476, equation 13): the last tokens before the limit cost more and more.

With limit L (`max_completion_length`) and buffer b the penalty of an answer of n tokens is

    0                  where n <= L - b
    (L - b - n) / b    where L - b < n <= L

so an answer cut off at L costs 1. The paper's L is the limit too: its 16,384 expected tokens and a buffer of 4,096.
"""


def penalty(length: int, limit: int, buffer: int) -> float:
    """From 0 to -1; tokens."""
    return min(0.0, max(-1.0, (limit - buffer - length) / buffer))


def overlong_reward(limit: int, buffer: int):
    """TRL's form: a second reward of training, logged by its own name, that no verifier and no evaluation sees."""

    def overlong(completion_ids, **_):
        return [penalty(len(ids), limit, buffer) for ids in completion_ids]

    return overlong
