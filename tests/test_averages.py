"""Rules of averages by hand and against an independent formulation, and the average itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cpt.strategies import averages
from cpt.strategies.average import Average, OffloadedAverage, groups_of


def tensors(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


SHAPES = ((3, 4), (5,), (2, 2, 2))


def test_shares_by_hand():
    assert averages.constant(0.99) == pytest.approx(0.01)
    assert [averages.warmup(0.9, n) for n in (0, 10, 1000)] == pytest.approx([0.9, 9 / 20, 0.1])
    assert [averages.falling(n, 0.5, 10) for n in (0, 89)] == pytest.approx([11**-0.5, 0.1])
    assert averages.falling(0, 0.5, 0) == 1.0


def test_lcia_as_the_code_has_it():
    """|g| = 3, |change| = 8, |d| = 4: 2 (1 + 3) / 32; a second tensor is outside (0, 1)."""
    one = [torch.tensor([1.0, -2.0]), torch.tensor([0.5])]
    change, drift = [torch.tensor([4.0, 4.0]), torch.tensor([0.1])], [torch.tensor([4.0, 0.0]), torch.tensor([0.1])]
    assert averages.lcia_code(one, change, drift, 0.99).tolist() == pytest.approx([0.25, 0.01])


def test_lcia_as_the_paper_has_it():
    """(3 + 1) * 2 / (4 * 8) = 0.25 on the old weights; nothing moved: the old keep 0.99."""
    one = [torch.tensor([1.0, -2.0]), torch.tensor([0.5])]
    change, drift = [torch.tensor([4.0, 4.0]), torch.tensor([0.1])], [torch.tensor([4.0, 0.0]), torch.tensor([0.0])]
    steps = [torch.tensor([1.0, -1.0]), torch.tensor([0.0])]
    assert averages.lcia_paper(one, change, drift, steps, 0.99).tolist() == pytest.approx([0.75, 0.01])


def test_balanced_by_hand():
    gradients = [torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0]), torch.zeros(2)]
    drifts = [torch.tensor([-5.0, 0.0]), torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]), torch.ones(2)]
    # the loss falls along the drift: follow; it rises: (1 - .9)^2; unrelated, and no gradient: 1 - .9
    assert averages.balanced(gradients, drifts, 0.9).tolist() == pytest.approx([1.0, 0.01, 0.1, 0.1])


@given(st.floats(1e-4, 1e4), st.floats(1e-4, 1e4), st.integers(0, 99), st.sampled_from([0.5, 0.9, 0.999]))
def test_balanced_has_no_scale(loss, weight, seed, decay):
    """Neither the loss's scale, nor the weights', nor a tensor repeated to twice its size changes a share."""
    g, d = tensors(seed, *SHAPES), tensors(seed + 100, *SHAPES)
    plain = averages.balanced(g, d, decay)
    scaled = averages.balanced([loss / weight * each for each in g], [weight * each for each in d], decay)
    doubled = averages.balanced([torch.cat([x, x]) for x in g], [torch.cat([x, x]) for x in d], decay)
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
