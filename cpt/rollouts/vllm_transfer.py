"""vLLM's own trainer side of a weight transfer (nccl, ipc). Built after vLLM 0.31's weight_transfer module; untested."""

from collections.abc import Iterable, Iterator

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from cpt.rollouts.client import Servers

Named = tuple[str, torch.Tensor]


class PolicySource(WeightSource):
    """The policy's tensors for one update after the other: `fill` gives a fresh pass.

    NCCL's receivers must know names and shapes before the first byte, so the tensors of a pass are listed first. They are
    the live parameters, not copies.
    """

    def __init__(self):
        self.tensors: list[Named] = []

    def fill(self, tensors: Iterable[Named]) -> None:
        self.tensors = list(tensors)

    def empty(self) -> None:
        self.tensors = []

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors]

    def __iter__(self) -> Iterator[Named]:
        return iter(self.tensors)


class Client:
    """vLLM's VLLMWeightSyncClient for several servers: each takes its own ranks of the group."""

    def __init__(self, servers: Servers):
        self.servers = servers

    def init_weight_transfer_engine(self, init_info: dict) -> None:
        sizes = self.servers.world_sizes()
        infos = []
        for number in range(len(sizes)):
            moved = {"rank_offset": 1 + sum(sizes[:number])} if "rank_offset" in init_info else {}
            infos.append({"init_info": init_info | moved})
        self.servers.post_each("init_weight_transfer_engine", infos)

    def start_weight_update(self) -> None:
        self.servers.post_all("start_weight_update")

    def update_weights(self, update_info) -> None:
        from vllm.distributed.weight_transfer.clients import _json_safe_update_payload

        self.servers.post_all("update_weights", {"update_info": _json_safe_update_payload(update_info)})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.servers.post_all("finish_weight_update")


def trainer_engine(backend: str, servers: Servers, source: PolicySource, address: str, port: int):
    """The engine that sends `source` to all servers."""
    if backend == "nccl":
        world = 1 + sum(servers.world_sizes())
        info = NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=world, rank=0)
    else:
        info = IPCTrainerInitInfo(rank=0, packed=True)
    return WeightTransferTrainerFactory.trainer_init(info, client=Client(servers), source=source)
