"""1 where the completion names the row's label and no other one of the recipe's `labels`, 0 otherwise.

Case, markdown, and whether a label's words are joined by a space, a hyphen or an underscore do not count. A label is a
word of its own ("unpositive" and "positive-ish" name none), and of labels that overlap ("news" and "world news") the
longest is named. A label that is negated ("not positive", "positive is wrong") counts as another one.
"""

import re
from itertools import pairwise

from cpt.plain_text import WORD, after_thinking, normal, without_markup
from cpt.rewards.exact import after_last

WINDOW = 40  # characters before a label in which a negation is looked for
NEGATED = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|non|without|cannot)|n't)[ _-](?:[a-z]{1,12} ){0,2}$|(?:不是|不|非|没有|没|無|无)$"
)
DENIED = re.compile(
    r"['\")\]]{0,2} (?:is|was|would be|seems) (?:not|never|wrong|incorrect|false)\b|['\")\]]{0,2} isn't\b"
)


def reader(spec: dict):
    """spec: labels, after (markers)."""
    by_form = {normal(label): label for label in spec["labels"]}
    firsts = "".join({re.escape(form[0]) for form in by_form})
    labels = re.compile(
        f"(?=[{firsts}])(?:{'|'.join(f'({pattern(form)})' for form in sorted(by_form, key=len, reverse=True))})"
    )
    names = [by_form[form] for form in sorted(by_form, key=len, reverse=True)]

    def named(completion: str, row: dict) -> str | None:
        if not row.get("finished", True):
            return None  # cut off at the limit: no answer
        text = after_last(after_thinking(completion), spec.get("after") or ())
        text = " ".join(without_markup(text).casefold().split())
        labels_named = {
            names[each.lastindex - 1] if not is_denied(text, each) else None for each in labels.finditer(text)
        }
        return labels_named.pop() if len(labels_named) == 1 else None

    return named


def is_denied(text: str, match: re.Match) -> bool:
    before = text[max(0, match.start() - WINDOW) : match.start()]
    return bool(NEGATED.search(before) or DENIED.match(text, match.end()))


def build(spec: dict):
    named = reader(spec)
    wanted = {normal(label): label for label in spec["labels"]}

    def label(completion: str, row: dict) -> float:
        return float(named(completion, row) == wanted[normal(row["answer"])])

    return label


def problem(spec: dict):
    """See `verifiers.problem`."""
    labels = {normal(label) for label in spec["labels"]}

    def unreadable(answer: str) -> str | None:
        if normal(answer) in labels:
            return None
        return f"it is none of the labels {', '.join(spec['labels'])}: change the row, or add it to `labels`"

    return unreadable


def pattern(form: str) -> str:
    """Finds a label in its normal form where it stands as a word of its own."""
    parts = re.findall(r"^[+-]\w+|\w+|[^\w\s]| ", form)
    expression = re.escape(parts[0])
    for last, part in pairwise(parts):
        joined = " " in (last, part) or (last[-1].isalnum() and part[-1].isalnum())
        expression += "(?: ?[-_] ?| )" if part == " " else ("" if joined else " ?") + re.escape(part)
    left = right = ""
    if re.match(WORD, form):
        left = rf"(?<!{WORD})(?<![#@])(?<!{WORD}[-'])" + (r"(?<![-+$])(?<!\d[.,])" if form[0].isdigit() else "")
    elif form[0] in "+-":
        left = r"(?<![\w+-])"
    if re.match(WORD, form[-1]):
        right = rf"(?!{WORD}|[+#])(?![-']{WORD})" + (r"(?![.,]\d|%)" if form[-1].isdigit() else "")
    return left + expression + right
