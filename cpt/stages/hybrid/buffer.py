"""ReLIFT's buffer (2506.07527): unsolved prompts with their demonstrations, and the SFT steps taken on them between RL steps.

As in the authors' code (relift/verl/verl/relift/trainer.py): a generation's unsolved prompts go before those that are kept
already, one that is asked again and is still unsolved stands there again, and after the RL steps of a generation at most one
SFT step is taken, on the first `buffer` of them. Its loss is the mean over all their tokens; theirs is a mean over the means
of micro-batches. With `recheck` (ours) they are asked once more first, and those that are solved by now are left out.

The buffer is the same on all ranks. It and the state of its AdamW are in every in-stage checkpoint (JSON and safetensors).
"""

import json
from pathlib import Path

import torch
from transformers import TrainerCallback

from cpt import ranks
from cpt.context import Stage
from cpt.errors import UserError
from cpt.files import write_json
from cpt.sharding import is_sharded


class UnsolvedBuffer(TrainerCallback):
    """Holds {prompt, row, demonstration_ids}, newest first. `trainer` is set once it is built."""

    def __init__(self, stage: Stage):
        self.spec, self.size = stage.spec, stage.spec.buffer
        self.trainer = None
        self.entries: list[dict] = []
        self.due_at: int | None = None  # the trainer's micro-batch at which the generation under way is trained on
        self.optimizer: torch.optim.AdamW | None = None
        if self.size % ranks.world_size():
            raise UserError(
                f"{stage.key}.buffer ({self.size}) must be a multiple of the {ranks.world_size()} processes"
            )

    def attach(self, trainer, stage: Stage) -> None:
        if is_sharded():
            raise UserError(
                f"{stage.key}: relift's own optimiser needs whole weights on each process, which DeepSpeed and FSDP "
                "do not keep"
            )
        self.trainer = trainer
        trainer.add_callback(self)

    def keep(self, inputs: list[dict]) -> None:
        """Take the unsolved rows of a generation (those of all ranks, in one order)."""
        names = ("prompt", "row", "demonstration_ids")
        self.entries = [{name: x[name] for name in names} for x in inputs] + self.entries
        self.due_at = self.trainer._step + self.trainer.args.steps_per_generation * self.trainer.num_iterations

    def on_step_end(self, args, state, control, **_):
        if self.due_at is not None and self.trainer._step >= self.due_at:
            self.due_at = None
            if len(self.entries) >= self.size:
                taught, self.entries = self.entries[: self.size], self.entries[self.size :]
                self._teach(taught)
        self.trainer._metrics["train"]["relift/buffer"].append(float(len(self.entries)))

    # -- the step ------------------------------------------------------------------------------------------------------------

    def _teach(self, entries: list[dict]) -> None:
        trainer, share = self.trainer, self.size // ranks.world_size()
        mine = entries[ranks.state().process_index * share :][:share]
        unsolved = trainer.unsolved(mine) if self.spec.recheck else [True] * len(mine)
        trainer._last_loaded_step = -1  # the weights change within this step: the engine must be given them again
        tokens = sum(len(entry["demonstration_ids"]) for entry, still in zip(mine, unsolved, strict=True) if still)
        count, still = (sum(each) for each in zip(*ranks.gather([(tokens, sum(unsolved))]), strict=True))
        metrics = trainer._metrics["train"]
        if self.spec.recheck:
            metrics["relift/still_unsolved"].append(still / self.size)
        if not count:
            return
        optimizer = self._optimizer()
        optimizer.zero_grad()
        accumulation = trainer.accelerator.gradient_accumulation_steps  # what `backward` divides by
        scale = ranks.world_size() * accumulation / count
        size, total = trainer.args.per_device_train_batch_size, 0.0
        for first in range(0, share, size):
            part = slice(first, first + size)
            loss, batch = trainer.imitation(mine[part], [float(each) for each in unsolved[part]])
            penalty = trainer.penalty_loss(trainer.model_wrapped, batch) if trainer.penalties else None
            total_loss = (
                loss * scale if penalty is None else loss * scale + penalty * (accumulation * len(mine[part]) / share)
            )
            trainer.accelerator.backward(total_loss)
            total += loss.item()
        trainer.add_penalty_gradients()
        if self.spec.sft_max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self._parameters(), self.spec.sft_max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        metrics["relift/sft_loss"].append(sum(ranks.gather([total])) / count)

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [each for each in self.trainer.model.parameters() if each.requires_grad]

    def _optimizer(self) -> torch.optim.AdamW:
        if self.optimizer is None:
            options = {"lr": self.spec.sft_learning_rate, "weight_decay": self.spec.sft_weight_decay}
            self.optimizer = torch.optim.AdamW(self._parameters(), **options)
        return self.optimizer

    # -- in-stage checkpoints ------------------------------------------------------------------------------------------------

    def on_save(self, args, state, control, **_):
        if ranks.is_main():
            from safetensors.torch import save_file

            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(folder / "unsolved.json", self.entries)
            states = self._optimizer().state_dict()["state"]
            flat = {f"{i}.{name}": value for i, each in states.items() for name, value in each.items()}
            save_file(flat, folder / "sft_optimizer.safetensors")

    def on_train_begin(self, args, state, control, **_):
        if state.global_step == 0:
            return
        from safetensors.torch import load_file

        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.entries = json.loads((folder / "unsolved.json").read_text(encoding="utf-8"))
        states: dict[int, dict] = {}
        for key, value in load_file(folder / "sft_optimizer.safetensors").items():
            number, name = key.split(".", 1)
            states.setdefault(int(number), {})[name] = value
        groups = self._optimizer().state_dict()["param_groups"]
        self._optimizer().load_state_dict({"state": states, "param_groups": groups})
