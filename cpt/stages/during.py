"""Evaluation within a stage: every some optimiser steps, of the weights as they are; training is not changed by it.

Greedy answers draw nothing, and what the process draws from is put back all the same; the engine's own count of tokens and
the stage's clock leave the evaluation out, so that the stage's costs are those of training.
"""

import time

from transformers import TrainerCallback
from trl.models import unwrap_model_for_generation

from cpt import ranks
from cpt.context import Services, Stage
from cpt.stages.checkpoints import CheckpointCallback
from cpt.stages.random_state import random_state, restore


class DuringCallback(TrainerCallback):
    """Asks `services.ask_during` at each `every`-th step, before the step's checkpoint is written.

    So a checkpoint of a step is never without the step's line; lines after the step that a run resumes from are dropped.
    """

    def __init__(self, stage: Stage, services: Services, trainer, checkpoints: CheckpointCallback):
        self.stage, self.services, self.trainer, self.checkpoints = stage, services, trainer, checkpoints
        self.every = stage.recipe.evaluation.during.every

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.every:
            return
        start, engine, stop = time.monotonic(), self.services.engine, self.services.stop
        kept, tokens, may_cut = random_state(), engine.rollout_tokens, stop.may_cut
        stop.may_cut = False  # the step is over: a signal ends the process with its checkpoint
        with unwrap_model_for_generation(
            self.trainer.model_wrapped,
            self.trainer.accelerator,
            gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
        ) as policy:
            scores = self.services.ask_during(policy)
        spent = sum(ranks.gather([engine.rollout_tokens - tokens]))
        engine.release()
        engine.rollout_tokens, stop.may_cut = tokens, may_cut
        restore(kept)
        seconds = time.monotonic() - start
        self.checkpoints.start += seconds
        if ranks.is_main():
            self.services.log_during(
                {
                    "task": self.stage.task.name,
                    "stage": self.stage.name,
                    "step": state.global_step,
                    "max_steps": state.max_steps,
                    "seconds": round(seconds, 3),
                    "rollout_tokens": spent,
                    "scores": scores,
                }
            )
