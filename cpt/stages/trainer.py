"""The layer between cpt and TRL's trainers: the one place where every kind of stage is counted, ordered and penalised.

`StageTrainer` is laid over a trainer of TRL's that learns from given rows, `RolloutTrainer` over one that learns from
rollouts, whose answers then come from the run's engine. Both say how many tokens were trained on and whether a step is a
place that a stage can be resumed from.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from types import ModuleType

import torch
from torch.utils.data import Sampler

from cpt import ranks
from cpt.data.encoding import Encoder
from cpt.errors import UserError
from cpt.penalties import Penalty
from cpt.rollouts import Engine
from cpt.sharding import is_sharded
from cpt.stages.generation import OrderOfEpoch, engine_answers, generating_with, sampling_of

OF_A_MODEL = ("input_ids", "attention_mask", "position_ids")


class StageTrainer:
    """Over a trainer of TRL's: counts tokens as it does, and seats penalties and the make-up of batches.

    `penalties` are the strategies'; `order` changes the sampler of the training rows. TRL's SFT and DPO trainers count the
    tokens that they train on, but not in their checkpoints.
    """

    penalties: Sequence[Penalty] = ()
    order: Callable[[Sampler], Sampler] | None = None

    # -- tokens and places to resume from ----------------------------------------------------------------------------------

    def train_tokens(self) -> int:
        """Tokens that were trained on, prompts included, by all ranks since the stage began."""
        return int(self._total_train_tokens)

    def resume_tokens(self, count: int) -> None:
        """Go on counting from a checkpoint's number."""
        self._total_train_tokens = count

    def is_exact(self) -> bool:
        """Whether a checkpoint of this step holds all that the next one depends on."""
        return True

    # -- the make-up of batches --------------------------------------------------------------------------------------------

    def _get_train_sampler(self, dataset=None) -> Sampler:
        sampler = self.usual_sampler(dataset)
        return sampler if self.order is None else self.order(sampler)

    def usual_sampler(self, dataset) -> Sampler:
        """The order of the rows where no strategy changes it."""
        return super()._get_train_sampler(dataset)

    # -- penalties ---------------------------------------------------------------------------------------------------------

    def begin_penalties(self, penalties: Sequence[Penalty], key: str) -> None:
        """Seat these penalties, before the first step. Raises UserError where weights are sharded."""
        self.penalties = tuple(penalties)
        if self.penalties and is_sharded():
            raise UserError(
                f"{key}: penalties need whole weights on each process, which DeepSpeed and FSDP do not keep"
            )
        for penalty in self.penalties:
            penalty.begin(self.trained_weights())

    def trained_weights(self) -> dict[str, torch.nn.Parameter]:
        """The trained weights by their names in the policy."""
        model = self.accelerator.unwrap_model(self.model)
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not self.penalties:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        batch = model_inputs(inputs)  # TRL adds to `inputs`
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        added = self.penalty_loss(model, batch)
        if added is None:
            return loss
        divided_later = not self.model_accepts_loss_kwargs or num_items_in_batch is None  # by Trainer.training_step
        if not divided_later or self.compute_loss_func is not None:
            added = added / self.current_gradient_accumulation_steps
        return (loss[0] + added, *loss[1:]) if return_outputs else loss + added

    def penalty_loss(self, model, batch: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """The function-space penalties of one micro-batch, summed; None where there are none."""
        losses = [each for penalty in self.penalties if (each := penalty.loss(model, batch)) is not None]
        return sum(losses) if losses else None

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            self.gradients_are_whole()
            self.add_penalty_gradients()
        return loss

    def gradients_are_whole(self) -> None:
        """The last micro-batch of an optimiser step has gone back; clipping comes next."""

    @torch.no_grad()
    def add_penalty_gradients(self) -> None:
        """Add the weight-space penalties' gradients to those that an optimiser is about to clip and take."""
        if not self.penalties:
            return
        weights = self.trained_weights()
        scaler = self.accelerator.scaler  # of fp16: gradients are still scaled here
        scale = 1.0 if scaler is None else scaler.get_scale()
        for penalty in self.penalties:
            for name, gradient in penalty.gradient(weights).items():
                weight = weights[name]
                gradient = gradient.to(weight.dtype) * scale
                weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)


def model_inputs(inputs: dict) -> dict[str, torch.Tensor]:
    """What the policy takes of a trainer's micro-batch: of rows, or of prompts and completions."""
    if "input_ids" in inputs:
        return {name: inputs[name] for name in OF_A_MODEL if inputs.get(name) is not None}
    return {
        "input_ids": torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
        "attention_mask": torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
    }


class RolloutTrainer(StageTrainer):
    """Over a trainer of TRL's that generates: rollouts come from the run's engine, synced to the policy before each.

    An engine that is the policy itself (transformers) generates here; one that is a copy (vLLM) goes through TRL's own
    way to vLLM, with its correction for the sampler's mismatch. `encoder` is the task's. `generating` is the module in which
    the trainer looks up VLLMGeneration. `rollout_policy` is opened around rollouts: a strategy's, under which other weights
    than the policy's may answer.

    What counts as trained is what the loss of an optimiser step is computed on, prompts included, each time: not what was
    generated. So answers that were dropped, or asked for besides, count as rollouts alone, and rows that are trained on
    twice count twice.
    """

    generating: ModuleType
    initial_rows = 0  # how many rows, the first of the data set, the first epoch begins with
    counted = 0  # tokens trained on by this rank since the trainer began

    def __init__(self, *args, engine: Engine, encoder: Encoder, **kwargs):
        self.engine, self.encoder, self.stops = engine, encoder, encoder.stops
        self.rollout_policy = partial(nullcontext, False)
        with generating_with(engine, self.stops, self.generating, self._log_sync):
            super().__init__(*args, **kwargs)

    def _log_sync(self, measured: dict[str, float]) -> None:
        for name, value in measured.items():
            self._metrics["train"][f"rollouts/{name}"].append(value)

    def answers_of_engine(self, prompt_ids: list[list[int]]) -> list[list[int]]:
        """The answers (token ids) of an engine that is the policy itself."""
        sampling = sampling_of(self.args, self.stops, self.args.generation_kwargs or {})
        return engine_answers(self, prompt_ids, sampling)

    # -- tokens and places to resume from ----------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.count_inputs(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def count_inputs(self, inputs) -> None:
        """Count the rows of a micro-batch that its loss is computed on."""
        self.count_rows(inputs["prompt_mask"], inputs["completion_mask"])

    def count_rows(self, prompt_mask, completion_mask) -> None:
        """Those of these rows that have a token in `completion_mask`."""
        lengths = completion_mask.sum(1)
        self.counted += int(((prompt_mask.sum(1) + lengths) * (lengths > 0)).sum())

    def train_tokens(self) -> int:
        """Of all ranks, since the trainer began: a collective."""
        return sum(ranks.gather([self.counted]))

    def resume_tokens(self, count: int) -> None:
        """Nothing: a resumed stage adds what it trains on to what its checkpoint says."""

    def micro_batches_a_generation(self) -> int:
        """How many micro-batches are trained on between two generations."""
        return self.args.steps_per_generation * self.num_iterations

    def is_exact(self) -> bool:
        """Whether this is a place between two generations: rollouts and their counter are not in checkpoints.

        Looked at, not counted from the steps: the last step of an epoch may be shorter than the others.
        """
        return self._step % self.micro_batches_a_generation() == 0

    # -- the make-up of batches --------------------------------------------------------------------------------------------

    def usual_sampler(self, dataset) -> Sampler:
        sampler = super().usual_sampler(dataset)
        return OrderOfEpoch(sampler, self.args.seed, lambda: int(self.state.epoch or 0), self.initial_rows)
