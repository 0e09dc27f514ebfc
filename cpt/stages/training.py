"""How a stage trains: the trainer is built, resumed, run, and its policy saved; what the stage reports.

The order matters for exactness. The policy is loaded from `stage.source` (not handed on in memory), the trainer is built,
the last whole checkpoint is resumed, and at the end everything is let go of before the next stage begins.
"""

import gc
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from transformers import PrinterCallback, ProgressCallback, Trainer

from cpt import models, ranks
from cpt.context import Services, Stage
from cpt.disk import writing
from cpt.errors import Interrupted, UserError
from cpt.records import StageCost, StageRecord
from cpt.stages.checkpoints import (
    CheckpointCallback,
    check_finite,
    checkpoint_bytes,
    latest_checkpoint,
    remove_unfinished,
)
from cpt.stages.configs import one_line
from cpt.stages.during import DuringCallback
from cpt.stages.metrics_logger import MetricsLogger
from cpt.stages.reference import reference_weights
from cpt.stages.trainer import StageTrainer

log = logging.getLogger(__name__)


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


def train(
    stage: Stage, services: Services, trainer: Trainer, strategies, spent: StageCost | None = None
) -> StageRecord:
    """Train (or resume training), save to `stage.target`, free everything; returns the stage's record.

    `spent` is what the stage cost before it trains: {seconds, rollout_tokens}.

    Raises:
        Interrupted: a signal came; the place is saved.
        UserError: TRL cannot begin with these arguments and rows, or ends before the steps it was to take.
    """
    if len(trainer.train_dataset) == 0:
        raise UserError(f"{stage.key}: {trainer._name} has no row left to train on: raise max_length in `args`")
    services.stop.check()
    checkpoint = latest_checkpoint(stage, services)
    own = [callback for strategy in strategies for callback in strategy.callbacks(stage, services)]
    seat(stage, services, trainer, strategies)
    checkpoints = CheckpointCallback(stage, services, trainer, strategies, checkpoint, spent or {})
    with (
        refusals_told(stage, trainer._name, lambda: checkpoints.begun),
        services.screen.progress(f"{stage.task.name} {stage.name}", max(1, total_steps(trainer))) as bar,
    ):
        for strategy in strategies:
            strategy.reference(stage, services, reference_weights(trainer))
        logger = MetricsLogger(stage, services, checkpoints, bar)
        during = [] if services.ask_during is None else [DuringCallback(stage, services, trainer, checkpoints)]
        for callback in (*own, logger, *during, checkpoints):  # the last one seals what the others saved
            trainer.add_callback(callback)
        with writing(stage.work, partial(checkpoint_bytes, trainer), partial(remove_unfinished, stage.work)):
            try:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            except Interrupted:  # the rollouts of a step were cut
                checkpoints.save_last_step()
                raise
    if checkpoints.interrupted:
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
    record: StageRecord = {
        "task": stage.task.name,
        "stage": stage.name,
        "kind": stage.spec.kind,
        "steps": steps,
        **checkpoints.costs(),
    }
    release(services, trainer)
    return record | {"notes": list(services.notes)}


def seat(stage: Stage, services: Services, trainer: StageTrainer, strategies) -> None:
    """Give the trainer the strategies' penalties, order of rows, and policy of the rollouts."""
    trainer.begin_penalties(
        [penalty for strategy in strategies for penalty in strategy.penalties(stage, services)], stage.key
    )
    for strategy in strategies:
        if (order := strategy.batches(stage, services)) is not None:
            assert trainer.order is None, "two strategies make up the batches"
            trainer.order = order
        if (policy := strategy.rollout_policy(stage, services)) is not None:
            trainer.rollout_policy = policy


def total_steps(trainer: Trainer) -> int:
    """How many optimiser steps the stage will take."""
    if trainer.args.max_steps > 0:
        return trainer.args.max_steps
    return trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1]


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
