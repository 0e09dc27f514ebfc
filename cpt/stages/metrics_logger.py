"""The progress bar of a stage, and its lines of metrics.jsonl."""

import math
import time

from transformers import TrainerCallback

from cpt import ranks
from cpt.context import Services, Stage
from cpt.stages.checkpoints import CheckpointCallback


class MetricsLogger(TrainerCallback):
    """Moves the progress bar and writes what the trainer logs to metrics.jsonl."""

    SHOWN = ("reward", "loss", "kl", "rewards/accuracies", "mean_token_accuracy")

    def __init__(self, stage: Stage, services: Services, checkpoints: CheckpointCallback, bar):
        self.stage, self.services, self.checkpoints, self.bar = stage, services, checkpoints, bar

    def on_step_begin(self, args, state, control, **_):
        self.bar.update(state.global_step)

    def on_step_end(self, args, state, control, **_):
        self.bar.update(state.global_step)

    def on_log(self, args, state, control, logs=None, **_):
        if not ranks.is_main() or "train_runtime" in logs:
            return
        numbers = {name: value if math.isfinite(value) else None for name, value in logs.items() if is_number(value)}
        seconds = round(self.checkpoints.before["seconds"] + time.monotonic() - self.checkpoints.start, 3)
        place = {"task": self.stage.task.name, "stage": self.stage.name, "step": state.global_step}
        self.services.log(place | {"max_steps": state.max_steps, "seconds": seconds} | numbers)
        self.bar.update(
            state.global_step, **{name: numbers[name] for name in self.SHOWN if numbers.get(name) is not None}
        )


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
