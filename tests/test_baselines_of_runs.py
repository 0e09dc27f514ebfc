"""Baselines: their recipes, what is said of them, and that the cache gives them again and nothing else."""

import json
import shutil
import signal

import numpy as np
import pytest

from cpt import baselines, cache
from cpt.checks.derived import derived, plan_lines
from cpt.checks.steps import total_steps
from cpt.data.stream import load_stream
from cpt.errors import RecipeErrors, UserError
from cpt.evaluation.baselines import mean_difference, measures, share
from cpt.files import seal
from cpt.recipe import load
from helpers.recipes import mistakes, recipe, short, write_recipe

EMA = {"kind": "ema", "decay": 0.5}
TASKS = ("reverse", "caesar")
ALL = ["frozen", "joint", "naive", "experts"]


def with_baselines(content: dict, names=tuple(ALL), **more) -> dict:
    return content | {"baselines": list(names), "strategies": [EMA]} | more


def loaded(tmp_path, content: dict):
    return load(write_recipe(tmp_path / "recipe.yaml", content))


# -- recipes -------------------------------------------------------------------------------------------------------------


def test_the_recipes_of_baselines(tmp_path):
    mine = loaded(tmp_path, with_baselines(recipe("sft", "rlvr"), tracking=["tensorboard"]))
    runs, without = derived(mine)
    assert [*runs] == ["joint", "naive", "expert-reverse", "expert-caesar"]
    assert [*without] == ["frozen"]
    assert {name: total_steps(each) for name, each in runs.items()} == {
        "joint": 40, "naive": 40, "expert-reverse": 20, "expert-caesar": 20,
    }  # fmt: skip
    joint = runs["joint"].stream[0]
    assert [(stage.kind, stage.args["max_steps"]) for stage in joint.stages] == [("sft", 20), ("rlvr", 20)]
    assert [part.task for part in joint.data.of] == ["reverse", "caesar"]
    assert all(not each.strategies and not each.evaluation.gates and each.baselines is None for each in runs.values())
    assert all(not each.tracking for each in runs.values()), "a tracker has one run for the stream"
    assert all(each.seed == mine.seed for each in runs.values())
    assert [task.task for task in runs["naive"].stream] == ["reverse", "caesar"]
    assert "together 120 steps beside the run's own 40" in plan_lines(mine)[-1]


def test_what_needs_no_run(tmp_path):
    content = recipe("sft") | {"baselines": ALL}
    assert derived(loaded(tmp_path, content))[1].keys() == {"frozen", "naive"}
    one = recipe("sft", tasks=("reverse",)) | {"baselines": ALL}
    assert derived(loaded(tmp_path, one)) == ({}, derived(loaded(tmp_path, one))[1])


def test_epochs_and_sampled_prompts_grow_with_the_rows(tmp_path):
    content = with_baselines(recipe("dpo", "rejection"), ["joint"])
    for task in content["stream"]:
        for stage in task["stages"]:
            stage["args"] = {key: value for key, value in stage["args"].items() if key != "max_steps"}
            stage["args"]["num_train_epochs"] = 2
    stages = derived(loaded(tmp_path, content))[0]["joint"].stream[0].stages
    assert [stages[0].pairs.prompts, stages[1].samples.prompts] == [128, 128]
    assert [stage.value("max_steps") for stage in stages] == [-1, -1]


UNLIKE = {
    "another rate": (lambda task: task["stages"][0]["args"].update(learning_rate=0.5), "stages.0.args.learning_rate"),
    "another kind": (lambda task: task["stages"][0].update(kind="rejection"), "stages"),
    "a second stage": (lambda task: task["stages"].append(task["stages"][0]), "stages"),
    "another reward": (lambda task: task.update(reward={"kind": "exact", "ignore_case": True}), "reward"),
    "a system message": (lambda task: task.update(system="Be brief."), "system"),
    "steps in one task alone": (lambda task: task["stages"][0]["args"].pop("max_steps"), "stages.0.args.max_steps"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNLIKE)
def test_what_cannot_be_mixed_is_refused(tmp_path, name):
    change, key = UNLIKE[name]
    content = json.loads(json.dumps(with_baselines(recipe("sft"), ["joint"])))  # no two tasks share a map
    change(content["stream"][1])
    if name == "steps in one task alone":
        content["stream"][1]["data"] = {"source": "hub", "path": "some/where"}
        content["stream"][1]["stages"][0]["args"]["num_train_epochs"] = 1
        content["stream"][0]["stages"][0]["args"]["num_train_epochs"] = 1
    with pytest.raises(UserError, match=r"^baselines: joint: stream\.caesar\." + key) as found:
        derived(loaded(tmp_path, content))
    assert len(str(found.value).splitlines()) == 1
    assert derived(loaded(tmp_path, content | {"baselines": ["experts"]}))


@pytest.mark.parametrize(
    ("value", "message"),
    [(["joint", "best"], "'best'"), (["joint", "joint"], "joint stands there twice"), ("joint", "list")],
)
def test_mistakes(tmp_path, value, message):
    [line] = mistakes(tmp_path, recipe("sft") | {"baselines": value})
    assert "baselines" in line and message in line


def mixture(*parts: dict) -> dict:
    content = recipe("sft", tasks=("reverse",))
    content["stream"][0] |= {"task": "both", "data": {"source": "mixture", "of": list(parts)}}
    return content


def part(task: str, **more) -> dict:
    return {"task": task, "data": {"source": "procedural", "name": task, "train": 20, "eval": 3} | more}


def test_the_rows_of_a_mixture(tmp_path):
    both = load_stream(loaded(tmp_path, mixture(part("reverse"), part("caesar"))), {}).tasks[0]
    apart = [load_stream(loaded(tmp_path, mixture(part(one), part(other))), {}).tasks[0] for one, other in
             (("reverse", "sort"), ("sort", "caesar"))]  # fmt: skip
    assert [row["id"] for row in both.eval] == [f"{task}/eval/{i}" for task in ("reverse", "caesar") for i in range(3)]
    assert [*both.train[:20]] == [*apart[0].train[:20]] and [*both.train[20:]] == [*apart[1].train[20:]]
    assert len(both.train) == 40


def test_places_in_files_of_a_mixture(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "c", "answer": "d"}\n')
    (tmp_path / "eval.jsonl").write_text('{"prompt": "e", "answer": "f"}\n')
    file = {"task": "mine", "data": {"source": "jsonl", "train": "train.jsonl", "eval": "eval.jsonl"}}
    rows = load_stream(loaded(tmp_path, mixture(part("reverse"), file)), {}).tasks[0].train
    assert [rows[index].place for index in (0, 21)] == ["", f"{tmp_path}/train.jsonl:2"]
    assert rows[21]["id"] == "mine/train/1"
    assert rows.at([21])[0]["id"] == "mine/train/1"


def test_mistakes_in_a_mixture(tmp_path):
    [line] = mistakes(tmp_path, mixture(part("reverse"), part("reverse")))
    assert "two parts are called reverse" in line
    with pytest.raises(RecipeErrors, match=r"stream\.both\.data\.of\.1\.data\.train"):
        load_stream(loaded(tmp_path, mixture(part("reverse"), part("caesar", train=10**8))), {})


# -- measures, worked out by hand ----------------------------------------------------------------------------------------


def test_measures_worked_out_by_hand():
    """Two tasks of two questions: base .5 .0, learnt 1 .5, final .5 .5, joint 1 1, experts 1 .5, naive 0 .5."""
    matrix = [np.array([[1, 0], [1, 1], [1, 0]]), np.array([[0, 0], [0, 0], [0, 1]])]
    found = {
        "frozen": [np.array([1, 0]), np.array([0, 0])],
        "joint": [np.array([1, 1]), np.array([1, 1])],
        "experts": [np.array([1, 1]), np.array([1, 0])],
        "naive": [np.array([0, 0]), np.array([0, 1])],
    }
    values = {name: each["value"] for name, each in measures(found, matrix).items()}
    assert values == pytest.approx(
        {
            "gain": (0 + 0.5) / 2,
            "gain_of_strategies": (0.5 + 0) / 2,
            "intransigence_to_experts": 0.0,
            "intransigence_to_joint": (0 + 0.5) / 2,
            "lead_of_joint": (0.5 + 0.5) / 2,
            "share_of_joint_gain": (0.5 - 0.25) / (1 - 0.25),
        }
    )
    assert measures({}, matrix) == {}


def test_an_interval_is_paired():
    """The same answers: a difference of 0 whose interval is that of no change, narrower than that of other questions."""
    rng = np.random.default_rng(0)
    first = [(rng.random(200) < 0.5).astype(float) for _ in range(3)]
    low, high = mean_difference(first, first)["interval"]
    assert -0.02 < low <= 0 <= high < 0.02


def test_a_share_of_no_gain_is_unknown():
    same = [np.array([1.0, 0.0])]
    assert share(same, same, same) == {"value": None, "interval": None}
    base, final, joint = ([np.array([0.0] * 100 + [1.0] * count)] for count in (0, 0, 0))
    assert share(base, final, joint)["value"] is None
    base, joint = [np.zeros(400)], [np.r_[np.ones(200), np.zeros(200)]]
    final = [np.r_[np.ones(100), np.zeros(300)]]
    made = share(base, final, joint)
    assert made["value"] == 0.5 and made["interval"][0] < 0.5 < made["interval"][1]


# -- runs ----------------------------------------------------------------------------------------------------------------


def test_baselines_are_run_once(cpt, tmp_path):
    """Killed in a baseline, resumed, and taken from the cache by another run; other rows are run again."""
    content = with_baselines(short("sft", steps=2, evaluate=6))
    file = write_recipe(tmp_path / "r.yaml", content)
    environment = {cache.OFF: "0", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    first, second, third = (tmp_path / name for name in ("0", "1", "2"))
    at = {"place": "cpt.rundir.RunDir.commit_stage", "call": 4}  # two of the run, one of joint, one of naive
    assert cpt("run", file, "--out", first, at=at, environment=environment) == -signal.SIGKILL, cpt.output
    assert (first / "baselines" / "joint" / "baseline.json").is_file()
    assert not (first / "baselines" / "naive" / "baseline.json").exists()
    assert cpt("run", file, "--out", first, environment=environment) == 0, cpt.output
    assert "taken from cache" not in cpt.output.split("baseline naive:")[0]
    made = json.loads((first / "results.json").read_text())["baselines"]
    assert [row["name"] for row in made["rows"]] == ["frozen", "joint", "naive", "experts"]
    assert [row["steps"] for row in made["rows"]] == [0, 4, 4, 4]
    experts = [json.loads((first / f"baselines/expert-{task}/results.json").read_text()) for task in TASKS]
    assert made["rows"][3]["accuracy"] == [each["accuracy"][1][0] for each in experts]
    joint = [
        json.loads(line) for line in (first / "baselines/joint/evaluations/01-joint.jsonl").read_text().splitlines()
    ]
    for column, task in enumerate(TASKS):
        scores = [line["score"] for line in joint if line["row"].startswith(task)]
        assert len(scores) == 6 and made["rows"][1]["accuracy"][column] == np.mean(scores)
    assert "Against baselines" in (first / "report.html").read_text()
    assert cpt("run", file, "--out", first, environment=environment) == 0, cpt.output
    assert "baseline joint:" not in cpt.output, "it is there already"

    assert cpt("run", file, "--out", second, environment=environment) == 0, cpt.output
    for name in ("joint", "naive", "expert-reverse", "expert-caesar"):
        assert f"baseline {name}: taken from cache: " in cpt.output
        assert not (second / "baselines" / name / "points").exists()
    again = json.loads((second / "results.json").read_text())
    assert again["sha256"] == json.loads((first / "results.json").read_text())["sha256"]
    assert all(row["from_cache"] for row in again["baselines"]["rows"][1:])
    assert cpt("report", second) == 0 and cpt("report", second / "baselines" / "joint") == 0, cpt.output

    content["stream"][0]["data"]["train"] = 199
    write_recipe(file, content | {"baselines": ["experts"]})
    assert cpt("run", file, "--out", third, environment=environment) == 0, cpt.output
    assert "baseline expert-caesar: taken from cache" in cpt.output
    assert "baseline expert-reverse: taken from cache" not in cpt.output


def test_a_key_differs_with_all_that_it_depends_on(tmp_path):
    base = tmp_path / "00-base"
    (base / "model").mkdir(parents=True)
    (base / "model" / "model.safetensors").write_text("a")
    seal(base)

    def key(content: dict) -> str | None:
        mine = loaded(tmp_path, content)
        return baselines.key_of(mine, load_stream(mine, {}), base)

    plain = short("sft")
    assert key(plain) == key(plain | {"name": "other", "description": "more", "baselines": ["joint"]})
    other = [plain | {"seed": 4}, plain | {"data": {"seed": 4}}, short("sft", steps=4), short("sft", evaluate=4)]
    other += [plain | {"strategies": [EMA]}, plain | {"evaluation": plain["evaluation"] | {"suites": ["general"]}}]
    keys = [key(each) for each in other]
    assert len({key(plain), *keys}) == len(other) + 1 and None not in keys
    teacher = recipe("distill")
    assert key(teacher) is not None
    for task in teacher["stream"]:
        task["stages"][0]["teacher"] = str(tmp_path)
    assert key(teacher) is None
    (base / "model" / "model.safetensors").write_text("b")
    seal(base)
    assert key(plain) not in {None, *keys}


@pytest.mark.parametrize("harm", ["cut", "gone", "another key"])
def test_a_damaged_entry_is_not_taken(tmp_path, harm):
    folder, kept = tmp_path / "run" / "baselines" / "joint", tmp_path / "kept"
    (folder / "evaluations").mkdir(parents=True)
    for name in baselines.KEPT[:-1]:
        (folder / name).write_text("{}")
    (folder / "evaluations" / "00-base.jsonl").write_text("{}\n")
    baselines.keep(folder, kept, "key")
    target = tmp_path / "other" / "baselines" / "joint"
    if harm == "cut":
        (kept / "results.json").write_text("")
    elif harm == "gone":
        (kept / "evaluations" / "00-base.jsonl").unlink()
    assert not baselines.take(kept, "other" if harm == "another key" else "key", target)
    shutil.rmtree(kept)
    baselines.keep(folder, kept, "key")
    assert baselines.take(kept, "key", target)
    assert sorted(file.name for file in target.iterdir()) == sorted([*baselines.KEPT, baselines.MARK])
    assert not (target / "DONE").exists()
