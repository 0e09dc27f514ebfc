"""Rejection-sampling fine-tuning: what is kept, how rounds go on, and that a kill repeats none of them."""

import json
import signal
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from cpt.checks import plan
from cpt.data.rows import prompt_text
from cpt.recipe import load
from helpers.contexts import stage_and_services
from helpers.fake_tokenizers import byte_level, encoder
from helpers.recipes import recipe, write_recipe
from helpers.same_end import logged, results

pytestmark = pytest.mark.usefixtures("given_rewards")  # right and wrong answers, whatever the model can do
STEP = "cpt.stages.metrics_logger.MetricsLogger.on_step_end"
SAMPLE = "cpt.stages.sampling.sample"
KILLED = {  # where; and where the run that goes on would be killed, if it did again what was done
    "before a round is sealed": ({"place": "cpt.stages.rejection.seal", "call": 1}, {"place": SAMPLE, "call": 3}),
    "before the second round's checkpoint": ({"place": STEP, "call": 9}, {"place": SAMPLE, "call": 1}),
    "in the second round": ({"place": STEP, "call": 11}, {"place": STEP, "call": 3}),
}
LORA = {"adapter": {"kind": "lora", "r": 4, "target_modules": "all-linear"}}


def small(**beside) -> dict:
    content = recipe("rejection", tasks=("reverse",), evaluate=4)
    content["stream"][0]["stages"][0] |= beside
    return content


def weights(run: Path, name: str = "model.safetensors") -> bytes:
    return (run / "points" / "01-reverse" / "model" / name).read_bytes()


@pytest.fixture(scope="module")
def alone(cpt, tmp_path_factory):
    """A run of two rounds that nothing disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    file = write_recipe(folder / "recipe.yaml", small())
    assert cpt("run", file, "--out", folder / "run", given=("rewards",)) == 0, cpt.output
    return folder / "run"


def test_the_record_and_the_log(alone):
    (stage,) = results(alone)["stages"]
    assert (stage["kind"], stage["steps"]) == ("rejection", 12)
    assert stage["rollout_tokens"] > 2 * 64 * 4 * 3 and stage["train_tokens"] > 0
    assert [note.split(",")[0] for note in stage["notes"]] == [
        f"round {number}: 64 prompts x 4 answers sampled" for number in (1, 2)
    ]
    assert all("distinct" in note and "of the prompts solved" in note for note in stage["notes"])
    lines = logged(alone)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["round"] for line in lines] == [1] * 6 + [2] * 6 and lines[-1]["max_steps"] == 12
    times = [json.loads(line)["seconds"] for line in (alone / "metrics.jsonl").read_text().splitlines()]
    assert times == sorted(times)
    assert (alone / "points" / "00-base" / "model" / "model.safetensors").read_bytes() != weights(alone)
    assert not list(alone.rglob("round-*"))


@pytest.mark.parametrize("place", KILLED)
def test_a_kill_never_repeats_a_round(cpt, alone, tmp_path, place):
    file, out = write_recipe(tmp_path / "recipe.yaml", small()), tmp_path / "run"
    first, again = KILLED[place]
    assert cpt("run", file, "--out", out, "--quiet", at=first) == -signal.SIGKILL, cpt.output
    assert cpt("run", file, "--out", out, "--quiet", at=again) == 0, cpt.output
    assert weights(out) == weights(alone)
    assert results(out) == results(alone)
    assert logged(out) == logged(alone)


def test_rounds_from_the_stages_start_with_an_adapter(cpt, tmp_path):
    file = write_recipe(tmp_path / "recipe.yaml", small(start="stage-start") | LORA)
    assert cpt("run", file, "--out", tmp_path / "alone", "--quiet") == 0, cpt.output
    at = {"place": STEP, "call": 11, "signal": signal.SIGTERM}
    assert cpt("run", file, "--out", tmp_path / "run", at=at) == 143, cpt.output
    assert cpt("run", file, "--out", tmp_path / "run", "--quiet", at={"place": STEP, "call": 2}) == 0, cpt.output
    assert len({weights(tmp_path / name, "adapter_model.safetensors") for name in ("alone", "run")}) == 1
    assert results(tmp_path / "run") == results(tmp_path / "alone")


def test_a_damaged_round_is_made_again(cpt, alone, tmp_path):
    file, out = write_recipe(tmp_path / "recipe.yaml", small()), tmp_path / "run"
    assert cpt("run", file, "--out", out, "--quiet", at={"place": STEP, "call": 11}) == -signal.SIGKILL, cpt.output
    (sealed,) = (out / "points").rglob("round-1/records.json")
    sealed.write_text("[]")
    assert cpt("run", file, "--out", out) == 0, cpt.output
    assert "round 1 is damaged; resuming after round 0" in cpt.output
    assert weights(out) == weights(alone) and logged(out) == logged(alone)


def test_what_is_kept_is_right(cpt, tmp_path):
    file, out = write_recipe(tmp_path / "recipe.yaml", small()), tmp_path / "run"
    at = {"place": STEP, "call": 1}
    assert cpt("run", file, "--out", out, "--quiet", at=at, given=("answers",)) == -signal.SIGKILL, cpt.output
    (answers,) = (out / "points").rglob("answers.json")
    asked = json.loads(answers.read_text())["answers"]
    prompts = [prompt_text(each["row"]["prompt"]) for each in asked]
    assert len(set(prompts)) == 64
    for prompt, each in zip(prompts, asked, strict=True):
        assert each["kept"] == [prompt.removeprefix("reverse").removesuffix("=")[::-1]] * (each["right"] > 0)
    assert 0 < sum(each["right"] > 0 for each in asked) < 64


def test_no_right_answer(cpt, tmp_path):
    letters = "abcdefghij"
    rows = [{"prompt": f"reverse{one}{two}abc=", "answer": "aaaaa"} for one in letters for two in letters]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = small()
    content["stream"][0]["data"] = {"source": "jsonl", "train": "rows.jsonl", "eval": 4}
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "run", "--quiet", given=()) == 2, cpt.output
    assert "stream.reverse.stages.0: none of the 256 answers sampled for reverse was verified as correct" in cpt.output
    assert "raise samples.prompts" in cpt.output and "Traceback" not in cpt.output
    # The run that was refused has a model to go on from, and both rounds leave it as it is.
    content["stream"][0]["stages"][0]["none_right"] = "skip"
    assert cpt("run", write_recipe(file, content), "--out", tmp_path / "skips", "--quiet", given=()) == 0, cpt.output
    assert "no answer of round 2 was right; the model is left as it was" in cpt.output
    base = tmp_path / "skips" / "points" / "00-base" / "model" / "model.safetensors"
    assert weights(tmp_path / "skips") == base.read_bytes()
    (stage,) = results(tmp_path / "skips")["stages"]
    assert stage["steps"] == stage["train_tokens"] == 0 and stage["rollout_tokens"] > 2 * 64 * 4


def test_a_prompt_that_leaves_no_room_for_an_answer(cpt, tmp_path):
    content = small()
    content["stream"][0]["max_completion_length"] = 4000
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 2, cpt.output
    assert "row reverse/train/0 has a prompt of " in cpt.output and "with an answer of up to 4000" in cpt.output


def test_check(cpt, tmp_path):
    content = small(start="stage-start")
    made = load(write_recipe(tmp_path / "recipe.yaml", content))
    assert (
        "rejection: 6 steps of 8 rows in each of 2 rounds, lr 0.001, on the correct ones of 4 answers to each of 64 "
        "prompts, each from the weights of the stage's start" in plan.describe(made, tmp_path / "run")
    )
    assert cpt("check", tmp_path / "recipe.yaml", "--full") == 0, cpt.output
    content["stream"][0]["stages"][0] |= {"rounds": 0, "start": "base", "samples": {"prompt": 3}}
    assert cpt("check", write_recipe(tmp_path / "recipe.yaml", content)) == 2
    for message in (
        "stages.0.rounds: ",
        "stages.0.start: ",
        "stages.0.samples.prompt: unknown key; did you mean prompts?",
    ):
        assert message in cpt.output


# -- the parts -----------------------------------------------------------------------------------------------------------


def context(tmp_path, **given):
    return stage_and_services(work=tmp_path, **given)


def test_each_text_of_a_prompt_once(monkeypatch, tmp_path):
    from cpt.stages import rejection
    from cpt.stages.sampling import Verified

    chat = [{"role": "user", "content": "q"}]
    right = [("p", ["b", "a", "b", "c"]), (chat, ["d"]), ("r", [])]
    groups = [Verified({"id": "1", "prompt": prompt}, answers, ["x"]) for prompt, answers in right]
    monkeypatch.setattr(rejection, "verified", lambda *_: iter(groups))
    stage, services = context(
        tmp_path,
        spec=SimpleNamespace(rounds=1, samples=SimpleNamespace(prompts=3, samples=5, per_prompt=2)),
        engine=SimpleNamespace(rollout_tokens=0),
        verifier_errors=Counter(),
        task=SimpleNamespace(),
        recipe=SimpleNamespace(alarms=SimpleNamespace(groups_without_signal=None)),
    )
    rows, _ = rejection.kept_answers(stage, services, encoder(byte_level(), "<|im_end|>"), 1, tmp_path, None, None)
    assert rows == [
        {"prompt": "p", "completion": "b"},
        {"prompt": "p", "completion": "a"},
        {"prompt": chat, "completion": [{"role": "assistant", "content": "d"}]},
    ]
    assert services.notes == [
        "round 1: 3 prompts x 5 answers sampled, 5 right, 4 distinct, 3 kept; 66.7% of the prompts solved"
    ]


@pytest.mark.parametrize("start, source", [("present", "round-1/model"), ("stage-start", "source")])
def test_where_a_round_starts_and_logs(tmp_path, start, source):
    from cpt.stages.rejection import one_round

    lines, rewound = [], []
    stage, services = context(
        tmp_path,
        spec=SimpleNamespace(rounds=2, start=start),
        source=tmp_path / "source",
        target="target",
        log=lines.append,
        rewind=lambda *where: rewound.append(where),
    )
    this, given = one_round(stage, services, 2, tmp_path / "round-1" / "model", [{"steps": 6, "seconds": 1.5}])
    assert (this.source, this.target, this.work) == (tmp_path / source, "target", tmp_path / "round-2" / "trainer")
    assert this.seed not in (stage.seed, one_round(stage, services, 1, tmp_path, [])[0].seed)
    given.log({"step": 2, "max_steps": 6, "seconds": 1.0, "loss": 0.5})
    given.rewind("0-rejection", 4)
    assert lines == [{"step": 8, "max_steps": 12, "seconds": 2.5, "round": 2, "loss": 0.5}] and rewound == [
        ("0-rejection", 10)
    ]
