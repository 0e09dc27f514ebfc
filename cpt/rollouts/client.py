"""Talking to `vllm serve`: one or several servers, all asked alike."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from cpt.stop import current

CONNECTIONS = 64  # to one server at once
LOOKS = 0.5  # seconds between two looks whether the process was asked to stop
COUNTERS = re.compile(r"^vllm:(?:prompt|generation)_tokens_total\S* (\S+)$", re.MULTILINE)


class ServerLost(Exception):
    """A server is gone, hangs, or failed inside: start it again (where it is ours) and ask once more."""


class Helpers:
    """Threads that ask, and that nobody waits for: a server that hangs must not keep the run from going on, or ending."""

    def __init__(self, number: int):
        self.number, self.left = number, False
        self.tasks: SimpleQueue[tuple[Future, Callable, tuple] | None] = SimpleQueue()
        for _ in range(number):
            Thread(target=self._work, daemon=True).start()

    def submit(self, call: Callable, *arguments) -> Future:
        future: Future = Future()
        self.tasks.put((future, call, arguments))
        return future

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None and not self.left:
            future, call, arguments = task
            try:
                future.set_result(call(*arguments))
            except Exception as error:
                future.set_exception(error)

    def results(self, futures: Sequence[Future]) -> list[Any]:
        """What the futures gave. Raises the first of their errors, and Interrupted where a signal came meanwhile."""
        try:
            for future in futures:
                while not wait([future], timeout=LOOKS).done:
                    current().look()
            return [future.result() for future in futures]
        finally:
            self.leave()

    def leave(self) -> None:
        """Ask nothing more."""
        self.left = True
        for _ in range(self.number):
            self.tasks.put(None)


class Servers:
    """The servers at `urls`; `patience` seconds without an answer to a small question count as a hang."""

    def __init__(self, urls: Sequence[str], patience: float):
        self.urls, self.patience = [url.rstrip("/") for url in urls], patience
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy stands between us and a server of ours
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))

    def post(self, url: str, path: str, body: dict | None, timeout: float | None) -> Any:
        """The JSON answer (None for an empty one); a `timeout` of None waits for ever.

        Raises:
            ServerLost: no answer, or one that tells of a failure inside.
            RuntimeError: the server refuses the question.
        """
        try:
            answer = self.session.post(f"{url}/{path}", json=body, timeout=timeout)
        except requests.RequestException as error:
            raise ServerLost(f"{url}/{path}: {type(error).__name__}") from error
        return self._content(answer)

    def get(self, url: str, path: str) -> requests.Response:
        helpers = Helpers(1)
        return helpers.results([helpers.submit(self._get, url, path)])[0]

    def _get(self, url: str, path: str) -> requests.Response:
        try:
            answer = self.session.get(f"{url}/{path}", timeout=self.patience)
        except requests.RequestException as error:
            raise ServerLost(f"{url}/{path}: {type(error).__name__}") from error
        self._content(answer)
        return answer

    @staticmethod
    def _content(answer: requests.Response) -> Any:
        if answer.status_code >= 500:
            raise ServerLost(f"{answer.url}: {answer.status_code} {answer.text[:500]}")
        if answer.status_code >= 400:
            raise RuntimeError(f"{answer.url}: {answer.status_code} {answer.text[:500]}")
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return answer.json() if is_json else None

    def post_all(self, path: str, body: dict | None = None, patience: float | None = None) -> list[Any]:
        """The answers of all servers, asked at once; each has `patience` seconds (left out: those of any question)."""
        return self.post_each(path, [body] * len(self.urls), patience)

    def post_each(self, path: str, bodies: Sequence[dict | None], patience: float | None = None) -> list[Any]:
        helpers = Helpers(len(self.urls))
        words = self._words(path, bodies)
        return helpers.results([helpers.submit(self.post, *each, patience or self.patience) for each in words])

    def _words(self, path: str, bodies: Sequence[dict | None]) -> list[tuple]:
        return [(url, path, body) for url, body in zip(self.urls, bodies, strict=True)]

    def rpc(self, method: str, arguments: Sequence[str] = (), patience: float | None = None) -> list[Any]:
        """What every worker of every server answers to a method of `worker.PolicyWorker`."""
        answers = self.post_all("collective_rpc", {"method": method, "args": list(arguments)}, patience)
        return [each for answer in answers for each in answer["results"]]

    def world_sizes(self) -> list[int]:
        """How many workers each server has."""
        return [self.get(url, "get_world_size").json()["world_size"] for url in self.urls]

    def progress(self) -> tuple[float, ...]:
        """The tokens that all servers have read and written so far: a number that grows while they work."""
        return tuple(float(each) for url in self.urls for each in COUNTERS.findall(self.get(url, "metrics").text))
