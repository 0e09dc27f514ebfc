"""Diagonals of the Fisher information from Adam, and what is done with them: the merge `fisher`, the average `psmt`."""

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from cpt.errors import UserError
from cpt.loop import run
from cpt.merging.average import fisher
from cpt.recipe import load
from cpt.screen import QUIET, Screen
from cpt.strategies.base import Outcome
from cpt.strategies.ema.rules import psmt
from cpt.strategies.merge.diagonals import AdamSecondMoments, add, put_second_moments
from helpers.merge_strategy import context, model, strategy, weights
from helpers.recipes import mistakes, short, write_recipe
from helpers.same_end import assert_same_end
from helpers.scripted_training import Training, ema, files_of, with_strategies

MERGE = {"kind": "merge", "method": "fisher"}


# -- diagonals -----------------------------------------------------------------------------------------------------------


def args(name: str = "adamw_torch"):
    return SimpleNamespace(optim=SimpleNamespace(value=name))


def test_the_diagonal_by_hand(tmp_path):
    """Two steps with gradients 1 and 3: v = .1 (.9 * 1 + 9), over 1 - .9^2; what has no gradient, and a buffer, have 0."""
    net = torch.nn.BatchNorm1d(2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, betas=(0.5, 0.9))
    moments = AdamSecondMoments("here")
    moments.on_train_begin(args(), None, None, model=net)
    for gradient in (1.0, 3.0):
        net.weight.grad = torch.full_like(net.weight, gradient)
        optimizer.step()
        moments.on_step_end(args(), None, None, optimizer=optimizer)
    put_second_moments(net, moments.optimizer)
    assert net.weight.tolist() == pytest.approx([0.1 * (0.9 + 9) / 0.19] * 2)
    assert net.bias.tolist() == net.running_var.tolist() == [0, 0]


@pytest.mark.parametrize("name", ["sgd", "adafactor"])
def test_an_optimiser_without_moments_is_refused_with_the_first_step(name):
    from transformers import Adafactor

    net = torch.nn.Linear(3, 2)
    kinds = {"sgd": torch.optim.SGD, "adafactor": Adafactor}
    optimizer = kinds[name](net.parameters(), **({"lr": 0.1} if name == "sgd" else {}))
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    moments = AdamSecondMoments("stream.one.stages.0")
    moments.on_train_begin(args(), None, None, model=net)
    with pytest.raises(UserError, match=rf"^stream\.one\.stages\.0\.args\.optim: {name} keeps no .* use adamw_torch$"):
        moments.on_step_end(args(name), None, None, optimizer=optimizer)


def test_a_sum_of_diagonals(tmp_path):
    for number, dtype in enumerate((torch.bfloat16, torch.float32)):
        kept = {"w": torch.tensor([[0.5, number]], dtype=dtype), "steps": torch.tensor([3])}
        save_file(kept, tmp_path / f"{number}.safetensors")
    add([tmp_path / "0.safetensors", tmp_path / "1.safetensors"], tmp_path / "sum")
    summed = load_file(tmp_path / "sum" / "fisher.safetensors")
    assert summed.keys() == {"w"} and summed["w"].dtype == torch.float32 and summed["w"].tolist() == [[1.0, 1.0]]


# -- merging -------------------------------------------------------------------------------------------------------------


def seen(tmp_path: Path, number: int, *stages: tuple[float, ...]) -> None:
    """What the stages of task `number` leave: their diagonals."""
    for index, values in enumerate(stages):
        model(tmp_path / f"work-{number}" / f"{index}-sft" / "0-merge", *values)


def commit(merge, stage, services, live: Path, point: Path) -> tuple[Path, Outcome]:
    """The task's merge as the next point's model, and its diagonal; and what the merge made."""
    outcome = merge.after_task(stage, services, live)
    merge.save(point / "strategies" / "0-merge")
    return model(point / "model", *weights(outcome.folder or live)), outcome


def diagonal(point: Path) -> list[float]:
    return load_file(point / "strategies" / "0-merge" / "fisher.safetensors")["w"][0].tolist()


@pytest.mark.parametrize("sources", ["previous", "all"])
@pytest.mark.parametrize("feed_back", [True, False])
def test_three_tasks_by_hand(feed_back, sources, tmp_path):
    """One element of three models 1, 2, 6 with diagonals 1, 3 (of two stages), 4; another with diagonals 0, 0, 1."""
    merge = strategy(method="fisher", feed_back=feed_back, sources=sources)
    lives = [model(tmp_path / f"live{n}" / "model", value, 5.0 * n) for n, value in enumerate((1.0, 2.0, 6.0), start=1)]
    seen(tmp_path, 1, (1.0, 0.0))
    seen(tmp_path, 2, (1.0, 0.0), (2.0, 0.0))
    seen(tmp_path, 3, (4.0, 1.0))
    points, merges = [model(tmp_path / "00-base" / "model", 9.0, 9.0)], []
    for number, live in enumerate(lives, start=1):
        merge.before_stage(None, None, None)
        point, did = commit(merge, *context(tmp_path, *points), live, tmp_path / f"0{number}-task")
        points.append(point)
        merges.append(did.served and weights(did.served))
    assert merges[0] is None
    assert merges[1] == pytest.approx([(1 * 1 + 3 * 2) / 4, 7.5]), "where both are 0: their mean"
    diagonals = [diagonal(point.parent) for point in points[1:]]
    if feed_back:
        assert diagonals == [[1, 0], [4, 0], [8, 1]], "precisions add"
        wanted = {"previous": (4 * 1.75 + 4 * 6) / 8, "all": (1 * 1 + 4 * 1.75 + 4 * 6) / 9}[sources]
    else:
        assert diagonals == [[1, 0], [3, 0], [4, 1]], "its own task's"
        wanted = {"previous": (3 * 2 + 4 * 6) / 7, "all": (1 * 1 + 3 * 2 + 4 * 6) / 8}[sources]
    assert merges[2] == pytest.approx([wanted, 15.0])
    assert [each.parent.name for each in (points[1:] if sources == "all" else points[2:])][:-1] == did.record["points"]


def test_a_weight_is_the_old_models_share(tmp_path):
    merge = strategy(method="fisher", weight=0.25)
    seen(tmp_path, 1, (1.0,))
    seen(tmp_path, 2, (3.0,))
    base, live = (model(tmp_path / name / "model", value) for name, value in (("00-base", 0.0), ("live", 2.0)))
    one, _ = commit(merge, *context(tmp_path, base), model(tmp_path / "first" / "model", 1.0), tmp_path / "01-one")
    folder, _, _ = merge.after_task(*context(tmp_path, base, one), live)
    assert weights(folder) == pytest.approx([(0.25 * 1 * 1 + 0.75 * 3 * 2) / (0.25 * 1 + 0.75 * 3)])


def test_a_search_over_the_weight_knows_the_first_task_s_row(tmp_path):
    """The first task cannot be merged, and is judged: what the second may forget is measured from there."""

    def judge(folder):
        off = abs(weights(folder)[0] - 1)
        return {"task1": 1 - off, "task2": 0.5}, {"seconds": 1.0, "rollout_tokens": 10}

    merge = strategy(method="fisher", search=[0.5, 0.9])
    seen(tmp_path, 1, (1.0,))
    seen(tmp_path, 2, (1.0,))
    base, live = (model(tmp_path / name / "model", value) for name, value in (("00-base", 0.0), ("live", 2.0)))
    first = context(tmp_path, base, judge=lambda folder: ({"task1": judge(folder)[0]["task1"]}, judge(folder)[1]))
    one, did = commit(merge, *first, model(tmp_path / "first" / "model", 1.0), tmp_path / "01-one")
    assert (merge.state_dict()["rows"], did.record["curve"]) == ([{"task1": 1.0}], [])
    assert did.record["told"] == "not merged: there is nothing to merge with yet"
    folder, did, _ = merge.after_task(*context(tmp_path, base, one, judge=judge), live)
    assert weights(folder) == pytest.approx([1.1]) and did["value"] == 0.9


def test_a_task_that_trained_nothing_is_not_merged(tmp_path):
    merge = strategy(method="fisher")
    seen(tmp_path, 1, (1.0,))
    base = model(tmp_path / "00-base" / "model", 0.0)
    one, _ = commit(merge, *context(tmp_path, base), model(tmp_path / "first" / "model", 1.0), tmp_path / "01-one")
    two, did = commit(
        merge, *context(tmp_path, base, one), model(tmp_path / "second" / "model", 1.0), tmp_path / "02-two"
    )
    assert did.record["merged"] is False and diagonal(two.parent) == [1.0]


# -- whole runs ----------------------------------------------------------------------------------------------------------


def content(*specs: dict, **more) -> dict:
    made = short("sft", steps=4, evaluate=4, **more) | {"strategies": list(specs)}
    for task in made["stream"]:
        task["stages"][0]["args"] |= {"save_steps": 2, "adam_beta2": 0.9}
    return made


def test_two_tasks_and_a_kill(cpt, tmp_path):
    """The merge against the formula over the files; killed before the point, after its stage, the same files."""
    file = write_recipe(tmp_path / "recipe.yaml", content(MERGE | {"feed_back": False}))
    alone = tmp_path / "alone"
    assert cpt("run", file, "--out", alone, "--quiet") == 0, cpt.output
    points = [alone / "points" / name for name in ("01-reverse", "02-caesar")]
    models = [load_file(point / "model" / "model.safetensors") for point in points]
    diagonals = [load_file(point / "strategies" / "0-merge" / "fisher.safetensors") for point in points]
    served = load_file(points[1] / "served" / "model.safetensors")
    assert not (points[0] / "served").exists()
    assert served.keys() == models[0].keys() == diagonals[0].keys()
    for name, tensor in served.items():
        theirs = [each[name] for each in diagonals]
        assert torch.equal(tensor, fisher([models[1][name], models[0][name]], theirs[::-1], [0.5, 0.5])), name
        assert all((each >= 0).all() and (each > 0).any() for each in theirs), name
    for number, place in enumerate(("cpt.strategies.merge.strategy.merge", "cpt.rundir.RunDir.commit")):
        out, at = tmp_path / f"killed{number}", {"place": place, "call": 1 if number == 0 else 3}
        assert cpt("run", file, "--out", out, "--quiet", at=at) == -signal.SIGKILL
        assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
        assert_same_end(out, alone)
        for folder in ("served", "strategies"):
            assert files_of(out, folder) == files_of(alone, folder) != {}


@pytest.mark.parametrize("adapter", [False, True])
def test_the_diagonal_of_a_run_is_that_of_its_gradients(adapter, tmp_path, monkeypatch):
    """Two steps of the real trainer: .1 (.9 g1^2 + g2^2) / .19 of the gradients that its optimiser was given."""
    made, gradients = content(MERGE, tasks=("reverse",)), []
    made["stream"][0]["stages"][0]["args"] |= {"max_steps": 2}
    made |= {"adapter": {"kind": "lora", "r": 2, "target_modules": "all-linear"}} if adapter else {}

    def listen(self, args, state, control, model=None, **_):
        gradients.append({name: w.grad.clone() for name, w in model.named_parameters() if w.requires_grad})

    monkeypatch.setattr(AdamSecondMoments, "on_pre_optimizer_step", listen)
    run(load(write_recipe(tmp_path / "recipe.yaml", made)), tmp_path / "run", Screen(QUIET))
    point = tmp_path / "run" / "points" / "01-reverse"
    found = load_file(point / "strategies" / "0-merge" / "fisher.safetensors")
    (weights_file,) = (point / "model").glob("*.safetensors")
    assert found.keys() == load_file(weights_file).keys() and len(found) == len(gradients[0])
    first, second = ({name.replace(".default", ""): g for name, g in each.items()} for each in gradients)
    for name, tensor in found.items():
        wanted = 0.1 * (0.9 * first[name] ** 2 + second[name] ** 2) / 0.19
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=0)


# -- psmt ----------------------------------------------------------------------------------------------------------------


def test_psmt_protects_the_largest_of_each_tensor():
    flat = torch.tensor([[1.0, 5.0, 3.0, 4.0], [2.0, 0.5, 0.0, 4.0]])
    rare = torch.tensor([0.0, 0.0, 0.0, 1.0])
    shares = psmt.psmt([flat, rare, torch.tensor([7.0])], 0.5, 0.75)
    assert shares[0].tolist() == [[0.25, 0, 0, 0], [0.25, 0.25, 0.25, 0]]
    assert shares[1].tolist() == [0.25, 0.25, 0.25, 0], "a Fisher of 0 protects nothing"
    assert shares[2].tolist() == [0.25], "half of one element is none"
    tied = psmt.psmt([flat], 0.25, 0.75)[0]
    assert tied.tolist() == [[0.25, 0, 0.25, 0], [0.25, 0.25, 0.25, 0]], "two are equal to the smallest protected"


def steps(training: Training, *values: tuple[float, list[float]]) -> None:
    """Each: what the weights become, and their gradient before that."""
    for value, gradient in values:
        for weight in training.model.parameters():
            weight.grad = torch.tensor(gradient).expand_as(weight).clone()
        training.callback.on_pre_optimizer_step(None, training.state, None)
        training.put(value)
        training.callback.on_step_end(None, training.state, None)


def test_psmt_samples_large_tensors():
    fisher = torch.rand(700, 512, generator=torch.Generator().manual_seed(1))
    (share,) = psmt.psmt([fisher], 0.03, 0.75)
    assert (share == 0).float().mean().item() == pytest.approx(0.03, abs=0.003)
    assert fisher[share == 0].min() > fisher[share > 0].max(), "the largest"
    assert torch.equal(psmt.psmt([fisher], 0.03, 0.75)[0], share)


def test_psmt_by_hand(tmp_path):
    """Squares (1, 4), (16, 0), (0, 9); means (1, 4), (8.5, 2), (17/3, 13/3): the second stays, then the first, and again."""
    strategy = ema(rule="psmt", decay=0.5, protected=0.5)
    training = Training(tmp_path)
    training.model = torch.nn.Linear(2, 1, bias=False)
    training.put(0.0)
    training.begin(strategy)
    steps(training, (8.0, [1.0, 2.0]))
    assert strategy.callback.rule.average.tensors[0].tolist() == [[4.0, 0.0]]
    logs = {}
    training.callback.on_log(None, training.state, None, logs=logs)
    assert logs == {"ema/share": 0.25}
    strategy.save(tmp_path / "state")
    steps(training, (2.0, [4.0, 0.0]), (2.0, [0.0, 3.0]))
    assert strategy.callback.rule.average.tensors[0].tolist() == [[4.0, 1.5]]

    again = ema(rule="psmt", decay=0.5, protected=0.5)
    again.load(tmp_path / "state")
    training.begin(again)
    steps(training, (2.0, [4.0, 0.0]), (2.0, [0.0, 3.0]))
    assert again.callback.rule.average.tensors[0].tolist() == [[4.0, 1.5]], "the Fisher goes on over stages and kills"


def test_psmt_killed_inside_a_stage(cpt, tmp_path):
    psmt = {"kind": "ema", "rule": "psmt", "decay": 0.9, "protected": 0.1}
    file = write_recipe(tmp_path / "recipe.yaml", with_strategies(psmt, steps=4, tasks=("reverse",), evaluate=4))
    assert cpt("run", file, "--out", tmp_path / "alone", "--quiet") == 0, cpt.output
    at = {"place": "cpt.stages.metrics_logger.MetricsLogger.on_step_end", "call": 3}
    assert cpt("run", file, "--out", tmp_path / "killed", "--quiet", at=at) == -signal.SIGKILL
    assert cpt("run", file, "--out", tmp_path / "killed", "--quiet") == 0, cpt.output
    for folder in ("model", "served", "strategies"):
        assert files_of(tmp_path / "killed", folder) == files_of(tmp_path / "alone", folder) != {}


# -- mistakes ------------------------------------------------------------------------------------------------------------

WRONG = {
    "the base": (MERGE | {"sources": "base"}, "fisher: the untouched model has no Fisher diagonal: `sources` must be"),
    "an average": (
        MERGE | {"weight": "average"},
        "fisher: a merge that is fed back has the sum of its tasks' diagonals",
    ),
    "a scale": (MERGE | {"scale": 1.0}, "not of fisher: remove it"),
    "protected elsewhere": (
        {"kind": "ema", "protected": 0.1},
        "protected is an option of the rule psmt, not of constant",
    ),
    "all protected": ({"kind": "ema", "rule": "psmt", "protected": 1.0}, "strategies.0.protected"),
    "psmt elsewhere": ({"kind": "ema", "rule": "psmt", "device": "cpu"}, "device must be `weights`"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line(name, tmp_path):
    spec, said = WRONG[name]
    (line,) = mistakes(tmp_path, content(spec))
    assert said in line and "strategies.0" in line


def test_an_optimiser_without_moments_ends_the_run_with_its_first_step(cpt, tmp_path):
    made = content(MERGE, tasks=("reverse",))
    made["stream"][0]["stages"][0]["args"] |= {"optim": "adafactor"}
    assert cpt("run", write_recipe(tmp_path / "r.yaml", made), "--out", tmp_path / "run", "--quiet") == 2
    assert "stream.reverse.stages.0.args.optim: adafactor keeps no whole mean" in cpt.output
    assert "Traceback" not in cpt.output
