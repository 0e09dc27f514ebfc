"""Several processes under `accelerate launch`: the same stream, what was asked, resume. Two gloo processes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cpt.checks.launch import launcher_arguments, launchers
from helpers.launchers import LAUNCHERS, command, environment, launch
from helpers.recipes import recipe, write_recipe


def kill_with_descendants(launcher: subprocess.Popen) -> None:
    """Kill -9 the launcher and its workers (each is in a session of its own: the launcher's group does not hold them)."""
    top = psutil.Process(launcher.pid)
    everyone = [top, *top.children(recursive=True)]
    assert len(everyone) >= 3, "the two workers are not there"
    for process in everyone:
        process.kill()
    launcher.wait()
    assert not psutil.wait_procs(everyone[1:], timeout=10)[1], "a worker is still alive"


def wait_for(file: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not file.exists():
        assert process.poll() is None and time.monotonic() < deadline, f"it never came to {file}"
        time.sleep(0.005)


def kill_at(words: list[str], stage: Path, step: int) -> None:
    """Run until the checkpoint of `step` is sealed, then kill: the stage has that checkpoint and is not finished."""
    process = subprocess.Popen(words, env=environment(), start_new_session=True)
    wait_for(stage / "trainer" / f"checkpoint-{step}" / "DONE", process)
    kill_with_descendants(process)
    assert list(stage.glob("trainer/checkpoint-*/DONE")) and not (stage / "DONE").exists()


@pytest.fixture
def mixed(tmp_path):
    """Three stages of ten steps on 40 rows: with several processes a stage goes through its rows more than once."""
    content = recipe("sft", "dpo", "rlvr", tasks=("reverse",), evaluate=21)
    content["stream"][0]["data"]["train"] = 40
    content["rollouts"] = {"batch_size": 4}  # several batches for each process
    for stage in content["stream"][0]["stages"]:
        stage["args"] |= {"max_steps": 10, "save_steps": 2}
    return write_recipe(tmp_path / "recipe.yaml", content)


@pytest.mark.parametrize(
    "words, rest",
    [
        (
            "python /usr/bin/accelerate launch --num_processes 2 -m cpt run launch",
            "--num_processes 2 -m cpt run launch",
        ),
        ("python -m accelerate.commands.accelerate_cli launch -m cpt run x", "-m cpt run x"),
        ("python /opt/bin/accelerate-launch --config_file c.yaml -m cpt", "--config_file c.yaml -m cpt"),
        ("python -m accelerate.commands.launch --config_file c.yaml -m cpt", "--config_file c.yaml -m cpt"),
        ("python /x/site-packages/accelerate/commands/launch.py -m cpt", "-m cpt"),
        ("torchrun --nproc_per_node 2 -m cpt run x", None),
        ("bash launch", None),
        ("", None),
    ],
)
def test_every_name_of_the_launcher_is_known(words, rest):
    assert launcher_arguments(words.split()) == (rest.split() if rest else None)


def test_the_launchers_configs_are_found():
    assert (launchers() / "ddp-cpu.yaml").is_file()


def answers_of_one_process(folder: Path) -> list[str]:
    """The completions of `cpt eval` of the finished run, in the order of its own evaluation."""
    task = {"task": "reverse", "data": {"source": "procedural", "name": "reverse", "eval": 21}, "reward": "exact"}
    suite = write_recipe(folder / "suite.yaml", {"name": "again", "tasks": [task]})
    words = ["eval", folder / "alone", "--suite", suite, "--out", folder / "answers.jsonl"]
    subprocess.run([sys.executable, "-m", "cpt", *map(str, words)], check=True, env=environment(), timeout=200)
    return [json.loads(line)["completion"] for line in (folder / "answers.jsonl").open()]


@pytest.mark.slow
def test_two_processes_and_a_kill(mixed, tmp_path, tiny_folder):
    """The stream on two ranks; killed (all, -9) inside each stage and started again, it ends with the same weights."""
    config = LAUNCHERS / "ddp-cpu.yaml"
    done = launch(config, "run", mixed, "--out", tmp_path / "alone", given="rewards")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("reverse 2-rlvr: 10 steps in") == 1, "not one rank alone speaks"
    manifest = json.loads((tmp_path / "alone" / "manifest.json").read_text())
    assert manifest["world_size"] == 2
    results = json.loads((tmp_path / "alone" / "results.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "alone" / "evaluations" / "01-reverse.jsonl").open()]
    assert len({line["row"] for line in lines}) == len(lines) == 21, "a question is asked twice or never"
    assert results["complete"]
    assert answers_of_one_process(tmp_path) == [line["completion"] for line in lines]

    out = tmp_path / "killed"
    for stage, step in (("0-sft", 4), ("1-dpo", 4), ("2-rlvr", 6)):  # all in the second epoch of their stage
        kill_at(
            command(config, "run", mixed, "--out", out, given="rewards"),
            out / "points" / ".01-reverse.work" / stage,
            step,
        )
        assert not (out / "points" / "01-reverse").exists()
    done = launch(config, "run", mixed, "--out", out, given="rewards")
    assert done.returncode == 0, done.stdout + done.stderr
    weights = [(folder / "final" / "model.safetensors").read_bytes() for folder in (tmp_path / "alone", out)]
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_ranks_and_saves_the_place(number, mixed, tmp_path):
    """To the launcher, which hands it on: every rank saves the same step and ends; nothing is left running."""
    config, out = LAUNCHERS / "ddp-cpu.yaml", tmp_path / "run"
    done = launch(config, "run", mixed, "--out", tmp_path / "alone")
    assert done.returncode == 0, done.stdout + done.stderr
    process = subprocess.Popen(
        command(config, "run", mixed, "--out", out), env=environment(), stderr=subprocess.PIPE, text=True
    )
    stage = out / "points" / ".01-reverse.work" / "2-rlvr" / "trainer"
    wait_for(stage / "checkpoint-2" / "DONE", process)
    everyone = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert not psutil.wait_procs(everyone, timeout=10)[1], "a worker is still alive"
    assert process.returncode != 0 and said.count("cpt: interrupted and saved") == 1, said
    assert list(stage.glob("checkpoint-*/DONE")) and not (stage.parent / "DONE").exists()
    done = launch(config, "run", mixed, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    weights = [(folder / "final" / "model.safetensors").read_bytes() for folder in (tmp_path / "alone", out)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_launcher_that_starts_fewer_processes_than_asked_is_refused(mixed, tmp_path):
    config = tmp_path / "multi-cpu.yaml"
    text = (
        (LAUNCHERS / "ddp-cpu.yaml").read_text().replace("distributed_type: MULTI_GPU", "distributed_type: MULTI_CPU")
    )
    config.write_text(text)
    done = launch(config, "run", mixed, "--out", tmp_path / "run")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "cpt: accelerate launch was asked for 2 processes, but 1 run(s)" in said
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.slow
def test_a_mistake_on_two_ranks_is_said_once(mixed, tmp_path):
    done = launch(
        LAUNCHERS / "ddp-cpu.yaml", "run", mixed, "stream.0.stages.0.args.max_step=3", "--out", tmp_path / "run"
    )
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("cpt: ")]
    assert len(lines) == 1 and "did you mean max_steps?" in lines[0]


@pytest.mark.slow
def test_fewer_pairs_than_processes(tmp_path):
    content = recipe("dpo", tasks=("reverse",), evaluate=1) | {"seed": 2}  # it draws a row with right and wrong answers
    stage = content["stream"][0]["stages"][0]
    stage["args"] |= {"max_steps": 1}
    stage["pairs"] = {"prompts": 1, "samples": 32}
    file = write_recipe(tmp_path / "recipe.yaml", content)
    done = launch(LAUNCHERS / "ddp-cpu.yaml", "run", file, "--out", tmp_path / "run", given="rewards")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on-policy pairs" in done.stdout


FAILS = """
import os, sys
from cpt.cli import main as cli
from cpt.loop import points as loop
def fail(*arguments):
    raise ArithmeticError("not here")
if os.environ["RANK"] == sys.argv.pop(1):
    loop.add_row = fail
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank, said", [(0, "cpt: failed: "), (1, "cpt: rank 1: failed: ")])
def test_the_rank_that_fails_says_so(mixed, tmp_path, rank, said):
    (tmp_path / "fails.py").write_text(FAILS)
    words = command(LAUNCHERS / "ddp-cpu.yaml", "run", mixed, "--out", tmp_path / "run")
    words[words.index("-m", 3) : words.index("cpt") + 1] = [str(tmp_path / "fails.py"), str(rank)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=400)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("cpt: ")]
    assert done.returncode != 0
    assert sum(line.startswith(f"{said}ArithmeticError: not here") for line in lines) == 1, lines
    other = "cpt: failed: another process of this run ended"
    assert sum(line.startswith(other) for line in lines) == len(lines) - 1 == (rank == 1), lines
