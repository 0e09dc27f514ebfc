"""Batches of prompts that are spread over the ranks, each rank's answers given to all."""

from collections.abc import Callable, Sequence
from typing import Any

from cpt import ranks
from cpt.evaluation.suites.base import Asking
from cpt.rollouts import Completion, Sampling, Scored
from cpt.rollouts.batches import batches


def score(asking: Asking, pairs: Sequence[tuple[list[int], list[int]]], what: str) -> list[Scored]:
    """How likely each (prompt, completion) is, on every rank. The batches do not depend on the number of ranks."""
    lengths = [len(prompt) + len(completion) for prompt, completion in pairs]
    together = batches(lengths, 0, asking.engine.limits)

    def call(places: list[int], on_done: Callable[[int], None]) -> list[Scored]:
        return asking.engine.score([pairs[i][0] for i in places], [pairs[i][1] for i in places], on_done)

    return spread(asking, together, call, what)


def generate(asking: Asking, prompts: Sequence[list[int]], sampling: Sampling, what: str) -> list[Completion]:
    """The engine's answers to prompts that are all continued alike, on every rank."""
    together = batches([len(prompt) for prompt in prompts], sampling.max_tokens, asking.engine.limits)

    def call(places: list[int], on_done: Callable[[int], None]) -> list[Completion]:
        return asking.engine.generate([prompts[i] for i in places], sampling, on_done)

    return spread(asking, together, call, what)


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
