"""Pairs of signals at random distances: every run ends with 130 or 143 and no traceback, and resumes to the same bytes.

    python scripts/signal_pairs.py FOLDER --pairs 200 [--fresh] [--seed 0]

A run of three stages (SFT, preferences, RL) is stopped by pairs of SIGTERM and SIGINT again and again until it comes to its
end; its weights and results are then compared with those of a run that nothing disturbed; then a new run begins. Without
`--fresh` each process is forked from this one, which has imported everything; with it each is a `cpt` of its own, so that
signals also meet the imports.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from ruamel.yaml import YAML

ARGS = {"bf16": False, "gradient_checkpointing": False, "max_steps": 8, "logging_steps": 1, "save_steps": 3}
ARGS |= {"per_device_train_batch_size": 8, "learning_rate": 1e-3}
STAGES = [
    {"kind": "sft", "args": ARGS},
    {"kind": "dpo", "args": ARGS | {"max_length": 64}, "pairs": {"prompts": 32, "samples": 4}},
    {
        "kind": "rlvr",
        "args": ARGS | {"per_device_train_batch_size": 16, "num_generations": 4, "max_completion_length": 12},
    },
]
RECIPE = {
    "name": "signals",
    "model": {"path": "tiny"},
    "stream": [
        {
            "task": task,
            "data": {"source": "procedural", "name": task, "train": 200, "eval": 100},
            "reward": "exact",
            "stages": STAGES,
        }
        for task in ("reverse", "caesar")
    ],
    "evaluation": {"suites": [], "max_completion_length": 12},
}


def start(words: list[str], log: Path, fresh: bool) -> int:
    """The process id of `cpt` with these words; what it prints goes to the end of `log`."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if fresh:
        process = subprocess.Popen([sys.executable, "-m", "cpt", *words], stdout=out, stderr=out)
        os.close(out)
        return process.pid
    pid = os.fork()
    if pid == 0:
        os.dup2(out, 1), os.dup2(out, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from cpt.cli.main import main

        sys.argv = ["cpt", *words]
        try:
            main()  # without arguments: as the command itself, which hears signals to its very end
        except SystemExit as end:
            sys.stdout.flush(), os._exit(end.code or 0)
        finally:
            os._exit(70)
    os.close(out)
    return pid


def listens(pid: int) -> bool:
    """Whether the process catches SIGTERM: before that Python itself starts, and a signal kills it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def ended(pid: int, seconds: float) -> int | None:
    """The exit code of the process once it ended within `seconds`; None where it goes on."""
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)


def bytes_of(run: Path) -> dict[str, str]:
    """Hashes of the weights and answers, and the matrix."""
    files = [*run.glob("points/*/model/*.safetensors"), *run.glob("evaluations/*.jsonl"), run / "metrics.jsonl"]
    hashes = {}
    for file in files:
        content = file.read_bytes()
        if file.name == "metrics.jsonl":
            lines = [json.loads(line) for line in content.decode().splitlines()]
            kept = [{k: v for k, v in line.items() if "time" not in k and "seconds" not in k} for line in lines]
            content = json.dumps(kept).encode()
        hashes[str(file.relative_to(run))] = hashlib.sha256(content).hexdigest()
    return hashes | {"accuracy": json.loads((run / "results.json").read_text())["accuracy"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true")
    asked = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    asked.folder.mkdir(parents=True)
    recipe, draw = asked.folder / "recipe.yaml", random.Random(asked.seed)
    with recipe.open("w") as stream:
        YAML(typ="safe", pure=True).dump(RECIPE, stream)
    if not asked.fresh:
        from cpt import stages
        from cpt.cli import main as cli

        assert cli
        stages.load({"sft", "dpo", "rlvr"})
    alone, log = asked.folder / "alone", asked.folder / "alone.log"
    began = time.monotonic()
    assert ended(start(["run", str(recipe), "--out", str(alone)], log, asked.fresh), 3600) == 0, log.read_text()
    whole, wanted = time.monotonic() - began, bytes_of(alone)
    print(f"alone: {whole:.1f} s", flush=True)
    codes, seconds, pairs, number, wrong = Counter(), [], 0, 0, []
    while pairs < asked.pairs:
        out, log, number = asked.folder / f"run-{number}", asked.folder / f"run-{number}.log", number + 1
        while True:
            pid = start(["run", str(recipe), "--out", str(out)], log, asked.fresh)
            code = None
            while code is None and not listens(pid):
                code = ended(pid, 0.01)
            if code is None:
                code = ended(pid, draw.uniform(0, whole / 2) if pairs < asked.pairs else 3600)
            if code is None:
                first, second = draw.choices([signal.SIGTERM, signal.SIGINT], k=2)
                os.kill(pid, first)
                sent, distance = time.monotonic(), draw.choice([0.0, draw.uniform(0, 0.05), draw.uniform(0, 3)])
                code = ended(pid, distance)
                if code is None:
                    os.kill(pid, second)
                    code = ended(pid, 60)
                seconds.append(time.monotonic() - sent)
                pairs, codes[code] = pairs + 1, codes[code] + 1
                if code not in (130, 143):
                    wrong.append(f"{log}: {code} after {first}, {distance:.3f} s, {second}")
                    print(wrong[-1], flush=True)
                    if code is None:
                        os.kill(pid, signal.SIGKILL), os.waitpid(pid, 0)
            elif code == 0:
                break
            else:
                print(f"{log}: ended by itself with {code}")
                return 1
        same = bytes_of(out) == wanted
        told = "Traceback" in log.read_text()
        print(f"run {number}: {pairs} pairs so far, same bytes: {same}, traceback: {told}", flush=True)
        if not same or told:
            wrong.append(str(out))
    print(
        f"{pairs} pairs in {number} runs: {dict(codes)}, at most {max(seconds):.1f} s from the first signal to the end"
    )
    print("\n".join(wrong) or "all as wanted")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
