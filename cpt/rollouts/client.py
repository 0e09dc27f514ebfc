"""Talking to `vllm serve`: one or several servers, all asked alike."""

import os
import re
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any

import httpx

from cpt.errors import UserError
from cpt.stop import current

CONNECTIONS = 64  # to one server at once
LOOKS = 0.5  # seconds between two looks whether the process was asked to stop
KEPT = 2.0  # seconds that an idle connection is used again; the server closes it after 5
KEY = "VLLM_API_KEY"  # the variable of the key that a server wants, of which vLLM itself reads the same
UNIX = "unix:"  # how the address of a server at a Unix socket begins
COUNTERS = re.compile(r"^vllm:(?:prompt|generation)_tokens_total\S* (\S+)$", re.MULTILINE)


class ServerLost(Exception):
    """A server is gone, hangs, or failed inside: start it again (where it is ours) and ask once more."""


class DaemonPool:
    """Threads that ask, and that nobody waits for: a server that hangs must not keep the run from continuing or ending."""

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
    """The servers at `urls`; `patience` seconds without an answer to a small question count as a hang.

    Every request carries `key`, or that of the environment (VLLM_API_KEY).
    """

    def __init__(self, urls: Sequence[str], patience: float, key: str | None = None):
        self.urls, self.patience = [url.rstrip("/") for url in urls], patience
        self.clients = {url: client_of(url, key or os.environ.get(KEY)) for url in self.urls}

    def post(self, url: str, path: str, body: dict | None, timeout: float | None) -> Any:
        """The JSON answer (None for an empty one); a `timeout` of None waits for ever.

        Raises:
            ServerLost: no answer, or one that tells of a failure inside.
            UserError: it wants another key.
            RuntimeError: it refuses the question.
        """
        answer = self._asked("POST", url, path, timeout, body)
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return answer.json() if is_json else None

    def get(self, url: str, path: str, patience: float | None = None) -> httpx.Response:
        helpers = DaemonPool(1)
        return helpers.results([helpers.submit(self._asked, "GET", url, path, patience or self.patience)])[0]

    def _asked(
        self, method: str, url: str, path: str, timeout: float | None, body: dict | None = None
    ) -> httpx.Response:
        try:
            answer = self.clients[url].request(method, f"/{path}", json=body, timeout=timeout)
        except httpx.HTTPError as error:
            raise ServerLost(f"{url}/{path}: {type(error).__name__}") from error
        if answer.status_code >= 500:
            raise ServerLost(f"{url}/{path}: {answer.status_code} {answer.text[:500]}")
        if answer.status_code == 401:
            raise UserError(f"rollouts.url: {url} expects another key than {KEY} has here: set it to the server's key")
        if answer.status_code >= 400:
            raise RuntimeError(f"{url}/{path}: {answer.status_code} {answer.text[:500]}")
        return answer

    def post_all(self, path: str, body: dict | None = None, patience: float | None = None) -> list[Any]:
        """The answers of all servers, asked at once; each has `patience` seconds (left out: those of any question)."""
        return self.post_each(path, [body] * len(self.urls), patience)

    def post_each(self, path: str, bodies: Sequence[dict | None], patience: float | None = None) -> list[Any]:
        helpers = DaemonPool(len(self.urls))
        requests = self._requests(path, bodies)
        return helpers.results([helpers.submit(self.post, *each, patience or self.patience) for each in requests])

    def _requests(self, path: str, bodies: Sequence[dict | None]) -> list[tuple]:
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


def client_of(url: str, key: str | None) -> httpx.Client:
    """Speaks to one server, at a Unix socket (unix:PATH) or http(s)://HOST:PORT, past all proxies."""
    path = url.removeprefix(UNIX) if url.startswith(UNIX) else None
    transport = httpx.HTTPTransport(
        uds=path,
        verify=ssl.create_default_context(),  # the system's certificates, or those in SSL_CERT_FILE
        limits=httpx.Limits(max_keepalive_connections=CONNECTIONS, keepalive_expiry=KEPT),
    )
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(
        base_url="http://localhost" if path else url, headers=headers, transport=transport, trust_env=False
    )
