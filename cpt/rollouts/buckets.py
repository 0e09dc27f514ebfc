"""Named tensors over a gloo process group, in buckets that describe themselves.

Each bucket is a length, a JSON header of names, dtypes and shapes, and the bytes; a length of 0 ends the stream. So the
sender walks its weights once, and neither side holds more than one bucket (or one tensor, where that is larger).
"""

import json
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlparse

import torch
from torch.distributed import BroadcastOptions, FileStore, ProcessGroupGloo, Store, TCPStore

LOOPBACK = "127.0.0.1"
BUCKET_BYTES = 64 * 2**20
Named = tuple[str, torch.Tensor]


@dataclass
class Channel:
    """A group in which rank 0 speaks and the others listen."""

    group: ProcessGroupGloo
    store: Store

    @classmethod
    def join(
        cls, where: str, rank: int, world_size: int, timeout: float, door: socket.socket | None = None
    ) -> "Channel":
        """Meet the others at `where`: tcp://HOST:PORT, at which rank 0 listens (`door`), or file:///PATH on one machine.

        Nothing listens but at that address, and at the one from which it is reached. Raises RuntimeError after `timeout`
        seconds.
        """
        patience, place = timedelta(seconds=timeout), urlparse(where)
        if place.scheme == "file":
            store, own = FileStore(place.path, world_size), LOOPBACK
            store.set_timeout(patience)
        else:
            store = TCPStore(
                place.hostname,
                place.port,
                world_size,
                is_master=rank == 0,
                timeout=patience,
                wait_for_workers=False,
                master_listen_fd=door.detach() if door else None,
            )
            own = place.hostname if rank == 0 else address_towards(place.hostname)
        options = ProcessGroupGloo._Options()
        options._timeout, options._devices = patience, [ProcessGroupGloo.create_device(hostname=own)]
        return cls(ProcessGroupGloo(store, rank, world_size, options), store)

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rank 0's tensor, in everybody's."""
        options = BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        self.group.broadcast([tensor], options).wait()
        return tensor


def send(channel: Channel, tensors: Iterable[Named], limit: int = BUCKET_BYTES) -> None:
    """Speak: all tensors, then the end."""
    for bucket in bucketed(tensors, limit):
        header = json.dumps([[name, str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in bucket]).encode()
        channel.broadcast(torch.tensor([len(header)]))
        channel.broadcast(torch.frombuffer(bytearray(header), dtype=torch.uint8))
        channel.broadcast(torch.cat([as_bytes(tensor) for _, tensor in bucket]))
    channel.broadcast(torch.tensor([0]))


def received(channel: Channel) -> Iterator[list[Named]]:
    """Listen: the tensors of one bucket after the other."""
    while length := int(channel.broadcast(torch.zeros(1, dtype=torch.int64))):
        header = json.loads(bytes(channel.broadcast(torch.empty(length, dtype=torch.uint8)).tolist()))
        like = [(name, getattr(torch, dtype), torch.Size(shape)) for name, dtype, shape in header]
        sizes = [dtype.itemsize * shape.numel() for _, dtype, shape in like]
        flat = channel.broadcast(torch.empty(sum(sizes), dtype=torch.uint8))
        parts = zip(like, flat.split(sizes), strict=True)
        # A part may begin anywhere, and a view needs its dtype's alignment: hence the copy.
        yield [(name, part.clone().view(dtype).reshape(shape)) for (name, dtype, shape), part in parts]


def bucketed(tensors: Iterable[Named], limit: int) -> Iterator[list[Named]]:
    """Neighbours together, up to `limit` bytes; a larger tensor by itself."""
    bucket: list[Named] = []
    filled = 0
    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if bucket and filled + size > limit:
            yield bucket
            bucket, filled = [], 0
        bucket.append((name, tensor.detach().cpu()))
        filled += size
    if bucket:
        yield bucket


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def address_towards(host: str | None) -> str:
    """This machine's address as `host` sees it."""
    if host in (None, LOOPBACK, "localhost", "::1"):
        return LOOPBACK
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 1))  # sends nothing: it asks which of our addresses would be used
        return probe.getsockname()[0]
