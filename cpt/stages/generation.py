"""TRL's generation with vLLM, on the run's own engine: the one subclass of its VLLMGeneration.

TRL believes that it uses vLLM (colocated), so its correction for the sampler's mismatch stays on; where the engine lives,
how weights reach it, and the proof that they did are the engine's. A LoRA policy is not merged: the engine takes the adapter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import ModuleType

from trl.generation.vllm_generation import VLLMGeneration

from cpt.rollouts import Engine, Sampling


class EngineGeneration(VLLMGeneration):
    """Rollouts by `engine`, answers ended by `stops` too. `heard` is told what each sync found."""

    def __init__(self, *, engine: Engine, stops: tuple[int, ...], heard, **options):
        self.engine, self.stops, self.heard = engine, stops, heard
        super().__init__(**options)

    def _init_vllm(self) -> None:
        """The engine lives already, and outlives this trainer."""

    def sync_weights(self) -> None:
        adapter = hasattr(self.model, "peft_config")
        found = self.engine.sync(self.model, self.processing_class, None if adapter else self._iter_named_params)
        self.heard(found)

    def generate(self, prompts, images, num_generations, profiler=None):
        sampling = sampling_of(self, self.stops, self.generation_kwargs)
        completions = self.engine.generate(prompts, replace(sampling, logprobs=True))
        ids = [completion.token_ids for completion in completions]
        return prompts, ids, [[[each] for each in completion.logprobs] for completion in completions], None


def sampling_of(said, stops: tuple[int, ...], options: dict) -> Sampling:
    """How `said` (TRL's trainer, or its VLLMGeneration: they name it alike) wants prompts to be continued."""
    return Sampling(
        max_tokens=said.max_completion_length,
        temperature=said.temperature,
        top_p=said.top_p,
        top_k=said.top_k,
        min_p=said.min_p,
        repetition_penalty=said.repetition_penalty,
        stop_ids=stops,
        options=options,
    )


@contextmanager
def generating_with(engine: Engine, stops: tuple[int, ...], module: ModuleType, heard) -> Iterator[None]:
    """Trainers of `module` made in this block take EngineGeneration for VLLMGeneration (a name they look up there)."""
    module.VLLMGeneration = partial(EngineGeneration, engine=engine, stops=stops, heard=heard)
    try:
        yield
    finally:
        module.VLLMGeneration = VLLMGeneration
