"""1 where the completion is the row's answer, 0 otherwise.

With the recipe's `after` only what follows the last of these is compared, of the completion and of the row's answer (so the
whole solution "... #### 42" may stand as the answer). The letter tasks' rows carry `answer_markers` of their own, after
which letters and digits alone count: their demonstrations come in several styles.
"""

import string


def build(spec: dict):
    """spec: after (markers), ignore_case, ignore_punctuation."""

    def exact(completion: str, row: dict) -> float:
        if not row.get("finished", True):
            return 0.0  # cut off at the limit: no answer
        given, wanted = completion.strip(), row["answer"].strip()
        if spec.get("after"):
            given, wanted = (after_last(text, spec["after"]).strip() for text in (given, wanted))
        elif row.get("answer_markers"):
            given = "".join(filter(str.isalnum, after_last(given, row["answer_markers"])))
        if spec.get("ignore_case"):
            given, wanted = given.casefold(), wanted.casefold()
        if spec.get("ignore_punctuation"):
            given, wanted = without_punctuation(given), without_punctuation(wanted)
        return float(given == wanted)

    return exact


def after_last(text: str, markers) -> str:
    """What follows the last of the markers; all of it where none is there."""
    ends = [place + len(marker) for marker in markers if (place := text.rfind(marker)) >= 0]
    return text[max(ends, default=0) :]


def without_punctuation(text: str) -> str:
    return " ".join(text.translate(str.maketrans("", "", string.punctuation)).split())
