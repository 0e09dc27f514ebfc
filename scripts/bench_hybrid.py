"""What demonstrations cost: a step of `hybrid` (HPT) compared with one of plain `rlvr`, with the same rollouts, in turn.

    python scripts/bench_hybrid.py                  three pairs of the quickstart's first task (some three minutes)
    python scripts/bench_hybrid.py --gamma 7        nearly every prompt on the SFT branch: the dearest case

The learning rate is 0 on both sides, so that all rollouts of a pair are the same. Wanted: at most 1.1 of the time of a step,
and 1.05 of the memory. Medians, with the smallest and the largest in brackets.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from bench_stream import say, seconds

RECIPE = """
extends: {extends}
name: bench
stream: [caesar: null, sort: null, rot: null]
evaluation: {{gates: {{learning_accuracy: null, forgetting: null, held_out_drop: null}}}}
"""


def measure(recipe: str, words: list[str], out: Path) -> tuple[float, int, float]:
    """(median seconds of a step, peak bytes, share of prompts that demonstrations taught) of a run."""
    file = out.with_suffix(".yaml")
    file.write_text(RECIPE.format(extends=recipe))
    seconds([sys.executable, "-m", "cpt", "run", file, *words, "--out", out, "--quiet"])
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    [stage] = json.loads((out / "results.json").read_text())["stages"]
    taught = statistics.mean(line.get("hybrid/demonstration_share", 0.0) for line in lines)
    return statistics.median(line["step_time"] for line in lines[1:]), stage["peak_memory_bytes"], taught


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=30, help="of each side; default: %(default)s")
    parser.add_argument("--gamma", type=int, default=0, help="HPT's gate, in rollouts of 8; default: %(default)s")
    asked = parser.parse_args()
    same = ["learning_rate=0.0", f"max_steps={asked.steps}", "logging_steps=1"]
    sides = {
        "rlvr": ("quickstart", [f"defaults.rlvr.args.{word}" for word in same]),
        "hybrid": ("hpt", [f"defaults.hybrid.args.{word}" for word in same] + [f"defaults.hybrid.gamma={asked.gamma}"]),
    }
    found = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(asked.pairs):
            for name, (recipe, words) in sides.items():
                found[name].append(measure(recipe, words, Path(folder) / f"{name}-{number}"))
    for i, (what, wanted) in enumerate((("time of a step", 1.1), ("memory", 1.05))):
        for name, runs in found.items():
            say(f"{name}: {what}", [run[i] for run in runs], "{:.4g}")
        ratios = [h[i] / r[i] for h, r in zip(found["hybrid"], found["rlvr"], strict=True)]
        say(f"ratio of a pair: {what} (wanted: {wanted})", ratios, "{:.3f}")
    say("prompts taught by demonstration", [run[2] for run in found["hybrid"]], "{:.3f}")


if __name__ == "__main__":
    main()
