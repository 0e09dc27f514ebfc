"""Training rows that hold questions of evaluations."""

from cpt.report.reading import Run

SHOWN = 50
ACTIONS = {"drop": "left out of training", "report": "trained on", None: "trained on"}


def contamination(run: Run) -> dict | None:
    """What the section shows; None where rows were not searched for, and none was found."""
    made = run.results.get("contamination")
    if not made:
        return None
    rows = sum(made["rows"].values())
    return {
        "rows": rows,
        "what": ACTIONS[made["action"]],
        "ngram": made["ngram"],
        "share": f"{100 * made['share']:.0f} %",
        "found": [
            each | {"share": f"{100 * each['share']:.0f} %", "shared": each["shared"] or "the same prompt"}
            for each in made["found"][:SHOWN]
        ],
        "more": rows - min(rows, SHOWN),
    }
