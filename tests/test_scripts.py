"""The benchmarks stand beside the code that they measure: they must follow its changes."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
PARTS = ("bench_engine.py",)  # started by bench_rollouts.py alone
COMMANDS = [file for file in sorted(SCRIPTS.glob("*.py")) if file.name not in PARTS]


@pytest.mark.parametrize("script", COMMANDS, ids=lambda script: script.name)
def test_help_teaches(script):
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout and len(done.stdout.splitlines()) > 5


@pytest.mark.parametrize("kind", ["sft", "rlvr"])
def test_a_stage_of_ours_and_the_plain_trainer_have_the_same_losses(kind, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import bench_stream

    short = {name: args | {"max_steps": 12} for name, args in bench_stream.ARGS.items()}
    monkeypatch.setattr(bench_stream, "ARGS", short)
    bench = bench_stream.StageBench(kind, tmp_path)
    (_, ours), (_, plain) = bench.ours(), bench.plain()
    assert len(ours) == 12 and ours == plain
