"""The catalogue of verifiers: what recipes, checks, the documentation and cpt/rewards know of each kind by its name.

A new verifier is an entry here, its fields in `recipe.rewards`, and its module in cpt/rewards, which has `build(spec)`, the
score of (completion, row). Where it reads answers, it has `reader(spec)` and `problem(spec)` too.
No pydantic here, for workers import it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class VerifierKind:
    """One kind.

    Attributes:
        module: in cpt/rewards; None for a sum, which is made of others.
        example: how a recipe writes it.
        result: what its value is, as docs/verifier.md says it.
        reads_answers: whether it says which answer a completion gives and compares that with the row's. So it needs the row's
            answer, and `ttrl` can vote on what it reads.
        measures_correctness: whether its value is in [0, 1] and says how right an answer is, so that it can be a metric.
        may_hang: whether a text can make it hang: it runs in a process that can be killed.
    """

    name: str
    module: str | None
    example: str
    result: str
    reads_answers: bool = False
    measures_correctness: bool = True
    may_hang: bool = False


_KINDS = (
    VerifierKind(
        "exact",
        "exact",
        "exact",
        'the completion is the row\'s `answer`. `{kind: exact, after: ["####"]}` compares only what follows the last `####` '
        "of both; also `ignore_case`, `ignore_punctuation`",
        reads_answers=True,
    ),
    VerifierKind(
        "format",
        "format",
        '{kind: format, pattern: "^<think>.*</think>"}',
        "the regular expression is found",
        may_hang=True,
    ),
    VerifierKind(
        "math",
        "math",
        "math",
        "[math-verify](https://github.com/huggingface/Math-Verify) finds the answers equal",
        reads_answers=True,
        may_hang=True,
    ),
    VerifierKind(
        "choice",
        "choice",
        "choice",
        "the letter that is chosen is the answer's, one of `choices` (`ABCD`)",
        reads_answers=True,
    ),
    VerifierKind(
        "label",
        "label",
        "{kind: label, labels: [positive, negative]}",
        "the completion names the row's label and no other one",
        reads_answers=True,
    ),
    VerifierKind(
        "f1",
        "f1",
        "f1",
        "(a value between 0 and 1) F1 of the tokens ([1606.05250](https://arxiv.org/abs/1606.05250))",
        reads_answers=True,
    ),
    VerifierKind(
        "reasoning_gym",
        "reasoning_gym",
        "reasoning_gym",
        "(a value between 0 and 1) the data set's own scorer",
        may_hang=True,
    ),
    VerifierKind(
        "function",
        "function",
        "judge:polite",
        "(any number) your own function, see below",
        measures_correctness=False,
        may_hang=True,
    ),
    VerifierKind(
        "sum",
        None,
        '[exact, {reward: {kind: format, pattern: "!$"}, weight: 0.2}]',
        "(any number) the sum of several",
        measures_correctness=False,
    ),
)
KINDS: dict[str, VerifierKind] = {kind.name: kind for kind in _KINDS}
READ_ANSWERS = tuple(kind.name for kind in _KINDS if kind.reads_answers)
MEASURE_CORRECTNESS = tuple(kind.name for kind in _KINDS if kind.measures_correctness)


def table() -> str:
    """The table of docs/verifier.md."""
    rows = [f"| `{kind.example}` | {kind.result} |" for kind in _KINDS]
    return "\n".join(["| `reward:` | 1 where |", "|---|---|", *rows])
