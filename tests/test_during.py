"""Evaluation within a stage: the weights stay what they are without it, its lines survive kills."""

import json
import signal

import numpy as np
import pytest

from cpt.evaluation import stability
from cpt.evaluation.during import summary
from cpt.recipe import load
from helpers.launchers import LAUNCHERS, launch
from helpers.recipes import RECIPES, mistakes, recipe, write_recipe
from helpers.same_end import logged, weights

SLOW = ("dpo", "rejection", "self-distillation", "distill", "rlvr-uneven", "rlvr-two-iterations")
KINDS = [pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in RECIPES if kind != "mixed"]


def with_during(content: dict, every: int = 3, questions: int = 5) -> dict:
    content = json.loads(json.dumps(content))
    content["evaluation"]["during"] = {"every": every, "questions": questions}
    return content


def lines_of(run) -> list[dict]:
    lines = [json.loads(line) for line in (run / "during.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


# -- runs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("given_rewards")
@pytest.mark.parametrize("kind", KINDS)
def test_training_is_not_changed(cpt, alone, tmp_path, kind):
    """Weights, logs and costs of stages are those of the run without it, and after a kill too."""
    file, out = write_recipe(tmp_path / "r.yaml", with_during(RECIPES[kind])), tmp_path / "run"
    at = {"place": "cpt.stages.metrics_logger.MetricsLogger.on_step_end", "call": 8}  # step 4 was saved, 6 evaluated
    assert cpt("run", file, "--out", out, "--quiet", at=at) == -signal.SIGKILL, cpt.output
    assert lines_of(out)
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
    assert weights(out) == weights(alone(kind))
    assert logged(out) == logged(alone(kind))
    with_it, without = (json.loads((run / "results.json").read_text()) for run in (out, alone(kind)))
    assert with_it["accuracy"] == without["accuracy"]
    for mine, other in zip(with_it["stages"], without["stages"], strict=True):
        assert all(mine[key] == other[key] for key in ("steps", "train_tokens", "rollout_tokens"))
    lines = lines_of(out)
    places = [(line["task"], line["step"]) for line in lines]
    assert places == sorted(set(places), key=lambda each: (each[0] != "reverse", each[1])), "repeated, or lost"
    last = with_it["stages"][0]["steps"]
    assert [step for task, step in places if task == "reverse"] == list(
        range(3, last + 1, 3) if kind != "rejection" else places_of_rounds(last, 2, 3)
    )
    assert all(set(line["scores"]) == {"reverse", "caesar"} for line in lines if line["task"] == "caesar")
    assert all(set(line["scores"]) == {"reverse"} for line in lines if line["task"] == "reverse")
    assert {len(each) for line in lines for each in line["scores"].values()} == {5}


def places_of_rounds(steps: int, rounds: int, every: int) -> list[int]:
    """The steps of the stage at which rounds of equal length evaluate, each counting its own steps."""
    each = steps // rounds
    return [each * number + step for number in range(rounds) for step in range(every, each + 1, every)]


@pytest.mark.usefixtures("given_rewards")
def test_it_asks_the_present_weights(cpt, tmp_path):
    """At a stage's last step its answers are those of the committed point, to the same questions."""
    content = with_during(recipe("sft", evaluate=12), every=5, questions=6)
    file, out = write_recipe(tmp_path / "r.yaml", content), tmp_path / "run"
    assert cpt("run", file, "--out", out) == 0, cpt.output
    results = json.loads((out / "results.json").read_text())
    for line in lines_of(out):
        if line["step"] == line["max_steps"]:
            number = 1 + results["tasks"].index(line["task"])
            point = (out / "evaluations" / f"{number:02d}-{line['task']}.jsonl").read_text().splitlines()
            answers = {each["row"]: each["score"] for each in map(json.loads, point)}
            for task, scores in line["scores"].items():
                assert scores == {row: answers[row] for row in scores}
                assert list(scores) == [f"{task}/eval/{i}" for i in range(6)]
    during = results["during"]
    assert during["questions"] == {"reverse": 6, "caesar": 6}
    assert during["curves"]["reverse"]["steps"] == [0, 5, 10, 10, 15, 20, 20]
    assert during["curves"]["caesar"]["steps"] == [10, 15, 20, 20]
    assert results["cost"]["during"]["rollout_tokens"] == sum(line["rollout_tokens"] for line in lines_of(out)) > 0
    assert "within stages" in (out / "report.md").read_text()
    assert cpt("report", out) == 0, cpt.output


# -- metrics, worked out by hand -----------------------------------------------------------------------------------------


def test_min_acc_is_the_mean_of_the_minima():
    assert stability.min_acc([[0.9, 0.4, 0.8], [0.7, 0.6]]) == pytest.approx((0.4 + 0.6) / 2)
    assert stability.min_acc([]) is None


def test_wc_acc_weighs_the_present_task_by_its_share():
    assert stability.wc_acc(0.9, [[0.9, 0.4, 0.8], [0.7, 0.6]]) == pytest.approx(0.9 / 3 + 2 / 3 * 0.5)
    assert stability.wc_acc(0.9, []) == 0.9


@pytest.mark.parametrize(("window", "drop", "rise"), [(1, 0, 0), (2, 0.3, 0.5), (3, 0.6, 0.7), (9, 0.6, 0.7)])
def test_the_largest_drop_and_rise_in_a_window(window, drop, rise):
    curve = [0.2, 0.7, 0.9, 0.6, 0.3]
    assert stability.largest_drop(curve, window) == pytest.approx(drop)
    assert stability.largest_drop(-np.array(curve), window) == pytest.approx(rise)


def test_windowed_metrics_are_means_over_tasks():
    curves = [[0.5, 0.1, 0.5], [0.0, 0.2, 0.9]]
    assert stability.windowed_forgetting(curves, 2) == pytest.approx((0.4 + 0) / 2)
    assert stability.windowed_plasticity(curves, 2) == pytest.approx((0.4 + 0.7) / 2)
    assert stability.windowed_forgetting([], 2) is None


def test_a_summary_worked_out_by_hand(tmp_path):
    """Two tasks of 4 steps, every 2, two questions each."""
    content = load(write_recipe(tmp_path / "r.yaml", with_during(recipe("sft"), every=2, questions=2)))

    def scores(task: str, *values: float) -> dict:
        return {task: {f"{task}/eval/{i}": value for i, value in enumerate(values)}}

    def line(task: str, step: int, made: dict) -> dict:
        place = {"task": task, "stage": "0-sft", "step": step, "max_steps": 4}
        return place | {"seconds": 0.5, "rollout_tokens": 3, "scores": made}

    def point(made: dict) -> list[dict]:
        every = [(task, row, score) for task, rows in made.items() for row, score in rows.items()]
        beside = {"suite": None, "mode": "greedy"}
        asked = [{"task": task, "row": row, "score": score} | beside for task, row, score in every]
        return [*asked, *({"task": task, "row": f"{task}/eval/9", "score": 1.0} | beside for task in made)]

    logged = [
        line("reverse", 2, scores("reverse", 1, 0)),
        line("reverse", 4, scores("reverse", 1, 1)),
        line("caesar", 2, scores("reverse", 0, 0) | scores("caesar", 0, 1)),
        line("caesar", 4, scores("reverse", 1, 0) | scores("caesar", 1, 1)),
    ]
    points = [
        point(scores("reverse", 0, 0) | scores("caesar", 0, 0)),
        point(scores("reverse", 1, 1) | scores("caesar", 0, 0)),
        point(scores("reverse", 1, 0) | scores("caesar", 1, 0)),
    ]
    stages = [{"task": task, "stage": "0-sft", "steps": 4} for task in ("reverse", "caesar")]
    made = summary(content, logged, stages, points)
    assert made["curves"]["reverse"] == {
        "steps": [0, 2, 4, 4, 6, 8, 8],
        "accuracy": [0, 0.5, 1, 1, 0, 0.5, 0.5],
        "after": [0, 1, 1, 1, 2, 2, 2],
    }
    assert made["curves"]["caesar"] == {"steps": [4, 6, 8, 8], "accuracy": [0, 0.5, 1, 0.5], "after": [1, 2, 2, 2]}
    assert made["metrics"] == {
        "min_acc": 0.0,
        "wc_acc": 0.5 / 2,
        "windowed_forgetting": (1 + 0.5) / 2,
        "windowed_plasticity": (1 + 1) / 2,
    }
    assert (made["evaluations"], made["seconds"], made["rollout_tokens"]) == (4, 2.0, 12)
    begun = summary(content, logged[:3], stages[:1], points[:2])
    assert begun["metrics"] == dict.fromkeys(made["metrics"])
    assert begun["curves"]["caesar"]["steps"] == [4, 6]


# -- mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"every": 0}, "evaluation.during.every: input should be greater than 0, not 0"),
        ({"questions": 5}, "evaluation.during.every: is missing"),
        ({"every": 5, "question": 5}, "evaluation.during.question: unknown key; did you mean questions?"),
    ],
)
def test_mistakes(tmp_path, value, message):
    content = recipe("sft")
    content["evaluation"]["during"] = value
    [line] = mistakes(tmp_path, content)
    assert message in line


def test_the_plan_counts_them_and_warns_of_stages_that_are_too_short(tmp_path):
    from cpt.checks.all_checks import check
    from cpt.checks.plan import describe

    content = with_during(recipe("sft", "rlvr"), every=4)
    for task in content["stream"]:
        task["stages"][1]["args"] |= {"max_steps": 3}
    made = load(write_recipe(tmp_path / "r.yaml", content))
    result = check(made, tmp_path / "run")
    [warning] = [each for each in result.warnings if "during" in each]
    assert warning.startswith(
        "evaluation.during.every: stream.reverse.stages.1, stream.caesar.stages.1 take fewer than 4 steps"
    )
    assert "within stages: every 4 steps, 5 questions of each task so far: 4 evaluations" in describe(
        made, tmp_path / "run"
    )


def test_damaged_lines_are_put_aside(tmp_path):
    from cpt import metrics_log
    from cpt.records import DuringLine

    place = {
        "task": "a",
        "stage": "0-sft",
        "max_steps": 4,
        "seconds": 0.5,
        "rollout_tokens": 3,
        "scores": {"a": {"x": 1.0}},
    }
    whole = [json.dumps(place | {"step": step}) + "\n" for step in (2, 4)]
    file = tmp_path / "during.jsonl"
    file.write_text(
        whole[0] + "{broken\n" + json.dumps(place | {"step": 3, "scores": {}}) + "\n" + whole[1] + '{"task": "a"'
    )
    [said] = metrics_log.mend(file, DuringLine)
    assert "line 2 (not JSON" in said and "and 1 more" in said and "moved to during.damaged" in said
    assert file.read_text() == "".join(whole)
    metrics_log.forget(file, lambda line: line["step"] <= 2, DuringLine)
    assert file.read_text() == whole[0]


def test_whole_weights_are_needed(tmp_path, monkeypatch):
    from cpt.checks.findings import Findings
    from cpt.checks.preflight import check_sharding

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    findings = Findings()
    check_sharding(load(write_recipe(tmp_path / "r.yaml", with_during(recipe("sft")))), findings)
    assert [problem.key for problem in findings.problems] == ["evaluation.during"]


@pytest.mark.slow
def test_two_processes_split_the_questions(tmp_path):
    """The same weights with and without it; each question is answered once, and a baseline runs on both processes."""
    content = recipe("sft", evaluate=12)
    for task in content["stream"]:
        task["stages"][0]["args"] |= {"max_steps": 4}
    runs = []
    for name, more in (("plain", {}), ("with", {"during": {"every": 2, "questions": 7}})):
        made = content | {"evaluation": content["evaluation"] | more, "baselines": ["experts"] if more else None}
        runs.append(tmp_path / name)
        done = launch(
            LAUNCHERS / "ddp-cpu.yaml", "run", write_recipe(tmp_path / f"{name}.yaml", made), "--out", runs[-1]
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert weights(runs[0]) == weights(runs[1])
    lines = lines_of(runs[1])
    assert [(line["task"], line["step"]) for line in lines] == [
        ("reverse", 2),
        ("reverse", 4),
        ("caesar", 2),
        ("caesar", 4),
    ]
    answers = (runs[1] / "evaluations" / "02-caesar.jsonl").read_text().splitlines()
    scores = {each["row"]: each["score"] for each in map(json.loads, answers)}
    for task, made in lines[-1]["scores"].items():
        assert made == {row: scores[row] for row in (f"{task}/eval/{i}" for i in range(7))}
    results = json.loads((runs[1] / "results.json").read_text())
    assert [row["name"] for row in results["baselines"]["rows"]] == ["experts"]
    assert results["during"]["rollout_tokens"] > 0


def variants() -> dict[str, dict]:
    """Recipes in which something else than the policy's own weights is at work."""
    lora = {"adapter": {"kind": "lora", "r": 4, "target_modules": "all-linear", "lora_dropout": 0.1}}
    hybrid = recipe("rlvr", tasks=("reverse",))
    hybrid["stream"][0]["stages"][0] |= {"kind": "hybrid", "method": "chord"}
    averaged = recipe("rlvr", tasks=("reverse",)) | {"strategies": [{"kind": "ema", "decay": 0.5}]}
    ahead = recipe("sft", tasks=("reverse",)) | {"strategies": [{"kind": "lookahead"}]}
    return {
        "lora": recipe("sft", "rlvr", tasks=("reverse",)) | lora,
        "hybrid": hybrid,
        "ema": averaged,
        "lookahead": ahead,
    }


@pytest.mark.slow
@pytest.mark.usefixtures("given_rewards")
@pytest.mark.parametrize("name", variants())
def test_training_is_not_changed_either(cpt, tmp_path, name):
    content, made = variants()[name], []
    for run, more in (("plain", content), ("with", with_during(content))):
        out = tmp_path / run
        assert cpt("run", write_recipe(tmp_path / f"{run}.yaml", more), "--out", out, "--quiet") == 0, cpt.output
        files = sorted((out / "points" / "01-reverse").rglob("*.safetensors"))
        made.append({str(file.relative_to(out)): file.read_bytes() for file in files})
    assert made[0] and made[0] == made[1]
    assert logged(tmp_path / "plain") == logged(tmp_path / "with")
    assert lines_of(tmp_path / "with")
