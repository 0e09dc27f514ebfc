"""1 where the completion is the row's answer, 0 otherwise.

A row may carry `answer_markers` (the letter tasks do, whose demonstrations show their work): then what follows the last
marker is compared, letters and digits only. The recipe's `after` does the same for the user's own rows.
"""

import string


def build(spec: dict):
    """spec: after (markers), ignore_case, ignore_punctuation."""

    def exact(completion: str, row: dict) -> float:
        if not row.get("finished", True):
            return 0.0  # cut off at the limit: no answer
        given, wanted = completion.strip(), row["answer"].strip()
        markers = spec.get("after") or row.get("answer_markers")
        if markers:
            given = "".join(filter(str.isalnum, after_last(given, markers)))
            wanted = "".join(filter(str.isalnum, wanted))
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
