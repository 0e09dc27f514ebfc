"""The rows of one split of a task while they are checked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cpt.checks.lengths import NONE, Limit, Overlong
from cpt.data.encoding import Encoder
from cpt.data.rows import Row
from cpt.recipe.stages import StageSpec


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
    answer_limit: int
    trained: dict[str, tuple[StageSpec, Limit]] = field(default_factory=dict)  # {kind: a stage, most tokens of a row}
    demonstration_limit: Limit = NONE  # of hybrids
    teachers: list[tuple[str, Any]] = field(default_factory=list)  # (key, stage) of self-distillations
    roles: set[str] = field(default_factory=set)  # that the chat template is known to write
    answers_alone: bool = False  # whether of conversations the answers alone are trained on
    unreachable: dict[str, int] = field(default_factory=dict)  # {row id: tokens} of answers longer than any evaluated

    @property
    def is_scored(self) -> bool:
        """Whether answers to these rows are scored by the task's verifiers."""
        return self.name != "train" or any(stage.needs_reward for stage in self.spec.stages)

    @property
    def data(self) -> str:
        return f"{self.key}.data.{self.name}"
