"""1 where math-verify finds the completion's final answer equal to the row's (symbolically), 0 otherwise.

math-verify's own time limits need the main thread's alarm signal; here they are off, and the call runs in a worker process
that is killed at the limit.
"""


def reader(spec: dict):
    """The answer as it is written, of which math-verify made its expression: 0.50 and 1/2 are two answers, if equal ones."""
    from math_verify import parse

    def written(completion: str, row: dict) -> str | None:
        found = parse(completion, parsing_timeout=None)
        return " ".join(str(found[-1]).split()) if found else None

    return written


def build(spec: dict):
    from math_verify import parse, verify

    def math(completion: str, row: dict) -> float:
        answer = row["answer"]
        marked = answer if "$" in answer or "\\boxed" in answer else f"${answer}$"  # bare LaTeX would be read in part
        gold = parse(marked, parsing_timeout=None) or parse(answer, parsing_timeout=None)
        if not gold:
            raise ValueError(f"the row's answer {row['answer']!r} is not mathematics that math-verify can read")
        found = parse(completion, parsing_timeout=None)
        return float(verify(gold, found, timeout_seconds=None))

    return math
