"""The protocol of a rollout engine: token ids in, token ids out, from the policy's present weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole vocabulary.

    With a `seed` the engine draws from a generator of its own and leaves the process's random state alone (evaluation);
    without one it draws from the process's state, which the trainer saves and restores (training).
    `options` are further words of the engine's own (transformers: GenerationConfig).
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """One continuation. `token_ids` include the end-of-sequence token where the model gave one (`finished`).

    `logprobs` are the sampler's own, one a token, or None where the engine is the policy itself and needs no correction.
    """

    token_ids: list[int]
    finished: bool
    logprobs: list[float] | None = None


class Engine(Protocol):
    """What training and evaluation ask of an engine. One instance lives as long as the run."""

    rollout_tokens: int  # completion tokens generated so far on this rank

    def sync(self, model, tokenizer) -> None:
        """Take the policy's present weights. An engine that copies them proves that the copy is equal, or stops the run."""

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, on_done: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """One completion for each prompt (token ids), in their order; `on_done` hears how many are finished so far."""

    def score(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[list[float]]:
        """The log-probability (nats) of each token of each completion after its prompt."""

    def release(self) -> None:
        """Let go of the policy's weights (the stage or evaluation is over)."""

    def close(self) -> None:
        """End the engine."""
