"""The protocol of a rollout engine: token ids in, token ids out, from the policy's present weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cpt.rollouts.batches import Limits


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole vocabulary.

    With a `seed` the engine draws from a generator of its own and leaves the process's random state alone (evaluation);
    without one it draws from the process's state, which the trainer saves and restores (training). `stop_ids` end an
    answer besides the model's own end of sequence, and so does the text of any of `stop`, after the token that completes it.
    `logprobs` asks for those of the answer's tokens. `options` are further words of the engine's own (transformers:
    GenerationConfig; vLLM: SamplingParams).
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """One continuation. `token_ids` include the end-of-sequence token where the model gave one (`finished`).

    `logprobs` are the sampler's own, one a token, where they were asked for; None where the engine is the policy itself and
    needs no correction. `scored` is of the prompt's tokens from the second on, for `Engine.score`.
    """

    token_ids: list[int]
    finished: bool
    logprobs: list[float] | None = None
    scored: "Scored | None" = None


@dataclass(frozen=True)
class Scored:
    """How likely given tokens are after what stands before them.

    Attributes:
        logprobs: the log-probability (nats) of each token.
        greedy: whether each token is the likeliest one in its place.
    """

    logprobs: list[float]
    greedy: list[bool]


class StaleWeights(RuntimeError):
    """An engine's copy of the policy is not the policy. The run must stop: what it samples would be another model's."""


Tensors = Callable[[], Iterator[tuple[str, Any]]]  # a fresh pass over (name, whole tensor), one at a time


class Engine(Protocol):
    """What training and evaluation ask of an engine. One instance lives as long as the run.

    Every rank calls the same methods in the same order, each with its own prompts.
    """

    limits: Limits  # of the prompts that an evaluation gives to one call
    rollout_tokens: int  # completion tokens generated so far for this rank
    scored_beyond: int  # tokens that a prompt and a scored completion may have beyond the model's context
    corrected: bool  # whether its logprobs are a sampler's own, so that training must correct for the mismatch

    def sync(self, model, tokenizer, tensors: Tensors | None = None) -> dict[str, float]:
        """Take the policy's present weights. An engine that copies them proves that the copy is equal, or stops the run.

        `tensors` gives the weights where the model alone cannot (sharded training); its parameters where left out.
        Returns what is worth logging: seconds, and the differences that the proof found.
        """

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling | Sequence[Sampling],
        on_done: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """One completion for each prompt (token ids), in their order.

        `sampling` is one for all or one for each. Neighbours that are equal in both are a group: their prefix is computed
        once. `on_done` hears how many prompts are finished so far. With a seed, or greedy, the answers depend on the weights
        and on the prompts of this call alone; a server's also on how its requests meet.
        """

    def score(
        self,
        prompts: Sequence[list[int]],
        completions: Sequence[list[int]],
        on_done: Callable[[int], None] | None = None,
    ) -> list[Scored]:
        """How likely each token of each completion is after its prompt, which has at least one token.

        `on_done` hears how many completions are scored so far.
        """

    def release(self) -> None:
        """Let go of the policy's weights (the stage or evaluation is over)."""

    def close(self) -> None:
        """End the engine."""


def each_sampling(sampling: Sampling | Sequence[Sampling], number: int) -> list[Sampling]:
    """One Sampling for each of `number` prompts."""
    return [sampling] * number if isinstance(sampling, Sampling) else list(sampling)


def groups(prompts: Sequence[list[int]], samplings: Sequence[Sampling]) -> list[range]:
    """Runs of neighbours with equal prompts and equal sampling: what vLLM is asked for once, with `n`."""
    runs: list[range] = []
    for i, prompt in enumerate(prompts):
        first = runs[-1].start if runs else 0
        same = runs and samplings[i] == samplings[first] and prompt == prompts[first]
        if same and samplings[i].temperature > 0:
            runs[-1] = range(first, i + 1)
        else:
            runs.append(range(i, i + 1))
    return runs
