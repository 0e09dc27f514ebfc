"""How far the policy has moved since the stage began: KL(start || policy) on the new task's prompts, without a second model.

The first rollouts of a stage are the start's own, so some of them, with the start's log-probabilities, are all that is left
to know of it: KL(p0 || p) = E over p0 of (p/p0 - 1 - log p/p0), never below 0 (k3). This direction is the one that forgetting
follows (RL's Razor, 2509.04259); the KL that TRL logs with beta > 0 is the other one, on the policy's rollouts.
"""

import logging
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

PROBES = 16  # rollouts kept on each rank, of as many prompts as there are
TIMES = 10  # a stage: at every step it would be 7 % of quickstart's
NAME = "kl_from_start"
log = logging.getLogger(__name__)


class KlFromStart:
    """The probes of one stage on one rank, in `file` for a stage that is resumed."""

    def __init__(self, file: Path):
        self.file = file
        self.probes: dict[str, torch.Tensor] | None = None

    def begin(self, trainer, rollouts: dict) -> None:
        """Keep some of these rollouts, where they are the first of the stage; else those kept then."""
        if self.probes is not None:
            return
        if trainer.state.global_step > 0:
            self.probes = {name: value.to(trainer.accelerator.device) for name, value in self._kept().items()}
            return
        number = len(rollouts["completion_ids"])
        chosen = torch.arange(0, number, max(1, number // PROBES))[:PROBES]
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        self.probes = {name: rollouts[name][chosen.to(rollouts[name].device)].contiguous() for name in names}
        self.probes["logps"] = self._logps(trainer).contiguous()
        save_file(self.probes, self.file)

    def _kept(self) -> dict[str, torch.Tensor]:
        """What a resumed stage kept when it began; nothing, with a line in the log, if that cannot be read."""
        try:
            return load_file(self.file) if self.file.is_file() else {}
        except (SafetensorError, OSError) as error:
            log.warning("%s is damaged: this stage logs no %s from here on (%s)", self.file, NAME, error)
            return {}

    def due(self, state) -> bool:
        """Whether the log of this step is one of those that say it: the first after each tenth of the stage, and the last."""
        every = max(1, state.max_steps // TIMES)
        before = max(0, state.global_step - state.logging_steps)
        return state.global_step // every > before // every or state.global_step >= state.max_steps

    def kl(self, trainer) -> float | None:
        """The mean over the probes' tokens, of all ranks (a collective); None where nothing was kept."""
        if not self.probes:
            return None
        mask = self.probes["completion_mask"]
        ratio = (self._logps(trainer) - self.probes["logps"]).float()
        summed = torch.stack([((ratio.exp() - 1 - ratio) * mask).sum(), mask.sum().float()])
        total, tokens = trainer.accelerator.reduce(summed, reduction="sum").tolist()
        return total / max(1.0, tokens)

    def _logps(self, trainer) -> torch.Tensor:
        """(probes, completion length): as training computes them, with the dropout off."""
        ids, mask = (
            torch.cat([self.probes[f"prompt_{what}"], self.probes[f"completion_{what}"]], dim=1)
            for what in ("ids", "mask")
        )
        was_training = trainer.model.training
        trainer.model.eval()
        try:
            with torch.no_grad():
                return trainer._get_per_token_logps_and_entropies(
                    trainer.model,
                    ids,
                    mask,
                    self.probes["completion_ids"].shape[1],
                    batch_size=trainer.args.per_device_train_batch_size,
                )[0]
        finally:
            trainer.model.train(was_training)
