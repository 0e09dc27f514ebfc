"""1 where the completion is the row's answer, 0 otherwise.

With the recipe's `after` only what follows the last of these is compared, of the completion and of the row's answer (so the
whole solution "... #### 42" may stand as the answer). The letter tasks' rows carry `answer_markers` of their own, after
which letters and digits alone count: their demonstrations come in several styles.
"""

import string


def reader(spec: dict):
    """spec: after (markers), ignore_case, ignore_punctuation."""

    def given(completion: str, row: dict) -> str | None:
        if not row.get("finished", True):
            return None  # cut off at the limit: no answer
        if row.get("answer_markers") and not spec.get("after"):
            completion = "".join(filter(str.isalnum, after_last(completion.strip(), row["answer_markers"])))
        return compared(completion, spec)

    return given


def build(spec: dict):
    given = reader(spec)

    def exact(completion: str, row: dict) -> float:
        return float(given(completion, row) == compared(row["answer"], spec))

    return exact


def problem(spec: dict):
    """See `verifiers.problem`."""

    def empty(answer: str) -> str | None:
        if compared(answer, spec):
            return None
        return "it leaves nothing to compare with: write the right answer, or leave the row out"

    return empty


def compared(text: str, spec: dict) -> str:
    """What of a text is compared, as `spec` has it."""
    text = text.strip()
    if spec.get("after"):
        text = after_last(text, spec["after"]).strip()
    text = text.casefold() if spec.get("ignore_case") else text
    return without_punctuation(text) if spec.get("ignore_punctuation") else text


def after_last(text: str, markers) -> str:
    """What follows the last of the markers; all of it where none is there."""
    ends = [place + len(marker) for marker in markers if (place := text.rfind(marker)) >= 0]
    return text[max(ends, default=0) :]


def without_punctuation(text: str) -> str:
    return " ".join(text.translate(str.maketrans("", "", string.punctuation)).split())
