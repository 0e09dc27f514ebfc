"""What rollout-based filtering saves: time to an accuracy where nobody solves a third of a stage's prompts.

    python scripts/bench_filter.py                  three pairs in turn (some five minutes of one core)

Every third answer of the task's rows is replaced by one that no rollout gives. Both sides have the same number of prompts
with signal in a step: 24 prompts of which a third is useless, against 16 of those that the filter kept; the same rollouts a
prompt and learning rate. Weights are snapped every few steps (outside the time) and evaluated afterwards on the same 200
questions; the time to the accuracy is that of the first snapshot which reaches it, the filter's own rollouts included.
`--same-batch` gives both sides 16 prompts. Wanted: 1.3. Medians, with the smallest and the largest in brackets.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from bench_stream import say

RECIPE = """
extends: quickstart
name: bench
seed: {seed}
stream:
  - {{reverse: null, caesar: null, rot: null, sort: null}}
  - task: hard
    data: {{source: jsonl, train: {rows}, eval: 2}}
    reward: exact
    stages:
      - kind: rlvr
        {filter}
        args: {{max_steps: {steps}, per_device_train_batch_size: {batch}, learning_rate: {rate}, logging_steps: 5}}
evaluation: {{suites: [], gates: {{learning_accuracy: null, forgetting: null, held_out_drop: null}}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--task", default="reverse", help="default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=2e-5, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=220, help="of each side at most; default: %(default)s")
    parser.add_argument("--accuracy", type=float, default=0.9, help="to be reached; default: %(default)s")
    parser.add_argument("--prompts", type=int, default=300, help="that the filter looks at; default: %(default)s")
    parser.add_argument("--samples", type=int, default=4, help="the filter's answers to each; default: %(default)s")
    parser.add_argument("--same-batch", action="store_true", help="16 prompts a step on both sides")
    asked = parser.parse_args()
    spec = f"filter: {{samples: {asked.samples}, prompts: {asked.prompts}}}"
    sides = {"without": ("", 128 if asked.same_batch else 192), "filtered": (spec, 128)}
    times = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        rows = hard_rows(Path(folder) / "rows.jsonl", asked.task, 1800)
        for seed in range(asked.pairs):
            for name, (spec, batch) in sides.items():
                out = Path(folder) / f"{name}-{seed}"
                text = RECIPE.format(
                    seed=seed, rows=rows, filter=spec, steps=asked.steps, batch=batch, rate=asked.learning_rate
                )
                curve = measure(text, out, asked.task)
                reached = [seconds for seconds, accuracy in curve if accuracy >= asked.accuracy]
                shown = ", ".join(f"{accuracy:.3f} at {seconds:.1f} s" for seconds, accuracy in curve[::4])
                print(f"{name}, seed {seed}: {shown}", flush=True)
                times[name].append(reached[0] if reached else float("nan"))
    for name, seconds in times.items():
        say(f"{name}: seconds to {asked.accuracy}", seconds, "{:.1f}")
    ratios = [a / b for a, b in zip(times["without"], times["filtered"], strict=True)]
    say("ratio of a pair: without / filtered (wanted: 1.3)", ratios, "{:.2f}")


def hard_rows(file: Path, task: str, number: int) -> Path:
    """Rows of the task; every third has an answer that is no answer to it."""
    from cpt.data import procedural

    with file.open("w") as stream:
        for i, row in enumerate(procedural.rows(task, "train", number)):
            answer = "aaaaaaaa" if i % 3 == 0 else row["answer"]
            stream.write(json.dumps({"id": f"row{i}", "prompt": row["prompt"], "answer": answer}) + "\n")
    return file


def measure(text: str, out: Path, task: str) -> list[tuple[float, float]]:
    """(seconds of the stage so far, accuracy) at every fifth step."""
    from cpt.loop import run
    from cpt.recipe import load
    from cpt.screen import QUIET, Screen
    from cpt.stages import training

    file = out.with_suffix(".yaml")
    file.write_text(text)
    snapshots, outside = [], [0.0]

    class Snapping(training.MetricsLogger):
        """Takes the weights at every fifth step, and takes the time of that out."""

        def on_step_end(self, args, state, control, model=None, **more):
            super().on_step_end(args, state, control, **more)
            if state.global_step % 5 == 0:
                start = time.monotonic()
                seconds = self.checkpoints.before["seconds"] + start - self.checkpoints.start - outside[0]
                snapshots.append((seconds, {name: w.detach().clone() for name, w in model.state_dict().items()}))
                outside[0] += time.monotonic() - start

    before, training.MetricsLogger = training.MetricsLogger, Snapping
    try:
        run(load(file), out, Screen(QUIET))
    finally:
        training.MetricsLogger = before
    judge = judge_of(out, task)
    return [(seconds, judge(weights)) for seconds, weights in snapshots]


def judge_of(out: Path, task: str):
    """Greedy accuracy of weights on 200 questions of the task."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cpt.data import procedural

    folder = out / "points" / "00-base" / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = list(procedural.rows(task, "eval", 200))
    tokenizer.padding_side = "left"
    prompts = [row["prompt"] for row in rows]
    asked = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )

    def judge(weights: dict) -> float:
        model.load_state_dict(weights)
        with torch.no_grad():
            ids = model.generate(**asked, max_new_tokens=8, do_sample=False)[:, asked["input_ids"].shape[1] :]
        answers = [tokenizer.decode(each, skip_special_tokens=True).replace(" ", "") for each in ids]
        return sum(answer == row["answer"] for answer, row in zip(answers, rows, strict=True)) / len(rows)

    return judge


if __name__ == "__main__":
    main()
