"""The KL from a stage's start: by hand, and that a resumed stage still measures from the same place."""

from types import SimpleNamespace

import pytest
import torch

from cpt.stages.rl.kl_from_start import KlFromStart


class Policy:
    """A trainer that knows of a policy over four tokens, the same at each place."""

    def __init__(self, step: int, *probabilities: float):
        self.state = SimpleNamespace(global_step=step)
        self.model = SimpleNamespace(training=True, eval=lambda: None, train=lambda mode: None)
        self.args = SimpleNamespace(per_device_train_batch_size=4)
        self.accelerator = SimpleNamespace(device=torch.device("cpu"), reduce=lambda values, reduction: values)
        self.logps = torch.tensor(probabilities, dtype=torch.float64).log()

    def _get_per_token_logps_and_entropies(self, model, ids, mask, width, batch_size):
        return self.logps[ids[:, -width:]], None, None


def rollouts(completions: list[list[int]], width: int = 3) -> dict:
    ids = torch.tensor([each + [0] * (width - len(each)) for each in completions])
    mask = torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in completions])
    return {
        "prompt_ids": torch.zeros(len(ids), 2, dtype=torch.long),
        "prompt_mask": torch.ones(len(ids), 2, dtype=torch.long),
        "completion_ids": ids,
        "completion_mask": mask,
    }


def test_by_hand_and_after_a_resume(tmp_path):
    drift, start = KlFromStart(tmp_path / "drift.safetensors"), Policy(0, 0.5, 0.25, 0.125, 0.125)
    drift.begin(start, rollouts([[0, 1, 2], [1]]))
    assert drift.kl(start) == 0.0
    later = Policy(7, 0.25, 0.5, 0.125, 0.125)
    # k3 of p/p0 a token: 1/2 (0), 2 (1), 1 (2), 2 (1); the second row's padding does not count.
    half, double = 0.5 - 1 - torch.tensor(0.5).log().item(), 2 - 1 - torch.tensor(2.0).log().item()
    assert drift.kl(later) == pytest.approx((half + 2 * double) / 4)
    drift.begin(later, rollouts([[3], [3]]))
    resumed = KlFromStart(tmp_path / "drift.safetensors")
    resumed.begin(later, rollouts([[3], [3]]))
    assert resumed.kl(later) == drift.kl(later)


def test_few_rollouts_of_many_prompts(tmp_path):
    drift = KlFromStart(tmp_path / "drift.safetensors")
    drift.begin(Policy(0, 0.25, 0.25, 0.25, 0.25), rollouts([[i % 4, i // 32] for i in range(128)]))
    assert drift.probes["completion_ids"][:, 1].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_a_stage_resumed_without_probes_says_nothing(tmp_path):
    drift, later = KlFromStart(tmp_path / "drift.safetensors"), Policy(7, 0.25, 0.25, 0.25, 0.25)
    drift.begin(later, rollouts([[3], [3]]))
    assert drift.kl(later) is None


@pytest.mark.parametrize(
    "steps, every, due",
    [
        (6, 1, [1, 2, 3, 4, 5, 6]),
        (25, 1, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 25]),
        (100, 10, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]),
        (90, 20, [20, 40, 60, 80]),
        (90, 7, [14, 21, 28, 42, 49, 56, 63, 77, 84]),
    ],
)
def test_some_ten_times_a_stage(steps, every, due, tmp_path):
    drift = KlFromStart(tmp_path / "drift.safetensors")
    logs = range(every, steps + 1, every)
    states = [SimpleNamespace(global_step=step, max_steps=steps, logging_steps=every) for step in logs]
    assert [state.global_step for state in states if drift.due(state)] == due
