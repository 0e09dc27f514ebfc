"""cpt's part of a vLLM worker (`--worker-extension-cls cpt.rollouts.worker.PolicyWorker`): takes weights, says what it has.

vLLM adds the class to its own worker, so `self` has `model_runner`. Answers are JSON, for they also travel over HTTP.

Three things vLLM leaves to us. On the CPU each linear layer holds a packed copy of its weights; vLLM's reload packs them
again, but not a head that is tied to the embedding (its logprobs are then off by 0.1 to 0.9, silently): `cpt_finish` does.
No part of vLLM can say which weights it has: `cpt_fingerprints` does. And on the CPU it cannot give the log-probabilities of
a prompt under an adapter: `logits_of_all_rows` can.
"""

import logging
import os
import uuid
from collections.abc import Iterable
from pathlib import Path

from vllm.config import set_current_vllm_config
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

from cpt.rollouts.fingerprints import SHAPE, digest, is_norm, stride

# At every reload vLLM warns of the layers that have no weights of their own (a tied head, the rotary embedding).
logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
if "gloo" not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine("gloo", "cpt.rollouts.gloo", "GlooWeightTransferEngine")
IMPORTED = uuid.uuid4().hex
LOGITS_OF_SAMPLED_ROWS = PunicaWrapperCPU.add_lora_logits


def logits_of_all_rows(self, y, x, *weights, **options) -> None:
    """As vLLM's own, which knows the adapters of sampled rows alone; a prompt has more rows, all of the policy's adapter."""
    rows, sampled = x.view(-1, x.shape[-1]).size(0), self.sampler_indices
    if sampled.numel() in (0, rows):
        LOGITS_OF_SAMPLED_ROWS(self, y, x, *weights, **options)
        return
    kept = self._sampler_indices, self.indices_len[1]
    self._sampler_indices, self.indices_len[1] = sampled[:1].repeat(rows), rows
    try:
        LOGITS_OF_SAMPLED_ROWS(self, y, x, *weights, **options)
    finally:
        self._sampler_indices, self.indices_len[1] = kept


PunicaWrapperCPU.add_lora_logits = logits_of_all_rows


class PolicyWorker:
    """What `collective_rpc` can ask of each worker."""

    cpt_updates = 0  # how often the weights were taken since the engine started

    @property
    def cpt_worker(self) -> str:
        """This process: a server that was restarted has others, which count from 0."""
        return f"{IMPORTED}-{os.getpid()}"

    def cpt_load(self, weights: Iterable) -> None:
        """Take (name, whole tensor) pairs under their names in the checkpoint; in this process only."""
        self.model_runner.reload_weights(weights_iterator=weights)
        self.cpt_finish()

    def cpt_load_directory(self, folder: str) -> None:
        """Take the safetensors files of a folder."""
        from safetensors import safe_open

        files = sorted(Path(folder).glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(
                f"{folder} has no *.safetensors on this machine: is the folder shared with the run?"
            )

        def tensors():
            for file in files:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 (no dict)
                        yield name, opened.get_tensor(name)

        self.cpt_load(tensors())

    def cpt_finish(self) -> None:
        """The weights are here, by whatever way: pack a tied head again, and count."""
        model = self.model_runner.get_model()
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
        self.cpt_updates += 1

    def cpt_settle(self) -> None:
        """End an update that was cut off, so that another can begin: that one overwrites what is half-loaded."""
        model = self.model_runner.get_model()
        if self._weight_update_active or any(each.is_meta for each in model.parameters()):
            with set_current_vllm_config(self.vllm_config):
                finalize_layerwise_reload(model, self.model_config)
            self._weight_update_active = False

    def cpt_fingerprints(self) -> dict:
        """What this worker has: its count of updates, dtype, and digests of norms, embedding and head (of its shard)."""
        model = self.model_runner.get_model()
        norms = sorted(digest(each) for name, each in model.named_parameters() if is_norm(name, each))
        tables: dict[str, list] = {"embedding": [], "head": []}
        for module in model.modules():
            if isinstance(module, VocabParallelEmbedding):
                where = module.shard_indices
                start, end = where.org_vocab_start_index, where.org_vocab_end_index
                step = stride(module.org_vocab_size)
                first = -start % step
                kind = "head" if isinstance(module, ParallelLMHead) else "embedding"
                tables[kind].append([start, end, digest(module.weight[first : end - start : step])])
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        config = self.model_config.hf_text_config
        own = {"worker": self.cpt_worker, "shape": [getattr(config, name, None) for name in SHAPE], "dtype": dtype}
        return {**own, "updates": self.cpt_updates, "norms": norms, **tables}

    def cpt_adapter(self) -> dict:
        """The newest adapter: its number (0 for none) and the digests of all its tensors."""
        manager = self.model_runner.lora_manager
        newest = max(manager.list_adapters(), default=0)
        digests = []
        if newest:
            for layer in manager._adapter_manager.get_adapter(newest).loras.values():
                for part in (layer.lora_a, layer.lora_b):
                    digests += [
                        digest(each) for each in (part if isinstance(part, list) else [part]) if each is not None
                    ]
        dtype = str(self.model_runner.lora_config.lora_dtype).removeprefix("torch.")
        return {"worker": self.cpt_worker, "number": newest, "dtype": dtype, "digests": sorted(digests)}
