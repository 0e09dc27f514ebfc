"""What all stages share: the reference, in-stage checkpoints, saving, and what a stage reports.

The order matters for exactness. The policy is loaded from `stage.source` (not handed on in memory), the trainer is built,
the last whole checkpoint is resumed, and at the end everything is let go of before the next stage begins.
"""

import gc
import json
import logging
import math
import re
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from peft import load_peft_weights, set_peft_model_state_dict
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from cpt import models, pissa, ranks
from cpt.context import Services, Stage
from cpt.disk import remove, writing
from cpt.errors import Interrupted, UserError
from cpt.files import DONE, is_intact, seal, write_json
from cpt.stages.configs import one_line
from cpt.stages.random_state import random_state, restore

log = logging.getLogger(__name__)
REFERENCE = re.compile(r"\.ref(?=\.|$)")  # in the names of the weights of TRL's copy of an adapter


def take_numbered_cpu(storage, location: str):
    """torch knows the CPU as `cpu` alone; accelerate calls it `cpu:0` where several processes share it (torch's hook)."""
    return storage if location.startswith("cpu:") else None


# transformers loads the optimiser to accelerate's device. 11: after torch's own `cpu` (10); no two may have one number.
torch.serialization.register_package(11, lambda storage: None, take_numbered_cpu)


class CountsTokens:
    """For TRL's SFT and DPO trainers, which count the tokens they train on, but not in their checkpoints."""

    def train_tokens(self) -> int:
        return int(self._total_train_tokens)

    def resume_tokens(self, count: int) -> None:
        self._total_train_tokens = count

    def is_exact(self) -> bool:
        """Whether a checkpoint of this step holds all that the next one depends on."""
        return True


def load_policy(stage: Stage, reference: Path | None = None):
    """The policy of `stage.source`, with TRL's reference pointed at the folder `reference`.

    TRL loads the reference of a model with all its weights from the path in its config, so that path is the reference.
    With an adapter it copies the adapter as loaded; `set_reference_adapter` makes that what `reference` names.
    """
    policy = models.load_policy(stage.source, stage.base, stage.recipe, trainable=True, seed=stage.seed)
    if reference is not None:
        policy.config.name_or_path = str(reference)
    return policy


def set_reference_adapter(trainer: Trainer, stage: Stage) -> None:
    """Let TRL's reference under an adapter be what `reference` names: the model with TRL's copy "ref", or without any.

    TRL makes that copy of the policy's adapter as it came, and of some kinds (IA3, VeRA) leaves weights out.
    """
    model = trainer.model
    if "ref" not in getattr(model, "peft_config", {}):
        return
    if stage.spec.reference == "stage-start":
        for name, weight in of_reference(model).items():
            weight.data.copy_(model.get_parameter(name))
    elif models.is_adapter(stage.reference):
        saved = load_peft_weights(stage.reference, "cpu")
        saved = pissa.trained(saved) if pissa.is_split(model) else saved
        missing = set_peft_model_state_dict(model, saved, adapter_name="ref")
        assert not missing.unexpected_keys, "the previous task's adapter is another than this one's"
    else:
        model.delete_adapter("ref")


def of_reference(model) -> dict[str, torch.nn.Parameter]:
    """The weights of TRL's copy of the adapter, by the names of the policy's."""
    return {REFERENCE.sub(".default", name): each for name, each in model.named_parameters() if REFERENCE.search(name)}


@contextmanager
def refusals_told(stage: Stage, what: str, begun: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """What `what` refuses in this block becomes one line for the user, until training has begun; all of it in the log."""
    try:
        yield
    except (ValueError, KeyError, TypeError, ImportError, OSError) as error:
        of_the_system = isinstance(error, OSError) and error.errno is not None  # a full disk, and the like
        if begun() or of_the_system or isinstance(error, UserError):
            raise
        log.info("%s: %s refuses", stage.key, what, exc_info=True)
        raise UserError(f"{stage.key}: {what} refuses: {one_line(error)}") from error


def build(stage: Stage, trainer_class: type[Trainer], **arguments) -> Trainer:
    """The trainer; what TRL finds wrong with rows or arguments becomes one line for the user."""
    with refusals_told(stage, trainer_class._name):
        trainer = trainer_class(**arguments)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    running = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    assert trainer.accelerator.num_processes == running, "the trainer does not use all the processes of the launcher"
    return trainer


def train(stage: Stage, services: Services, trainer: Trainer, strategies, spent: dict | None = None) -> dict:
    """Train (or go on training), save to `stage.target`, free everything; returns the stage's record.

    `spent` is what the stage cost before it trains: {seconds, rollout_tokens}.

    Raises:
        Interrupted: a signal came; the place is saved.
        UserError: TRL cannot begin with these arguments and rows, or ends before the steps it was to take.
    """
    if len(trainer.train_dataset) == 0:
        raise UserError(f"{stage.key}: {trainer._name} has no row left to train on: raise max_length in `args`")
    services.stop.check()
    checkpoint = latest_checkpoint(stage, services)
    keeper = Keeper(stage, services, trainer, strategies, checkpoint, spent or {})
    with (
        refusals_told(stage, trainer._name, lambda: keeper.begun),
        services.screen.progress(f"{stage.task.name} {stage.name}", max(1, total_steps(trainer))) as bar,
    ):
        own = [callback for strategy in strategies for callback in strategy.callbacks(stage, services)]
        for strategy in strategies:
            strategy.reference(stage, services, reference_weights(trainer))
            if (policy := strategy.rollout_policy(stage, services)) is not None:
                trainer.rollout_policy = policy
        for callback in (
            *own,
            Narrator(stage, services, keeper, bar),
            keeper,
        ):  # the keeper last: it seals what the others saved
            trainer.add_callback(callback)
        with writing(stage.work, partial(checkpoint_bytes, trainer), partial(remove_unfinished, stage.work)):
            try:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            except Interrupted:  # the rollouts of a step were cut
                keeper.save_last_step()
                raise
    if keeper.interrupted:
        raise Interrupted(services.stop.signal or 15)
    steps, wanted = trainer.state.global_step, trainer.state.max_steps
    if steps < wanted:
        raise UserError(
            f"{stage.key}: training ended after {steps} of {wanted} steps: {len(trainer.train_dataset)} rows do not fill a "
            "batch; give more rows, or lower per_device_train_batch_size"
        )
    save(stage, trainer, stage.target)
    for strategy in strategies:
        strategy.saved(stage, services, trainer.model, partial(save, stage, trainer))
    record = {"task": stage.task.name, "stage": stage.name, "kind": stage.spec.kind, "steps": steps, **keeper.costs()}
    release(services, trainer)
    return record | {"notes": list(services.notes)}


def reference_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The weights of the KL's reference, by the names of the policy's trained ones; empty where there is no reference."""
    trained = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    if getattr(trainer, "ref_model", None) is not None:
        there = dict(trainer.accelerator.unwrap_model(trainer.ref_model).named_parameters())
    elif "ref" in getattr(trainer.model, "peft_config", {}):
        there = of_reference(trainer.model)
    else:
        return {}
    return {name: there[name] for name in trained}


def total_steps(trainer: Trainer) -> int:
    """How many optimiser steps the stage will take."""
    if trainer.args.max_steps > 0:
        return trainer.args.max_steps
    return trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1]


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


def save(stage: Stage, trainer: Trainer, target: Path) -> None:
    """Gather on all ranks, write on rank 0. Raises UserError where the policy is no longer finite."""
    state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    policy = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    check_finite(stage, ranks.broadcast(models.not_finite(state_dict.items()) if ranks.is_main() else []))
    if ranks.is_main():
        shutil.rmtree(target, ignore_errors=True)
        models.save_policy(policy, state_dict, stage.source, target, stage.recipe, stage.base)
    ranks.barrier()


def release(services: Services, trainer: Trainer) -> None:
    """Let go of the model, the optimiser and accelerate's hold on them, so that nothing leaks into the next stage."""
    services.engine.release()
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    trainer.callback_handler.model = trainer.callback_handler.optimizer = trainer.callback_handler.lr_scheduler = None
    for other in ("ref_model", "teacher_model"):
        if getattr(trainer, other, None) is not None:
            setattr(trainer, other, None)
    gc.collect()


def latest_checkpoint(stage: Stage, services: Services) -> Path | None:
    """The last checkpoint that was written whole (the same on all ranks); damaged ones are removed with a warning."""
    found = None
    if ranks.is_main():
        folders = sorted(stage.work.glob("checkpoint-*"), key=lambda folder: -int(folder.name.split("-")[1]))
        for folder in folders:
            if found is None and is_intact(folder):
                found = folder
            elif found is None:
                services.screen.warn(
                    f"{stage.task.name} {stage.name}: {folder.name} is damaged or was not finished; not used"
                )
                shutil.rmtree(folder)
        services.rewind(stage.name, int(found.name.split("-")[1]) if found else 0)
    return ranks.broadcast(found)


def all_errors(before: dict[str, int], mine: Counter[str]) -> dict[str, int]:
    """{kind: times} of the verifier's failures: those before and those of all ranks now (a collective)."""
    return dict(sum((Counter(each) for each in ranks.gather([dict(mine)])), Counter(before)))


class Keeper(TrainerCallback):
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

    def costs(self) -> dict:
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
            check_finite(self.stage, self.services, models.not_finite(self.trainer.model.named_parameters()))

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
            # TRL's reference adapter is made anew from `stage.source`. Were it here, transformers would load it alone on
            # resume and leave the policy's own adapter as it was at the stage's start.
            shutil.rmtree(folder / "ref", ignore_errors=True)
            write_json(folder / "costs.json", costs)
            seal(folder)
        ranks.barrier()


class Narrator(TrainerCallback):
    """Moves the progress bar and writes what the trainer logs to metrics.jsonl."""

    SHOWN = ("reward", "loss", "kl", "rewards/accuracies", "mean_token_accuracy")

    def __init__(self, stage: Stage, services: Services, keeper: Keeper, bar):
        self.stage, self.services, self.keeper, self.bar = stage, services, keeper, bar

    def on_step_begin(self, args, state, control, **_):
        self.bar.update(state.global_step)

    def on_step_end(self, args, state, control, **_):
        self.bar.update(state.global_step)

    def on_log(self, args, state, control, logs=None, **_):
        if not ranks.is_main() or "train_runtime" in logs:
            return
        numbers = {name: value if math.isfinite(value) else None for name, value in logs.items() if is_number(value)}
        seconds = round(self.keeper.before["seconds"] + time.monotonic() - self.keeper.start, 3)
        place = {"task": self.stage.task.name, "stage": self.stage.name, "step": state.global_step}
        self.services.log(place | {"max_steps": state.max_steps, "seconds": seconds} | numbers)
        self.bar.update(
            state.global_step, **{name: numbers[name] for name in self.SHOWN if numbers.get(name) is not None}
        )


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def peak_memory_bytes() -> int:
    """The most that this process has held: on the GPU where there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
