"""The merging functions: numbers worked out by hand, another formulation (numpy, float64, sorted), and properties."""

import dataclasses
from math import acos, sin
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt.cli.main import main
from cpt.errors import UserError
from cpt.merge_methods import METHODS, OPTIONS, table
from cpt.merging import average, della, selection, stock, ties
from cpt.merging.arithmetic import aim, magmax, task_arithmetic
from cpt.merging.breadcrumbs import breadcrumbs
from cpt.merging.dare import dare, dare_ties
from cpt.merging.draws import uniform_bits
from cpt.merging.method import Chunk, merge_tensor
from cpt.merging.methods import implementation, make_method
from cpt.merging.slerp import slerp
from cpt.recipe.merge import Merge

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
quick = settings(max_examples=40, deadline=None)


def drawn(seed: int, count: int, shape=(6, 8), dtype=torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def wide(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [tensor.double().numpy() for tensor in tensors]


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers)


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_averages_by_hand():
    one, two, three = row(0.0, 4.0), row(2.0, 0.0), row(8.0, 8.0)
    assert average.linear([one, two, three], [1, 1, 2]).tolist() == [4.5, 5.0]
    assert average.soup([one, two]).tolist() == [1.0, 2.0]
    assert average.wise(one, two, 0.75).tolist() == [0.5, 3.0]
    assert average.fisher([one, two], [row(3.0, 0.0), row(1.0, 0.0)]).tolist() == [0.5, 2.0]
    assert average.fisher([one, two], [row(0.0, 1.0), row(1.0, 0.0)]).tolist() == [2.0, 4.0]


def test_sums_of_task_vectors_by_hand():
    base, one, two = row(1.0, 1.0), row(2.0, 0.0), row(1.0, 4.0)  # tau: (1, -1), (0, 3)
    assert task_arithmetic(base, [one, two], [1, 2], scale=0.5).tolist() == [1.5, 3.5]
    assert aim(base, one, two, (0.5, 0.25)).tolist() == [1.5, 1.25]
    assert magmax(base, [one, two], scale=0.5).tolist() == [1.5, 2.5]
    assert magmax(base, [row(3.0, 0.0), row(-1.0, 0.0)], scale=1.0).tolist() == [
        3.0,
        0.0,
    ]  # equally large: the positive one


def test_ties_by_hand():
    base = torch.zeros(5)
    one, two = row(5.0, -4.0, 0.1, 3.0, 0.0), row(3.0, 6.0, -5.0, -0.1, 0.2)
    # density .6 keeps 3: (5, -4, 0, 3, 0) and (3, 6, -5, 0, 0); signs + + - + +
    assert ties.ties(base, [one, two], density=0.6).tolist() == [4.0, 6.0, -5.0, 3.0, 0.0]
    assert ties.ties(base, [one, two], density=0.6, scale=0.5).tolist() == [2.0, 3.0, -2.5, 1.5, 0.0]
    assert ties.ties(base, [one, two], [3, 1], density=0.6).tolist() == [4.5, -4.0, -5.0, 3.0, 0.0]


def test_ties_at_the_threshold_all_stay_and_a_vote_of_zero_is_plus():
    assert ties.trim(row(2.0, -2.0, 1.0, 2.0), 2.0).tolist() == [2.0, -2.0, 0.0, 2.0]
    assert ties.ties(torch.zeros(4), [row(2.0, -2.0, 1.0, 2.0)], density=0.25).tolist() == [2.0, -2.0, 0.0, 2.0]
    assert ties.ties(torch.zeros(1), [row(2.0), row(-2.0)], density=1.0).tolist() == [2.0]


def test_breadcrumbs_by_hand():
    tau = row(1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0, 9.0, -10.0)
    # of 10: the largest (gamma .1) goes, then the smallest until 5 are left
    left = breadcrumbs(torch.zeros(10), [tau], density=0.5, gamma=0.1)
    assert left.tolist() == [0.0, 0.0, 0.0, 0.0, 5.0, -6.0, 7.0, -8.0, 9.0, 0.0]
    # gamma larger than what may go: the density rules
    assert breadcrumbs(torch.zeros(10), [tau], density=0.9, gamma=0.5).tolist() == [*tau.tolist()[:9], 0.0]


def test_dare_with_a_given_mask_is_its_formula():
    base, one, two = row(1.0, 1.0, 1.0), row(2.0, 0.0, 5.0), row(1.0, 3.0, 3.0)
    masks = [torch.tensor([1, 0, 1]), torch.tensor([0, 1, 1])]
    assert dare(base, [one, two], [1, 2], density=0.5, masks=masks).tolist() == [3.0, 9.0, 17.0]
    assert dare_ties(base, [one, two], density=0.5, masks=masks).tolist() == [3.0, 5.0, 7.0]


def test_della_by_hand():
    tau = torch.tensor([[3.0, -1.0, 2.0], [0.5, -9.0, 0.25]])
    shares = della.kept_shares(tau, 0.5, 0.2)
    assert shares == pytest.approx(np.array([[0.7, 0.3, 0.5], [0.5, 0.7, 0.3]]))
    mask = torch.tensor([[1, 0, 1], [0, 1, 0]])
    left = della.della(torch.zeros(2, 3), [tau], density=0.5, epsilon=0.2, masks=[mask])
    assert left.numpy() == pytest.approx((tau * mask * (15.75 / 14)).numpy())


@quick
@given(st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
def test_ranks_are_those_of_a_stable_sort(seed, dtype):
    rows = torch.randint(-4, 5, (5, 30), generator=torch.Generator().manual_seed(seed)).to(dtype)  # many equal
    expected = np.argsort(rows.abs().numpy(), axis=1, kind="stable")
    assert np.array_equal(della.order_of(rows).numpy(), expected)


def test_slerp_by_hand():
    one, two = row(1.0, 0.0), row(0.0, 2.0)  # a right angle
    assert slerp(one, two, 1 / 3).numpy() == pytest.approx([sin(acos(0) * 2 / 3), 2 * sin(acos(0) / 3)])
    assert slerp(one, row(3.0, 0.0), 0.25).tolist() == [1.5, 0.0]  # parallel: the line
    assert slerp(torch.zeros(2), two, 0.5).numpy() == pytest.approx([0.0, 2 * sin(acos(0) / 2)])


def test_model_stock_by_hand():
    base, one, two = torch.zeros(2), row(2.0, 0.0), row(1.0, 3**0.5)  # 60 degrees: t = 2 * .5 / 1.5
    assert stock.model_stock(base, [one, two]).numpy() == pytest.approx([1.0, 3**0.5 / 3])
    assert stock.model_stock(base, [one, row(-2.0, 0.0)]).tolist() == [0.0, 0.0]  # opposite: the base


# -- against another formulation: float64, sorting, masks ----------------------------------------------------------------


def by_sorting(base, models, weights, density, scale):
    votes = []
    for model, weight in zip(models, weights, strict=True):
        tau = model - base
        limit = np.sort(np.abs(tau).ravel())[::-1][max(1, int(density * tau.size)) - 1]
        votes.append(np.where(np.abs(tau) >= limit, tau, 0) * weight)
    sign = np.where(sum(votes) >= 0, 1, -1)
    agree = [(np.sign(vote) == sign) for vote in votes]
    total = sum(vote * mask for vote, mask in zip(votes, agree, strict=True))
    mass = sum(weight * mask for weight, mask in zip(weights, agree, strict=True))
    return base + scale * np.divide(total, mass, out=np.zeros_like(total), where=mass > 0)


@quick
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.2, 0.5, 1.0]), st.integers(1, 4), st.sampled_from(DTYPES))
def test_ties_is_the_sorted_formulation(seed, density, count, dtype):
    base, *models = drawn(seed, count + 1, dtype=dtype)
    weights = [1.0 + index for index in range(count)]
    expected = by_sorting(wide(base)[0], wide(*models), weights, density, 0.7)
    got = ties.ties(base, models, weights, density, 0.7)
    assert got.dtype == dtype
    assert got.double().numpy() == pytest.approx(
        expected, abs=8 * torch.finfo(dtype).eps, rel=2 * torch.finfo(dtype).eps
    )


@quick
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_the_others_are_their_formulas(seed, count):
    base, *models = drawn(seed, count + 1)
    fishers = [tensor.abs() for tensor in drawn(seed + 1, count)]
    weights = [0.5 + index for index in range(count)]
    base_, thetas, diagonals = wide(base)[0], wide(*models), wide(*fishers)
    taus = [theta - base_ for theta in thetas]
    close = {"abs": 1e-5, "rel": 1e-5}
    mean = sum(w * theta for w, theta in zip(weights, thetas, strict=True)) / sum(weights)
    assert average.linear(models, weights).numpy() == pytest.approx(mean, **close)
    weighted = [w * f for w, f in zip(weights, diagonals, strict=True)]
    expected = sum(f * theta for f, theta in zip(weighted, thetas, strict=True)) / sum(weighted)
    assert average.fisher(models, fishers, weights).numpy() == pytest.approx(expected, **close)
    expected = base_ + 0.3 * sum(w * tau for w, tau in zip(weights, taus, strict=True))
    assert task_arithmetic(base, models, weights).numpy() == pytest.approx(expected, **close)
    largest = np.abs(taus).argmax(0)
    expected = base_ + 0.5 * np.take_along_axis(np.array(taus), largest[None], 0)[0]
    assert magmax(base, models).numpy() == pytest.approx(expected, **close)
    unit = [tau.ravel() / np.linalg.norm(tau) for tau in taus]
    cosine = np.mean([unit[i] @ unit[j] for i in range(count) for j in range(i)])
    share = count * cosine / (1 + (count - 1) * cosine)
    expected = share * np.mean(thetas, 0) + (1 - share) * base_
    assert stock.model_stock(base, models).numpy() == pytest.approx(expected, abs=1e-4, rel=1e-4)
    one, two = (theta / np.linalg.norm(theta) for theta in thetas[:2])
    angle = np.arccos((one * two).sum())
    expected = (np.sin(0.7 * angle) * thetas[0] + np.sin(0.3 * angle) * thetas[1]) / np.sin(angle)
    assert slerp(models[0], models[1], 0.3).numpy() == pytest.approx(expected, **close)


@quick
@given(st.integers(0, 10**6), st.floats(0.1, 1.0), st.floats(0.0, 0.3))
def test_breadcrumbs_is_the_sorted_formulation(seed, density, gamma):
    base, model = drawn(seed, 2)
    tau = wide(model - base)[0].ravel()
    order = np.argsort(np.abs(tau))
    left = max(1, int(density * tau.size))
    smallest = max(0, tau.size - left - int(gamma * tau.size))
    expected = np.zeros_like(tau)
    expected[order[smallest : smallest + left]] = tau[order[smallest : smallest + left]]
    got = breadcrumbs(base, [model], density=density, gamma=gamma)
    assert got.numpy().ravel() == pytest.approx(wide(base)[0].ravel() + expected, abs=1e-6)


@quick
@given(
    st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=1, max_size=60), st.data(), st.sampled_from(DTYPES[::3])
)
def test_the_kth_magnitude_is_the_sorted_one(numbers, data, dtype):
    tau = torch.tensor(numbers, dtype=dtype)
    k = data.draw(st.integers(1, len(numbers)))
    assert selection.kth_magnitude(tau, k) == tau.abs().sort(descending=True).values[k - 1].item()


def test_a_sample_unlike_the_rest_costs_passes_and_changes_nothing():
    method = make_method("ties", 1, density=0.3)
    base, model = torch.zeros(4000), drawn(5, 1, shape=(4000,))[0]
    sample, whole = Chunk("", 0, base[:500], [model[:500] * 1e-3]), Chunk("", 0, base, [model])
    expected = [[selection.kth_magnitude(model, 1200)]]
    known = method.learn(0, None, method.measure(0, None, Chunk("", 0, base[:500], [model[:500]])), 4000)
    assert method.learn(1, known, method.measure(1, known, whole), 4000) == expected  # the usual way
    known = method.learn(0, None, method.measure(0, None, sample), 4000)
    missed = method.learn(1, known, method.measure(1, known, whole), 4000)
    counted = method.learn(1, missed.known, method.measure(1, missed.known, whole), 4000)
    assert method.learn(1, counted.known, method.measure(1, counted.known, whole), 4000) == expected


# -- properties ----------------------------------------------------------------------------------------------------------


any_dtype = st.sampled_from(DTYPES)
shares = st.floats(0, 1)


@quick
@given(st.integers(0, 10**6), any_dtype, st.lists(st.floats(0.01, 10), min_size=2, max_size=5), shares)
def test_a_model_with_itself_is_itself(seed, dtype, weights, share):
    (model,) = drawn(seed, 1, dtype=dtype)
    same = [model.clone() for _ in weights]
    assert torch.equal(average.linear(same, weights), model)
    assert torch.equal(average.soup(same), model)
    assert torch.equal(average.fisher(same, [torch.rand(model.shape) for _ in same], weights), model)
    assert torch.equal(average.wise(model, model.clone(), share), model)
    assert torch.equal(slerp(model, model.clone(), share), model)


@quick
@given(st.integers(0, 10**6), any_dtype)
def test_weights_0_and_1_give_the_ends(seed, dtype):
    one, two, three = drawn(seed, 3, dtype=dtype)
    assert torch.equal(average.linear([one, two, three], [0, 1, 0]), two)
    assert torch.equal(average.linear([one, two, three], [0, 0, 0.3]), three)
    for method, first in ((average.wise, 1.0), (slerp, 0.0)):
        assert torch.equal(method(one, two, first), one)
        assert torch.equal(method(one, two, 1.0 - first), two)
    assert torch.equal(task_arithmetic(one, [two, three], scale=0.0), one)


@quick
@given(st.integers(0, 10**6), shares)
def test_two_in_bfloat16_are_interpolated_in_float32_and_rounded_once(seed, share):
    one, two = drawn(seed, 2, shape=(300,), dtype=torch.bfloat16)
    expected = torch.lerp(one.float(), two.float(), share).bfloat16()
    assert torch.equal(average.interpolated(one, two, share), expected)


@quick
@given(st.integers(0, 10**6), st.permutations(range(3)))
def test_the_order_of_equals_does_not_matter(seed, order):
    base, *models = drawn(seed, 4, shape=(40,))
    for name in ("linear", "soup", "task-arithmetic", "ties", "breadcrumbs", "model-stock", "magmax"):
        method = make_method(name, 3)
        ours = [models[index] for index in order]
        one, two = (merge_tensor(method, Chunk("", 0, base, each)) for each in (models, ours))
        assert two.numpy() == pytest.approx(one.numpy(), abs=2e-6), name


@quick
@given(st.integers(0, 10**6), st.floats(0.1, 2))
def test_ties_of_one_model_with_density_1_is_task_arithmetic(seed, scale):
    base, model = drawn(seed, 2)
    assert torch.equal(ties.ties(base, [model], density=1.0, scale=scale), task_arithmetic(base, [model], scale=scale))


@pytest.mark.parametrize("name", METHODS)
def test_nothing_given_is_changed_and_the_dtype_is_the_first_models(name):
    for dtype in (torch.float32, torch.bfloat16):
        base, *models = drawn(3, 3, dtype=dtype)
        fishers = [tensor.abs() for tensor in drawn(4, 2)]
        before = [tensor.clone() for tensor in (base, *models, *fishers)]
        merged = merge_tensor(make_method(name, 2), Chunk("x", 0, base, models, fishers))
        assert merged.dtype == dtype and merged.shape == base.shape
        assert all(map(torch.equal, before, (base, *models, *fishers)))


# -- chance --------------------------------------------------------------------------------------------------------------


def test_draws_depend_on_seed_name_and_model_and_on_nothing_else():
    whole = uniform_bits(1, "layer.weight", 0, 0, 1001)
    pieces = [uniform_bits(1, "layer.weight", 0, start, min(143, 1001 - start)) for start in range(0, 1001, 143)]
    assert np.array_equal(whole, np.concatenate(pieces))
    for other in ((2, "layer.weight", 0), (1, "layer.bias", 0), (1, "layer.weight", 1)):
        assert np.mean(uniform_bits(*other, 0, 1001) == whole) < 0.01


def test_dare_and_della_keep_their_share_and_the_mean():
    base, model = torch.zeros(400, 250), torch.ones(400, 250)
    left = dare(base, [model], density=0.1, name="w")
    assert sorted(left.unique().tolist()) == [0.0, 10.0]
    assert (left > 0).double().mean().item() == pytest.approx(0.1, abs=0.004)
    (tau,) = drawn(0, 1, shape=(400, 250))
    (mask,) = della.drawn([tau], 0.5, 0.3, 0, "w")
    small = tau.abs() < tau.abs().median(dim=1, keepdim=True).values
    assert mask.double().mean().item() == pytest.approx(0.5, abs=0.006)
    assert mask[small].double().mean().item() == pytest.approx(0.35, abs=0.01)
    left = della.della(base, [tau], density=0.5, epsilon=0.3, name="w")
    assert left.abs().sum().item() == pytest.approx(tau.abs().sum().item(), rel=1e-4)


# -- mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "weights", "options", "said"),
    [
        ("tie", 2, (), {}, "no tie; there are linear"),
        ("linear", 1, (), {}, "at least 2 models, not 1"),
        ("slerp", 3, (), {}, "needs 2 models, not 3"),
        ("linear", 3, (1, 2), {}, "2 weights for 3 models"),
        ("linear", 2, (-1, 2), {}, "weights of at least 0"),
        ("wise", 2, (1.5,), {}, "share, from 0 to 1"),
        ("soup", 2, (1,), {}, "soup has no weights"),
        ("linear", 2, (), {"density": 0.1}, "linear does not have it (it belongs to ties"),
        ("ties", 2, (), {"density": 0.0}, "above 0 and at most 1"),
        ("dare", 2, (), {"density": 1.5}, "above 0 and at most 1"),
        ("della", 2, (), {"density": 0.1}, "lie between 0 and 1"),
        ("breadcrumbs", 2, (), {"gamma": 1.0}, "gamma: 1: give a number of at least 0 and below 1"),
        ("ties", 2, (-1,), {}, "weights of at least 0"),
        ("ties", 2, (), {"scale": float("nan")}, "--scale: nan: give a number"),
        ("linear", 2, (float("inf"), 1), {}, "--weight: inf: give a number"),
        ("dare", 2, (), {"seed": -1}, "--seed: -1: give a number of at least 0"),
    ],
)
def test_a_wrong_setting_is_one_line(name, count, weights, options, said):
    with pytest.raises(UserError) as error:
        make_method(name, count, weights, **options)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        average.linear([torch.zeros(2), torch.zeros(3)])


# -- the catalogue ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_options_of_the_catalogue(name):
    own = {field.name for field in dataclasses.fields(implementation(METHODS[name]))} - {"weights"}
    assert own == set(METHODS[name].defaults) <= set(OPTIONS)


def test_the_documentation_has_the_catalogue():
    docs = Path(__file__).parent.parent / "docs" / "merging.md"
    assert table() in docs.read_text(encoding="utf-8")


def test_the_command_line_has_the_catalogue(capsys):
    with pytest.raises(SystemExit):
        main(["merge", "--help"])
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in METHODS) and all(f"--{name} " in told for name in OPTIONS)


def test_the_schema_has_the_catalogue():
    fields = Merge.model_json_schema()["properties"]
    assert fields["method"]["enum"] == [name for name in METHODS if name != "linear"]
    density, trim = fields["density"], fields["trim"]
    assert {"type": "number", "exclusiveMinimum": 0, "maximum": 1} in density["anyOf"] and "della 0.5" in density[
        "description"
    ]
    assert {"type": "string", "enum": ["tensor", "model"]} in trim["anyOf"]
