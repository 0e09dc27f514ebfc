"""Rollouts by `vllm serve`: running servers at their URLs, or one that the run starts, watches and ends.

Rank 0 asks for all ranks, and pushes the weights. A server that dies or hangs is started again (one that is not ours is
waited for), given the policy once more, with the proof, and asked again; three times in ten minutes end the run.
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import torch

from cpt import ranks
from cpt.errors import EngineFailed, UserError
from cpt.models import load_config
from cpt.recipe import Recipe
from cpt.rollouts.base import Completion, Sampling, Scored, Tensors, each_sampling
from cpt.rollouts.client import CONNECTIONS, LOOKS, DaemonPool, ServerLost, Servers
from cpt.rollouts.copying import ADAPTER, CopyingEngine, Request
from cpt.rollouts.fingerprints import SHAPE
from cpt.rollouts.server_process import ServerProcess
from cpt.rollouts.transfer import Directory, Gloo, VllmTransfer, choose
from cpt.stop import current

FAILURES, WITHIN = 3, 600.0  # so many in so many seconds end the run
AT_ONCE = 1.0  # seconds within which failures are one: a lost server fails what the others were doing with it, too
TOGETHER = 64  # prompts in one request, where all are continued alike
SETTLING = 3  # times the patience of a small question: a worker may still wait, as long, for weights that never come
LOOKING = (
    10  # times that patience: what a server may take to look at its machine, of which its answer to INFO also tells
)
INFO, UNLOAD = "server_info?config_format=json", "v1/unload_lora_adapter"
log = logging.getLogger(__name__)


class ServerEngine(CopyingEngine):
    """See `copying.CopyingEngine`. All but rank 0 only hand over their prompts."""

    def __init__(self, recipe: Recipe, base: Path, place: Path, probes: Sequence[list[int]], logfile: Path):
        settings = recipe.rollouts
        super().__init__(recipe, settings.directory or place, probes)
        self.serving: ServerProcess | None = None
        self.failures: deque[float] = deque()
        self.guarded = False  # inside `_with_recovery`: what is lost here is begun again by it, weights and all
        self.base = base
        ranks.on_main(self._open, place)

    def _open(self, place: Path) -> None:
        """Start or find the servers (rank 0)."""
        settings = self.recipe.rollouts
        adapter = self.recipe.adapter is not None
        self.transfer_name = choose(settings, adapter)
        if settings.url is None:
            self.serving = ServerProcess(self.recipe, self.base, place.parent / "server.log", self.transfer_name)
            self.serving.start()
            urls = [self.serving.url]
        else:
            urls = [settings.url] if isinstance(settings.url, str) else list(settings.url)
        self._connect(urls)

    def _connect(self, urls: list[str]) -> None:
        """Look at the servers, and count from what they have counted."""
        settings = self.recipe.rollouts
        self.servers = Servers(urls, settings.patience, self.serving.key if self.serving else None)
        try:
            shapes = self._count()
            looked = [self.servers.get(url, INFO, LOOKING * settings.patience) for url in urls]
            configs = [each.json()["vllm_config"] for each in looked]
        except UserError:
            raise
        except (RuntimeError, ServerLost, LookupError, TypeError, ValueError) as error:
            if self.guarded and isinstance(error, ServerLost):
                raise  # lost once more while it was coming back
            known = isinstance(error, RuntimeError | ServerLost)
            reason = error if known else f"the server at {', '.join(urls)} is not vLLM"
            adapter = "--enable-lora --max-lora-rank R " if self.recipe.adapter is not None else ""
            raise UserError(
                f"rollouts.url: {reason}; start the server as `VLLM_SERVER_DEV_MODE=1 vllm serve MODEL "
                f"{adapter}--logprobs-mode processed_logprobs --worker-extension-cls cpt.rollouts.worker.PolicyWorker` "
                "(docs/rollouts.md)"
            ) from error
        ours = load_config(self.base, self.recipe).get_text_config()
        for theirs in shapes if self.serving is None else ():
            if theirs != [getattr(ours, name, None) for name in SHAPE]:
                differences = ", ".join(
                    f"{name} {has}, not {getattr(ours, name, None)}" for name, has in zip(SHAPE, theirs, strict=True)
                )
                raise UserError(
                    f"rollouts.url: a server has another model than the recipe ({differences}): start it with the recipe's "
                    "model"
                )
        if any(config["model_config"]["logprobs_mode"] != "processed_logprobs" for config in configs):
            raise UserError("rollouts.url: start the server with --logprobs-mode processed_logprobs")
        [backend, *others] = {(config.get("weight_transfer_config") or {}).get("backend") for config in configs}
        if others:
            raise UserError("rollouts.url: start all servers with the same --weight-transfer-config")
        if self.serving is None and settings.transfer == "auto":
            ways = ("gloo", "nccl", "ipc") if ranks.world_size() == 1 else ("gloo", "nccl")
            self.transfer_name = backend if backend in ways and not self.recipe.adapter else "directory"
        elif self.transfer_name not in ("directory", backend):
            raise UserError(
                f'rollouts.transfer: the server was started without --weight-transfer-config \'{{"backend": '
                f'"{self.transfer_name}"}}\''
            )
        self.transfer = self._make_transfer()

    def _count(self) -> list[list[int]]:
        """Begin from what every worker has counted: servers may be of different age. Returns the shapes of their models."""
        workers = self.servers.rpc("cpt_fingerprints")
        shapes = [each["shape"] for each in workers]
        self.dtype = next((each["dtype"] for each in workers if each["dtype"] != "float32"), "float32")
        self.before = {("cpt_fingerprints", each["worker"]): each["updates"] for each in workers}
        self.updates, self.adapters, self.adapter = 0, 0, None
        if self.recipe.adapter is not None:
            workers = self.servers.rpc("cpt_adapter")
            self.adapters = max(each["number"] for each in workers)
            self.before |= {("cpt_adapter", each["worker"]): each["number"] - self.adapters for each in workers}
            for url in self.servers.urls:  # those of a run before, whose names would be ours
                for each in self.servers.get(url, "v1/models").json()["data"]:
                    if each["id"].startswith(ADAPTER):
                        self.servers.post(url, UNLOAD, {"lora_name": each["id"]}, self.servers.patience)
        self.servers.post_all("reset_prefix_cache")
        return shapes

    def _make_transfer(self) -> Directory | Gloo | VllmTransfer:
        if self.transfer_name == "directory":
            return Directory(self.servers, self.place)
        if self.transfer_name == "gloo":
            return Gloo(self.servers, self.recipe.rollouts.patience, self.serving.folder if self.serving else None)
        return VllmTransfer(self.servers, self.transfer_name)

    # -- weights ---------------------------------------------------------------------------------------------------------

    def sync(self, model, tokenizer, tensors: Tensors | None = None) -> dict[str, float]:
        if not ranks.is_main() and tensors is not None:
            for _ in tensors():  # take part in the gathering of sharded weights
                pass
        return ranks.on_main(self._sync, model, tokenizer, tensors)

    def _sync(self, model, tokenizer, tensors: Tensors | None) -> dict[str, float]:
        return self._with_recovery(super().sync, model, tokenizer, tensors, resend=False)

    def _push(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        self.transfer.send(tensors)
        self.servers.post_all("reset_prefix_cache")

    def _push_adapter(self, folder: Path, name: str, number: int) -> None:
        self.servers.post_all("v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())})
        if self.adapter is not None:
            with contextlib.suppress(RuntimeError):  # one that was restarted does not know it: the proof will tell
                self.servers.post_all(UNLOAD, {"lora_name": self.adapter})

    def _ask(self, method: str) -> list[dict]:
        answers = self.servers.rpc(method)
        if {(method, each["worker"]) for each in answers} - {*self.before}:
            raise ServerLost("a server was restarted unnoticed")
        return answers

    def _probing(self) -> list[Request]:
        """Every probe for every server."""
        return super()._probing() * len(self.servers.urls)

    # -- rollouts --------------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling | Sequence[Sampling],
        on_done: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        mine = list(zip(prompts, each_sampling(sampling, len(prompts)), strict=True))
        parts = ranks.gather([mine])
        before = self.rollout_tokens
        requests = [each for part in parts for each in part]
        made = ranks.on_main(super().generate, [p for p, _ in requests], [s for _, s in requests], on_done)
        current().check_cut()
        first = sum(len(part) for part in parts[: ranks.state().process_index])
        own = made[first : first + len(mine)]
        self.rollout_tokens = before + sum(len(completion.token_ids) for completion in own)
        return own

    def _seeds(self, samplings: Sequence[Sampling], parts: Sequence[range]) -> list[int | None]:
        """Each request draws for itself: from the sampling's seed, or from one that is drawn here (and so resumes)."""
        drawn = int(torch.randint(2**31, ())) if any(s.temperature > 0 and s.seed is None for s in samplings) else 0
        seeds: list[int | None] = []
        for part in parts:
            sampling = samplings[part.start]
            base = drawn if sampling.seed is None else sampling.seed
            seeds.append((base + part.start) % 2**31 if sampling.temperature > 0 else None)
        return seeds

    def _complete(self, requests: list[Request], on_done: Callable[[int], None] | None) -> list[list[Completion]]:
        if self.guarded:  # the probes of a proof: a server lost here has lost the weights that they are to prove
            return self._complete_once(requests, on_done)
        return self._with_recovery(self._complete_once, requests, on_done)

    def _complete_once(self, requests: list[Request], on_done) -> list[list[Completion]]:
        together = batches(requests, min(TOGETHER, -(-len(requests) // len(self.servers.urls))))
        made: list[list[Completion] | None] = [None] * len(requests)
        helpers = DaemonPool(min(len(together), CONNECTIONS * len(self.servers.urls)))
        try:
            asked = {}
            for number, places in enumerate(together):
                url = self.servers.urls[number % len(self.servers.urls)]
                body = self._body([requests[i] for i in places])
                asked[helpers.submit(self.servers.post, url, "v1/completions", body, None)] = places
            done = 0
            for answered in self._as_they_come(list(asked)):
                places = asked[answered]
                for place, completions in zip(
                    places, completions_of(answered.result(), requests[places[0]].n), strict=True
                ):
                    made[place] = completions
                done += len(places)
                if on_done:
                    on_done(done)
        finally:
            helpers.leave()
        return made

    def _as_they_come(self, asked: list[Future]) -> Iterator[Future]:
        """The answers in the order of their coming. Raises ServerLost where the servers make no progress for too long."""
        waiting, patience = set(asked), self.recipe.rollouts.patience
        seen, since = None, time.monotonic()
        looked = since
        while waiting:
            ready, waiting = wait(waiting, timeout=LOOKS, return_when="FIRST_COMPLETED")
            current().look()
            yield from ready
            moment = time.monotonic()
            if ready:
                since = looked = moment
            elif moment - looked < min(patience / 4, 5.0):
                continue
            elif (now := self.servers.progress()) != seen:
                seen, since, looked = now, moment, moment
            elif moment - since > patience:
                raise ServerLost(f"no token for {patience:g} s (rollouts.patience)")
            else:
                looked = moment

    def _body(self, alike: list[Request]) -> dict[str, Any]:
        sampling = alike[0].sampling
        return {
            "model": self.adapter,  # None: the model that the server was started with
            "prompt": [request.prompt for request in alike],
            "n": alike[0].n,
            "seed": alike[0].seed,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or 0,
            "min_p": sampling.min_p or 0.0,
            "repetition_penalty": sampling.repetition_penalty,
            "stop_token_ids": [*self.stop_ids, *sampling.stop_ids],
            "stop": list(sampling.stop),
            "logprobs": 0 if sampling.logprobs else None,
            "return_token_ids": True,
            **sampling.options,
        }

    # -- failures --------------------------------------------------------------------------------------------------------

    def _with_recovery(self, what: Callable, *arguments, resend: bool = True):
        """What `what` returns; a lost server is started again, given the policy (`resend`), and asked again."""
        self.guarded, lost = True, None
        try:
            while True:
                try:
                    if lost is not None:
                        self._recover(lost, resend)
                    return what(*arguments)
                except ServerLost as error:
                    lost = error
        finally:
            self.guarded = False

    def _recover(self, error: ServerLost, resend: bool) -> None:
        now = time.monotonic()
        if self.failures and now - self.failures[-1] < AT_ONCE:
            time.sleep(0.5)
        else:
            self.failures.append(now)
        while now - self.failures[0] > WITHIN:
            self.failures.popleft()
        log.warning("server lost (%d): %s", len(self.failures), error)
        if len(self.failures) >= FAILURES:
            tail = f"; the end of its log ({self.serving.logfile}):\n{self.serving.tail()}" if self.serving else ""
            raise EngineFailed(
                f"the server failed {FAILURES} times within {WITHIN / 60:g} minutes: {error}{tail}"
            ) from error
        urls = self.servers.urls
        self.transfer.close()
        if self.serving is not None:
            self.serving.stop()
            self.serving.start()
            urls = [self.serving.url]
        else:
            self._await(urls)
            self.servers.post_all("abort_requests", {})  # what it was asked before is nobody's any more
            self.servers.rpc("cpt_settle", patience=SETTLING * self.servers.patience)
        self._connect(urls)
        if resend and self.policy is not None:
            self._prove(self.policy[0], self._send())

    def _await(self, urls: list[str]) -> None:
        """Wait for servers that are not ours to answer again."""
        deadline = time.monotonic() + self.recipe.rollouts.start_timeout
        for url in urls:
            while True:
                try:
                    self.servers.get(url, "health")
                    break
                except ServerLost as error:
                    if time.monotonic() > deadline:
                        raise EngineFailed(f"rollouts.url: {url} does not come back: {error}") from error
                    current().look()
                    time.sleep(1.0)

    def close(self) -> None:
        if ranks.is_main():
            if self.serving is not None:
                self.serving.stop()
            super().close()


def batches(requests: list[Request], most: int) -> list[list[int]]:
    """Which requests go together: up to `most` without a seed that are continued alike; one with a seed goes by itself."""
    batches: list[list[int]] = []
    for i, request in enumerate(requests):
        last = batches[-1] if batches else None
        first = requests[last[0]] if last else None
        alike = first is not None and request.seed is None and first.seed is None and request.n == first.n
        if alike and len(last) < most and request.sampling == first.sampling:
            last.append(i)
        else:
            batches.append([i])
    return batches


def completions_of(answer: dict, n: int) -> list[list[Completion]]:
    """The choices of an answer, `n` for each prompt."""
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    made = [completion_of(choice) for choice in choices]
    return [made[first : first + n] for first in range(0, len(made), n)]


def completion_of(choice: dict) -> Completion:
    logprobs = choice["logprobs"]["token_logprobs"] if choice.get("logprobs") else None
    asked = choice.get("prompt_logprobs")
    ids = choice.get("prompt_token_ids")
    places = [at[str(token)] for at, token in zip(asked, ids, strict=True) if at] if asked else None
    scored = places and Scored([each["logprob"] for each in places], [each["rank"] == 1 for each in places])
    return Completion(choice["token_ids"], choice["finish_reason"] == "stop", logprobs, scored)
