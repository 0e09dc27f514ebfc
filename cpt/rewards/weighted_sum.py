"""The weighted sum of several verifiers; where one of them cannot score, neither can the sum."""

from collections.abc import Callable, Sequence


def weighted_sum(parts: Sequence[tuple[Callable[[str, dict], float], float]]) -> Callable[[str, dict], float]:
    """The verifier that adds the scores of (verifier, weight) `parts`."""

    def score(completion: str, row: dict) -> float:
        return sum(weight * verifier(completion, row) for verifier, weight in parts)

    return score
