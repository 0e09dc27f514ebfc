"""The suites of lm-eval's tasks: the package is there, the tasks exist, and their questions can be asked."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from cpt.checks.findings import Findings
from cpt.errors import UserError
from cpt.recipe.suites import LmEval

MISSING = "lm-eval is not installed: pip install 'continual-post-training[eval]'"


def load_benchmarks(
    specs: Mapping[str, LmEval], findings: Findings, fetch: bool, key: str = "evaluation.suites, {}"
) -> tuple[dict[str, Any], list[str]]:
    """The suites by their names, and what was not looked at: data on the hub, unless `fetch`. `key` names a suite."""
    suites: dict[str, Any] = {}
    unseen: list[str] = []
    if specs and importlib.util.find_spec("lm_eval") is None:
        findings.add(key.format(next(iter(specs))), MISSING)
        return suites, unseen
    for name, spec in specs.items():
        from cpt.evaluation.suites import lm_loading

        try:
            suite = lm_loading.load(spec, fetch)
        except UserError as error:
            findings.add(key.format(name), str(error))
            continue
        if suite is None:
            unseen.append(f"the questions of {name} ({', '.join(spec.lm_eval)} of lm-eval, on the hub)")
        else:
            suites[name] = suite
    return suites, unseen


def check_context(suites: Mapping[str, Any], context: int | None, findings: Findings) -> None:
    """The answers that the tasks ask for fit the model's context."""
    for name, suite in suites.items():
        for problem in suite.problems(context):
            findings.add(f"evaluation.suites, {name}", problem)
