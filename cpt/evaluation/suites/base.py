"""What evaluates a model's weights is given, whatever it asks: rows, demonstrations, or the tasks of lm-eval.

Each kind of suite is one function of it that returns answers, of this rank (`rows.ask`) or of all (`likelihood.ask`,
`Benchmark.ask`): metrics, intervals, flips and gates read answers, whatever made them.
"""

from dataclasses import dataclass
from pathlib import Path

from cpt.data.encoding import Encoding
from cpt.recipe import Recipe
from cpt.rewards import Scorers
from cpt.rollouts import Engine
from cpt.screen import Screen
from cpt.stop import Stop


@dataclass(frozen=True)
class Asking:
    """One evaluation of one folder of weights, which the engine has taken (`Engine.sync`)."""

    recipe: Recipe
    base: Path  # the untouched model of the run
    encoding: Encoding
    engine: Engine
    scorers: Scorers
    screen: Screen
    stop: Stop
    label: str  # what the screen says: "evaluating 01-reverse"
    files: Path | None = None  # the folder for what lm-eval writes
    order: int = 0  # 0 keeps the order of the questions; another number mixes it (`cpt.evaluation.noise`)
