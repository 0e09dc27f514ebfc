"""The score of reasoning-gym's own scorer for the row's data set, in [0, 1].

The answer is what stands in <answer>...</answer>, where the completion has it, else all of it.
"""

import json
import re

MAY_HANG = True

ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def build(spec: dict):
    import reasoning_gym

    def score(completion: str, row: dict) -> float:
        marked = ANSWER.findall(completion)
        answer = (marked[-1] if marked else completion).strip()
        scorer = reasoning_gym.get_score_answer_fn(row["metadata"]["reasoning_gym"])
        return float(scorer(answer, json.loads(row["metadata"]["entry"])))

    return score
