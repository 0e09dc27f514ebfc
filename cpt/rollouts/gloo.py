"""Weights over a gloo process group: vLLM's weight-transfer API for machines without NCCL.

vLLM ships the backends nccl and ipc, both for GPUs. This one has the same life (init, start, update, finish) and is
registered beside them; what travels is in `buckets`.
"""

from dataclasses import dataclass

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from cpt.rollouts.buckets import Channel, received


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """Where all meet (see `Channel.join`), and this server's place in the group."""

    where: str
    rank_offset: int
    world_size: int
    timeout: float


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """Nothing: the buckets describe themselves."""


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """The receiving side, in a vLLM worker."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        parallel = self.parallel_config
        own = parallel.data_parallel_index * parallel.world_size + parallel.rank
        self.channel = Channel.join(
            init_info.where,
            init_info.rank_offset + own,
            init_info.world_size,
            init_info.timeout,
        )

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict) -> None:
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        for bucket in received(self.channel):
            self.model.load_weights([(name, tensor.to(self.device)) for name, tensor in bucket])

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        self.channel = None
