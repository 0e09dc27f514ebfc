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

from cpt.stages.counting import uncounted


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


class Resampling:
    """For a GRPOTrainer in one process: each generation is drawn and judged here first, then trained on as chosen.

    `inputs` of `_generate_and_score_completions` is changed in place, so that whoever overrides it sees the chosen rows.
    """

    def __init__(self, *args, rounds: int, **kwargs):
        self.rounds, self._chosen = rounds, None
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        groups = self._with_signal(inputs)
        inputs[:] = chain.from_iterable(group.rows for group in groups)
        self._chosen = groups
        output = super()._generate_and_score_completions(inputs)
        self._chosen = None
        return output

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        if self._chosen is None:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        logprobs = [group.logprobs for group in self._chosen]
        ids = [each for group in self._chosen for each in group.ids]
        return ids, None if logprobs[0] is None else list(chain.from_iterable(logprobs))

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        if self._chosen is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return torch.cat([group.rewards_GF for group in self._chosen])

    def _with_signal(self, inputs: list[dict]) -> list[Group]:
        """The groups of `inputs`, those without signal replaced as far as `rounds` and other prompts allow."""
        groups, others = self._roll_out(inputs), self._other_prompts(inputs)
        rounds = resampled = replaced = 0
        for _ in range(self.rounds):
            flat = [place for place, group in enumerate(groups) if not group.has_signal()]
            rows = list(islice(others, len(flat)))
            if not rows:
                break
            made = self._roll_out([dict(row) for row in rows for _ in range(self.num_generations)])
            better = [group for group in made if group.has_signal()]
            for place, group in zip(flat, better, strict=False):
                groups[place] = group
            rounds, resampled, replaced = rounds + 1, resampled + len(made), replaced + len(better)
        for name, value in (("rounds", rounds), ("resampled", resampled), ("replaced", replaced)):
            self._metrics["train"][f"dynamic_sampling/{name}"].append(value)
        return groups

    def _other_prompts(self, inputs: list[dict]) -> Iterator[dict]:
        """Rows that are not in `inputs`, in an order of the seed, the step and `inputs` alone: a resume draws the same."""
        here = list(dict.fromkeys(row["row"] for row in inputs))
        seed = [self.args.seed, self.state.global_step, zlib.crc32("".join(here).encode())]
        for place in np.random.default_rng(seed).permutation(len(self.train_dataset)):
            row = self.train_dataset[int(place)]
            if row["row"] not in here:
                yield row

    def _roll_out(self, rows: list[dict]) -> list[Group]:
        """One completion for each of `rows` (neighbours of one prompt are a group), judged."""
        prompts = [row["prompt"] for row in rows]
        with uncounted(self):
            _, ids, _, completions, logprobs, *_ = self._generate(prompts)
        rewards = self._calculate_rewards(rows, prompts, completions, ids)
        size = self.num_generations
        return [
            Group(rows[i : i + size], ids[i : i + size], logprobs and logprobs[i : i + size], rewards[i : i + size])
            for i in range(0, len(rows), size)
        ]
