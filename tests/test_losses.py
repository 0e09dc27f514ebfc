"""Each method's gradient against the textbook's loss, written out here on its own; masks and baselines by hand."""

import math

import pytest
import torch

from cpt import losses
from cpt.losses import METHODS, Bounds, surrogate

P, G, T, V = 3, 4, 5, 7
B = P * G


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    logits = draw(B, T, V).requires_grad_()
    taken = torch.randint(V, (B, T), generator=generator)
    old = (logits + 0.4 * draw(B, T, V)).detach().log_softmax(-1).gather(-1, taken[..., None])[..., 0]
    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    mask = (torch.arange(T)[None] < lengths[:, None]).double()
    rewards = draw(P, G)
    return {"logits": logits, "taken": taken, "old": old, "mask": mask, "rewards": rewards, "lengths": lengths.double()}


def logps_of(given):
    return given["logits"].log_softmax(-1).gather(-1, given["taken"][..., None])[..., 0]


# -- the textbook's losses, token by token -----------------------------------------------------------------------------------


def clipped(logps, old, advantage, low=0.2, high=0.2):
    ratio = torch.exp(logps - old)
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def mean_std(rewards):
    return ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).reshape(-1, 1)


def mean_only(rewards):
    return (rewards - rewards.mean(1, keepdim=True)).reshape(-1, 1)


def others(rewards, weights):
    """R_i - the weighted mean of the others, by a loop."""
    found = torch.empty_like(rewards)
    for p in range(P):
        for g in range(G):
            rest = [k for k in range(G) if k != g]
            total = sum(weights[p, k] for k in rest)
            found[p, g] = rewards[p, g] - sum(weights[p, k] * rewards[p, k] for k in rest) / total
    return found.reshape(-1, 1)


def dual(logps, old, advantage):
    clip = clipped(logps, old, advantage)
    return torch.where(advantage < 0, torch.minimum(clip, -3.0 * advantage), clip)


def gspo(logps, old, advantage, mask):
    """The sequence's own ratio, clipped; a mean over its tokens gives each token a share of 1 / length."""
    lengths = mask.sum(1, keepdim=True)
    s = torch.exp(((logps - old) * mask).sum(1, keepdim=True) / lengths)
    return -torch.minimum(s * advantage, s.clamp(0.8, 1.2) * advantage) * mask


def squares(given):
    return ((1 - logps_of(given).detach().exp()) ** 2 * given["mask"]).sum(1).reshape(P, G)


TEXTBOOK = {
    "sft": lambda g, lp: -lp,
    "dft": lambda g, lp: -lp.detach().exp() * lp,
    "chord-phi": lambda g, lp: -(lp.detach().exp() * (1 - lp.detach().exp())) * lp,
    "reinforce": lambda g, lp: -g["rewards"].reshape(-1, 1) * lp,
    "ppo": lambda g, lp: clipped(lp, g["old"], g["rewards"].reshape(-1, 1)),
    "grpo": lambda g, lp: clipped(lp, g["old"], mean_std(g["rewards"])),
    "dr-grpo": lambda g, lp: clipped(lp, g["old"], mean_only(g["rewards"])),
    "rloo": lambda g, lp: clipped(lp, g["old"], others(g["rewards"], torch.ones(P, G))),
    "opo": lambda g, lp: (
        -(
            g["rewards"]
            - (g["rewards"] * g["lengths"].view(P, G)).sum(1, True) / g["lengths"].view(P, G).sum(1, keepdim=True)
        ).reshape(-1, 1)
        * lp
    ),
    "oblr-po": lambda g, lp: -others(g["rewards"], squares(g)) * lp,
    "dual-clip": lambda g, lp: dual(lp, g["old"], mean_std(g["rewards"])),
    "cispo": lambda g, lp: -torch.exp(lp - g["old"]).clamp(max=1.1).detach() * mean_std(g["rewards"]) * lp,
    "gspo": lambda g, lp: gspo(lp, g["old"], mean_std(g["rewards"]), g["mask"]),
    "luffy-demonstration": lambda g, lp: -mean_only(g["rewards"]) * lp.exp() / (lp.exp() + 0.1),
    "srft-demonstration": lambda g, lp: -mean_std(g["rewards"]) * lp.exp(),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_the_textbooks(inputs, name):
    method, logps = METHODS[name], logps_of(inputs)
    advantages = losses.advantages(
        method.advantage,
        inputs["rewards"],
        inputs["lengths"].view(P, G),
        losses.gradient_proxy(logps.detach(), inputs["mask"]).view(P, G),
    ).reshape(-1, 1)
    bounds = Bounds(cap=3.0, ceiling=1.1)
    ours = surrogate(method, logps, advantages, inputs["mask"], old_BT=inputs["old"], bounds=bounds).sum()
    [found] = torch.autograd.grad(ours, inputs["logits"], retain_graph=True)
    theirs = (TEXTBOOK[name](inputs, logps_of(inputs)) * inputs["mask"]).sum()
    [wanted] = torch.autograd.grad(theirs, inputs["logits"])
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_the_table_and_the_textbook_name_the_same():
    assert TEXTBOOK.keys() == METHODS.keys()


@pytest.mark.parametrize(
    ("ratio", "advantage", "kept"),
    [(1.3, 1, 0), (1.3, -1, 1), (0.75, -1, 0), (0.75, 1, 1), (1.19, 1, 1), (0.81, -1, 1), (3.5, -1, 0), (2.9, -1, 1)],
)
def test_dual_clip_by_hand(ratio, advantage, kept):
    logps = torch.tensor([[math.log(0.2 * ratio)]])
    found = losses.stable(
        "dual-clip",
        logps,
        torch.tensor([[float(advantage)]]),
        torch.tensor([[math.log(0.2)]]),
        torch.ones(1, 1),
        Bounds(cap=3.0),
    )
    assert found.item() == kept


def test_separate_bounds():
    logps, old = torch.log(torch.tensor([[0.25, 0.25]])), torch.log(torch.tensor([[0.2, 0.2]]))
    bounds = Bounds(low=0.2, high=0.28)
    assert losses.stable("clip", logps, torch.ones(1, 1), old, torch.ones(1, 2), bounds).tolist() == [[1, 1]]
    bounds = Bounds(low=0.2, high=0.2)
    assert losses.stable("clip", logps, torch.ones(1, 1), old, torch.ones(1, 2), bounds).tolist() == [[0, 0]]


def test_the_samplers_denominator():
    """pi / pi_sampler: the correction where rollouts come from another engine."""
    logps = torch.log(torch.tensor([[0.5]], dtype=torch.float64)).requires_grad_()
    value = losses.weight("sampler", logps, sampler_BT=torch.log(torch.tensor([[0.25]], dtype=torch.float64)))
    assert value.item() == pytest.approx(2.0)
    [gradient] = torch.autograd.grad(value.sum(), logps)
    assert gradient.item() == pytest.approx(2.0)


def test_baselines_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    assert losses.advantages("leave-one-out", rewards)[0].tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])
    lengths = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert losses.advantages("length-weighted", rewards, lengths)[0].tolist() == pytest.approx([0.5, -0.5, -0.5, 0.5])
    weighted = losses.advantages("gradient-weighted", rewards, gradients_PG=lengths)[0].tolist()
    assert weighted == pytest.approx([1 - 4 / 9, -5 / 8, -5 / 7, 1 - 1 / 6])


def test_the_optimal_baseline_is_unbiased_and_lowers_the_variance():
    """A bandit whose gradient norms differ by arm: leave-one-out keeps the mean of REINFORCE, and has less variance."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
    p, reward = logits.softmax(0), torch.tensor([5.0, 6.0, 4.0], dtype=torch.float64)
    score = torch.eye(3, dtype=torch.float64) - p
    drawn = torch.multinomial(p, 200_000 * 4, replacement=True, generator=generator).view(-1, 4)
    norms = (score**2).sum(1)[drawn]
    exact = (p[:, None] * reward[:, None] * score).sum(0)
    spread = {}
    for name in ("raw", "leave-one-out", "gradient-weighted"):
        estimate = (losses.advantages(name, reward[drawn], gradients_PG=norms)[..., None] * score[drawn]).mean(1)
        torch.testing.assert_close(estimate.mean(0), exact, atol=0.02, rtol=0)
        spread[name] = estimate.var(0).sum().item()
    assert spread["gradient-weighted"] < spread["raw"] / 5


def test_masked_tokens_have_no_part():
    logps = torch.full((1, 3), -math.inf)
    logps[0, 0] = -1.0
    logps.requires_grad_()
    loss = surrogate(METHODS["sft"], logps, torch.ones(1, 1), torch.tensor([[1, 0, 0]]))
    assert loss.tolist() == [[1.0, 0.0, 0.0]]
    loss.sum().backward()
    assert logps.grad.tolist() == [[-1.0, 0.0, 0.0]]


def test_unknown_parts_are_named():
    for call in (losses.weight, losses.stable, losses.advantages):
        with pytest.raises(ValueError, match="there are"):
            call("nonsense", torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
