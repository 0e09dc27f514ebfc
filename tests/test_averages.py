"""Rules of averages by hand and against an independent formulation, and the average itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cpt.recipe.strategies import EMA_RULES, Ema
from cpt.strategies.ema.average import Average, ElementShares, OffloadedAverage, groups_of, mean_share
from cpt.strategies.ema.rules import rule_class
from cpt.strategies.ema.rules.balanced import balanced
from cpt.strategies.ema.rules.bema import falling
from cpt.strategies.ema.rules.constant import warmup
from cpt.strategies.ema.rules.lcia import lcia_code, lcia_paper


def tensors(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


SHAPES = ((3, 4), (5,), (2, 2, 2))


def test_shares_by_hand():
    assert [warmup(0.9, n) for n in (0, 10, 1000)] == pytest.approx([0.9, 9 / 20, 0.1])
    assert [falling(n, 0.5, 10) for n in (0, 89)] == pytest.approx([11**-0.5, 0.1])
    assert falling(0, 0.5, 0) == 1.0


def test_lcia_as_the_code_has_it():
    """|g| = 3, |change| = 8, |d| = 4: 2 (1 + 3) / 32; a second tensor is outside (0, 1)."""
    one = [torch.tensor([1.0, -2.0]), torch.tensor([0.5])]
    change, drift = [torch.tensor([4.0, 4.0]), torch.tensor([0.1])], [torch.tensor([4.0, 0.0]), torch.tensor([0.1])]
    assert lcia_code(one, change, drift, 0.99).tolist() == pytest.approx([0.25, 0.01])


def test_lcia_as_the_paper_has_it():
    """(3 + 1) * 2 / (4 * 8) = 0.25 on the old weights; nothing moved: the old keep 0.99."""
    one = [torch.tensor([1.0, -2.0]), torch.tensor([0.5])]
    change, drift = [torch.tensor([4.0, 4.0]), torch.tensor([0.1])], [torch.tensor([4.0, 0.0]), torch.tensor([0.0])]
    steps = [torch.tensor([1.0, -1.0]), torch.tensor([0.0])]
    assert lcia_paper(one, change, drift, steps, 0.99).tolist() == pytest.approx([0.75, 0.01])


def test_balanced_by_hand():
    gradients = [torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0]), torch.zeros(2)]
    drifts = [torch.tensor([-5.0, 0.0]), torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]), torch.ones(2)]
    # the loss falls along the drift: follow; it rises: (1 - .9)^2; unrelated, and no gradient: 1 - .9
    assert balanced(gradients, drifts, 0.9).tolist() == pytest.approx([1.0, 0.01, 0.1, 0.1])


@given(st.floats(1e-4, 1e4), st.floats(1e-4, 1e4), st.integers(0, 99), st.sampled_from([0.5, 0.9, 0.999]))
def test_balanced_has_no_scale(loss, weight, seed, decay):
    """Neither the loss's scale, nor the weights', nor a tensor repeated to twice its size changes a share."""
    g, d = tensors(seed, *SHAPES), tensors(seed + 100, *SHAPES)
    plain = balanced(g, d, decay)
    scaled = balanced([loss / weight * each for each in g], [weight * each for each in d], decay)
    doubled = balanced([torch.cat([x, x]) for x in g], [torch.cat([x, x]) for x in d], decay)
    for other in (scaled, doubled):
        assert torch.allclose(other, plain, rtol=1e-9)
    for share, x, y in zip(plain.tolist(), g, d, strict=True):
        x, y = x.flatten().numpy(), y.flatten().numpy()
        cosine = np.sum(x * y) / math.sqrt(np.sum(x**2) * np.sum(y**2))
        assert share == pytest.approx(math.exp((1 + cosine) * math.log(1 - decay)))
        assert (1 - decay) ** 2 <= share <= 1


def test_groups_are_bounded_and_whole():
    sizes = [torch.empty(n) for n in (10, 30, 100, 5, 5)]
    assert list(groups_of(sizes, 160)) == [slice(0, 2), slice(2, 3), slice(3, 5)]
    assert list(groups_of([], 160)) == []


@pytest.mark.parametrize("kind", [Average, OffloadedAverage])
@pytest.mark.parametrize("dtype", [torch.float32, None])
def test_an_average_follows(kind, dtype):
    """Against the sum written out: a_n = d^n theta_0 + (1 - d) sum of d^(n - i) theta_i; also of bf16 weights in fp32."""
    weights = [each.to(torch.bfloat16 if dtype else torch.float64) for each in tensors(0, *SHAPES)]
    average, seen = kind(weights, None, dtype), [[each.double().clone() for each in weights]]
    for step in range(1, 6):
        average.before_step()
        for weight, other in zip(weights, tensors(step, *SHAPES), strict=True):
            weight.copy_(other)
        average.update(0.1)
        seen.append([each.double().clone() for each in weights])
    average.wait()
    for i, tensor in enumerate(average.tensors):
        wanted = 0.9**5 * seen[0][i] + 0.1 * sum(0.9 ** (5 - n) * seen[n][i] for n in range(1, 6))
        assert tensor.dtype == (dtype or torch.float64)
        assert torch.allclose(tensor.double(), wanted, atol=1e-6)


def test_one_share_a_tensor():
    weights, start = tensors(1, *SHAPES), tensors(2, *SHAPES)
    average = Average(weights, start, None)
    average.update([0.0, 0.25, 1.0])
    assert torch.equal(average.tensors[0], start[0]) and torch.equal(average.tensors[2], weights[2])
    assert torch.allclose(average.tensors[1], start[1] + 0.25 * (weights[1] - start[1]))


def test_one_share_an_element():
    """Of the second tensor one element of two is taken, in the average's dtype; the mean is of the tensors."""
    weights, start = [torch.ones(2), torch.ones(2)], [torch.zeros(2), torch.zeros(2)]
    average = Average(weights, start, torch.float64)
    share = ElementShares(lambda group: [torch.full((2,), 0.5), torch.tensor([0.0, 0.25])][group])
    average.update(share)
    assert [each.tolist() for each in average.tensors] == [[0.5, 0.5], [0.0, 0.25]]
    assert mean_share(share) == pytest.approx((0.5 + 0.125) / 2) and mean_share([0.0, 0.5]) == 0.25


@pytest.mark.parametrize("name", EMA_RULES)
def test_every_rule_of_a_recipe_has_its_class(name):
    kind = rule_class(name)
    assert (kind.gradients is not None) == EMA_RULES[name].needs_gradients
    assert set(EMA_RULES[name].options) <= set(Ema.model_fields)
