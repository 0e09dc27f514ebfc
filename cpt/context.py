"""What a stage is given: what it is (`Stage`: plain values), and what of the run it may use (`Services`)."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpt.data.stream import TaskData
    from cpt.recipe import Recipe
    from cpt.recipe import Stage as StageSpec
    from cpt.records import Rehearsal
    from cpt.rollouts import Engine
    from cpt.screen import Screen
    from cpt.stop import Stop


@dataclass(frozen=True)
class Stage:
    """One stage of one task.

    `source`, `target`, `points` (the committed points before the task, 00-base first) and `stages` (what the task's earlier
    stages left) are model folders; `source` is the last of `points` and `stages`. `seed` is the stage's own.
    """

    recipe: "Recipe"
    task: "TaskData"
    spec: "StageSpec"
    name: str  # "0-rlvr": the stage's place in its task, and its kind
    key: str  # "stream.reverse.stages.0": where the recipe says it
    source: Path
    points: tuple[Path, ...]
    stages: tuple[Path, ...]
    target: Path
    work: Path  # in-stage checkpoints and other work files; deleted when the stage is committed
    seed: int

    @property
    def base(self) -> Path:
        """The untouched model."""
        return self.points[0]

    @property
    def previous(self) -> Path:
        """The committed point before the task."""
        return self.points[-1]

    @property
    def reference(self) -> Path | None:
        """The folder that the KL of this stage is measured from; None where it has no KL."""
        folders = {"stage-start": self.source, "base": self.base, "previous-task": self.previous, "none": None}
        return folders[self.spec.reference]


@dataclass(frozen=True)
class Services:
    """What of the run a stage and the strategies may use.

    `score(completions, rows, finished)` gives a reward or None (unscorable) for each, by the verifier of the row's own task,
    and counts on this rank in `verifier_errors` how verifiers failed: {kind: times}; `read` gives the answers (None: none)
    instead, for votes. `evaluate_on_validation(folder)` gives {task: greedy accuracy} of a model on the *validation* rows of
    the tasks so far, and {seconds, rollout_tokens}; a collective. `rehearse(stage, services, memory, name, source, folder)`
    trains `source` on the rows that the strategy `name` keeps of `earlier_tasks`, to `folder`/model; a collective
    (`cpt.stages.rehearsal`). `ask_during(policy)` gives {task: {row: score}} of the present weights on a few questions of the
    tasks so far, a collective, and `log_during(line)` appends to during.jsonl; both are None where the recipe has no
    `evaluation.during`. `leaks(texts)` gives {number: what it holds} of texts that hold a question of an
    evaluation. `log(line)` appends to metrics.jsonl, and `rewind(name, step)` drops the lines after `step` of
    this task's stage `name` from both; `notes` are shown beside the stage's result.
    """

    engine: "Engine"
    score: Callable[[list[str], list[dict], list[bool]], list[float | None]]
    read: Callable[[list[str], list[dict], list[bool]], list[str | None]]
    verifier_errors: Counter[str]
    evaluate_on_validation: Callable[[Path], tuple[dict[str, float], dict[str, float]]]
    rehearse: Callable[["Stage", "Services", Any, str, Path, Path], "Rehearsal"]
    earlier_tasks: "tuple[TaskData, ...]"
    log: Callable[[dict], None]
    rewind: Callable[[str, int], None]
    screen: "Screen"
    stop: "Stop"
    notes: list[str]
    leaks: Callable[[list[str]], dict[int, str]]
    ask_during: Callable[[Any], dict[str, dict[str, float]]] | None = None
    log_during: Callable[[dict], None] | None = None
