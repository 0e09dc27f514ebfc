"""What the vLLM engines share: they hold a copy of the policy, and prove after every sync that the copy is the policy.

The proof has three parts, on every rank that has an engine. The number of updates that the engine counted is the number that
were sent. Norms, embedding and head (of large ones a thousand rows; of a LoRA policy all of the adapter) are equal bit for
bit, after the one cast to the engine's dtype. And on a few fixed prompts, continued by the engine, the policy gives the same
log-probabilities. A copy that fails any of them stops the run: rollouts from stale or wrong weights are this field's most
silent bug (trl#5312, verl#3461).
"""

import logging
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cpt import pissa
from cpt.disk import writing
from cpt.models import save_adapter, stop_ids
from cpt.recipe import Recipe
from cpt.rollouts.base import Completion, Sampling, Scored, StaleWeights, Tensors, each_sampling, groups
from cpt.rollouts.batches import Limits
from cpt.rollouts.fingerprints import WeightDigests, adapter_digests
from cpt.rollouts.proof import policy_logprobs

TOGETHER = Limits(1024)  # prompts of an evaluation in one call: vLLM makes its own batches of them
SCORING = Sampling(max_tokens=1, options={"prompt_logprobs": 0})
PROBE = Sampling(max_tokens=8, logprobs=True, options={"ignore_eos": True, "stop_token_ids": []})
ADAPTER = "policy-"  # and a number: the names of a LoRA policy's adapters
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One prompt to continue `n` times."""

    prompt: list[int]
    sampling: Sampling
    n: int
    seed: int | None  # of its own draws, for an engine that is not in this process


class CopyingEngine(ABC):
    """See `rollouts.base.Engine`. `place` is a folder for files on the way; `probes` are the fixed prompts (token ids)."""

    corrected = True
    scored_beyond = -1  # vLLM always continues a prompt
    limits = TOGETHER

    def __init__(self, recipe: Recipe, place: Path, probes: Sequence[list[int]]):
        self.recipe, self.place, self.probes = recipe, place, list(probes)
        self.rollout_tokens = 0
        self.updates = 0  # sent since the engine started
        self.adapters = 0  # likewise, of a LoRA policy
        self.before: dict[tuple[str, str], int] = {}  # (method, worker): what it had counted when they began
        self.adapter: str | None = None  # the name of the one that answers now
        self.stop_ids: list[int] = []
        self.policy: tuple | None = None  # model and tensors of the last sync: what a restarted server is given

    # -- what an engine does in its own way ------------------------------------------------------------------------------

    @abstractmethod
    def _push(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Give all weights to the engine."""

    @abstractmethod
    def _push_adapter(self, folder: Path, name: str, number: int) -> None:
        """Let the engine load the adapter of `folder`."""

    @abstractmethod
    def _ask(self, method: str) -> list[dict]:
        """The answer of every worker to a method of `worker.PolicyWorker`."""

    @abstractmethod
    def _complete(self, requests: list[Request], on_done: Callable[[int], None] | None) -> list[list[Completion]]:
        """`n` completions of each request."""

    # -- weights ---------------------------------------------------------------------------------------------------------

    def sync(self, model, tokenizer, tensors: Tensors | None = None) -> dict[str, float]:
        began = time.monotonic()
        self.stop_ids = stop_ids(model, tokenizer)
        self.policy = (model, tensors)
        differences = self._send()
        sent = time.monotonic()
        measured = self._prove(model, differences)
        return {"sync_seconds": sent - began, "proof_seconds": time.monotonic() - sent, **measured}

    def _send(self) -> Callable[[], list[str]]:
        """Send the policy's weights; what to ask afterwards for the differences that the engine's copy has."""
        model, tensors = self.policy
        if hasattr(model, "peft_config"):
            return self._send_adapter(model)
        self.adapter = None
        witness = WeightDigests(model)
        policy = tensors() if tensors else ((name, each.detach()) for name, each in model.named_parameters())
        watched = witness.watch(policy)
        if self.recipe.adapter is None:
            self._push(watched)
            self.updates += 1
        else:  # a LoRA run before its first adapter: the engine has the base, and keeps it
            for _ in watched:
                pass

        def differences() -> list[str]:
            wrong = []
            for has, before in self._counting("cpt_fingerprints"):
                if has["updates"] - before != self.updates:
                    wrong.append(f"updates ({has['updates'] - before} arrived, {self.updates} were sent)")
                wrong += witness.differences(has)
            return wrong

        return differences

    def _send_adapter(self, model) -> Callable[[], list[str]]:
        """A LoRA policy's adapter alone, as a folder under a new name (names are what the prefix cache goes by)."""
        self.adapters += 1
        name = f"{ADAPTER}{self.adapters}"
        folder = self.place / name
        with writing(folder):
            save_adapter(model, folder)
        self._push_adapter(folder, name, self.adapters)
        self.adapter = name
        shutil.rmtree(self.place / f"{ADAPTER}{self.adapters - 1}", ignore_errors=True)

        def differences() -> list[str]:
            wrong = []
            for has, before in self._counting("cpt_adapter"):
                if has["number"] - before != self.adapters:
                    wrong.append(f"adapters ({has['number'] - before} arrived, {self.adapters} were sent)")
                elif has["digests"] != adapter_digests(*pissa.saved_form(model), has["dtype"]):
                    wrong.append("the adapter")
            return wrong

        return differences

    def _counting(self, method: str) -> Iterator[tuple[dict, int]]:
        """The answer of every worker, and what it had counted before ours."""
        return ((has, self.before.get((method, has["worker"]), 0)) for has in self._ask(method))

    def _prove(self, model, differences: Callable[[], list[str]]) -> dict[str, float]:
        """Raise StaleWeights unless the engine's copy is the policy; returns the logprob differences."""
        wrong = differences()
        if wrong:
            raise StaleWeights(f"after a sync the engine's {', '.join(dict.fromkeys(wrong))} are not the policy's")
        requests = self._probing()
        completions = [each for made in self._complete(requests, None) for each in made]
        ids = [completion.token_ids for completion in completions]
        prompts = [request.prompt for request in requests]
        policys, limit = policy_logprobs(model, prompts, ids, self.dtype, self.stop_ids[0])
        engines = [each for completion in completions for each in completion.logprobs]
        off = (torch.tensor(engines) - policys).abs()
        mean, most = off.mean().item(), off.max().item()
        log.info("sync: logprobs of engine and policy differ by %.1e (at most %.1e)", mean, most)
        if not mean <= limit:  # NaN is stale too
            raise StaleWeights(
                f"after a sync the engine's log-probabilities are off by {mean:.1e} (mean of {len(off)} tokens; "
                f"limit {limit:.2g}, engine in {self.dtype}): its weights are not the policy's, or its arithmetic "
                "differs"
            )
        return {"logprob_difference": mean, "logprob_difference_max": most}

    def _probing(self) -> list[Request]:
        return [Request(prompt, PROBE, 1, None) for prompt in self.probes]

    # -- rollouts --------------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling | Sequence[Sampling],
        on_done: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        samplings = each_sampling(sampling, len(prompts))
        parts = groups(prompts, samplings)
        # The longest first, so that no long one is left to run alone at the end.
        order = sorted(range(len(parts)), key=lambda i: -self._length(prompts, samplings, parts[i]))
        seeds = self._seeds(samplings, parts)
        requests = [Request(prompts[parts[i].start], samplings[parts[i].start], len(parts[i]), seeds[i]) for i in order]
        completions: list[Completion | None] = [None] * len(prompts)
        for i, made in zip(order, self._complete(requests, on_done), strict=True):
            for place, completion in zip(parts[i], made, strict=True):
                completions[place] = completion
        self.rollout_tokens += sum(len(completion.token_ids) for completion in completions)
        return completions

    @staticmethod
    def _length(prompts, samplings, part: range) -> int:
        return len(prompts[part.start]) + samplings[part.start].max_tokens

    def _seeds(self, samplings: Sequence[Sampling], parts: Sequence[range]) -> list[int | None]:
        """A seed for each request, where the engine draws in another process."""
        return [None] * len(parts)

    def score(
        self,
        prompts: Sequence[list[int]],
        completions: Sequence[list[int]],
        on_done: Callable[[int], None] | None = None,
    ) -> list[Scored]:
        before = self.rollout_tokens
        whole = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        made = self.generate(whole, SCORING, on_done)
        self.rollout_tokens = before  # the one token that vLLM makes of each is of no use
        starts = [len(prompt) - 1 for prompt in prompts]
        return [
            Scored(each.scored.logprobs[start:], each.scored.greedy[start:])
            for each, start in zip(made, starts, strict=True)
        ]

    def release(self) -> None:
        self.policy = None

    def close(self) -> None:
        self.release()
        shutil.rmtree(self.place, ignore_errors=True)
