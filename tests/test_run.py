"""Whole runs on the built-in toy model: what they write, what they leave behind, whose weights answer, strategies' hooks."""

import gc
import hashlib
import json
import re
import shutil
import signal

import pytest
import torch

from cpt.recipe import load
from cpt.recipe.base import StrategySpec
from cpt.screen import QUIET, Screen
from helpers import given
from helpers.recipes import short, write_recipe

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@pytest.fixture(scope="module")
def finished(cpt, tmp_path_factory):
    """A finished run of two tasks with a held-out suite, sampled answers and gates that fail; with what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    content = short("sft", steps=6)
    (folder / "held.yaml").write_text(
        "name: held\ntasks:\n  - {task: copy, data: {source: procedural, name: copy, eval: 12}, reward: exact}\n"
    )
    content["evaluation"] |= {"suites": ["held.yaml"], "sampled": {"k": [1, 2], "samples": 3}}
    content["evaluation"]["gates"] = {"forgetting": -1.0, "held_out_drop": {"limit": 1.0, "rule": "interval"}}
    code = cpt("run", write_recipe(folder / "recipe.yaml", content), "--out", folder / "run")
    return folder / "run", code, cpt.output


def read(run, name="results.json"):
    return json.loads((run / name).read_text())


# -- what a run writes ---------------------------------------------------------------------------------------------------


def test_a_failing_gate_is_exit_code_3(finished):
    run, code, output = finished
    assert code == 3
    verdicts = {gate["name"]: gate for gate in read(run)["gates"]}
    assert not verdicts["forgetting"]["passed"] and verdicts["held_out_drop"]["passed"]
    assert re.search(r"forgetting \S+ > -1\.0+ FAILED: ", output), output


def test_the_run_directory(finished):
    run, _, _ = finished
    assert {"recipe.yaml", "manifest.json", "metrics.jsonl", "results.json", "report.html", "report.md"} <= {
        file.name for file in run.iterdir()
    }
    assert [folder.name for folder in sorted((run / "points").iterdir())] == ["00-base", "01-reverse", "02-caesar"]
    assert (run / "final").resolve() == (run / "points" / "02-caesar" / "model").resolve()
    found = read(run)
    assert found["format"] == 1 and found["complete"] and found["tasks"] == ["reverse", "caesar"]
    assert len(found["accuracy"]) == 3 and all(len(row) == 2 for row in found["accuracy"])
    assert len(found["held_out"]["held"]) == 3
    assert set(found["sampled"]["reverse"]) == {"pass@1", "pass@2"}
    assert all(one <= two + 1e-12 for one, two in zip(*found["sampled"]["reverse"].values(), strict=True))
    manifest = read(run, "manifest.json")
    assert manifest["data"]["reverse"]["train"]["rows"] == 200
    assert {"torch", "transformers", "trl"} <= manifest["versions"].keys()
    assert list(run.rglob("*.bin")) == list(run.rglob("*.pt")) == list(run.rglob("*.pth")) == [], (
        "torch files stay behind"
    )


def test_results_agree_with_every_kept_answer(finished):
    run, _, _ = finished
    for place, point in enumerate(("00-base", "01-reverse", "02-caesar")):
        lines = [json.loads(line) for line in (run / "evaluations" / f"{point}.jsonl").read_text().splitlines()]
        for number, task in enumerate(("reverse", "caesar")):
            mine = [
                line["score"] for line in lines if (line["suite"], line["task"], line["mode"]) == (None, task, "greedy")
            ]
            assert len(mine) == 20
            assert sum(mine) / 20 == pytest.approx(read(run)["accuracy"][place][number])
        assert sum(line["mode"] == "sampled" for line in lines) == 2 * 20 * 3


def test_the_points_load_by_themselves(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, _, _ = finished
    model = AutoModelForCausalLM.from_pretrained(run / "final")
    base = AutoModelForCausalLM.from_pretrained(run / "points" / "00-base" / "model")
    assert model.config.use_cache == base.config.use_cache
    tokenizer = AutoTokenizer.from_pretrained(run / "final")
    assert tokenizer.chat_template
    assert any(not torch.equal(one, two) for one, two in zip(model.parameters(), base.parameters(), strict=True))


@pytest.mark.usefixtures("given_rewards")
def test_reference_log_probs_come_without_a_bar(cpt, tmp_path):
    content = short("dpo", steps=1, tasks=("reverse",), evaluate=2)
    content["stream"][0]["stages"][0]["args"] |= {"precompute_ref_log_probs": True}
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "run") == 0, cpt.output
    assert "%|" not in cpt.output and "Computing reference" not in cpt.output


def test_the_screen_in_a_log_file(finished):
    _, _, output = finished
    assert not CONTROL.search(output.replace("\n", "")), "control codes in a file"
    assert "reverse 0-sft: 6 steps in" in output and "02-caesar" in output
    assert "FutureWarning" not in output and "%|" not in output


def test_quiet_and_verbose(cpt, tmp_path, finished):
    run, _, _ = finished
    assert cpt("run", run / "recipe.yaml", "--out", run, "--quiet") == 3
    assert cpt.output.splitlines()[-1].startswith("report: ") and "0-sft" not in cpt.output
    assert len(cpt.output.splitlines()) == 4, cpt.output  # two gates, the verdict and the report
    file = write_recipe(tmp_path / "recipe.yaml", short("sft", steps=1, tasks=("reverse",), evaluate=2))
    assert cpt("run", file, "--out", tmp_path / "run", "--verbose") == 0
    assert " INFO " in cpt.output or " WARNING " in cpt.output


def test_the_report_is_made_again_from_the_json_files_alone(cpt, finished, tmp_path):
    run, _, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("points", "final", "report.*", "recipe.yaml", "run.log"))
    assert {file.suffix for file in copy.rglob("*") if file.is_file()} - {""} == {".json", ".jsonl"}
    assert cpt("report", copy) == 0, cpt.output
    assert (copy / "report.html").read_text() == (run / "report.html").read_text()
    assert (copy / "report.md").read_text() == (run / "report.md").read_text()


def test_what_is_stored_is_the_whole_recipe(cpt, finished, tmp_path):
    """recipe.yaml of the run, run again elsewhere, gives the same weights."""
    run, _, _ = finished
    assert cpt("run", run / "recipe.yaml", "--out", tmp_path / "again", "--quiet") == 3, cpt.output
    names = [f"points/{point}/model/model.safetensors" for point in ("01-reverse", "02-caesar")]
    assert all((run / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


# -- cpt eval ------------------------------------------------------------------------------------------------------------


def test_any_point_is_evaluated_by_itself(cpt, finished, tmp_path):
    """A point loaded by itself gives the answers of the run: its evaluation did not use older or newer weights."""
    run, _, _ = finished
    suite = run.parent / "held.yaml"
    for target, point in (
        (run, "01-reverse"),
        (run, None),
        (run / "points" / "01-reverse", None),
        (run / "final", None),
    ):
        options = ["--point", point] if point else []
        assert cpt("eval", target, "--suite", suite, "--out", tmp_path / "answers.jsonl", *options) == 0, cpt.output
        place = 1 if "01-reverse" in (point, target.name) else 2
        line = next(line for line in cpt.output.splitlines() if line.startswith("held: "))
        assert line.startswith(f"held: {read(run)['held_out']['held'][place]:.3f} [") and line.endswith("] of 12")
        said = [json.loads(line)["completion"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
        name = ("00-base", "01-reverse", "02-caesar")[place]
        kept = [json.loads(line) for line in (run / "evaluations" / f"{name}.jsonl").read_text().splitlines()]
        assert said == [line["completion"] for line in kept if line["suite"] == "held"]


def test_a_model_folder_is_evaluated(cpt, tiny_folder):
    assert cpt("eval", tiny_folder, "--suite", "general", "--suite", "probe", "--quiet") == 0, cpt.output
    assert re.search(r"general/copy: [01]\.\d{3} \[", cpt.output)
    assert "probe: " in cpt.output


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_evaluation_says_that_nothing_is_kept(cpt, tiny_folder, tmp_path, number, code):
    at = {"place": "cpt.evaluation.suites.rows.score_answers", "call": 1, "signal": number}
    assert cpt("eval", tiny_folder, "--suite", "probe", "--out", tmp_path / "answers.jsonl", at=at) == code
    assert "interrupted; no answers are kept, the same command starts again" in cpt.output
    assert "saved" not in cpt.output and not (tmp_path / "answers.jsonl").exists()


def test_a_point_that_is_not_there(cpt, finished):
    run, _, _ = finished
    assert cpt("eval", run, "--suite", "general", "--point", "07-x") == 2
    assert "no committed point 07-x; available: 00-base, 01-reverse, 02-caesar" in cpt.output


# -- adapters ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("given_rewards")
@pytest.mark.parametrize(
    "adapter",
    [
        {"kind": "lora", "r": 4, "target_modules": "all-linear"},
        {"kind": "ia3", "target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    ],
    ids=["lora", "ia3"],
)
def test_adapters(cpt, adapter, tmp_path):
    """An adapter through all three kinds of stage: small points, the base untouched, killed and resumed to the same bytes."""
    content = short("sft", "dpo", "rlvr", steps=6, evaluate=6) | {"adapter": adapter}
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "run") == 0, cpt.output
    points = tmp_path / "run" / "points"
    names = {path.name for path in (points / "02-caesar" / "model").iterdir()}
    assert "adapter_model.safetensors" in names and "model.safetensors" not in names
    weights = [
        (points / name / "model" / "adapter_model.safetensors").read_bytes() for name in ("01-reverse", "02-caesar")
    ]
    assert weights[0] != weights[1]
    at = {"place": "cpt.stages.checkpoints.seal", "call": 5, "when": "after"}
    assert cpt("run", file, "--out", tmp_path / "killed", "--quiet", at=at) == -9, cpt.output
    assert cpt("run", file, "--out", tmp_path / "killed", "--quiet") == 0, cpt.output
    resumed = tmp_path / "killed" / "points" / "02-caesar" / "model"
    assert (resumed / "adapter_model.safetensors").read_bytes() == weights[1]
    written = (resumed / "adapter_config.json").read_text()
    of_the_other = (points / "02-caesar" / "model" / "adapter_config.json").read_text()
    assert written.replace(str(tmp_path / "killed"), str(tmp_path / "run")) == of_the_other  # each names its own base
    targets = json.loads(written)["target_modules"]
    assert len(targets) > 1 and targets == sorted(targets)
    assert cpt("eval", tmp_path / "run" / "final", "--suite", "general", "--quiet") == 0, cpt.output
    alone = cpt.output
    assert cpt("eval", tmp_path / "run", "--suite", "general", "--quiet") == 0, cpt.output
    assert alone == cpt.output, "the adapter's folder by itself is not the run's last point"


# -- whose weights, and what is left behind ------------------------------------------------------------------------------


def fingerprint(model) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def test_rollouts_never_come_from_stale_weights(monkeypatch, tmp_path):
    """At each generation the engine's weights are, bit for bit, those after the optimiser's last step."""
    from cpt.loop import run
    from cpt.rollouts.transformers import TransformersEngine
    from cpt.stages.checkpoints import CheckpointCallback
    from cpt.stages.metrics_logger import MetricsLogger

    present, generated = [None], []
    generate, on_step_end = TransformersEngine.generate, MetricsLogger.on_step_end
    on_train_begin = CheckpointCallback.on_train_begin

    def generate_and_look(self, prompts, sampling, on_done=None):
        if sampling.temperature > 0:  # evaluation is greedy
            generated.append((fingerprint(self.model), present[0]))
        return generate(self, prompts, sampling, on_done)

    def look_after_step(self, args, state, control, model=None, **more):
        present[0] = fingerprint(model)
        return on_step_end(self, args, state, control, model=model, **more)

    def look_at_begin(self, args, state, control, model=None, **more):
        present[0] = fingerprint(model)
        return on_train_begin(self, args, state, control, model=model, **more)

    given.rewards(monkeypatch)
    monkeypatch.setattr(TransformersEngine, "generate", generate_and_look)
    monkeypatch.setattr(MetricsLogger, "on_step_end", look_after_step)
    monkeypatch.setattr(CheckpointCallback, "on_train_begin", look_at_begin)
    run(load(write_recipe(tmp_path / "recipe.yaml", short("sft", "rlvr", steps=4))), tmp_path / "run", Screen(QUIET))
    assert len(generated) == 8
    assert all(engine == policy for engine, policy in generated)
    assert len({engine for engine, _ in generated}) > 6, "the weights did not change between two generations"


def tensor_bytes() -> int:
    gc.collect()
    return sum(
        each.nbytes for each in gc.get_objects() if isinstance(each, torch.Tensor) and each.device.type != "meta"
    )


@pytest.mark.parametrize("kind", ["sft", "dpo", "rlvr", "rejection", "self-distillation"])
def test_nothing_leaks_from_stage_to_stage(kind, monkeypatch, tmp_path):
    from cpt.loop import run
    from cpt.rundir import RunDir

    seen, commit_stage = [], RunDir.commit_stage

    def commit_and_count(self, point, name, record):
        commit_stage(self, point, name, record)
        seen.append(tensor_bytes())

    given.rewards(monkeypatch)
    monkeypatch.setattr(RunDir, "commit_stage", commit_and_count)
    content = short(kind, kind, steps=2, tasks=("reverse", "caesar"), evaluate=4)
    run(load(write_recipe(tmp_path / "recipe.yaml", content)), tmp_path / "run", Screen(QUIET))
    assert len(seen) == 4
    assert seen[1] == seen[2] == seen[3], f"live tensors after each stage: {seen}"
    assert seen[0] < 1_000_000, "a model (1.5 MB) outlives its stage"


def test_the_training_seed_changes_training_alone(monkeypatch, tmp_path):
    from cpt.loop import run

    given.rewards(monkeypatch)
    results = []
    for seed in (0, 1):
        content = short("rlvr", steps=2, tasks=("reverse",)) | {"seed": seed}
        content["evaluation"]["sampled"] = {"k": [1], "samples": 2}
        out = tmp_path / f"run-{seed}"
        results.append(run(load(write_recipe(tmp_path / f"{seed}.yaml", content)), out, Screen(QUIET)))
    kept = [(tmp_path / f"run-{seed}" / "evaluations" / "00-base.jsonl").read_text() for seed in (0, 1)]
    assert kept[0] == kept[1], "evaluation depends on the training seed"
    data = [read(tmp_path / f"run-{seed}", "manifest.json")["data"] for seed in (0, 1)]
    assert data[0] == data[1], "rows depend on the training seed"
    weights = [(tmp_path / f"run-{seed}" / "final" / "model.safetensors").read_bytes() for seed in (0, 1)]
    assert weights[0] != weights[1]


# -- strategies ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # of a strategy that no recipe may have
def test_a_strategys_hooks(tmp_path):
    """Rows, callbacks, both folders and the state: all that a strategy returns is used, and its state survives a resume."""
    from transformers import TrainerCallback

    from cpt.loop import run
    from cpt.strategies import Strategy
    from cpt.strategies.base import Outcome

    heard = []

    class FakeSpec(StrategySpec):
        kind: str
        rows: int

    class Fake(Strategy):
        def __init__(self, recipe, spec, name):
            super().__init__(recipe, spec, name)
            self.rows, self.steps = spec.rows, 0

        def before_stage(self, stage, services, rows):
            heard.append(("before", stage.key, len(rows), self.steps))
            return rows.select(range(self.rows))

        def callbacks(self, stage, services):
            strategy = self

            class Count(TrainerCallback):
                def on_step_end(self, args, state, control, **_):
                    strategy.steps += 1

            return [Count()]

        def saved(self, stage, services, model, save):
            with torch.no_grad():
                next(model.parameters()).zero_()
            save(stage.target.parent / self.name)

        def after_stage(self, stage, services, rows):
            heard.append(("after", stage.key, len(rows), self.steps))

        def after_task(self, stage, services, model):
            if stage.task.name == "caesar":
                return Outcome(stage.source)  # the task's own training is thrown away
            return Outcome(served=stage.target.parent / self.name)

        def state_dict(self):
            return {"steps": self.steps}

        def load_state_dict(self, state):
            self.steps = state["steps"]

    FakeSpec.implementation = Fake
    plain = load(write_recipe(tmp_path / "recipe.yaml", short("sft", steps=2)))
    with_fake = plain.model_copy(update={"strategies": (FakeSpec(kind="fake", rows=50),)})
    results = run(with_fake, tmp_path / "run", Screen(QUIET))
    keys = [f"stream.{task}.stages.0" for task in ("reverse", "caesar")]
    assert heard == [
        ("before", keys[0], 200, 0),
        ("after", keys[0], 50, 2),
        ("before", keys[1], 200, 2),
        ("after", keys[1], 50, 4),
    ]
    points = tmp_path / "run" / "points"
    models = {
        p: (points / p / "model" / "model.safetensors").read_bytes() for p in ("00-base", "01-reverse", "02-caesar")
    }
    assert models["02-caesar"] == models["01-reverse"] != models["00-base"]
    assert (points / "01-reverse" / "served" / "model.safetensors").read_bytes() != models["01-reverse"]
    assert results["accuracy"][1] == [0.0, 0.0] != results["accuracy"][0], "what is served is not what is evaluated"
    assert json.loads((points / "01-reverse/strategies/0-fake/state.json").read_text()) == {"steps": 2}
    shutil.rmtree(points / "02-caesar")
    (tmp_path / "run" / "evaluations" / "02-caesar.jsonl").unlink()
    heard.clear()
    assert run(with_fake, tmp_path / "run", Screen(QUIET))["accuracy"] == results["accuracy"]
    assert heard == [("before", keys[1], 200, 2), ("after", keys[1], 50, 4)]
