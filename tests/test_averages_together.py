"""BEMA and LCIA as their authors' code has them, by numbers; and strategies that hold weights beside each other, in every
order: what one writes to the weights to save them, no other sees."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers.strategy_training import Training, made, made_all

# -- BEMA ----------------------------------------------------------------------------------------------------------------


def bema(values, every=1, start=0, lag=10.0, ema_power=0.5, bias_power=0.2) -> float:
    """The authors' update (core_online.py), with numbers: the powers are of the step."""
    first = average = served = 0.0 if start == 0 else values[start - 1]
    for step, theta in enumerate(values, start=1):
        if step <= start or step % every:
            continue
        time = step - start + lag
        beta, alpha = (1 + time) ** -ema_power, (1 + time) ** -bias_power
        average = (1 - beta) * average + beta * theta
        served = average + alpha * (theta - first)
    return served


RAMP = [10.0, 20.0, 30.0]
CASES = [
    {"values": RAMP},
    {"values": [float(i) for i in range(1, 41)], "every": 10},
    {"values": [float(i) for i in range(1, 46)], "every": 10},  # five steps after the last update
    {"values": [5.0, 7.0, 11.0, 13.0], "start": 2},
    {"values": RAMP, "lag": 4.0, "bias_power": 1.0},
    {"values": RAMP, "every": 2, "lag": 0.0},
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("device", ["weights", "cpu"])
def test_bema_by_its_authors_formula(tmp_path, case, device):
    values, options = case["values"], {name: value for name, value in case.items() if name != "values"}
    training = Training(tmp_path, made("ema", rule="bema", device=device, **options))
    for value in values:
        training.step(value)
    assert training.served() == pytest.approx(bema(**case), rel=1e-5)


def test_bema_is_trls_callback_with_a_lag_of_one_more(tmp_path, tiny_folder):
    """TRL writes (lag + step) for the authors' (1 + lag + step)."""
    from trl import BEMACallback

    training = Training(tmp_path, made("ema", rule="bema", every=3, lag=10.0))
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    theirs, state = BEMACallback(update_freq=3, lag=11), SimpleNamespace(global_step=0)
    theirs.on_train_begin(None, state, None, model=model)
    start = model.model.norm.weight.detach().clone()
    for step in range(1, 9):
        training.step(step**1.5)
        with torch.no_grad():
            model.model.norm.weight.copy_(start + step**1.5)
        state.global_step = step
        theirs.on_step_end(None, state, None, model=model)
    moved = theirs.running_model.model.norm.weight - start
    assert moved.tolist() == pytest.approx([training.served()] * len(moved), rel=1e-4)


def test_bemas_share_is_of_the_step(tmp_path):
    """Updated every 10 steps, the 20th update takes (1 + 10 + 200)^-.5 = .069; counted by updates it took .186."""
    training = Training(tmp_path, made("ema", rule="bema", every=10))
    for step in range(200):
        training.step(float(step))
        share = training.log().get("ema/share", None)
    assert share == pytest.approx(211**-0.5) and round(share, 3) == 0.069


def test_bema_is_served_from_the_live_weights_whatever_average_stands_before_it(tmp_path):
    """10, 20, 30, with an EMA of .9 before it: the correction was of that EMA's 5.6, which made 17.9."""
    two = made_all(("ema", {"decay": 0.9, "serve": "live"}), ("ema", {"rule": "bema"}))
    training = Training(tmp_path, *two)
    for value in RAMP:
        training.step(value)
    written = training.saved()
    assert written["1-ema"]["weight"][0, 0].item() == pytest.approx(bema(RAMP), rel=1e-6)
    assert written["0-ema"]["weight"][0, 0].item() == pytest.approx(0.1 * (30 + 0.9 * 20 + 0.81 * 10))


def test_bema_goes_on_after_a_checkpoint(tmp_path):
    values = [float(i) for i in range(1, 46)]
    for every in (1, 10):
        whole = Training(tmp_path, made("ema", rule="bema", every=every))
        for value in values:
            whole.step(value)
        strategy = made("ema", rule="bema", every=every)
        part = Training(tmp_path, strategy)
        for value in values[:43]:
            part.step(value)
        strategy.save(tmp_path / str(every))
        again = made("ema", rule="bema", every=every)
        again.load(tmp_path / str(every))
        rest = Training(tmp_path, again, start=values[42], step=43)
        for value in values[43:]:
            rest.step(value)
        assert rest.served() == whole.served()


# -- LCIA ----------------------------------------------------------------------------------------------------------------


def lcia(rule: str, values, gradients, decay: float) -> list[float]:
    """ema_update of the authors' CoIN, tensor by tensor, after each step: both tensors of the model (6 and 2 elements)."""
    averages = []
    for size, scale in ((6, 1), (2, 2)):
        average, before, at, at_before = 0.0, None, 0.0, None
        for theta, gradient in zip(values, gradients, strict=True):
            g = scale * gradient
            share = 1 - decay
            if before is not None:
                a, b, c = size * abs(theta - average), size * abs(g), size * abs(g - before)
                if rule == "lcia-code":
                    alpha = 2 * (1 + b) / (a * c) if a * c else np.inf
                    share = alpha if 0 < alpha < 1 else 1 - decay
                else:
                    beta = (b + 1) * size * abs(at - at_before) / (a * c) if a * c else np.inf
                    share = 1 - (beta if 0 < beta < 1 else decay)
            average += share * (theta - average)
            before, at_before, at = g, at, theta  # `at`: where the next gradient is taken
        averages.append(average)
    return averages


@pytest.mark.parametrize("rule", ["lcia-code", "lcia-paper"])
def test_lcia_measures_the_drift_after_the_step(tmp_path, rule):
    values, gradients = [1.0, 3.0, 4.0, 9.0], [0.5, 1.5, -1.0, 2.0]
    training = Training(tmp_path, made("ema", rule=rule, decay=0.9))
    for value, gradient in zip(values, gradients, strict=True):
        training.step(value, gradient)
    (written,) = training.saved().values()
    expected = lcia(rule, values, gradients, 0.9)
    found = [written["weight"][0, 0].item(), written["bias"][0].item()]
    assert found == pytest.approx(expected, rel=1e-5)
    assert not np.allclose(expected, lcia(rule, [0.0, *values[:-1]], gradients, 0.9)), "the drift before it is another"


def test_the_first_step_of_lcia_takes_the_fallback(tmp_path):
    for rule in ("lcia-code", "lcia-paper"):
        training = Training(tmp_path, made("ema", rule=rule, decay=0.9))
        training.step(1.0, gradient=1.0)
        assert training.served() == pytest.approx(0.1)


# -- beside each other -----------------------------------------------------------------------------------------------------

HOLDERS = {
    "constant": ("ema", {"decay": 0.5}),
    "on the cpu": ("ema", {"decay": 0.5, "device": "cpu"}),
    "bema": ("ema", {"rule": "bema"}),
    "bema, every 2": ("ema", {"rule": "bema", "every": 2}),
    "balanced": ("ema", {"rule": "balanced"}),
    "lcia": ("ema", {"rule": "lcia-paper"}),
    "psmt": ("ema", {"rule": "psmt", "protected": 0.3}),
    "mcl": ("mcl", {}),
    "merge by fisher": ("merge", {"method": "fisher"}),
}
CHANGERS = {"lookahead": ("lookahead", {"every": 2}), "restore": ("stochastic-restore", {"probability": 0.3})}
STEPS = 5


def ended(folder, *names: str) -> Training:
    """After a few steps of a training with these strategies, in this order."""
    everyone = HOLDERS | CHANGERS
    training = Training(folder, *made_all(*(everyone[name] for name in names)), start=1.0)
    for step in range(STEPS):
        training.step(gradient=(-1.0) ** step * (step + 1))
    return training


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(("first", "second"), itertools.permutations(HOLDERS, 2))
def test_two_that_hold_weights_write_what_each_would_alone(tmp_path, first, second):
    together = ended(tmp_path, first, second)
    before = together.weights()
    written = together.saved()
    assert_same(together.weights(), before)
    for name, found in zip((first, second), written.values(), strict=True):
        (alone,) = ended(tmp_path, name).saved().values()
        assert_same(found, alone)


@pytest.mark.parametrize(("changer", "holder"), itertools.product(CHANGERS, HOLDERS))
def test_beside_one_that_changes_the_weights_the_order_alone_decides(tmp_path, changer, holder):
    """A third that only holds leaves both as they are, wherever it stands."""
    for order in ((changer, holder), (holder, changer)):
        pair = ended(tmp_path, *order)
        (written,) = [found for name, found in pair.saved().items() if int(name[0]) == order.index(holder)]
        for place in range(3):
            three = [*order]
            three.insert(place, "constant")
            training = ended(tmp_path, *three)
            assert_same(training.weights(), pair.weights())
            now = order.index(holder) + (place <= order.index(holder))
            (found,) = [found for name, found in training.saved().items() if int(name[0]) == now]
            assert_same(found, written)


def test_each_average_has_its_own_line_in_the_log(tmp_path):
    three = made_all(("ema", {"decay": 0.9}), ("mcl", {"decay": 0.8}), ("ema", {"decay": 0.5}))
    training = Training(tmp_path, *three)
    training.step(1.0)
    logs = training.log()
    assert logs == {
        key: pytest.approx(v) for key, v in {"ema/share": 0.1, "mcl/share": 0.2, "2-ema/share": 0.5}.items()
    }


def test_two_restores_draw_each_its_own(tmp_path):
    """Else the second would put back the very weights that the first had put back."""
    seen = []
    for strategy in made_all(*[("stochastic-restore", {"probability": 0.5})] * 2):
        training = Training(tmp_path, strategy)
        training.step(1.0)
        seen.append(training.weights()["weight"])
    assert not torch.equal(*seen)
