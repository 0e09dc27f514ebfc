"""Which of a task's metrics is the score of its questions: one that is a mean over them, of values from 0 to 1.

Without the recipe's `metric` it is the first of the task's own `metric_list` that is a mean and better when higher: `acc` of
most tasks of multiple choice, `exact_match` of most that generate, `prompt_level_strict_acc` of ifeval. A text whose whole
likelihood is measured (`loglikelihood_rolling`) has none: its score is the geometric mean probability of a byte,
exp(log-likelihood / bytes), which is 2 to the minus bits per byte.
"""

from dataclasses import dataclass
from typing import Any

from lm_eval.api.metrics import mean

from cpt.errors import UserError, listed, nearest_or_all

ROLLING = "loglikelihood_rolling"
OUTPUT_TYPES = ("multiple_choice", "loglikelihood", ROLLING, "generate_until")
ALIASES = {"bits_per_byte", "byte_perplexity"}  # of which the score of a whole text can be asked for by name


@dataclass(frozen=True)
class Chosen:
    """The metric that a question's score is, and the filter of the answers that it is computed from (None: the first)."""

    metric: str
    filter: str | None = None

    @property
    def is_likelihood(self) -> bool:
        return self.metric == "likelihood"

    def __str__(self) -> str:
        return self.metric if self.filter is None else f"{self.metric},{self.filter}"


def chosen_metric(task: Any, name: str, asked: str | None) -> Chosen:
    """The metric of the task `name` that the recipe asks for, or its first that a question can have.

    Raises:
        UserError: the task has no such metric, or none that one question can have by itself.
    """
    if task.OUTPUT_TYPE == ROLLING:
        if asked not in (None, "likelihood", *ALIASES):
            raise UserError(
                f"{name} measures whole texts, and {asked} of one text is no score from 0 to 1: remove `metric` (the score "
                "is then the likelihood of a byte; all else is in lm-eval's own results)"
            )
        return Chosen("likelihood")
    means = [each for each in task.aggregation() if is_mean(task, each)]
    if asked is None:
        if not means:
            raise UserError(
                f"{name} has no metric that one question can have by itself ({listed(task.aggregation())}): leave it out"
            )
        return Chosen(means[0])
    metric, _, filter_name = asked.partition(",")
    filters = filters_of(task)
    if metric not in task.aggregation():
        raise UserError(f"{name} has no metric {metric}{nearest_or_all(metric, task.aggregation(), 'it has')}")
    if metric not in means:
        why = "lower is better" if task.aggregation()[metric] is mean else "is computed of all questions together"
        raise UserError(f"{name}: of {metric} {why}, so it is no score of a question: choose one of {listed(means)}")
    if filter_name and filter_name not in filters:
        raise UserError(f"{name} has no filter {filter_name}{nearest_or_all(filter_name, filters, 'it has')}")
    return Chosen(metric, filter_name or None)


def is_mean(task: Any, metric: str) -> bool:
    """Whether a metric is the mean over questions of a number that is better when higher."""
    return task.aggregation()[metric] is mean and bool(task.higher_is_better().get(metric))


def filters_of(task: Any) -> list[str]:
    """The names of the task's filters, in their order."""
    return [each.name for each in task._filters]


def corpus_metrics(task: Any) -> bool:
    """Whether lm-eval would draw questions again and again for the error of one of its metrics."""
    return any(each is not mean for each in task.aggregation().values())
