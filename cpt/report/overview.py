"""What stands around the sections: the contents, what was run in a few words, and the matrix as a file to download."""

import base64
import csv
import io

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cpt.report.reading import Run

SECTIONS = (  # the anchor of a section of the report, the key that says whether it is there, and its title
    ("matrix", "matrix", "Accuracy after every task"),
    ("tasks", "task_charts", "Each task"),
    ("baselines", "baselines", "Baselines"),
    ("within-stages", "during", "Within the stages"),
    ("contamination", "contamination", "Contamination"),
    ("merges", "merges", "Merges"),
    ("held-out", "suite_charts", "Held out"),
    ("measured", "measured", "Benchmarks and likelihoods"),
    ("sampled", "sampled", "Sampled answers"),
    ("gates", "gates", "Gates"),
    ("attempts", "attempts", "Attempts"),
    ("answers", "shapes", "What the answers look like"),
    ("flips", "flips", "From right to wrong"),
    ("questions", "questions", "Every question"),
    ("errors", "errors", "Verifier errors"),
    ("training", "training", "Training"),
    ("cost", "costs", "Cost"),
    ("reproduce", "name", "Reproduce"),
)


def contents(seen: dict) -> list[dict]:
    """The sections that are there, in their order."""
    return [{"anchor": anchor, "title": title} for anchor, key, title in SECTIONS if seen[key]]


def base_model(run: Run) -> str:
    """The model that the recipe names, where that is a model's id on the hub; empty for a folder and the toy model."""
    path = model_path(run)
    return path if path.count("/") == 1 and not path.startswith((".", "~", "/")) else ""


def model_path(run: Run) -> str:
    """`model.path` of the recipe; empty where that cannot be read."""
    try:
        recipe = YAML(typ="safe", pure=True).load(run.recipe or "")
    except (YAMLError, ValueError):
        return ""
    model = recipe.get("model") if isinstance(recipe, dict) else None
    path = model.get("path") if isinstance(model, dict) else None
    return path if isinstance(path, str) else ""


def method(run: Run) -> list[str]:
    """The model, the kinds of stages, and how many questions were asked, in a few words each."""
    results = run.results
    kinds = dict.fromkeys(stage["kind"] for stage in results["stages"])
    counts = [*results.get("questions", {}).values(), *results.get("held_out_questions", {}).values()]
    model = model_path(run)
    merges = dict.fromkeys(
        each["strategy"].partition("-")[2] for stage in results["stages"] for each in stage.get("merges", ())
    )
    named = [f"model {model}"] if model else []
    named += [" and ".join(filter(None, [", ".join(kinds), ", ".join(merges)]))] if kinds else []
    return [*named, f"{sum(counts):,} questions a point"] if counts else named


def matrix_csv(run: Run) -> str:
    """The matrix with its intervals as comma-separated values, for a link that downloads them."""
    results, out = run.results, io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["point", "column", "kind", "score", "low", "high"])
    ends = results["intervals"]
    for t, point in enumerate(run.points):
        for i, task in enumerate(results["tasks"]):
            writer.writerow([point, task, "task", results["accuracy"][t][i], *ends["accuracy"][t][i]])
        for suite, scores in results["held_out"].items():
            writer.writerow([point, suite, "held out", scores[t], *ends["held_out"][suite][t]])
    return base64.b64encode(out.getvalue().encode()).decode()
