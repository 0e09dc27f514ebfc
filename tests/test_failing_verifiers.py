"""A verifier that fails costs scores, is counted in evaluation and training, and never stops the run."""

import json

from helpers.recipes import short, write_recipe


def test_a_verifier_that_fails_costs_scores_not_the_run(cpt, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import time\n"
        "def judge(completion, row):\n"
        "    if completion.startswith('a'): raise KeyError('no')\n"
        "    if completion.startswith('b'): time.sleep(60)\n"
        "    return None if completion.startswith('c') else float(completion == row['answer'])\n"
    )
    content = short("rlvr", steps=2, tasks=("reverse",))
    content["stream"][0] |= {"reward": {"kind": "function", "path": "mine:judge", "timeout": 0.3}, "metric": "exact"}
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "run") == 0, cpt.output
    assert "verifier function" in cpt.output and "raised" in cpt.output
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(line["unscorable"] > 0 for line in logged)
    errors = json.loads((tmp_path / "run" / "results.json").read_text())["stages"][0]["verifier_errors"]
    assert sum(errors.values()) == round(sum(line["unscorable"] * 16 for line in logged)) and errors["raised"]
    assert "its verifier failed" not in cpt.output


def test_verifier_errors_of_a_stage_outlive_a_kill(cpt, tmp_path):
    (tmp_path / "mine.py").write_text("def judge(completion, row):\n    return 1 / (completion[:1] not in 'abcd')\n")
    content = short("rlvr", steps=6, tasks=("reverse",), evaluate=4)
    content["stream"][0] |= {"reward": "mine:judge", "metric": "exact"}
    file, out = write_recipe(tmp_path / "recipe.yaml", content), tmp_path / "run"
    at = {"place": "cpt.stages.metrics_logger.MetricsLogger.on_step_end", "call": 5}
    assert cpt("run", file, "--out", out, "--quiet", at=at) == -9, cpt.output
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5, 6]
    errors = json.loads((out / "results.json").read_text())["stages"][0]["verifier_errors"]
    assert errors == {"raised": round(sum(line["unscorable"] * 16 for line in logged))}


def test_a_verifier_that_always_fails_is_told_before_training(cpt, tmp_path):
    (tmp_path / "mine.py").write_text("def judge(completion, row):\n    return row['no such field']\n")
    content = short("sft", steps=1, tasks=("reverse",), evaluate=4)
    content["stream"][0] |= {"metric": "mine:judge"}
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 0, cpt.output
    said = "warning: reverse: its verifier failed on all 4 answers of the base model, for example: raised: KeyError"
    assert -1 < cpt.output.find(said) < cpt.output.find("reverse 0-sft")
