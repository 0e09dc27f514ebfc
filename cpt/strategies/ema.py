"""Averages of the weights: `ema` (Polyak; BEMA, 2508.00180; LCIA, 2410.10868; PSMT, 2407.02253), and `mcl` (2211.03186).

The average is of the trained weights alone (an adapter's, where one is trained). What is served is evaluated and shipped;
what goes on to the next task is another question (`feed_back`). The rules are in `strategies.averages`.

The reference of a KL is the weights that its stage starts from: with `feed_back` those are the average as it was then.
With `reference: ema` it moves on with the average (WARP, 2406.16768; TRL's sync_ref_model is that for one rule, full
weights and one process). With `rollouts: ema` the average answers, and is the old policy of the importance ratio.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from cpt.errors import UserError
from cpt.recipe import Recipe
from cpt.recipe.strategies import GRADIENT_RULES, LCIA_RULES
from cpt.sharding import is_sharded
from cpt.strategies import averages, tensors
from cpt.strategies.average import Average, OffloadedAverage, groups_of
from cpt.strategies.base import Strategy


class Ema(Strategy):
    """Keeps the average over stages: `steps` and `updates` count from the beginning of the span."""

    def __init__(self, recipe: Recipe, spec: Any, name: str):
        super().__init__(recipe, spec, name)
        self.rule = getattr(spec, "rule", "constant")
        self.task, self.steps, self.updates = "", 0, 0
        self.follower: Follower | None = None
        self.kept: dict[str, torch.Tensor] = {}  # as loaded; empty where the average has not begun

    def before_stage(self, stage, services, rows):
        if self.spec.span == "task" and self.task != stage.task.name:
            self.steps, self.updates, self.kept = 0, 0, {}
        self.task = stage.task.name
        return rows

    def callbacks(self, stage, services) -> list:
        self._let_go()  # of the round before, where a stage trains in rounds
        self.follower = Follower(self, stage.key)
        return [self.follower]

    def reference(self, stage, services, weights: Mapping[str, torch.Tensor]) -> None:
        if self.spec.reference == "ema":
            self.follower.reference = list(weights.values())

    def rollout_policy(self, stage, services) -> Callable[[], AbstractContextManager[bool]] | None:
        return self.follower.standing_in if self.spec.rollouts == "ema" else None

    def saved(self, stage, services, model, save: Callable[[Path], None]) -> None:
        """The average as a model, beside the stage's own."""
        if self.follower.average is not None:
            served, weights = self.follower.as_served(), self.follower.weights
            with tensors.put_back(weights), torch.no_grad():
                torch._foreach_copy_(weights, served)
                save(self.folder(stage, services))

    def after_stage(self, stage, services, rows) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self.follower is not None:
            self.kept, self.follower = self.follower.state(), None

    def folder(self, stage, services) -> Path:
        return stage.target.parent / self.name

    def after_task(self, stage, services, model: Path) -> Path | None:
        return self.folder(stage, services) if self.spec.feed_back and self.has_begun(stage, services) else None

    def served(self, stage, services) -> Path | None:
        return self.folder(stage, services) if self.spec.serve == "ema" and self.has_begun(stage, services) else None

    def has_begun(self, stage, services) -> bool:
        """Whether the stage left an average: not before `start`, nor where a stage of rejection trained on nothing."""
        return any(self.folder(stage, services).glob("*.safetensors"))

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"task": self.task, "steps": self.steps, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.task, self.steps, self.updates = state["task"], state["steps"], state["updates"]

    def save(self, folder: Path) -> None:
        super().save(folder)
        tensors.write(folder, self.follower.state() if self.follower is not None else self.kept)

    def load(self, folder: Path) -> None:
        super().load(folder)
        self.kept = tensors.read(folder)


class Follower(TrainerCallback):
    """Follows the weights of one stage's trainer."""

    def __init__(self, owner: Ema, key: str):
        self.owner, self.spec, self.key = owner, owner.spec, key
        self.average: Average | None = None
        self.weights: list[torch.Tensor] = []
        self.names: list[str] = []
        self.extra: dict[
            str, list[torch.Tensor]
        ] = {}  # what the rule needs besides: first, moved, gradients, weights, fisher
        self.steps: list[torch.Tensor] = []  # lcia-paper: by how much the weights had moved when the gradient was taken
        self.means: list[torch.Tensor] = []  # of each tensor's shares in an update, where each element has its own
        self.taken: list[float] = []  # of each update since the last log
        self.reference: list[torch.Tensor] = []  # weights that follow the average
        self.standing = False  # whether the policy has the average's weights

    def on_train_begin(self, args, state, control, model=None, **_):
        if self.owner.rule in GRADIENT_RULES and is_sharded():
            raise UserError(
                f"{self.key}: the rule {self.owner.rule} needs whole gradients: not under DeepSpeed or FSDP"
            )
        if "ema" in (self.spec.reference, self.spec.rollouts) and is_sharded():
            raise UserError(f"{self.key}: reference or rollouts of the average: not under DeepSpeed or FSDP")
        trained = tensors.trained(model)
        self.names, self.weights = list(trained), list(trained.values())
        kept = self.owner.kept
        if kept:
            self._begin(self._of("average", kept))
            for what in {key.split("/", 1)[0] for key in kept} - {"average"}:
                self.extra[what] = [
                    tensor.to(w.device) for tensor, w in zip(self._of(what, kept), self.weights, strict=True)
                ]
        elif self.owner.steps >= self.spec.start:
            self._begin(None)
        self.owner.kept = {}

    def _of(self, what: str, kept: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return [kept[f"{what}/{name}"] for name in self.names]

    def _begin(self, start: list[torch.Tensor] | None) -> None:
        dtype = torch.float32 if self.spec.dtype == "float32" else None
        kind = OffloadedAverage if self.spec.device == "cpu" else Average
        self.average = kind(self.weights, start, dtype)
        if self.owner.rule == "bema" and start is None:
            self.extra["first"] = [weight.detach().to(dtype or weight.dtype, copy=True) for weight in self.weights]

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the next update depends on, on the CPU."""
        if self.average is None:
            return {}
        self.average.wait()
        lists = {"average": self.average.tensors} | self.extra
        return {f"{what}/{name}": t.cpu() for what, ts in lists.items() for name, t in zip(self.names, ts, strict=True)}

    # -- following ---------------------------------------------------------------------------------------------------

    def on_pre_optimizer_step(self, args, state, control, **_):
        if self.average is None:
            return
        self.average.before_step()
        if not self._is_due(self.owner.steps + 1):
            return
        if self.owner.rule == "psmt":
            self._add_to_fisher(self._gradients())
        elif self.owner.rule == "balanced":
            self.shares = self._of_gradients(self._gradients())
        elif self.owner.rule == "lcia-paper":
            self._remember_weights()

    def on_optimizer_step(self, args, state, control, **_):
        """The weights have taken the step; the gradients that it was taken with are still there."""
        if self.average is not None and self.owner.rule in LCIA_RULES and self._is_due(self.owner.steps + 1):
            self.shares = self._of_gradients(self._gradients())

    def _gradients(self) -> list[torch.Tensor]:
        return [w.grad if w.grad is not None else torch.zeros_like(w) for w in self.weights]

    @torch.no_grad()
    def _add_to_fisher(self, gradients: list[torch.Tensor]) -> None:
        """The mean of their squares over all updates, in float32."""
        if "fisher" not in self.extra:
            self.extra["fisher"] = [torch.zeros_like(g, dtype=torch.float32) for g in gradients]
        for group in groups_of(gradients):
            squares = [g.float().square() for g in gradients[group]]
            torch._foreach_lerp_(self.extra["fisher"][group], squares, 1 / (self.owner.updates + 1))

    def _of_fisher(self, group: slice) -> list[torch.Tensor]:
        """The shares of each element, of the tensors in the slice."""
        shares = averages.psmt(self.extra["fisher"][group], self.spec.protected, self.spec.decay)
        self.means += [share.mean() for share in shares]
        return [share.to(t.dtype) for share, t in zip(shares, self.average.tensors[group], strict=True)]

    @torch.no_grad()
    def _of_gradients(self, gradients: list[torch.Tensor]) -> list[float]:
        """One share for each tensor, from the gradients of this step and the weights as they are."""
        gradients = [g.to(t.dtype) for g, t in zip(gradients, self.average.tensors, strict=True)]
        decay, found = self.spec.decay, []
        before = self.extra.get("gradients")
        for group in groups_of(self.average.tensors):
            g = gradients[group]
            live = [
                w.detach().to(t.dtype) for w, t in zip(self.weights[group], self.average.tensors[group], strict=True)
            ]
            drifts = torch._foreach_sub(live, self.average.tensors[group])
            if self.owner.rule == "balanced":
                found.append(averages.balanced(g, drifts, decay))
            elif before is None:
                found.append(torch.full((len(g),), 1 - decay, device=g[0].device))
            elif self.owner.rule == "lcia-code":
                found.append(averages.lcia_code(g, torch._foreach_sub(g, before[group]), drifts, decay))
            else:
                changes, steps = torch._foreach_sub(g, before[group]), self.steps[group]
                found.append(averages.lcia_paper(g, changes, drifts, steps, decay))
        if self.owner.rule != "balanced":
            self._remember("gradients", gradients)
        self.steps = []
        return torch.cat([each.float() for each in found]).tolist()

    @torch.no_grad()
    def _remember_weights(self) -> None:
        """The weights that this step's gradient was taken at, and how far they are from those of the last one."""
        before = self.extra.get("weights")
        live = [w.detach().to(t.dtype) for w, t in zip(self.weights, self.average.tensors, strict=True)]
        self.steps = [] if before is None else list(torch._foreach_sub(live, before))
        self._remember("weights", live)

    def _remember(self, what: str, tensors: list[torch.Tensor]) -> None:
        if what not in self.extra:
            self.extra[what] = [torch.empty_like(t) for t in self.average.tensors]
        torch._foreach_copy_(self.extra[what], [tensor.detach() for tensor in tensors])

    @torch.no_grad()
    def on_step_begin(self, args, state, control, **_):
        if self.reference:
            torch._foreach_copy_(self.reference, self.as_served() if self.average is not None else self.weights)

    @contextmanager
    def standing_in(self) -> Iterator[bool]:
        """The average's weights take the place of the policy's, where it has begun; opened again inside, they stay."""
        if self.average is None or self.standing:
            yield self.standing
            return
        with torch.no_grad():
            live = [weight.clone() for weight in self.weights]
            torch._foreach_copy_(self.weights, self.as_served())
        self.standing = True
        try:
            yield True
        finally:
            self.standing = False
            with torch.no_grad():
                torch._foreach_copy_(self.weights, live)

    def _is_due(self, step: int) -> bool:
        return step > self.spec.start and step % self.spec.every == 0

    def on_step_end(self, args, state, control, **_):
        owner = self.owner
        owner.steps += 1
        if self.average is None:
            if owner.steps >= self.spec.start:
                self._begin(None)
        elif self._is_due(owner.steps):
            share = self._share()
            self.average.update(share)
            owner.updates += 1
            if owner.rule == "bema" and self.spec.every > 1:
                self._remember("moved", self._correction())
            each = torch.stack(self.means).tolist() if callable(share) else share
            self.taken.append(each if isinstance(each, float) else sum(each) / len(each))

    def _share(self) -> float | list[float] | Callable[[slice], list[torch.Tensor]]:
        owner, spec = self.owner, self.spec
        if owner.rule == "psmt":
            self.means = []
            return self._of_fisher
        if owner.rule in GRADIENT_RULES:
            return self.shares
        if owner.rule == "bema":
            return averages.falling(self._age(), spec.ema_power, spec.lag)
        return averages.constant(spec.decay) if owner.rule == "constant" else averages.warmup(spec.decay, owner.updates)

    def _age(self) -> int:
        """Steps since the average began."""
        return self.owner.steps - self.spec.start

    def on_log(self, args, state, control, logs=None, **_):
        if self.taken:
            name = f"{self.spec.kind}/share"  # of several averages the first has the plain name
            logs[f"{self.owner.name}/share" if name in logs else name] = sum(self.taken) / len(self.taken)
            self.taken.clear()

    @torch.no_grad()
    def as_served(self) -> list[torch.Tensor]:
        """The average, with BEMA's correction (of its last update) where that is the rule."""
        self.average.wait()
        if self.owner.rule != "bema" or not self.owner.updates:
            return self.average.tensors
        moved = self.extra["moved"] if self.spec.every > 1 else self._correction()
        return [t + m.to(t.device) for t, m in zip(self.average.tensors, moved, strict=True)]

    def _correction(self) -> list[torch.Tensor]:
        """BEMA's part of theta - theta_0."""
        a = averages.falling(self._age(), self.spec.bias_power, self.spec.lag)
        return [a * (w.detach().to(f.dtype) - f) for w, f in zip(self.weights, self.extra["first"], strict=True)]
