"""Runs whose verifiers fail and whose rows are of the rarer forms: they end as they should, and say what was wrong."""

import gzip
import json

import pytest

from helpers.recipes import recipe, write_recipe


def short(*stages: str, steps: int, **more) -> dict:
    content = recipe(*stages, tasks=("reverse",), **more)
    for stage in content["stream"][0]["stages"]:
        stage["args"]["max_steps"] = steps
    return content


def results(run) -> dict:
    return json.loads((run / "results.json").read_text())


def test_a_verifier_that_fails_costs_scores_not_the_run(cpt, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os, time\n"
        "def judge(completion, row):\n"
        "    if completion.startswith('d'): os._exit(1)\n"
        "    if completion.startswith('a'): raise KeyError('no')\n"
        "    if completion.startswith('b'): time.sleep(60)\n"
        "    return None if completion.startswith('c') else float(completion == row['answer'])\n"
    )
    content = short("rlvr", steps=2)
    content["stream"][0] |= {"reward": {"kind": "function", "path": "mine:judge", "timeout": 0.3}, "metric": "exact"}
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "run") == 0, cpt.output
    assert "verifier function" in cpt.output and "raised" in cpt.output and "died" in cpt.output
    assert results(tmp_path / "run")["complete"]
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(line["unscorable"] > 0 for line in logged)


def test_a_reward_that_scores_next_to_nothing_is_warned_of(cpt, tmp_path):
    (tmp_path / "mine.py").write_text("def judge(completion, row):\n    return None\n")
    content = short("rlvr", steps=1, evaluate=2)
    content["stream"][0] |= {"reward": {"kind": "function", "path": "mine:judge"}, "metric": "exact"}
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "run") == 0, cpt.output
    said = (
        "warning: reverse 0-rlvr: the reward could not score 16 of 16 completions, most often: none: returned None (row"
    )
    assert said in cpt.output


def test_conversations_are_trained_on(cpt, tmp_path):
    """`messages` of several turns on the built-in toy model, whose tokenizer can spell no line end."""
    turns = [("user", "copyab"), ("assistant", "ab"), ("user", "lastab"), ("assistant", "b")]
    rows = [{"messages": [{"role": role, "content": text + letter} for role, text in turns]} for letter in "abcdefgh"]
    asked = [{"prompt": "copyhi=", "answer": "hi", "id": "one"}, {"prompt": "copyih=", "answer": "ih", "id": "one"}]
    for name, made in (("train", rows), ("eval", asked)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    content = short("sft", steps=2)
    content["stream"][0]["data"] = {"source": "jsonl", "train": "train.jsonl", "eval": "eval.jsonl"}
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "run") == 0, cpt.output
    assert results(tmp_path / "run")["questions"] == {"reverse": 2}, "two rows of one id became one question"


def test_a_table_becomes_prompts(cpt, tmp_path):
    """A compressed CSV of columns: check and run say what is kept and what is not used, and the prompts are evaluated."""
    lines = [f"copy,{a}{b},{'-' if b == 'j' else a + b},x{a}" for a in "abcdef" for b in "ghij"]
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress("\n".join(["skill,text,right,source", *lines]).encode()))
    columns = {"template": "{{ skill }}{{ text }}=", "answer": "{{ right }}", "demonstration": "{{ text }}"}
    content = short("sft", steps=2)
    content["stream"][0]["data"] = {
        "source": "file",
        "train": "rows.csv.gz",
        "eval": 4,
        "where": "right != '-'",
    } | columns
    file = write_recipe(tmp_path / "recipe.yaml", content)
    for command in (("check", file), ("run", file, "--out", tmp_path / "run")):
        assert cpt(*command) == 0, cpt.output
        assert "rows.csv.gz: `where` keeps 18 of 24 rows" in cpt.output
        assert "rows.csv.gz: columns that are not used: source" in cpt.output
    lines = (tmp_path / "run" / "evaluations" / "00-base.jsonl").read_text().splitlines()
    assert len(lines) == 4
    for line in map(json.loads, lines):
        assert line["prompt"] == f"copy{line['answer']}=" and line["row"].startswith("reverse/row/")


@pytest.mark.parametrize("command, code", [(["run", "quickstart"], 1), (["check", "quickstart"], 0)])
def test_a_broken_pipe_is_the_readers_leaving_only_where_nothing_but_printing_is_done(command, code, monkeypatch):
    from cpt.cli import main as cli

    def broken(asked):
        raise BrokenPipeError

    monkeypatch.setitem(cli.COMMANDS, command[0], broken)
    monkeypatch.setattr(cli, "reader_left", lambda: 0)  # it closes stdout
    with pytest.raises(SystemExit) as end:
        cli.main(command)
    assert end.value.code == code
