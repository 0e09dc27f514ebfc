"""Two steps of a linear model under SnrStep, and what they log. For test_snr.py, alone or under a launcher.

Arguments: a file of rows, the file to write, rows in a micro-batch, micro-batches of one process in a step.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments

from cpt.recipe.stages import SnrStep as Options
from cpt.stages.rl.snr import SnrStep
from cpt.stages.trainer import StageTrainer


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.5]))

    def forward(self, x, y):
        return {"loss": ((x @ self.weight - y) ** 2).mean()}


class LinearTrainer(StageTrainer, Trainer):
    def gradients_are_whole(self) -> None:
        self.snr.measure()

    def _get_train_sampler(self, *_):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def main(file: str, out: str, size: str, parts: str) -> None:
    rows = [{"x": torch.tensor(row["x"]), "y": torch.tensor(row["y"])} for row in json.loads(Path(file).read_text())]
    given = {"per_device_train_batch_size": int(size), "gradient_accumulation_steps": int(parts), "max_steps": 2}
    given |= {"use_cpu": True, "report_to": "none", "save_strategy": "no", "optim": "sgd", "learning_rate": 0.1}
    given |= {"lr_scheduler_type": "constant", "max_grad_norm": 1e9, "disable_tqdm": True}
    arguments = TrainingArguments(output_dir=f"{out}.d", **given)
    trainer = LinearTrainer(model=Linear(), args=arguments, train_dataset=rows)
    trainer.snr = SnrStep(trainer, Options(min=0.0))
    trainer._metrics = {"train": defaultdict(list)}
    trainer.train()
    if trainer.accelerator.is_main_process:
        told = {"processes": trainer.accelerator.num_processes, "weight": trainer.model.weight.tolist()}
        Path(out).write_text(json.dumps(told | trainer._metrics["train"]))


if __name__ == "__main__":
    main(*sys.argv[1:])


def ratio_of(samples_KD) -> float:
    """|E g|^2 / tr Var g of the mean g of the samples, both without bias."""
    noise = samples_KD.double().var(0).sum() / len(samples_KD)
    signal = (samples_KD.double().mean(0) ** 2).sum() - noise
    return max(0.0, (signal / noise).item())
