"""What the report shows of lm-eval's tasks and of likelihoods: tables of numbers at each point."""

from pathlib import Path

from cpt.report.formatting import compact, score


def measured(results: dict) -> dict:
    """`points`, `likelihoods`, `benchmarks`, and `named`: the tasks whose score is a likelihood. Empty where none is."""
    kinds, likelihoods, benchmarks = (results.get(key, {}) for key in ("score_kinds", "likelihood", "benchmarks"))
    if not (kinds or likelihoods or benchmarks):
        return {}
    return {
        "points": [Path(point).name for point in results["points"]],
        "named": list(kinds),
        "likelihoods": [likelihood_row(name, each, name in kinds) for name, each in likelihoods.items()],
        "benchmarks": [
            row
            for suite, tasks in benchmarks.items()
            for task, each in tasks.items()
            for row in benchmark_rows(f"{suite}/{task}", each)
        ],
        "flips": [
            flip_row(f"{suite}/{task}", each)
            for suite, tasks in benchmarks.items()
            for task, each in tasks.items()
            if each["flips"]
        ],
    }


def likelihood_row(name: str, record: dict, counts: bool) -> dict:
    return {
        "task": name,
        "counts": counts,
        "rows": record["rows"],
        "likelihood": [score(value) for value in record["likelihood"]],
        "perplexity": [compact(value) for value in record["perplexity"]],
        "logprob": [score(value) for value in record["logprob"]],
    }


def benchmark_rows(name: str, record: dict) -> list[dict]:
    """One row for each metric; the one that is the questions' score comes first."""
    main = record["metric"].partition(",")[0]
    names = sorted(record["metrics"], key=lambda metric: metric != main)
    return [
        {
            "task": name if number == 0 else "",
            "questions": record["questions"] if number == 0 else "",
            "metric": metric,
            "counts": metric == main,
            "chance": score(record["chance"]) if metric == main and record["chance"] is not None else "",
            "values": [score(value) for value in record["metrics"][metric]],
        }
        for number, metric in enumerate(names)
    ]


def flip_row(name: str, record: dict) -> dict:
    """The questions that are right or wrong at the last point and were not at the first."""
    last = record["flips"][-1]
    return {"task": name} | {key: score(value) for key, value in last.items()}
