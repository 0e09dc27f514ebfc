"""The weighted sum of several verifiers; where one of them cannot score, neither can the sum."""


def build(spec: dict):
    """spec: parts, each {reward: spec, weight}."""
    from cpt.rewards.verifiers import build as build_one

    parts = [(build_one(part["reward"]), part["weight"]) for part in spec["parts"]]

    def weighted_sum(completion: str, row: dict) -> float:
        return sum(weight * verifier(completion, row) for verifier, weight in parts)

    return weighted_sum
