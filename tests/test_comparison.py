"""`cpt compare`: groups of seeds, verdicts, refusals, lm-eval's logs, and what is written."""

import csv
import json
import subprocess
import sys
import time

import numpy as np
import pytest

import cpt
from cpt.comparison.compare import compare_folders
from cpt.comparison.writing import record
from cpt.errors import UserError
from helpers.compared import ACCURACY, TASKS, recipe, scores_of, write_lm_eval, write_run
from helpers.fake_run import make_run

COUNT = 100


@pytest.fixture(scope="module")
def plain():
    return scores_of(ACCURACY, COUNT, 0)


def changed(scores, task: str, wrong: int, right: int = 0):
    """The same scores with the first `wrong` right answers of a task wrong, and the first `right` wrong ones right."""
    mine = np.array(scores[task], float)
    lost, gained = np.flatnonzero(mine == 1)[:wrong], np.flatnonzero(mine == 0)[:right]
    mine[lost], mine[gained] = 0.0, 1.0
    return {**scores, task: mine}


def test_a_planted_loss_is_worse_and_its_flips_are_listed(tmp_path, plain):
    base = write_run(tmp_path / "base", plain)
    worse = write_run(tmp_path / "worse", changed(plain, "sort", wrong=30), name="other")
    (pair,) = compare_folders([base, worse]).pairs
    assert pair.verdict == "worse" and pair.changes[0].estimate.value == pytest.approx(-0.1)
    sort = next(task for task in pair.tasks if task.name == "sort")
    assert (sort.verdict, sort.test, sort.lost, sort.gained) == ("worse", "mcnemar", 30, 0)
    assert sort.estimate.p == pytest.approx(2 * 0.5**30) and sort.adjusted == pytest.approx(4 * 2 * 0.5**30)
    rows = {f"sort/{i}" for i in np.flatnonzero(plain["sort"] == 1)[:30]}
    assert {flip.row for flip in pair.flips} == rows and not any(flip.gained for flip in pair.flips)
    assert {task.verdict for task in pair.tasks if task is not sort} == {"cannot tell"}
    (mirrored,) = compare_folders([worse, base]).pairs
    assert mirrored.verdict == "better" and all(flip.gained for flip in mirrored.flips)


def test_a_held_out_loss_stands_beside_a_better_verdict(tmp_path, plain):
    better = changed(plain, "sort", wrong=0, right=25)
    better = write_run(tmp_path / "better", changed(better, "copy", wrong=30), name="other")
    comparison = compare_folders([write_run(tmp_path / "base", plain), better])
    (pair,) = comparison.pairs
    assert pair.verdict == "better"
    assert [(change.name, change.verdict) for change in pair.others if "held_out" in change.name] == [
        ("held_out: general", "worse")
    ]
    assert "worse: general (held out) −0.300" in str(comparison)


def test_no_change_cannot_be_told(tmp_path, plain):
    base, same = write_run(tmp_path / "a", plain), write_run(tmp_path / "b", plain, name="other")
    (pair,) = compare_folders([base, same]).pairs
    assert pair.verdict == "cannot tell" and not pair.flips and not pair.others
    assert pair.changes[0].estimate.p == 1.0
    low, high = pair.changes[0].estimate.interval
    assert low < 0 < high, "no change in few questions is not proof of none"


def test_a_verdict_is_corrected_for_the_number_of_pairs(tmp_path, plain):
    base = write_run(tmp_path / "base", plain)
    slight = write_run(tmp_path / "slight", changed(plain, "sort", wrong=7), name="slight")
    (alone,) = compare_folders([base, slight]).pairs
    assert alone.verdict == "worse" and alone.changes[0].adjusted == pytest.approx(2 * 0.5**7)
    more = [write_run(tmp_path / f"same{i}", plain, name=f"same{i}") for i in range(4)]
    (among, *_) = compare_folders([base, slight, *more]).pairs
    assert among.changes[0].adjusted == pytest.approx(5 * 2 * 0.5**7) and among.verdict == "cannot tell"


def test_seeds_of_one_recipe_are_a_group(tmp_path):
    folders = []
    for name, rate in (("plain", 1e-4), ("fast", 1e-3)):
        for seed in (2, 0, 1):
            scores = scores_of(ACCURACY, COUNT, 10 + seed + 100 * (name == "fast"))
            settings = {"stream.0.stages.0.args.learning_rate": rate, "evaluation.gates": {"forgetting": seed / 10}}
            folders.append(write_run(tmp_path / f"{name}{seed}", scores, seed=seed, settings=settings))
    comparison = compare_folders(folders)
    assert [group.seeds for group in comparison.groups] == [[0, 1, 2], [0, 1, 2]]
    assert [group.label for group in comparison.groups] == [
        "plain (learning_rate=0.0001)",
        "plain (learning_rate=0.001)",
    ]
    (pair,) = comparison.pairs
    assert "3 seeds each, paired by seed" in pair.covers and len(pair.changes[0].estimate.seeds) == 3
    means = [
        [np.mean([group.final[None, t][s].mean() for t in TASKS]) for s in range(3)] for group in comparison.groups
    ]
    assert pair.changes[0].estimate.seeds == pytest.approx(np.subtract(means[1], means[0]))
    assert {task.test for task in pair.tasks} == {"permutation"}
    alone = compare_folders(folders[:3])
    assert not alone.pairs and "nothing to compare" in alone.notes[-1] and str(alone)


def test_data_or_code_of_another_kind_makes_another_group(tmp_path, plain):
    first, second = (write_run(tmp_path / name, plain, seed=seed) for seed, name in enumerate("ab"))
    assert len(compare_folders([first, second]).groups) == 1
    base = {"cpt": "0", "versions": {}, "seed": 0, "model_seed": 0, "data_seed": 0, "world_size": 1, "created": "",
            "hardware": {"machine": "", "cores": 1, "memory_bytes": 1, "gpus": [], "threads": 1}, "command": "",
            "git": {"commit": None, "dirty": None, "diff": None}}  # fmt: skip
    for folder, digest in ((first, "x"), (second, "y")):
        data = {"reverse": {"train": {"rows": 3, "hash": digest}}}
        (folder / "manifest.json").write_text(json.dumps(base | {"data": data}))
    assert len(compare_folders([first, second]).groups) == 2


def test_forgetting_and_learning_are_those_of_the_runs(tmp_path):
    """The estimates of a single run are the numbers and (but for the bootstrap's draw) the intervals of results.json."""
    good, bad = make_run(tmp_path / "good"), make_run(tmp_path / "bad", bad=True)
    comparison = compare_folders([good, bad])
    for group, folder in zip(comparison.groups, (good, bad), strict=True):
        results = json.loads((folder / "results.json").read_text())
        for name in ("average_accuracy", "learning_accuracy", "forgetting"):
            estimate = group.estimates[name]
            assert estimate.value == pytest.approx(results["metrics"][name])
            assert estimate.interval == pytest.approx(results["intervals"]["metrics"][name], abs=0.006)
        assert group.estimates["held_out: general"].value == pytest.approx(results["held_out"]["general"][-1])
    (pair,) = comparison.pairs
    verdicts = {change.name: change.verdict for change in pair.changes}
    assert verdicts["average_accuracy"] == verdicts["forgetting"] == verdicts["held_out: general"] == "worse"


def test_another_order_of_the_stream_can_be_compared(tmp_path, plain):
    base = write_run(tmp_path / "base", plain)
    turned = write_run(tmp_path / "turned", plain, tasks=TASKS[::-1])
    comparison = compare_folders([base, turned])
    assert [group.label for group in comparison.groups] == [
        f"plain (order {' '.join(t)})" for t in (TASKS, TASKS[::-1])
    ]
    names = [change.name for change in comparison.pairs[0].changes]
    assert "average_accuracy" in names and "forgetting" not in names, "it is the forgetting of other tasks"
    assert any("another order" in note for note in comparison.notes)


def test_scores_that_are_no_right_or_wrong_are_permuted(tmp_path, plain):
    parts = {task: each * 0.5 + 0.25 for task, each in plain.items()}
    base = write_run(tmp_path / "base", parts)
    lower = write_run(tmp_path / "lower", {**parts, "sort": np.maximum(0, parts["sort"] - 0.2)}, name="other")
    (pair,) = compare_folders([base, lower]).pairs
    sort = next(task for task in pair.tasks if task.name == "sort")
    assert (sort.test, sort.verdict, sort.gained) == ("permutation", "worse", None)
    assert pair.verdict == "worse"


# -- refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, what",
    [
        ({"model.dtype": "bfloat16"}, "model.dtype: 'bfloat16' here, 'float32' there"),
        ({"rollouts.engine": "vllm"}, "rollouts.engine: 'vllm' here, 'transformers' there"),
        (
            {"rollouts": {"engine": "transformers", "quantization": "fp8"}},
            "rollouts.quantization: 'fp8' here, None there",
        ),
        ({"evaluation.max_completion_length": 32}, "evaluation.max_completion_length: 32 here, 16 there"),
        ({"stream.1.max_completion_length": 8}, "caesar: other max_completion_length: 8 here, None there"),
        ({"stream.0.system": "Be brief."}, "reverse: other system: 'Be brief.' here, None there"),
        ({"stream.2.metric": {"kind": "f1"}}, "sort: other verifier: {'kind': 'f1'} here, {'kind': 'exact'} there"),
        ({"model.chat_template": "t.jinja"}, "model.chat_template: 't.jinja' here, None there"),
    ],
)
def test_what_was_answered_otherwise_is_refused(tmp_path, plain, settings, what):
    base, other = write_run(tmp_path / "base", plain), write_run(tmp_path / "other", plain, settings=settings)
    with pytest.raises(UserError) as caught:
        compare_folders([base, other])
    assert (
        str(caught.value)
        == f"{other}: cannot be compared with {base}: {'' if what.startswith(TASKS) else 'other '}{what}"
    )


def test_other_questions_are_refused(tmp_path, plain):
    base = write_run(tmp_path / "base", plain)
    asked = write_run(tmp_path / "asked", plain, prompt="{task} of {row}, please!")
    fewer = write_run(tmp_path / "fewer", {task: each[:60] for task, each in plain.items()})
    tasks = write_run(tmp_path / "tasks", plain, tasks=TASKS[:2])
    with pytest.raises(UserError) as caught:
        compare_folders([base, asked, fewer, tasks])
    text = str(caught.value)
    assert f"{asked}: cannot be compared with {base}: sort: other questions: 100 of 100 have another prompt" in text
    assert f"{fewer}: cannot be compared with {base}: sort: other questions: 60 here, 100 there" in text
    assert (
        f"{tasks}: cannot be compared with {base}: other tasks: reverse, caesar here, reverse, caesar, sort there"
        in text
    )


def test_every_run_that_cannot_be_read_is_told(tmp_path, plain):
    base = write_run(tmp_path / "base", plain)
    half = write_run(tmp_path / "half", plain, trained=1)
    cut = write_run(tmp_path / "cut", plain, name="cut")
    (cut / "evaluations" / "03-sort.jsonl").unlink()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        compare_folders([base, half, cut, tmp_path / "empty", tmp_path / "gone", base])
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert lines[0] == f"{half}: is not complete (1 of 3 tasks): finish it with `cpt run`"
    assert lines[1].startswith(f"{cut}: evaluations/03-sort.jsonl is missing")
    assert lines[2].startswith(f"{tmp_path / 'empty'}: is neither a run")
    assert lines[3] == f"{tmp_path / 'gone'}: no such folder" and lines[4] == f"{base}: was given twice: leave one out"


def test_one_seed_twice_is_refused(tmp_path, plain):
    first, second = (write_run(tmp_path / name, plain) for name in "ab")
    with pytest.raises(UserError, match=f"{second}: is the same recipe with the same seed as {first}"):
        compare_folders([first, second])
    with pytest.raises(UserError, match="needs at least two runs"):
        compare_folders([first])


def test_a_suite_that_not_all_were_asked_is_left_out_and_told(tmp_path, plain):
    base = write_run(tmp_path / "base", plain)
    without = write_run(tmp_path / "without", {task: plain[task] for task in TASKS}, name="other")
    comparison = compare_folders([base, without])
    assert "held_out: general" not in comparison.measures
    assert f"{base}: general/copy: left out, because not all were asked it" in comparison.notes


# -- lm-eval -------------------------------------------------------------------------------------------------------------


def test_two_folders_of_lm_eval(tmp_path):
    scores = {"arc": scores_of({"arc": 0.7}, 80, 1)["arc"], "boolq": scores_of({"boolq": 0.6}, 50, 2)["boolq"]}
    base = write_lm_eval(tmp_path / "base", scores)
    worse = write_lm_eval(tmp_path / "worse", changed(scores, "arc", wrong=40))
    comparison = compare_folders([base, worse])
    (pair,) = comparison.pairs
    assert [group.label for group in comparison.groups] == ["base", "worse"]
    assert pair.verdict == "worse" and pair.changes[0].estimate.value == pytest.approx(-0.25)
    arc = next(task for task in pair.tasks if task.name == "lm-eval/arc")
    assert (arc.lost, arc.gained, arc.questions) == (40, 0, 80)
    assert any("arc: compared by acc" in note for note in comparison.notes)
    assert pair.flips[0].prompt == "arc 0?" or pair.flips[0].prompt.startswith("arc ")
    assert "worse" in str(comparison)


@pytest.mark.parametrize(
    "other, what",
    [
        ({"dtype": "torch.bfloat16"}, "other model.dtype: 'bfloat16' here, 'float32' there"),
        ({"shots": 5}, "lm-eval/arc: other num_fewshot: 5 here, 0 there"),
        ({"doc": "!"}, "lm-eval/arc: other questions: 80 of 80 have another prompt or answer"),
    ],
)
def test_lm_eval_asked_otherwise_is_refused(tmp_path, other, what):
    scores = scores_of({"arc": 0.7}, 80, 1)
    base, second = write_lm_eval(tmp_path / "a", scores), write_lm_eval(tmp_path / "b", scores, **other)
    with pytest.raises(UserError) as caught:
        compare_folders([base, second])
    assert what in str(caught.value)


def test_a_damaged_sample_is_told(tmp_path):
    scores = scores_of({"arc": 0.7}, 10, 1)
    base, second = write_lm_eval(tmp_path / "a", scores), write_lm_eval(tmp_path / "b", scores)
    (file,) = second.rglob("samples_*.jsonl")
    file.write_text(file.read_text().replace("{", "", 1))
    with pytest.raises(UserError, match=r"samples_arc_.*:1: is damaged: not JSON"):
        compare_folders([base, second])


def test_a_task_without_a_score_for_each_question_is_left_out(tmp_path):
    scores = scores_of({"arc": 0.7, "wiki": 0.5}, 10, 1)
    folders = [write_lm_eval(tmp_path / name, scores) for name in "ab"]
    for folder in folders:
        file = next(folder.rglob("samples_wiki_*.jsonl"))
        samples = [json.loads(line) for line in file.read_text().splitlines()]
        changed_lines = [json.dumps(each | {"metrics": ["bits"], "bits": [-3.0, 7]}) for each in samples]
        file.write_text("\n".join(changed_lines) + "\n")
    comparison = compare_folders(folders)
    assert list(comparison.baseline.final) == [("lm-eval", "arc")]
    assert any(note.startswith("wiki is left out") for note in comparison.notes)


# -- what is written -----------------------------------------------------------------------------------------------------


def test_the_files_and_python(tmp_path, plain):
    base = write_run(tmp_path / "base", plain)
    hostile = changed(plain, "sort", wrong=30)
    worse = write_run(tmp_path / "worse", hostile, name="other", prompt="what is {task} of {row}?")
    comparison = cpt.compare([base, worse], out=tmp_path / "out")
    text = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert text == json.loads(json.dumps(record(comparison)))
    assert text["pairs"][0]["verdict"] == "worse" and len(text["pairs"][0]["flips"]) == 30
    rows = list(csv.DictReader((tmp_path / "out" / "compare.csv").open()))
    assert {row["kind"] for row in rows} == {"group", "difference", "task"}
    average = next(row for row in rows if row["kind"] == "difference" and row["name"] == "average_accuracy")
    assert float(average["value"]) == pytest.approx(-0.1) and average["verdict"] == "worse"
    flips = list(csv.DictReader((tmp_path / "out" / "flips.csv").open()))
    assert len(flips) == 30 and {row["direction"] for row in flips} == {"right -> wrong"}
    html, markdown = ((tmp_path / "out" / f"compare.{kind}").read_text() for kind in ("html", "md"))
    for page in (html, markdown):
        assert "other: worse" in page and "exact McNemar" in page and str(worse) in page
    assert "<script" not in html and "http" not in html and html.count("<svg") >= 3
    assert "worse: average accuracy −0.100" in str(comparison)


def test_names_of_the_users_are_escaped(tmp_path, plain):
    base = write_run(tmp_path / "base", plain, prompt="<script>alert({row})</script> {task}")
    other = write_run(
        tmp_path / "other", changed(plain, "sort", 9), name="a|b", prompt="<script>alert({row})</script> {task}"
    )
    cpt.compare([base, other], out=tmp_path / "out")
    assert "<script" not in (tmp_path / "out" / "compare.html").read_text()
    assert "a\\|b" in (tmp_path / "out" / "compare.md").read_text()


def command(*words) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "cpt", "compare", *map(str, words)], capture_output=True, text=True)


def test_the_command(tmp_path, plain):
    base, other = write_run(tmp_path / "base", plain), write_run(tmp_path / "other", plain, name="other")
    done = command(base, other, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["pairs"][0]["verdict"] == "cannot tell"
    done = command(other, "--baseline", base, "--out", tmp_path / "out")
    assert done.returncode == 0 and f"report: {tmp_path / 'out' / 'compare.html'}" in done.stdout
    assert "1*  plain" in done.stdout
    done = command(base, tmp_path / "gone")
    assert (done.returncode, done.stderr) == (2, f"cpt: {tmp_path / 'gone'}: no such folder\n")
    (tmp_path / "file").write_text("")
    done = command(base, other, "--out", tmp_path / "file")
    assert done.returncode == 2 and "is a file; give a folder" in done.stderr


def test_ten_runs_take_less_than_five_seconds_and_no_torch(tmp_path):
    folders = []
    for number in range(10):
        folders.append(make_run(tmp_path / f"run{number}", samples=0, bad=number % 2 == 1))
        text = json.dumps(recipe(f"r{number % 4}", number, ("reverse", "caesar", "sort", "double"), {}))
        results = json.loads((folders[-1] / "results.json").read_text())
        results |= {"recipe": f"r{number % 4}", "seed": number, "resolved_recipe": text}
        (folders[-1] / "results.json").write_text(json.dumps(results))
    program = "import sys; from cpt.cli.main import main; import atexit\n"
    program += "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
    program += f"main({['compare', *map(str, folders), '--out', str(tmp_path / 'out')]!r})"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "False", "torch was imported"
    assert seconds < 15, f"{seconds:.1f} s; on an idle core it takes less than 5"
