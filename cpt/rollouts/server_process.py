"""A `vllm serve` of our own: started, watched, started again, and ended with the run (see `supervisor`).

Whoever reaches it can have it do anything, as this user (VLLM_SERVER_DEV_MODE, which the weights need). So it listens at a
Unix socket in a folder that only this user can enter; where the recipe wants a port, every request must carry a key that is
drawn for this run.
"""

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from cpt.disk import writing
from cpt.errors import EngineFailed, UserError
from cpt.processes import python
from cpt.recipe import Recipe
from cpt.recipe.vllm_arguments import LONGEST_SOCKET
from cpt.rollouts.client import KEY, UNIX, client_of
from cpt.rollouts.settings import engine_arguments, environment, explanation
from cpt.stop import current

BASE_NAME = "base"  # under which the server knows the weights that are not an adapter's
LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
SOCKET = "server"  # its name in the server's folder
LONGEST_NAME = len("/cpt-12345678/") + 36  # bytes of what stands there, of vLLM's own sockets
log = logging.getLogger(__name__)


class ServerProcess:
    """The server's process. `logfile` takes all that it prints; `transfer` is how it will be given weights."""

    def __init__(self, recipe: Recipe, base: Path, logfile: Path, transfer: str):
        self.recipe, self.base, self.logfile, self.transfer = recipe, base, logfile, transfer
        self.process: subprocess.Popen | None = None
        self.group = 0
        self.folder: Path | None = None  # of this start
        self.key = secrets.token_urlsafe(32) if recipe.rollouts.port else None
        logfile.parent.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        port = self.recipe.rollouts.port
        return f"http://127.0.0.1:{port}" if port else f"{UNIX}{self.folder / SOCKET}"

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            UserError: the port is taken, or vLLM refuses to start for a reason that we know.
            EngineFailed: it ended or did not come up in time; with the last lines of its log.
        """
        self._check_port()
        self.folder = private_folder()
        written = self.logfile.stat().st_size if self.logfile.exists() else 0
        began = time.monotonic()
        with writing(self.logfile), self.logfile.open("ab"):
            pass
        self.process = subprocess.Popen(
            python("cpt.rollouts.supervisor", str(self.logfile), str(self.folder), *self._command()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment(),
            start_new_session=True,
        )
        self.group = int(self.process.stdout.readline())
        with client_of(self.url, self.key) as client:
            while not answers(client):
                if self.process.poll() is not None:
                    self._explain(written, "ended while it started")
                if time.monotonic() - began > self.recipe.rollouts.start_timeout:
                    self.stop()
                    self._explain(
                        written, f"did not answer within {self.recipe.rollouts.start_timeout:g} s (start_timeout)"
                    )
                if current().cuts():
                    self.stop()
                    current().look()
                time.sleep(0.2)
        log.info("engine start: vllm serve on %s in %.1f s, log %s", self.url, time.monotonic() - began, self.logfile)

    def stop(self) -> None:
        """End the server; returns when it and all its processes are gone."""
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()
            self.process = None
            with contextlib.suppress(ProcessLookupError):  # nothing is left, unless the supervisor itself was killed
                os.killpg(self.group, signal.SIGKILL)
            shutil.rmtree(self.folder, ignore_errors=True)

    def tail(self, lines: int = 12) -> str:
        """The last lines of the server's log."""
        if not self.logfile.exists():
            return ""
        return "\n".join(self.logfile.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    # -- how it is started -----------------------------------------------------------------------------------------------

    def _check_port(self) -> None:
        port = self.recipe.rollouts.port
        if port is None:
            return
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise UserError(
                    f"rollouts.port: {port} is taken by another process; choose another, or leave it out (it then needs none)"
                ) from error

    def _command(self) -> list[str]:
        import torch

        arguments = engine_arguments(self.recipe)
        if not torch.cuda.is_available():  # vLLM cannot resume a seeded request of which it has read a part on the CPU
            arguments.setdefault("enable_chunked_prefill", False)
        if self.transfer != "directory":
            arguments["weight_transfer_config"] = {"backend": self.transfer}
        command = ["serve", str(self.base), *flags(arguments), "--served-model-name", BASE_NAME]
        if port := self.recipe.rollouts.port:
            command += ["--host", "127.0.0.1", "--port", str(port), "--middleware", "cpt.rollouts.guard.Guard"]
        else:
            command += ["--uds", str(self.folder / SOCKET)]
        return python("vllm.entrypoints.cli.main", *command)

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
        ours = environment(one_machine=True) | {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
        ours.pop("VLLM_CONFIGURE_LOGGING")  # it has a log of its own
        ours["VLLM_RPC_BASE_PATH"] = str(self.folder)
        if self.key:
            ours[KEY] = self.key
        if self.recipe.rollouts.devices is not None:
            ours["CUDA_VISIBLE_DEVICES"] = self.recipe.rollouts.devices
        if self.transfer == "ipc":
            ours["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # vLLM sends CUDA handles as pickles, to its own loopback
        return inherited | ours

    def _explain(self, written: int, what: str) -> None:
        with self.logfile.open("rb") as stream:
            stream.seek(written)
            known = explanation(stream.read().decode(errors="replace"), self.recipe)
        if known:
            raise UserError(f"{known} (log: {self.logfile})")
        raise EngineFailed(f"vllm serve {what}; the end of its log ({self.logfile}):\n{self.tail()}")


def private_folder() -> Path:
    """A new folder that only this user can enter, short enough for the Unix sockets in it."""
    for place in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")):
        if len(os.fsencode(place)) + LONGEST_NAME <= LONGEST_SOCKET:
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="cpt-", dir=place))
    raise UserError(
        f"no folder for temporary files can be written whose path has at most {LONGEST_SOCKET - LONGEST_NAME} bytes, "
        "which the server's sockets need: set TMPDIR to one"
    )


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def flags(arguments: dict[str, Any]) -> list[str]:
    """Engine arguments as words of `vllm serve`."""
    command = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, dict):
            command += [f"--{flag}", json.dumps(value)]
        elif isinstance(value, list):
            command += [f"--{flag}", *map(str, value)]
        elif value is not None:
            command += [f"--{flag}", str(value)]
    return command
