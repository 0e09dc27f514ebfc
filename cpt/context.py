"""What a stage is given: where it starts and ends, its seed, and the things of the run that it may use."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpt.recipe import Recipe, Stage
    from cpt.rollouts import Engine
    from cpt.screen import Screen
    from cpt.stop import Stop


@dataclass(frozen=True)
class StageContext:
    """One stage of one task. `source`, `target`, `points` (the committed points before the task, 00-base first) and `stages`
    (what the task's earlier stages left) are model folders; `source` is the last of `points` and `stages`. `seed` is the
    stage's own.

    `score(completions, rows, finished)` gives a reward or None (unscorable) for each, and counts on this rank in
    `verifier_errors` how the verifier failed: {kind: times}. `log(line)` appends to
    metrics.jsonl and `rewind(step)` drops this stage's lines after `step`; `notes` are shown beside the stage's result.
    `judge(folder)` gives {task: greedy accuracy} of a model on the *validation* rows of the tasks so far, and {seconds,
    rollout_tokens}; a collective. `rehearse(memory, name, source, folder)` trains `source` on the rows that
    the strategy `name` keeps of the tasks before, to `folder`/model; a collective (`cpt.stages.rehearsal`).
    """

    recipe: "Recipe"
    task: Any  # data.stream.TaskData
    stage: "Stage"
    name: str  # "0-rlvr": the stage's place in its task, and its kind
    key: str  # "stream.reverse.stages.0": where the recipe says it
    source: Path
    points: tuple[Path, ...]
    stages: tuple[Path, ...]
    target: Path
    work: Path  # in-stage checkpoints and other work files; deleted when the stage is committed
    seed: int
    rollouts: "Engine"
    score: Callable[[list[str], list[dict], list[bool]], list[float | None]]
    read: Callable[
        [list[str], list[dict], list[bool]], list[str | None]
    ]  # the answers that completions give, for votes
    verifier_errors: Counter[str]
    judge: Callable[[Path], tuple[dict[str, float], dict[str, float]]]
    rehearse: Callable[[Any, str, Path, Path], dict[str, Any]]
    log: Callable[[dict], None]
    rewind: Callable[[int], None]
    screen: "Screen"
    stop: "Stop"
    notes: list[str]

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
        return folders[self.stage.reference]
