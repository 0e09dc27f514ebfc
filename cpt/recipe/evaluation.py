"""What a recipe says of its evaluation: suites, sampled answers, metrics and gates; and of the alarms of training."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from cpt import user_code
from cpt.errors import nearest, shown
from cpt.metric_kinds import CHANGES, GATES, SUITE_GATES, TASK_GATES
from cpt.recipe.base import Name, Strict, Temperature
from cpt.recipe.suites import SuiteName
from cpt.recipe.user_kinds import errors_at


class Sampled(Strict):
    """Answers are sampled besides the greedy one, and pass@k is estimated without bias (2107.03374)."""

    k: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        min_length=1, description="For each of these numbers, pass@k is estimated."
    )
    samples: int = Field(
        gt=0, description="This many answers are sampled for each question; it must be at least the largest `k`."
    )
    temperature: Temperature = Field(1.0, description="Answers are sampled at this temperature.")

    @model_validator(mode="after")
    def enough(self):
        if max(self.k) > self.samples:
            raise ValueError(f"pass@{max(self.k)} needs at least {max(self.k)} samples, not {self.samples}")
        return self


class Gate(Strict):
    """A limit that decides whether to ship: `rule` says what is compared with it, and `tier` what follows from it."""

    limit: float = Field(
        ge=-1, le=1, description="The gate compares a difference of accuracies, or an accuracy, with this limit."
    )
    rule: Literal["point", "interval", "non_inferiority"] = Field(
        "point",
        description="`point` compares the value itself with the limit; `interval` passes only if the whole 95 % interval "
        "keeps the limit, and cannot tell if the interval holds it; `non_inferiority` does so for a change, of which "
        "`limit` is the loss that is tolerated (the margin, 0 or more).",
    )
    tier: Literal["critical", "supporting", "tracked"] = Field(
        "critical",
        description="A `critical` gate that fails or cannot tell stops the model from being shipped; a `supporting` one is "
        "named in the verdict; a `tracked` one is only shown.",
    )

    @model_validator(mode="before")
    @classmethod
    def from_number(cls, value: Any) -> Any:
        return {"limit": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def margin(self):
        if self.rule == "non_inferiority" and self.limit < 0:
            raise ValueError(f"limit is the loss that is tolerated, 0 or more, not {self.limit:g}")
        return self


class Retry(Strict):
    """What is changed when a task is trained again because a gate failed: one of these."""

    learning_rate: float | None = Field(
        None, gt=0, lt=1, description="The learning rate of each stage of the task is multiplied by this factor."
    )
    merge: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="The task is trained as the recipe says, and the new model is then merged with the one before it, which "
        "has this share.",
    )

    @model_validator(mode="after")
    def one(self):
        if (self.learning_rate is None) == (self.merge is None):
            raise ValueError("needs one change: learning_rate (a factor below 1) or merge (the old model's share)")
        return self


class OnFailure(Strict):
    """What a run does when a critical gate fails after a task, compared as if the stream ended there."""

    then: Literal["stop", "rollback"] = Field(
        description="`stop` ends the stream, and `final` is the model before the task; `rollback` goes on with the model "
        "before the task."
    )
    retry: tuple[Retry, ...] = Field(
        (),
        description="The task is trained again with the first of these changes, then with the second, and so on, until no "
        "critical gate fails; `then` follows only if all of them fail.",
    )

    @model_validator(mode="before")
    @classmethod
    def from_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("retry"), list):
            return value | {"retry": tuple(value["retry"])}  # what a validator hands on is Python's, no longer JSON's
        return {"then": value} if isinstance(value, str) else value


class OwnMetric(Strict):
    """A metric of your own: a function of the accuracy matrix (docs/extending.md)."""

    function: str = Field(
        description="This is the function, as module:function; it is called with the accuracy matrix.",
        json_schema_extra={"pattern": user_code.NAME},
    )
    name: Name | None = Field(
        None, description="This is the metric's name in gates and in the report; if null, the function's name is."
    )
    about: str | None = Field(
        None,
        description="The report describes the metric by this text; if null, by the first line of the function's docstring.",
    )
    better: Literal["higher", "lower"] = Field(
        "higher",
        description="This decides which of two values is the better one; a gate is a minimum for `higher`, else a maximum.",
    )
    lowest: float = Field(0.0, lt=1, description="The metric's scale in the report starts at this value and ends at 1.")
    folder: Path | None = Field(
        None, description="The module is looked for in this folder first; if null, in the recipe's own folder."
    )
    _code: user_code.Code = PrivateAttr()

    @model_validator(mode="after")
    def is_there(self):
        if not re.match(user_code.NAME, self.function):
            raise ValueError(f"{shown(self.function)} names no function: write module:function")
        self._code = user_code.load(self.function, self.folder)
        if not callable(self._code.target):
            raise ValueError(f"{self._code.place}: {self.label} is no function")
        if self.label in GATES:
            raise ValueError(f"{self.label} is the name of a metric that is there already: give it another `name`")
        return self

    @property
    def code(self) -> user_code.Code:
        """The function, and the files that it came from."""
        return self._code

    @property
    def label(self) -> str:
        """The metric's name."""
        return self.name or self.function.partition(":")[2]


def gate_problem(name: str, gate: Gate, own: list[str]) -> str | None:
    """Why there is no such gate, whatever tasks and suites there are; `own` are the names of the user's own metrics."""
    head, slash, _ = name.partition("/")
    if slash and head not in TASK_GATES | SUITE_GATES:
        heads = (*TASK_GATES, *SUITE_GATES)
        return f"a gate on one task or suite is one of {', '.join(heads)}, not {shown(head)}{nearest(head, heads)}"
    known = (*GATES, *own)
    if not slash and name not in known:
        return f"must be one of {', '.join(known)}, not {shown(name)}{nearest(name, known)}"
    if gate.rule == "non_inferiority" and head not in CHANGES:
        return f"rule: non_inferiority is for changes ({', '.join(CHANGES)}), and {head} is none: use rule: interval"
    return None


class During(Strict):
    """Evaluation within a stage, of the tasks learnt so far and the present one (2205.13452)."""

    every: int = Field(gt=0, description="The tasks are evaluated each time this many optimiser steps were taken.")
    questions: int = Field(
        50, gt=0, description="These are as many of each task's evaluation rows, always the first ones."
    )


class Evaluation(Strict):
    suites: tuple[SuiteName, ...] = Field(
        (),
        description="These suites of held-out questions are evaluated at every point: names of shipped suites, files, "
        "or classes of your own.",
    )
    max_completion_length: int = Field(
        256, gt=0, description="An evaluated answer may have this many tokens, unless its task gives its own number."
    )
    sampled: Sampled | None = Field(
        None,
        description="Besides the greedy answer, answers are sampled and pass@k is estimated; if null, they are not.",
    )
    likelihood: bool = Field(
        False,
        description="If true, the likelihood of the demonstrations of evaluation rows is measured beside the answers, of "
        "all tasks whose rows have some.",
    )
    during: During | None = Field(
        None,
        description="Earlier tasks and the present one are evaluated within a stage too, greedily; if null, they are "
        "evaluated after each task only.",
    )
    metrics: tuple[OwnMetric, ...] = Field(
        (),
        description="These metrics of your own are computed beside the built-in ones; each is module:function, or a map.",
    )
    noise_floor: int = Field(
        0,
        ge=0,
        le=20,
        description="The untouched model is evaluated this many times more, in other batches: how much its scores vary is "
        "shown, and no gate decides on a difference within it. 0 does not measure it.",
    )
    gates: dict[str, Gate] = Field(
        {},
        description="These limits on metrics, and on `held_out_drop`, decide whether the model may be shipped; if one is "
        "broken, the exit code is 3.",
    )

    on_failure: OnFailure | None = Field(
        None,
        description="This is done when a critical gate fails after a task: `stop`, `rollback`, or a map with `retry`; if "
        "null, the stream goes on, and the verdict comes at its end.",
    )

    @model_validator(mode="after")
    def something_can_fail(self):
        if self.on_failure is not None and not any(gate.tier == "critical" for gate in self.gates.values()):
            raise ValueError(
                "on_failure: no critical gate is set, so nothing can fail: add evaluation.gates, or remove it"
            )
        return self

    @model_validator(mode="after")
    def gates_have_metrics(self):
        labels = [each.label for each in self.metrics]
        for number, label in enumerate(labels):
            if label in labels[:number]:
                raise errors_at(
                    [(("metrics", number), f"two metrics are called {label}: give one another `name`", label)]
                )
        wrong = [
            (("gates", name), why, name)
            for name, gate in self.gates.items()
            if (why := gate_problem(name, gate, labels))
        ]
        if wrong:
            raise errors_at(wrong)
        return self


class Alarms(Strict):
    """Thresholds at which a stage that samples its own answers warns (`cpt.stages.alarms`); null gives no warning."""

    entropy: float | None = Field(
        0.1,
        gt=0,
        lt=1,
        description="A warning is given if the entropy of the answers falls to this share of its value at the stage's "
        "start; null gives none.",
    )
    groups_without_signal: float | None = Field(
        0.9,
        gt=0,
        le=1,
        description="A warning is given if this share of groups has answers of equal reward (in `rejection`: this "
        "share of prompts has no correct answer); null gives none.",
    )
    kl: float | None = Field(
        1.5,
        gt=0,
        description="A warning is given if the KL from the reference, or else from the stage's start, reaches this "
        "many nats per token; null gives none.",
    )
    learnt: float = Field(
        0.9,
        description="From this mean reward on, no warning is given of entropy or of groups, because both also fall "
        "when the task is learnt.",
    )
