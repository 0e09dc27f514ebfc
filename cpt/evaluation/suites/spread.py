"""Batches of prompts that are spread over the ranks, each rank's answers given to all."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from cpt import ranks
from cpt.evaluation.suites.base import Asking
from cpt.rollouts import Completion, Sampling, Scored
from cpt.rollouts.batches import batches


def score(asking: Asking, pairs: Sequence[tuple[list[int], list[int]]], what: str) -> list[Scored]:
    """How likely each (prompt, completion) is, on every rank. The batches do not depend on the number of ranks."""
    together = together_of(asking, [len(prompt) + len(completion) for prompt, completion in pairs], 0)

    def call(places: list[int], on_done: Callable[[int], None]) -> list[Scored]:
        return asking.engine.score([pairs[i][0] for i in places], [pairs[i][1] for i in places], on_done)

    return spread(asking, together, call, what)


def generate(asking: Asking, prompts: Sequence[list[int]], sampling: Sampling, what: str) -> list[Completion]:
    """The engine's answers to prompts that are all continued alike, on every rank."""
    together = together_of(asking, list(map(len, prompts)), sampling.max_tokens)

    def call(places: list[int], on_done: Callable[[int], None]) -> list[Completion]:
        return asking.engine.generate([prompts[i] for i in places], sampling, on_done)

    return spread(asking, together, call, what)


def together_of(asking: Asking, lengths: list[int], answer: int) -> list[list[int]]:
    """The places of each batch, of prompts in their order, or mixed (`Asking.order`)."""
    places = list(range(len(lengths)))
    if asking.order:
        random.Random(asking.order).shuffle(places)
    made = batches([lengths[place] for place in places], answer, asking.engine.limits)
    return [[places[i] for i in batch] for batch in made]


def spread(
    asking: Asking, together: list[list[int]], call: Callable[[list[int], Callable[[int], None]], list], what: str
) -> list[Any]:
    """What `call` makes of the places of each batch, in the order of the places. Each rank takes every how-manieth batch."""
    world, mine = ranks.world_size(), together[ranks.state().process_index :: ranks.world_size()]
    mine = mine + [[]] * (-(-len(together) // world) - len(mine))  # an engine's calls may be collectives
    made: list[tuple[int, Any]] = []
    with asking.screen.progress(f"{asking.label}: {what}", sum(map(len, mine)), "answer") as bar:
        for places in mine:

            def on_done(count: int, before: int = len(made)) -> None:
                bar.update(before + count)
                if world == 1:  # several look after each batch
                    asking.stop.check()

            made += zip(places, call(places, on_done), strict=True)
            asking.stop.check()
    return [value for _, value in sorted(ranks.gather(made), key=lambda each: each[0])]
