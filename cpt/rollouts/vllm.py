"""vLLM in the training process: one `LLM` for the whole run, its weights the policy's (2309.06180).

On the CPU and on each GPU alone every rank has an engine of its own; with `tensor_parallel_size` k, k ranks share one. On
GPUs it sleeps between rollouts, so that training has the memory. Sampling draws from this process's random state, as the
policy's own generation would: a resumed stage draws the same.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from tqdm import tqdm

from cpt import ranks
from cpt.disk import writing
from cpt.errors import Interrupted, UserError
from cpt.recipe import Recipe
from cpt.rollouts.base import Completion, Sampling, Scored, each_sampling
from cpt.rollouts.copying import CopyingEngine, Request
from cpt.rollouts.settings import engine_arguments, environment, explained
from cpt.stop import current

log = logging.getLogger(__name__)


class VllmEngine(CopyingEngine):
    """See `copying.CopyingEngine`. What vLLM prints while it starts goes to the file `logfile`."""

    def __init__(self, recipe: Recipe, base: Path, place: Path, probes: Sequence[list[int]], logfile: Path):
        super().__init__(recipe, place / f"rank-{ranks.state().process_index}", probes)
        os.environ |= environment(ranks.world_size() == 1) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        arguments = engine_arguments(recipe) | {"model": str(base)}
        self.sleep_level, self.lora = self._sleep_level(), None
        self.tensor_parallel = arguments.get("tensor_parallel_size", 1)
        if ranks.world_size() % self.tensor_parallel:
            raise UserError(
                f"rollouts.tensor_parallel_size: {self.tensor_parallel} processes would share an engine, and "
                f"{ranks.world_size()} run(s): start a multiple of it with `accelerate launch`, or leave it out"
            )
        if ranks.world_size() > 1:
            arguments["distributed_executor_backend"] = "external_launcher"
        if self.sleep_level:
            arguments["enable_sleep_mode"] = True
        began = time.monotonic()
        with explained(recipe), quietly(logfile), kept_random_state():
            from vllm import LLM

            self.llm = LLM(**arguments)
            self.asleep, self.woken = False, set()
            self._complete([Request(self.probes[0], Sampling(max_tokens=1), 1, None)], None)  # what fails, fails now
        self.dtype = str(self.llm.llm_engine.model_config.dtype).removeprefix("torch.")
        log.info("engine start: vLLM in %.1f s, %s", time.monotonic() - began, arguments)
        self.group = self._tensor_parallel_group()
        if self.group is None:  # the ranks of one engine must take each step together
            self.llm.llm_engine.step = cut_by_signal(self.llm.llm_engine.step)
        self._sleep()

    def _sleep_level(self) -> int:
        asked = self.recipe.rollouts.sleep
        if not torch.cuda.is_available():
            return 0
        return asked if asked is not None else 1 if self.recipe.adapter else 2

    # -- weights ---------------------------------------------------------------------------------------------------------

    def _push(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        self._wake("weights")
        self.llm.collective_rpc("cpt_load", args=(tensors,))
        self.llm.reset_prefix_cache()

    def _push_adapter(self, folder: Path, name: str, number: int) -> None:
        from vllm.lora.request import LoRARequest

        self._wake("weights")
        self.lora = LoRARequest(name, number, str(folder))
        self.llm.llm_engine.add_lora(self.lora)

    def _ask(self, method: str) -> list[dict]:
        return self.llm.collective_rpc(method)

    # -- rollouts --------------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling | Sequence[Sampling],
        on_done: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        samplings = each_sampling(sampling, len(prompts))
        before = self.rollout_tokens
        everyone, share = self._of_the_group(list(zip(prompts, samplings, strict=True)))
        seed = next((each.seed for _, each in everyone if each.seed is not None), None)
        if seed is None and self.group is not None:  # the ranks of an engine must draw alike
            seed = int(self._of_the_group([torch.randint(2**31, ()).item()])[0][0])
        if self.sleep_level == 2 and self.asleep:  # the weights were thrown away: give them again
            self._prove(self.policy[0], self._send())
        self._wake("weights")
        self._wake("kv_cache")
        self.llm.reset_prefix_cache()  # a prompt that is read in part takes another arithmetic than one read whole
        with kept_random_state(seed), suppress(Interrupted):  # every rank comes to the check, also one that was cut
            completions = super().generate([p for p, _ in everyone], [s for _, s in everyone], on_done)
        current().check_cut()
        self._sleep()
        self.rollout_tokens = before + sum(len(each.token_ids) for each in completions[share])
        return completions[share]

    def _complete(self, requests: list[Request], on_done: Callable[[int], None] | None) -> list[list[Completion]]:
        from vllm import TokensPrompt

        if not requests:
            return []
        self._wake("kv_cache")
        outputs = self.llm.generate(
            [TokensPrompt(prompt_token_ids=request.prompt) for request in requests],
            [self._sampling_params(request) for request in requests],
            lora_request=self.lora if self.adapter else None,
            use_tqdm=bar_that_tells(on_done) if on_done else False,
        )
        return [[completion_of(output, one) for one in output.outputs] for output in outputs]

    def _sampling_params(self, request: Request):
        from vllm import SamplingParams

        sampling = request.sampling
        return SamplingParams(
            **{
                "n": request.n,
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k or 0,
                "min_p": sampling.min_p or 0.0,
                "repetition_penalty": sampling.repetition_penalty,
                "stop_token_ids": [*self.stop_ids, *sampling.stop_ids],
                "stop": list(sampling.stop),
                "logprobs": 0 if sampling.logprobs else None,
                "detokenize": bool(sampling.stop),
                **sampling.options,
            }
        )

    # -- ranks and memory ------------------------------------------------------------------------------------------------

    def _tensor_parallel_group(self):
        """The ranks that share this engine; None where each has its own."""
        if self.tensor_parallel == 1:
            return None
        count = self.tensor_parallel
        every = [list(range(first, first + count)) for first in range(0, ranks.world_size(), count)]
        return torch.distributed.new_subgroups_by_enumeration(every)[0]

    def _of_the_group(self, mine: list) -> tuple[list, slice]:
        """The lists of all ranks of this engine as one, and where this rank's own lies in it."""
        if self.group is None:
            return mine, slice(0, len(mine))
        gathered: list = [None] * self.tensor_parallel
        torch.distributed.all_gather_object(gathered, mine, group=self.group)
        own = torch.distributed.get_rank(self.group)
        first = sum(len(each) for each in gathered[:own])
        return [each for part in gathered for each in part], slice(first, first + len(mine))

    def _wake(self, what: str) -> None:
        """Take back the memory of the weights, or of the cache. Waking what is awake does nothing."""
        if self.sleep_level and self.asleep and what not in self.woken:
            torch.cuda.empty_cache()  # vLLM takes memory past torch, which keeps what training has freed
            self.llm.wake_up(tags=[what])
            self.woken.add(what)
            self.asleep = self.woken != {"weights", "kv_cache"}

    def _sleep(self) -> None:
        if self.sleep_level and not self.asleep:
            self.llm.sleep(level=self.sleep_level)
            self.asleep, self.woken = True, set()

    def close(self) -> None:
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
        super().close()


def completion_of(output, one) -> Completion:
    """vLLM's output as ours. Its `prompt_logprobs` have None for the prompt's first token."""
    logprobs = (
        [at[token].logprob for at, token in zip(one.logprobs, one.token_ids, strict=True)] if one.logprobs else None
    )
    asked = output.prompt_logprobs
    places = [at[token] for at, token in zip(asked, output.prompt_token_ids, strict=True) if at] if asked else None
    scored = places and Scored([each.logprob for each in places], [each.rank == 1 for each in places])
    return Completion(list(one.token_ids), one.finish_reason == "stop", logprobs, scored)


def cut_by_signal(step: Callable) -> Callable:
    """The engine's `step`, before which it is looked whether the process was asked to stop."""

    def look_and_step():
        current().look()
        return step()

    return look_and_step


def bar_that_tells(on_done: Callable[[int], None]):
    """What vLLM makes its progress bar with: shows nothing, and tells how many prompts are finished."""

    class Bar(tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options | {"file": open(os.devnull, "w"), "mininterval": 1e9})  # noqa: SIM115
            self.tells = options.get("desc") == "Processed prompts"

        def update(self, n=1):
            super().update(n)
            if self.tells:
                on_done(int(self.n))

        def close(self):
            super().close()
            self.fp.close()

    return Bar


@contextmanager
def kept_random_state(seed: int | None = -1) -> Iterator[None]:
    """Leave the process's random state as it was: with a seed draw from that; with None draw from the process's own."""
    if seed is None:
        yield
        return
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices), python_and_numpy_kept():
        if seed >= 0:
            torch.manual_seed(seed)
        yield


@contextmanager
def python_and_numpy_kept() -> Iterator[None]:
    import random

    import numpy as np

    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def quietly(file: Path) -> Iterator[None]:
    """Send all that this process and its libraries print, C++ included, to the end of `file`."""
    sys.stdout.flush(), sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with writing(file), file.open("a") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # the file's disk is full
                stream.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
