"""What lives as long as a run."""

from dataclasses import dataclass

from cpt import rollouts
from cpt.data.contamination import Search
from cpt.data.stream import Stream
from cpt.following import Following
from cpt.recipe import Recipe
from cpt.rewards import Scorers
from cpt.rundir import RunDir
from cpt.screen import Screen
from cpt.stop import Stop
from cpt.strategies import Strategy


@dataclass
class Run:
    """The things that live as long as the run."""

    recipe: Recipe
    rundir: RunDir
    stream: Stream
    strategies: list[Strategy]
    engine: rollouts.Engine | None  # started after `prepare`, where anything is left to do
    scorers: Scorers
    screen: Screen
    stop: Stop
    search: Search
    following: Following
