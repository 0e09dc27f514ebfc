"""The suites of lm-eval's tasks: the package is there, the tasks exist, and their questions can be asked."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from cpt.checks.findings import Findings
from cpt.data.prompt_keys import key
from cpt.data.stream import Stream
from cpt.errors import UserError
from cpt.recipe import Recipe, all_suites
from cpt.recipe.suites import LmEval

SHORTEST = 20  # characters of a text that is compared with prompts: shorter ones are answers, names and the like
MISSING = "lm-eval is not installed: pip install 'continual-post-training[eval]'"


def load_benchmarks(
    specs: Mapping[str, LmEval], findings: Findings, fetch: bool, key_of: Callable[[str], str]
) -> tuple[dict[str, Any], list[str]]:
    """The suites by their names, and what was not looked at: data on the hub, unless `fetch`.

    `key_of` gives the key that messages have for a suite.
    """
    suites: dict[str, Any] = {}
    unseen: list[str] = []
    if specs and importlib.util.find_spec("lm_eval") is None:
        findings.add(key_of(next(iter(specs))), MISSING)
        return suites, unseen
    for name, spec in specs.items():
        from cpt.evaluation.suites import lm_loading

        try:
            suite = lm_loading.load(spec, fetch)
        except UserError as error:
            findings.add(key_of(name), str(error))
            continue
        if suite is None:
            unseen.append(f"the questions of {name} ({', '.join(spec.lm_eval)} of lm-eval, on the hub)")
        else:
            suites[name] = suite
    return suites, unseen


def check_leaks(stream: Stream, findings: Findings) -> None:
    """No row that is trained on has a question of these suites as its prompt."""
    asked = {
        key(text): f"{name}/{task}/{question}"
        for name, suite in stream.benchmarks.items()
        for task, question, texts in suite.texts()
        for text in texts
        if len(text) >= SHORTEST
    }
    for task in stream.tasks if asked else ():
        for split in (task.train, task.validation):
            for index in range(len(split)):
                if (theirs := next((asked[each] for each in split.keys(index) if each in asked), None)) is not None:
                    message = (
                        f"row {split.id(index)} has the same prompt as a question of lm-eval's ({theirs}): remove it, or "
                        "leave the task out of the suite"
                    )
                    findings.add(f"stream.{task.name}.data", message, "asked by lm-eval", split[index])


def key_in(recipe: Recipe, name: str) -> str:
    """`evaluation.suites.1` of a suite of the recipe; of one that was given by itself, its name."""
    names = list(all_suites(recipe))
    return f"evaluation.suites.{names.index(name)}" if name in names else f"suite {name}"


def check_context(recipe: Recipe, suites: Mapping[str, Any], context: int | None, findings: Findings) -> None:
    """The answers that the tasks ask for fit the model's context."""
    for name, suite in suites.items():
        for problem in suite.problems(context):
            findings.add(key_in(recipe, name), problem)
