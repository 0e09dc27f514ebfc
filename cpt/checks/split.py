"""The rows of one split of a task while they are checked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cpt.checks.lengths import NONE, Limit, Overlong
from cpt.data.encoding import Encoder
from cpt.data.rows import Row, called
from cpt.recipe.stages import Sft, StageSpec


@dataclass
class Split:
    """The rows of one split of a task while they are checked. `key` is the task's, `trained` what stages train on."""

    key: str
    name: str
    spec: Any
    encoder: Encoder
    rows: Sequence[Row]
    long: Overlong
    prompt_limit: Limit
    answer_limit: float
    trained: dict[str, tuple[StageSpec | type[StageSpec], Limit]] = field(
        default_factory=dict
    )  # {kind: a stage, most tokens of a row}
    demonstration_limit: Limit = NONE  # of hybrids
    teachers: list[tuple[str, Any]] = field(default_factory=list)  # (key, stage) of self-distillations
    roles: set[str] = field(default_factory=set)  # that the chat template is known to write
    answers_alone: bool = False  # whether of conversations the answers alone are trained on
    unreachable: dict[str, int] = field(default_factory=dict)  # {row id: tokens} of answers longer than any evaluated

    @property
    def is_scored(self) -> bool:
        """Whether answers to these rows are scored by the task's verifiers."""
        if self.name != "train":
            return not self.spec.by_likelihood
        return any(stage.needs_reward for stage in self.spec.stages)

    def measures(self, limit: Limit) -> None:
        """Look at the demonstrations of rows whose likelihood is measured, and at no answers. `limit` is of a row."""
        self.prompt_limit, self.answer_limit = NONE, math.inf
        self.trained["likelihood"] = Sft, limit

    def asked_rows(self) -> Sequence[Row]:
        """The rows that have a prompt; raw texts, which have none, are looked at here (a split has either)."""
        if not len(self.rows) or self.rows[0].get("raw_text") is None:
            return self.rows
        _, limit = self.trained.get("likelihood", (Sft, NONE))
        for place, row in enumerate(self.rows):
            tokens = len(self.encoder.raw_text(row["raw_text"]))
            self.long.look(place, called(row), "a text of {} tokens", tokens, limit)
        return []

    @property
    def data(self) -> str:
        return f"{self.key}.data.{self.name}"
