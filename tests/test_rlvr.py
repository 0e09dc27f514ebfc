"""What rlvr does besides GRPO: filtering, the overlong penalty, dynamic sampling; and that a resume changes none of it."""

import json
from collections import defaultdict

import pytest

from cpt.checks import all_checks, plan
from cpt.recipe import RecipeErrors, load
from cpt.stages.rl.overlong import penalty
from helpers.given import pattern
from helpers.launchers import LAUNCHERS, launch
from helpers.recipes import write_recipe
from helpers.rlvr_runs import assert_a_kill_changes_nothing, rlvr, run, stage_of
from helpers.same_end import logged

# -- mistakes and the plan -----------------------------------------------------------------------------------------------

WRONG = {
    "a KL from nothing": (
        {"reference": "none", "beta": 0.01},
        r"stream.0.stages.0.args.beta: \(0.01\) weighs a KL, and `reference: none` says that there is none",
    ),
    "a buffer longer than the answer": (
        {"overlong": {"buffer": 13}},
        r"stream.0.stages.0.overlong.buffer: \(13\) must be at most max_completion_length \(12\)",
    ),
    "one sample": ({"filter": {"samples": 1}}, "stream.0.stages.0.filter.samples: input should be greater than"),
    "another way to drop": ({"filter": {"drop": "hard"}}, "must be one of all-wrong, zero-variance, not 'hard'"),
    "no round": ({"dynamic_sampling": {"rounds": 0}}, "dynamic_sampling.rounds: input should be greater than 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line(name, tmp_path):
    options, message = WRONG[name]
    beta = options.get("beta", 0.0)
    content = rlvr(**{key: value for key, value in options.items() if key != "beta"})
    content["stream"][0]["stages"][0]["args"]["beta"] = beta
    with pytest.raises(RecipeErrors, match=message) as caught:
        load(write_recipe(tmp_path / "recipe.yaml", content))
    assert len(caught.value.problems) == 1


def test_the_plan_says_it(tmp_path):
    options = {"filter": {"drop": "zero-variance", "prompts": 64}, "overlong": {"buffer": 4}}
    content = rlvr(**options, dynamic_sampling={"rounds": 2}, reference="previous-task")
    content["stream"][0]["stages"][0]["args"]["beta"] = 0.01
    text = plan.describe(load(write_recipe(tmp_path / "recipe.yaml", content)), tmp_path / "run")
    assert "filter drops zero-variance (8 answers to 64 prompts before it)" in text
    assert "overlong penalty over the last 4 tokens" in text
    assert "up to 2 more generations for groups without signal" in text
    assert "KL 0.01 to previous-task" in text


def test_a_filter_that_looks_at_too_few(tmp_path):
    made = load(write_recipe(tmp_path / "recipe.yaml", rlvr(filter={"prompts": 3})))
    with pytest.raises(
        RecipeErrors, match=r"stages\.0\.filter\.prompts: \(3\) are fewer than the 4 prompts of one gen"
    ):
        all_checks.check(made, tmp_path / "run")


# -- filtering -----------------------------------------------------------------------------------------------------------


def hard_rows() -> tuple[list[dict], set[str]]:
    """24 rows, every third with an answer that nobody gives; and the ids of those that no given answer solves."""
    from cpt.data import procedural

    rows, hard = [], set()
    for number, row in enumerate(procedural.rows("copy", "train", 24)):
        nobodys = number % 3 == 0
        rows.append({"id": f"row{number}", "prompt": row["prompt"]})
        rows[-1]["answer"] = "aaaaaaaa" if nobodys else row["answer"]
        if nobodys or not any(pattern(f"{row['prompt'][0]['content']}=")):
            hard.add(f"reverse/row/row{number}")
    return rows, hard


def with_hard_prompts(folder) -> dict:
    """A recipe of `hard_rows`, two of which are held out."""
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in hard_rows()[0]))
    content = rlvr(filter={"samples": 4})
    content["stream"][0]["data"] = {"source": "jsonl", "train": str(folder / "train.jsonl"), "eval": 2}
    return content


def test_what_teaches():
    from cpt.stages.rl.filtering import teaches

    cases = {  # rewards: (kept by all-wrong, kept by zero-variance)
        (0.0, 0.0): (False, False),
        (0.0, 1.0): (True, True),
        (1.0, 1.0): (True, False),
        (0.2, 0.7): (False, True),
        (1.0, None): (True, False),
        (None, None): (False, False),
    }
    for rewards, (all_wrong, zero_variance) in cases.items():
        assert teaches(rewards, "all-wrong") == all_wrong
        assert teaches(rewards, "zero-variance") == zero_variance


def test_hard_prompts_are_left_out_also_after_a_kill(cpt, tmp_path):
    content = with_hard_prompts(tmp_path)
    place = "cpt.stages.metrics_logger.MetricsLogger.on_step_end"
    out = assert_a_kill_changes_nothing(cpt, tmp_path, content, place, 3, given=["answers"])
    stage = stage_of(out)
    assert_hard_ones_are_dropped(found := stage["filter"])
    assert f"filter kept {found['kept']} of 22 prompts" in stage["notes"]
    assert f"filter kept {found['kept']} of 22 prompts" in (out / "report.md").read_text()


def assert_hard_ones_are_dropped(found: dict) -> None:
    _, hard = hard_rows()
    assert found["prompts"] == 22 and found["kept"] == 22 - len(found["dropped"])
    assert set(found["dropped"]) <= hard and len(hard) - len(found["dropped"]) <= 2, "two rows are held out"


def test_its_rollouts_are_paid_for_once(cpt, tmp_path):
    """Killed after the filter and before the first step: what it found is used again, and its cost is counted."""
    content = with_hard_prompts(tmp_path)
    out = assert_a_kill_changes_nothing(cpt, tmp_path, content, "cpt.stages.rlvr.build", 1, given=["answers"])
    without = stage_of(run(cpt, tmp_path, rlvr(), "plain", given=["answers"]))
    assert stage_of(out)["rollout_tokens"] > without["rollout_tokens"]


def test_its_rollouts_are_the_first_generation(cpt, tmp_path):
    """With one generation alone nothing is rolled out but the filter; a sampling of its own is not trained on."""
    content = with_hard_prompts(tmp_path)
    stage = content["stream"][0]["stages"][0]
    stage["args"] |= {"max_steps": 1}
    reused = stage_of(out := run(cpt, tmp_path, content, "reused", given=["answers"]))
    stage["filter"]["temperature"] = 0.9
    anew = stage_of(other := run(cpt, tmp_path, content, "anew", given=["answers"]))
    assert reused["filter"]["opening"] == 4 and anew["filter"]["opening"] == 0
    (line,), (drawn,) = logged(out), logged(other)
    assert anew["rollout_tokens"] - reused["rollout_tokens"] == 16 * drawn["completions/mean_length"]
    assert line["reward"] > 0, "a kept prompt has a right rollout among those trained on"
    assert reused["train_tokens"] > 0


def test_the_first_epoch_begins_with_the_opening():
    from trl.trainer.utils import RepeatSampler

    from cpt.stages.generation import OrderOfEpoch

    def order(epoch: int, opening: int) -> list[int]:
        return list(OrderOfEpoch(RepeatSampler(range(10), 2, 4, seed=0), 7, lambda: epoch, opening))

    for epoch in (0, 1):
        assert order(epoch, 0) == order(epoch, 0) and len(set(order(epoch, 0))) == 8
    begun = order(0, 4)
    assert {*begun[:8]} == {0, 1, 2, 3} and begun[::2] == begun[1::2]
    assert len(set(begun)) == 8, "each row once, the others where they were but for those that changed places"
    assert [row for row in begun[8:] if row in order(0, 0)[8:]] == [row for row in order(0, 0)[8:] if row > 3]
    assert order(1, 4) == order(1, 0)


def test_rollouts_of_another_rank_are_found():
    from cpt.stages.rl.filtering import InitialRollouts, Rollout

    rollouts = {name: [Rollout([i], None) for i in range(4)] for name in ("a", "b")}
    second = [{"row": "a"}] * 2 + [{"row": "b"}] * 2  # rank 1 of 2, whose first group began on rank 0
    assert [each.ids for each in InitialRollouts(rollouts).of(second, 6)] == [[2], [3], [0], [1]]
    assert InitialRollouts(rollouts).of([{"row": "c"}], 0) is None


def test_nothing_left(cpt, tmp_path):
    content = with_hard_prompts(tmp_path)
    file = tmp_path / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | {"answer": "aaaaaaaa"}) + "\n" for row in rows))
    run(cpt, tmp_path, content, code=2)
    assert "stream.reverse.stages.0: filter kept 0 of 22 prompts, and one generation needs 4" in cpt.output
    assert "a stage of kind sft" in cpt.output and "Traceback" not in cpt.output


@pytest.mark.slow
def test_two_processes_share_the_rollouts(tmp_path, tiny_folder):
    file = write_recipe(tmp_path / "recipe.yaml", with_hard_prompts(tmp_path))
    done = launch(LAUNCHERS / "ddp-cpu.yaml", "run", file, "--out", tmp_path / "run", given="answers")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_hard_ones_are_dropped(found := stage_of(tmp_path / "run")["filter"])
    assert done.stdout.count(f"filter kept {found['kept']} of 22 prompts") == 1
    assert found["opening"] == 8, "four prompts of each process's sixteen completions"


# -- overlong ------------------------------------------------------------------------------------------------------------


def test_the_penalty_by_hand():
    """Limit 20, buffer 5: free to 15 tokens, then a fifth a token."""
    numbers = {1: 0.0, 15: 0.0, 16: -0.2, 18: -0.6, 20: -1.0, 25: -1.0}
    for length, expected in numbers.items():
        assert penalty(length, 20, 5) == pytest.approx(expected)
    assert penalty(20480, 20480, 4096) == -1.0 and penalty(18432, 20480, 4096) == -0.5  # the paper's own limits


def test_the_penalty_is_a_reward_of_its_own(cpt, tmp_path):
    """It is logged beside the task's reward, their sum is trained on, and the accuracy knows nothing of it."""
    out = run(cpt, tmp_path, rlvr(steps=2, overlong={"buffer": 12}))
    for line in logged(out):
        assert -1 <= line["rewards/overlong/mean"] < 0 <= line["rewards/reward/mean"] <= 1
        assert line["reward"] == pytest.approx(line["rewards/reward/mean"] + line["rewards/overlong/mean"], abs=1e-6)
        assert line["rewards/overlong/mean"] == pytest.approx(-line["completions/mean_length"] / 12, abs=1e-6)
    accuracy = json.loads((out / "results.json").read_text())["accuracy"]
    assert all(0 <= value <= 1 for row in accuracy for value in row)


# -- dynamic sampling ----------------------------------------------------------------------------------------------------


def test_groups_with_signal_stand_in(cpt, tmp_path):
    """With the same first rollouts fewer groups are left without signal; a kill inside the stage changes nothing."""
    plain = run(cpt, tmp_path, rlvr(), "plain", given=["answers"])
    content, place = rlvr(dynamic_sampling={"rounds": 3}), "cpt.stages.metrics_logger.MetricsLogger.on_step_end"
    out = assert_a_kill_changes_nothing(cpt, tmp_path, content, place, 5, given=["answers"])
    flat, before = ([line["frac_reward_zero_std"] for line in logged(each)] for each in (out, plain))
    assert before[0] > flat[0] == pytest.approx(before[0] - logged(out)[0]["dynamic_sampling/replaced"] / 4)
    for line in logged(out):
        rounds, made, replaced = (line[f"dynamic_sampling/{name}"] for name in ("rounds", "resampled", "replaced"))
        assert 0 <= rounds <= 3 and replaced <= min(made, 4)
        assert (rounds == 3 or line["frac_reward_zero_std"] == 0) and made <= 4 * rounds
    assert stage_of(out)["rollout_tokens"] > stage_of(plain)["rollout_tokens"]
    sampled = sum(4 * 4 * line["completions/mean_length"] for line in logged(out))
    assert stage_of(out)["rollout_tokens"] > sampled, "the rollouts that were not chosen cost nothing?"


def test_the_replaced_groups_are_what_is_trained_on():
    """A trainer of numbers: prompt n pays n % 2 for its second completion, so even prompts have no signal."""
    import torch

    from cpt.stages.rl.dynamic_sampling import DynamicSampling

    class Numbers:
        num_generations = 2

        def __init__(self):
            self.args = self.state = type("Any", (), {"seed": 1, "global_step": 2, "num_input_tokens_seen": 0})()
            self.train_dataset = [{"prompt": str(n), "row": str(n)} for n in range(8)]
            self._metrics = {"train": defaultdict(list)}

        def _generate(self, prompts):
            ids, logprobs = self._generate_single_turn(prompts)
            self.state.num_input_tokens_seen += len(prompts)
            self._metrics["train"]["completions/mean_length"].append(1.0)
            return prompts, ids, None, [str(each) for each in ids], logprobs, {}, None, []

        def _generate_single_turn(self, prompts, *_):
            return [[int(prompt), place % 2] for place, prompt in enumerate(prompts)], [[0.5] for _ in prompts]

        def _calculate_rewards(self, inputs, prompts, completions, ids):
            return torch.tensor([[float(number % 2 * place), -1.0] for number, place in ids])

    def generated(rounds, *numbers):
        trainer, sampling = Numbers(), DynamicSampling(rounds)
        inputs = [trainer.train_dataset[n] for n in numbers for _ in range(2)]
        sampling.draw(trainer, inputs)
        prompts, rollouts = [row["prompt"] for row in inputs], sampling.rollouts()
        assert [each.ids for each in rollouts] == [[int(p), place % 2] for place, p in enumerate(prompts)]
        assert sampling.rewards()[:, 0].tolist() == [float(n % 2 * place) for n, place in (r.ids for r in rollouts)]
        assert [each.logprobs for each in rollouts] == [[0.5]] * len(inputs)
        assert trainer.state.num_input_tokens_seen == 0 and trainer._metrics["train"]["completions/mean_length"] == []
        return prompts[::2], {k.split("/")[1]: v for k, v in trainer._metrics["train"].items()}

    prompts, told = generated(4, 0, 1, 2, 4)
    assert sorted(prompts) == ["1", "3", "5", "7"] and prompts[1] == "1", "the group with signal stays in its place"
    assert told["replaced"] == [3]
    assert generated(4, 0, 1, 2, 4) == (prompts, told), "the same seed and step draw the same prompts"
    assert generated(3, 1, 3, 5)[1]["rounds"] == generated(3, 1, 3, 5)[1]["resampled"] == [0]
    prompts, told = generated(9, 0, 2, 4, 6)
    assert sorted(prompts) == ["1", "3", "5", "7"] and told["rounds"] == [1] and told["resampled"] == [4]
    few, told = generated(9, 0, 1, 2, 3, 4, 5, 6)  # seven of eight prompts: one other is left, and it has signal
    assert told["replaced"] == [1] and few == ["7", "1", "2", "3", "4", "5", "6"]


def test_several_processes_are_refused(tmp_path, monkeypatch):
    made = load(write_recipe(tmp_path / "recipe.yaml", rlvr(dynamic_sampling={})))
    all_checks.check(made, tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeErrors, match=r"stages\.0\.dynamic_sampling: works in one process, not in 2: remove it"):
        all_checks.check(made, tmp_path / "run")
