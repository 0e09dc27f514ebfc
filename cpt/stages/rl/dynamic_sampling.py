"""Dynamic sampling (DAPO, 2503.14476): groups whose rewards are all alike give way to groups of other prompts.

The paper draws new batches until one is full of groups with signal. Here the new prompts number only as many as groups
without signal, for a bounded number of rounds; what has no signal after the last one stays. A group has signal where the
task's own reward differs within it: an overlong penalty alone gives none.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import torch

from cpt.stages.generation import uncounted
from cpt.stages.rl.filtering import Rollout


@dataclass(frozen=True)
class Group:
    """The completions of one prompt: its row (repeated), token ids, the sampler's logprobs or None, rewards_GF."""

    rows: list[dict]
    ids: list[list[int]]
    logprobs: list | None
    rewards_GF: torch.Tensor

    def has_signal(self) -> bool:
        """Whether the task's reward (the first) differs between two completions; NaN (unscorable) does not count."""
        scored = self.rewards_GF[:, 0][~self.rewards_GF[:, 0].isnan()]
        return bool(scored.numel() > 1 and scored.max() > scored.min())


class DynamicSampling:
    """For a RlvrStageTrainer in one process: each generation is drawn and scored here first, then trained on as chosen."""

    def __init__(self, rounds: int):
        self.rounds = rounds
        self.drawn: list[Group] | None = None  # the generation under way

    def draw(self, trainer, inputs: list[dict]) -> None:
        """Choose the groups of a generation; `inputs` is changed in place to the rows that were chosen."""
        self.drawn = self._with_signal(trainer, inputs)
        inputs[:] = chain.from_iterable(group.rows for group in self.drawn)

    def rollouts(self) -> list[Rollout]:
        """Those that were drawn, in the order of the rows."""
        return [
            Rollout(ids, None if group.logprobs is None else group.logprobs[i])
            for group in self.drawn
            for i, ids in enumerate(group.ids)
        ]

    def rewards(self) -> torch.Tensor:
        """(N, functions), likewise."""
        return torch.cat([group.rewards_GF for group in self.drawn])

    def _with_signal(self, trainer, inputs: list[dict]) -> list[Group]:
        """The groups of `inputs`, those without signal replaced as far as `rounds` and other prompts allow."""
        groups, others = self._roll_out(trainer, inputs), self._other_prompts(trainer, inputs)
        rounds = resampled = replaced = 0
        for _ in range(self.rounds):
            flat = [place for place, group in enumerate(groups) if not group.has_signal()]
            rows = list(islice(others, len(flat)))
            if not rows:
                break
            made = self._roll_out(trainer, [dict(row) for row in rows for _ in range(trainer.num_generations)])
            better = [group for group in made if group.has_signal()]
            for place, group in zip(flat, better, strict=False):
                groups[place] = group
            rounds, resampled, replaced = rounds + 1, resampled + len(made), replaced + len(better)
        for name, value in (("rounds", rounds), ("resampled", resampled), ("replaced", replaced)):
            trainer._metrics["train"][f"dynamic_sampling/{name}"].append(value)
        return groups

    def _other_prompts(self, trainer, inputs: list[dict]) -> Iterator[dict]:
        """Rows that are not in `inputs`, in an order of the seed, the step and `inputs` alone: a resume draws the same."""
        here = list(dict.fromkeys(row["row"] for row in inputs))
        seed = [trainer.args.seed, trainer.state.global_step, zlib.crc32("".join(here).encode())]
        for place in np.random.default_rng(seed).permutation(len(trainer.train_dataset)):
            row = trainer.train_dataset[int(place)]
            if row["row"] not in here:
                yield row

    def _roll_out(self, trainer, rows: list[dict]) -> list[Group]:
        """One completion for each of `rows` (neighbours of one prompt are a group), scored."""
        prompts = [row["prompt"] for row in rows]
        with uncounted(trainer):
            _, ids, _, completions, logprobs, *_ = trainer._generate(prompts)
        rewards = trainer._calculate_rewards(rows, prompts, completions, ids)
        size = trainer.num_generations
        return [
            Group(rows[i : i + size], ids[i : i + size], logprobs and logprobs[i : i + size], rewards[i : i + size])
            for i in range(0, len(rows), size)
        ]
