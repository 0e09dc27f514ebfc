"""How weights reach a server: through a directory, or over a process group by vLLM's weight-transfer API.

| transfer | where |
|---|---|
| directory | everywhere the server sees the same files; and all adapters |
| gloo | CPUs (our backend, `gloo`) |
| ipc | policy and engine on one GPU (vLLM's) |
| nccl | policy and engine on different GPUs (vLLM's) |

ipc and nccl are untested: no machine at hand has vLLM and a GPU. They follow vLLM 0.31's weight_transfer module.
"""

import shutil
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import torch

from cpt import ranks
from cpt.disk import writing
from cpt.errors import UserError
from cpt.files import apply_umask
from cpt.recipe import ServerRollouts
from cpt.rollouts.buckets import Channel, Named, address_towards, send
from cpt.rollouts.client import DaemonPool, ServerLost, Servers

SHARD_BYTES = 2 * 2**30
LOADING = 10  # times the patience of a small question: what a server may take for all the weights


def choose(settings: ServerRollouts, adapter: bool) -> str:
    """The way for a server that this run starts. Adapters are small: they go as files, in vLLM's own form.

    vLLM's ipc gathers handles from all training processes, and here rank 0 alone sends: it is for one process.
    """
    if adapter:
        return "directory"
    if settings.transfer == "ipc" and ranks.world_size() > 1:
        raise UserError(
            f"rollouts.transfer: ipc works from one training process, and there are {ranks.world_size()}: use directory"
        )
    if settings.transfer != "auto":
        return settings.transfer
    if not torch.cuda.is_available():
        return "gloo"
    if settings.devices is not None:
        return "nccl"
    return "ipc" if ranks.world_size() == 1 else "directory"


class Directory:
    """Safetensors files in `place`, which the servers read. Only one update is on the disk at a time."""

    def __init__(self, servers: Servers, place: Path):
        self.servers, self.place = servers, place / "weights"

    def send(self, tensors: Iterable[Named]) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        with writing(self.place):
            self.place.mkdir(parents=True)
            write_shards(tensors, self.place)
        self.servers.rpc("cpt_load_directory", [str(self.place.resolve())], LOADING * self.servers.patience)
        shutil.rmtree(self.place)

    def close(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)


def write_shards(tensors: Iterable[Named], folder: Path) -> None:
    from safetensors.torch import save_file

    from cpt.rollouts.buckets import bucketed

    for number, bucket in enumerate(bucketed(tensors, SHARD_BYTES)):
        save_file({name: tensor.contiguous() for name, tensor in bucket}, folder / f"model-{number:05d}.safetensors")
    apply_umask(folder)


class Gloo:
    """Our backend: a gloo group of this process (rank 0) and all workers of all servers.

    They meet in a file of `folder`, where the server is of this run, else at an address of this machine.
    """

    def __init__(self, servers: Servers, timeout: float, folder: Path | None):
        self.servers, self.timeout, self.folder = servers, timeout, folder
        self.channel: Channel | None = None

    def send(self, tensors: Iterable[Named]) -> None:
        if self.channel is None:
            self.channel = self._meet()
        self.servers.post_all("start_weight_update")
        with listening_beside(
            self.servers.post_all, "update_weights", {"update_info": {}}, LOADING * self.timeout
        ):  # the servers listen inside this call
            send(self.channel, tensors)
        self.servers.post_all("finish_weight_update")
        self.servers.rpc("cpt_finish")

    def _meet(self) -> Channel:
        sizes, door = self.servers.world_sizes(), None
        if self.folder is not None:
            where = f"file://{self.folder / uuid.uuid4().hex}"
        else:
            door = socket.create_server((address_towards(urlparse(self.servers.urls[0]).hostname), 0))
            where = "tcp://{}:{}".format(*door.getsockname())
        world, infos = 1 + sum(sizes), []
        for number in range(len(sizes)):
            place = {"where": where, "rank_offset": 1 + sum(sizes[:number])}
            infos.append({"init_info": place | {"world_size": world, "timeout": self.timeout}})
        with listening_beside(self.servers.post_each, "init_weight_transfer_engine", infos):
            return Channel.join(where, 0, world, self.timeout, door)

    def close(self) -> None:
        self.channel = None


@contextmanager
def listening_beside(call: Callable, *arguments) -> Iterator[None]:
    """Have the servers listen while this block speaks. Raises ServerLost where the two lose each other.

    Nothing waits for the call once the block has failed: the server may never answer it.
    """
    beside = DaemonPool(1)
    listening = beside.submit(call, *arguments)
    try:
        yield
        listening.result()
    except RuntimeError as error:  # gloo's, after the group's patience
        if listening.done():
            listening.result()  # a server that refused says why
        raise ServerLost(f"weights over gloo: {error}") from error
    finally:
        beside.leave()


class VllmTransfer:
    """vLLM's own trainer-side engines, `nccl` and `ipc`. Untested."""

    def __init__(self, servers: Servers, backend: str):
        self.servers, self.backend = servers, backend
        self.engine = None
        self.source = None

    def send(self, tensors: Iterable[Named]) -> None:
        from cpt.rollouts.vllm_transfer import PolicySource, trainer_engine

        self.source = self.source or PolicySource()
        self.source.fill(tensors)
        if self.engine is None:
            address = address_towards(urlparse(self.servers.urls[0]).hostname)
            self.engine = trainer_engine(self.backend, self.servers, self.source, address, free_port())
        self.engine.send_weights()
        self.source.empty()
        self.servers.rpc("cpt_finish")

    def close(self) -> None:
        if self.engine is not None:
            self.engine.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
