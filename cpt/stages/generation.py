"""TRL's generation on the run's own engine: the one subclass of its VLLMGeneration, and the way past its own generation.

TRL believes that it uses vLLM (colocated), so its correction for the sampler's mismatch stays on; where the engine lives,
how weights reach it, and the proof that they did are the engine's. A LoRA policy is not merged: the engine takes the adapter.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from types import ModuleType

import torch
from torch.utils.data import Sampler
from trl.generation.vllm_generation import VLLMGeneration
from trl.models import unwrap_model_for_generation

from cpt.rollouts import Engine, Sampling


class EngineGeneration(VLLMGeneration):
    """Rollouts by `engine`, answers ended by `stops` too. `heard` is called with what each sync measured."""

    def __init__(self, *, engine: Engine, stops: tuple[int, ...], heard, **options):
        self.engine, self.stops, self.heard = engine, stops, heard
        super().__init__(**options)

    def _init_vllm(self) -> None:
        """The engine lives already, and outlives this trainer."""

    def sync_weights(self) -> None:
        adapter = hasattr(self.model, "peft_config")
        measured = self.engine.sync(self.model, self.processing_class, None if adapter else self._iter_named_params)
        self.heard(measured)

    def generate(self, prompts, images, num_generations, profiler=None):
        sampling = sampling_of(self, self.stops, self.generation_kwargs)
        completions = self.engine.generate(prompts, replace(sampling, logprobs=True))
        ids = [completion.token_ids for completion in completions]
        return prompts, ids, [[[each] for each in completion.logprobs] for completion in completions], None


def engine_answers(trainer, prompt_ids: list[list[int]], sampling: Sampling) -> list[list[int]]:
    """The answers (token ids) of `trainer.engine`, where that is the policy itself: synced to it first."""
    args = trainer.args
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
        ) as policy,
        torch.no_grad(),
        trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False),
    ):
        trainer.engine.sync(policy, trainer._tokenizer)
        completions = trainer.engine.generate(prompt_ids, sampling)
    return [completion.token_ids for completion in completions]


class OrderOfEpoch(Sampler):
    """TRL's sampler, with an order that depends on the seed and the epoch alone; the first epoch begins with the first
    `initial` rows.

    TRL draws each epoch's order after that of the epoch before, from one generator; a resumed trainer begins with the first.
    The epoch is asked for: accelerate's `set_epoch` does not reach the sampler of a resumed epoch in several processes.
    """

    def __init__(self, sampler: Sampler, seed: int, epoch: Callable[[], int], initial: int = 0):
        self.sampler, self.seed, self.epoch, self.initial = sampler, seed, epoch, initial

    def __iter__(self) -> Iterator[int]:
        if self.sampler.shuffle:
            self.sampler.generator.manual_seed(self.seed + self.epoch())
        order = iter(self.sampler)
        if not self.initial or self.epoch() > 0:
            return order
        head = list(islice(order, self.initial * self.sampler.mini_repeat_count))
        behind = sorted({*head} - {*range(self.initial)})  # those that shall not be first, and those that shall
        missing = sorted({*range(self.initial)} - {*head})
        swap = dict(zip(behind, missing, strict=True)) | dict(zip(missing, behind, strict=True))
        return (swap.get(row, row) for row in chain(head, order))

    def __len__(self) -> int:
        return len(self.sampler)


def sampling_of(config, stops: tuple[int, ...], options: dict) -> Sampling:
    """How `config` (TRL's trainer, its config, or its VLLMGeneration: they name it alike) wants prompts to be continued."""
    return Sampling(
        max_tokens=config.max_completion_length,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        min_p=config.min_p,
        repetition_penalty=config.repetition_penalty,
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


@contextmanager
def uncounted(trainer) -> Iterator[None]:
    """What a GRPOTrainer generates in this block is not trained on: TRL's token count and lengths stay as they were."""
    seen, logged = trainer.state.num_input_tokens_seen, trainer._metrics["train"]
    lengths = {name: list(logged[name]) for name in logged if name.startswith("completions/")}
    yield
    trainer.state.num_input_tokens_seen = seen
    for name in [name for name in logged if name.startswith("completions/")]:
        logged[name] = lengths.get(name, [])
