"""The callback that keeps the average while one stage trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback

from cpt.errors import UserError
from cpt.sharding import is_sharded
from cpt.strategies import tensors
from cpt.strategies.ema.average import Average, OffloadedAverage, Share, mean_share
from cpt.strategies.ema.rules import rule_class
from cpt.strategies.ema.rules.base import Rule, Step

if TYPE_CHECKING:
    from cpt.strategies.ema.strategy import Ema

AVERAGES = {"weights": Average, "cpu": OffloadedAverage}  # by where the recipe has it live


class AverageCallback(TrainerCallback):
    """Follows the weights of one stage's trainer; `owner` counts the steps and updates of the whole span."""

    def __init__(self, owner: Ema, key: str):
        self.owner, self.spec, self.key = owner, owner.spec, key
        self.rule: Rule | None = None  # None until the average begins
        self.share: Share | None = None  # of this step, where gradients decide it
        self.weights: list[torch.Tensor] = []
        self.names: list[str] = []
        self.taken: list[float] = []  # the mean share of each update since the last log
        self.reference: list[torch.Tensor] = []  # weights that follow the average
        self.is_swapped_in = False  # whether the policy has the average's weights

    # -- the average begins, and its state -----------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, model=None, **_):
        if is_sharded():
            self._refuse_sharded()
        trained = tensors.trained(model)
        self.names, self.weights = list(trained), list(trained.values())
        kept, self.owner.kept = self.owner.kept, {}
        if kept:
            self._restore(kept)
        elif self.owner.steps >= self.spec.start:
            self._begin()

    def _refuse_sharded(self) -> None:
        if rule_class(self.spec.rule).gradients is not None:
            raise UserError(
                f"{self.key}: the rule {self.spec.rule} needs whole gradients, which DeepSpeed and FSDP do not keep"
            )
        if "ema" in (self.spec.reference, self.spec.rollouts):
            raise UserError(
                f"{self.key}: a reference or rollouts of the average need whole weights, which DeepSpeed "
                "and FSDP do not keep"
            )

    def _begin(self) -> None:
        self.rule = self._rule(None)
        self.rule.begin()

    def _restore(self, kept: dict[str, torch.Tensor]) -> None:
        """Go on with the average, and the rule's memory, that `state` gave."""
        lists: dict[str, list[torch.Tensor]] = {}
        for what in {key.split("/", 1)[0] for key in kept}:
            lists[what] = [kept[f"{what}/{name}"] for name in self.names]
        self.rule = self._rule(lists.pop("average"))
        for what, each in lists.items():
            self.rule.memory[what] = [tensor.to(w.device) for tensor, w in zip(each, self.weights, strict=True)]

    def _rule(self, start: Sequence[torch.Tensor] | None) -> Rule:
        dtype = torch.float32 if self.spec.dtype == "float32" else None
        average = AVERAGES[self.spec.device](self.weights, start, dtype)
        return rule_class(self.spec.rule)(self.spec, self.weights, average)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the next update depends on, on the CPU."""
        if self.rule is None:
            return {}
        self.rule.average.wait()
        lists = {"average": self.rule.average.tensors} | self.rule.memory
        return {f"{what}/{name}": t.cpu() for what, ts in lists.items() for name, t in zip(self.names, ts, strict=True)}

    # -- a step of training --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def on_step_begin(self, args, state, control, **_):
        if self.reference:
            torch._foreach_copy_(self.reference, self.weights if self.rule is None else self.served())

    @torch.no_grad()
    def on_pre_optimizer_step(self, args, state, control, **_):
        if self.rule is None:
            return
        self.rule.average.before_step()
        if self._is_due(self.owner.steps + 1):
            self.rule.before_step()
            self._look_at_gradients("before")

    @torch.no_grad()
    def on_optimizer_step(self, args, state, control, **_):
        """The weights have taken the step; the gradients that it was taken with are still there."""
        if self.rule is not None and self._is_due(self.owner.steps + 1):
            self._look_at_gradients("after")

    def _look_at_gradients(self, moment: str) -> None:
        if self.rule.gradients == moment:
            gradients = [w.grad if w.grad is not None else torch.zeros_like(w) for w in self.weights]
            self.share = self.rule.share(self._step(self.owner.steps + 1), gradients)

    @torch.no_grad()
    def on_step_end(self, args, state, control, **_):
        self.owner.steps += 1
        if self.rule is None:
            if self.owner.steps >= self.spec.start:
                self._begin()
        elif self._is_due(self.owner.steps):
            share = self.share if self.rule.gradients else self.rule.share(self._step(self.owner.steps), None)
            self.rule.average.update(share)
            self.owner.updates += 1
            self.rule.updated(self._step(self.owner.steps))
            self.taken.append(mean_share(share))

    def _is_due(self, step: int) -> bool:
        return step > self.spec.start and step % self.spec.every == 0

    def _step(self, steps: int) -> Step:
        return Step(steps - self.spec.start, self.owner.updates)

    def on_log(self, args, state, control, logs=None, **_):
        if self.taken:
            name = f"{self.spec.kind}/share"  # of several averages the first has the plain name
            logs[f"{self.owner.name}/share" if name in logs else name] = sum(self.taken) / len(self.taken)
            self.taken.clear()

    # -- the average in use --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def served(self) -> list[torch.Tensor]:
        """What of the average is evaluated and shipped."""
        self.rule.average.wait()
        return self.rule.served(self._step(self.owner.steps))

    @contextmanager
    def swapped_in(self) -> Iterator[bool]:
        """The policy has the average's weights in this block, where it has begun; opened again inside, they stay."""
        if self.rule is None or self.is_swapped_in:
            yield self.is_swapped_in
            return
        with torch.no_grad():
            live = [weight.clone() for weight in self.weights]
            torch._foreach_copy_(self.weights, self.served())
        self.is_swapped_in = True
        try:
            yield True
        finally:
            self.is_swapped_in = False
            with torch.no_grad():
                torch._foreach_copy_(self.weights, live)
