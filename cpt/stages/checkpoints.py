"""In-stage checkpoints: sealed with the strategies' state and the costs so far, written where a step is exact."""

import json
import math
import resource
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback

from cpt import models, ranks
from cpt.context import Services, Stage
from cpt.disk import remove
from cpt.errors import UserError
from cpt.files import DONE, is_intact, seal, write_json
from cpt.records import StageCost
from cpt.stages.random_state import random_state, restore


def take_numbered_cpu(storage, location: str):
    """torch knows the CPU as `cpu` alone; accelerate calls it `cpu:0` where several processes share it (torch's hook)."""
    return storage if location.startswith("cpu:") else None


# transformers loads the optimiser to accelerate's device. 11: after torch's own `cpu` (10); no two may have one number.
torch.serialization.register_package(11, lambda storage: None, take_numbered_cpu)


def latest_checkpoint(stage: Stage, services: Services) -> Path | None:
    """The last checkpoint that was written whole (the same on all ranks); damaged ones are removed with a warning."""
    newest = None
    if ranks.is_main():
        folders = sorted(stage.work.glob("checkpoint-*"), key=lambda folder: -int(folder.name.split("-")[1]))
        for folder in folders:
            if newest is None and is_intact(folder):
                newest = folder
            elif newest is None:
                services.screen.warn(
                    f"{stage.task.name} {stage.name}: {folder.name} is damaged or was not finished; it is not used"
                )
                shutil.rmtree(folder)
        services.rewind(stage.name, int(newest.name.split("-")[1]) if newest else 0)
    return ranks.broadcast(newest)


def remove_unfinished(work: Path) -> None:
    """Remove the checkpoints in `work` that are not sealed."""
    for folder in work.glob("checkpoint-*"):
        if not (folder / DONE).exists():
            remove(folder)


def checkpoint_bytes(trainer: Trainer) -> int:
    """About how large this rank's checkpoint is: the trained weights, and what the optimiser keeps of them."""
    kept = [each for state in trainer.optimizer.state.values() for each in state.values() if torch.is_tensor(each)]
    return sum(each.nbytes for each in (*kept, *(p for p in trainer.model.parameters() if p.requires_grad)))


def check_finite(stage: Stage, strange: list[str]) -> None:
    """Raise UserError where tensors hold NaN or infinity: every later loss, gradient and answer would come of them."""
    if strange:
        raise UserError(
            f"{stage.key}: training diverged: {models.holds_nan(strange)}; nothing of the stage is kept: lower learning_rate "
            "or max_grad_norm in `args`"
        )


def all_errors(before: dict[str, int], mine: Counter[str]) -> dict[str, int]:
    """{kind: times} of the verifier's failures: those before and those of all ranks now (a collective)."""
    return dict(sum((Counter(each) for each in ranks.gather([dict(mine)])), Counter(before)))


class CheckpointCallback(TrainerCallback):
    """Seals each checkpoint with the strategies' state and the costs so far, and stops the trainer when asked to.

    A signal lets a step come to its end, and its checkpoint. Only where a step has just begun may its rollouts be cut: then
    the checkpoint is that of the step before, with the random state that it ended with.
    """

    def __init__(
        self, stage: Stage, services: Services, trainer: Trainer, strategies, checkpoint: Path | None, spent: dict
    ):
        self.stage, self.services, self.trainer, self.strategies = stage, services, trainer, strategies
        self.due = self.interrupted = self.begun = False
        self.last_step: tuple | None = None  # what the rollouts of the next step change, as it was when this one ended
        self.start = time.monotonic()
        self.rollouts_at_start = services.engine.rollout_tokens
        self.errors_at_start = Counter(services.verifier_errors)
        self.trained_at_start = 0
        self.before = {"seconds": 0.0, "train_tokens": 0, "rollout_tokens": 0, "verifier_errors": {}} | spent
        if checkpoint is not None:
            self.before = json.loads((checkpoint / "costs.json").read_text())
            trainer.resume_tokens(self.before["train_tokens"])
            for strategy in strategies:
                strategy.load(checkpoint / "strategies" / strategy.name)

    def costs(self) -> StageCost:
        """Seconds, tokens, peak memory and verifier errors of the stage so far, over all ranks and earlier attempts."""
        rollout_tokens = sum(ranks.gather([self.services.engine.rollout_tokens - self.rollouts_at_start]))
        return {
            "seconds": round(self.before["seconds"] + time.monotonic() - self.start, 3),
            "train_tokens": self.before["train_tokens"] + self.trainer.train_tokens() - self.trained_at_start,
            "rollout_tokens": self.before["rollout_tokens"] + rollout_tokens,
            "peak_memory_bytes": peak_memory_bytes(),
            "verifier_errors": all_errors(
                self.before["verifier_errors"], self.services.verifier_errors - self.errors_at_start
            ),
        }

    def on_train_begin(self, args, state, control, **_):
        self.trained_at_start = self.trainer.train_tokens()  # of SFT and DPO that before a resume

    def on_step_begin(self, args, state, control, **_):
        self.begun = True
        self.services.stop.patience = None

    def on_substep_end(self, args, state, control, **_):
        self.services.stop.may_cut = False

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.services.stop.may_cut = False

    def on_train_end(self, args, state, control, **_):
        self.services.stop.may_cut = True

    def on_step_end(self, args, state, control, **_):
        stop, exact = self.services.stop.requested(), self.trainer.is_exact()
        self.services.stop.may_cut = exact
        self.last_step = random_state(), self.services.engine.rollout_tokens, Counter(self.services.verifier_errors)
        self.due = self.due or control.should_save
        if state.global_step >= state.max_steps:
            control.should_save = False  # the stage saves its model itself
        elif stop and exact:
            self.interrupted = control.should_save = control.should_training_stop = True
        else:
            control.should_save = self.due and exact
            self.due = self.due and not exact
        return control

    def on_log(self, args, state, control, logs=None, **_):
        if not math.isfinite(logs.get("grad_norm", 0.0)):  # with fp16 such a step may have been left out
            check_finite(self.stage, models.not_finite(self.trainer.model.named_parameters()))

    def save_last_step(self) -> None:
        """Write the checkpoint of the last step, unless it is there: nothing but `last_step` has changed since."""
        trainer, step = self.trainer, self.trainer.state.global_step
        if self.last_step is None or ranks.on_main(is_intact, self.stage.work / f"checkpoint-{step}"):
            return
        state, self.services.engine.rollout_tokens, errors = self.last_step
        restore(state)
        self.services.verifier_errors.clear()
        self.services.verifier_errors.update(errors)
        trainer._save_checkpoint(trainer.model, trial=None)
        trainer.control = trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)

    def on_save(self, args, state, control, **_):
        costs = self.costs()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for strategy in self.strategies:
            strategy.save(folder / "strategies" / strategy.name)
        ranks.barrier()
        if ranks.is_main():
            # TRL's reference adapter is made again from `stage.source`. Were it here, transformers would load it alone on
            # resume and leave the policy's own adapter as it was at the stage's start.
            shutil.rmtree(folder / "ref", ignore_errors=True)
            write_json(folder / "costs.json", costs)
            seal(folder)
        ranks.barrier()


def peak_memory_bytes() -> int:
    """The most that this process has held: on the GPU where there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
