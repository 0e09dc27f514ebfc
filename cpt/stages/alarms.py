"""What a stage that samples its own answers warns of on the screen, once each: a collapse is silent otherwise.

- The entropy of the answers falls to a small part of what it was at the stage's start (`alarms.entropy`).
- Nearly all groups have answers of one reward, so that their advantages are 0 (`alarms.groups_without_signal`).
- The policy is far from where it began: the KL from the reference where `beta` is above 0, else from the stage's start
  (`alarms.kl`).
- Engine and policy compute differently: the importance ratio of the sampler's mismatch is far from 1.

The first two also come of success: where nearly all answers are right (a mean reward of `alarms.learnt`), they are not
reported. A stage without rewards (`distill`) says the first where its loss has not fallen either. The thresholds are
ours: quickstart (seeds 0, 1, 2) stays below all of them; the same with a learning rate of .005, which forgets everything,
does not.
"""

from collections.abc import Sequence

from transformers import TrainerCallback

from cpt.context import Services, Stage
from cpt.stages.rl.kl_from_start import NAME as DRIFT

FAR_FROM_ONE = 0.1  # of the mean importance ratio of sampler and policy: above it their arithmetic differs too much
STEPS = 5  # that entropy and groups are a mean over
REWARD = "rewards/reward/mean"  # of the task, without penalties
GROUPS = "groups_without_signal"


class Alarms(TrainerCallback):
    """Looks at what TRL logs. Each alarm is reported once in a process; a resumed stage counts what it logged before."""

    def __init__(self, stage: Stage, services: Services):
        self.stage, self.services, self.limits, self.given = stage, services, stage.recipe.alarms, set()

    def on_log(self, args, state, control, logs=None, **_):
        if "train_runtime" in logs:
            return
        for name, find in ALARMS.items():
            if name not in self.given and (message := find(self.limits, state.log_history)):
                self.given.add(name)
                self.services.screen.warn(
                    f"{self.stage.task.name} {self.stage.name}, step {state.global_step}: {message}"
                )


def logged(history: Sequence[dict], name: str) -> list[float]:
    return [line[name] for line in history if line.get(name) is not None]


def recent(history: Sequence[dict], name: str) -> float | None:
    """The mean of what was logged of the last steps; None where fewer were taken."""
    if not history or history[-1]["step"] < STEPS or history[-1].get(name) is None:
        return None
    values = logged([line for line in history if line["step"] > history[-1]["step"] - STEPS], name)
    return sum(values) / len(values)


def is_learnt(limits, history: Sequence[dict]) -> bool:
    """Whether nearly all answers are right; without rewards, whether the loss has fallen."""
    reward, losses = recent(history, REWARD), logged(history, "loss")
    if reward is None:
        return len(losses) > 1 and losses[-1] < losses[0]
    return reward >= limits.learnt


def at_reward(history: Sequence[dict]) -> str:
    reward = recent(history, REWARD)
    return "" if reward is None else f" at a mean reward of {reward:.2f}"


def low_entropy(limits, history: Sequence[dict]) -> str | None:
    first, now = logged(history, "entropy")[:1], recent(history, "entropy")
    if limits.entropy is None or now is None or not now <= limits.entropy * first[0] or is_learnt(limits, history):
        return None
    return (
        f"the entropy of the answers fell from {first[0]:.2g} to {now:.2g} nats a token (alarms.entropy: "
        f"{limits.entropy:g} of the first){at_reward(history)}: they become identical; lower learning_rate, or add a "
        "KL (`beta`)"
    )


def groups_alike(limits, history: Sequence[dict]) -> str | None:
    limit, now = limits.groups_without_signal, recent(history, GROUPS)
    if limit is None or now is None or now < limit or is_learnt(limits, history):
        return None
    return (
        f"{now:.0%} of the groups have only answers of equal reward (alarms.groups_without_signal: "
        f"{limit:g}){at_reward(history)}: they teach nothing; take easier or harder prompts (`filter`, "
        "`dynamic_sampling`), raise num_generations or temperature, or, if they were different before, lower "
        "learning_rate"
    )


def far_away(limits, history: Sequence[dict]) -> str | None:
    last = history[-1] if history else {}
    name = "kl" if last.get("kl") is not None else DRIFT
    if limits.kl is None or last.get(name) is None or last[name] < limits.kl:
        return None
    whence = "the reference" if name == "kl" else "the stage's start"
    return (
        f"the KL from {whence} is {last[name]:.2g} nats a token (alarms.kl: {limits.kl:g}){at_reward(history)}: what the "
        "model knew before is likely forgotten; lower learning_rate, take fewer steps, or add a KL (`beta`)"
    )


def mismatch(limits, history: Sequence[dict]) -> str | None:
    ratio = history[-1].get("sampling/importance_sampling_ratio/mean") if history else None
    if ratio is None or abs(ratio - 1) <= FAR_FROM_ONE:
        return None
    return (
        f"the policy gives the engine's answers {ratio:.2f} times the probability that the engine gave them (mean of TRL's "
        "importance ratio): engine and policy compute differently; look at dtype, quantization and kv_cache_dtype in "
        "`rollouts`"
    )


ALARMS = {"entropy": low_entropy, "groups": groups_alike, "kl": far_away, "mismatch": mismatch}
