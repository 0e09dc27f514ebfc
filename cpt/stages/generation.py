"""TRL's generation with vLLM, on the run's own engine: the one subclass of its VLLMGeneration.

TRL believes that it uses vLLM (colocated), so its correction for the sampler's mismatch stays on; where the engine lives,
how weights reach it, and the proof that they did are the engine's. A LoRA policy is not merged: the engine takes the adapter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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
        sampling = Sampling(
            max_tokens=self.max_completion_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            stop_ids=self.stops,
            logprobs=True,
            options=self.generation_kwargs,
        )
        completions = self.engine.generate(prompts, sampling)
        ids = [completion.token_ids for completion in completions]
        return prompts, ids, [[[each] for each in completion.logprobs] for completion in completions], None


@contextmanager
def generating_with(engine: Engine, stops: tuple[int, ...], module: ModuleType, heard) -> Iterator[None]:
    """Trainers of `module` made in this block take EngineGeneration for VLLMGeneration (a name they look up there)."""
    module.VLLMGeneration = partial(EngineGeneration, engine=engine, stops=stops, heard=heard)
    try:
        yield
    finally:
        module.VLLMGeneration = VLLMGeneration
