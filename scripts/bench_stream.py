"""How fast cpt is compared with separate scripts. Everything is measured in one run, interleaved, on an idle machine.

    python scripts/bench_stream.py                     all three parts, 3 rounds (some 40 minutes of two cores)
    python scripts/bench_stream.py --part stream --rounds 1

stream   `cpt run quickstart` against a process with TRL's GRPOTrainer for each task, and after each (and once before) a
         process that loads the checkpoint and evaluates every task: a plain script, and lm-eval's command line.
stage    one stage in cpt against the plain TRL trainer on the same rows in one process: time per step, and the losses.
startup  `cpt --help` and `cpt check quickstart`.

Medians, with the smallest and the largest in brackets. `--out FILE` keeps every number as JSON.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
LM_EVAL_TASK = """\
task: cpt_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt[0].content}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: 16, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--part", choices=["stream", "stage", "startup"], action="append", help="repeatable; default: all"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="every number, as JSON")
    asked = parser.parse_args()
    parts = {"startup": startup, "stage": stage, "stream": stream}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.part or list(parts):
            found[name] = parts[name](asked.rounds, Path(folder))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


def say(name: str, values: list[float], form: str = "{:.2f}") -> None:
    middle, low, high = (form.format(f(values)) for f in (statistics.median, min, max))
    print(f"  {name:52} {middle} [{low}, {high}]", flush=True)


def seconds(command: list, **options) -> tuple[float, str]:
    """How long a command takes, and what it printed."""
    start = time.monotonic()
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False, **options)
    taken = time.monotonic() - start
    assert done.returncode in (0, 3), done.stdout[-3000:] + done.stderr[-3000:]
    return taken, done.stdout


# -- (c) start-up --------------------------------------------------------------------------------------------------------


def startup(rounds: int, folder: Path) -> dict:
    """The command line's own time."""
    print("startup (seconds)")
    commands = {"cpt --help": ["--help"], "cpt check quickstart": ["check", "quickstart"]}
    taken = {name: [] for name in commands}
    for _ in range(max(5, rounds)):
        for name, words in commands.items():
            taken[name].append(seconds([sys.executable, "-m", "cpt", *words], cwd=folder)[0])
    for name, values in taken.items():
        say(name, values)
    return taken


# -- (b) one stage -------------------------------------------------------------------------------------------------------

STAGE = """
name: one-stage
model: {path: tiny}
stream:
  - task: reverse
    data: {source: procedural, name: reverse}
    reward: exact
    stages: [{kind: KIND, args: ARGS}]
evaluation: {max_completion_length: 16}
"""
STEPS = 60
COMMON = {"max_steps": STEPS, "logging_steps": 1, "bf16": False, "gradient_checkpointing": False, "learning_rate": 2e-4}
ARGS = {
    "sft": COMMON | {"per_device_train_batch_size": 64},
    "dpo": COMMON | {"per_device_train_batch_size": 32, "max_length": 64},
    "rlvr": COMMON | {"per_device_train_batch_size": 128, "num_generations": 8, "max_completion_length": 16},
}


def stage(rounds: int, folder: Path) -> dict:
    """Each kind in a process of its own: see `one_stage`."""
    print("stage (cpt's time per step over plain TRL's; largest difference of a loss)")
    found = {}
    for kind in ARGS:
        word = (
            f"import sys; sys.path.insert(0, {str(HERE)!r}); import bench_stream as b; b.one_stage({kind!r}, {rounds})"
        )
        _, said = seconds([sys.executable, "-c", word], cwd=folder)
        found[kind] = json.loads(said.splitlines()[-1])
        say(f"{kind}: ratio", found[kind]["ratio"], "{:.3f}")
        say(f"{kind}: loss difference", found[kind]["difference"], "{:.1e}")
    return found


def one_stage(kind: str, rounds: int) -> None:
    """Print {ratio, difference, seconds per step of both} of one kind, interleaved in this process, as JSON.

    The two take turns to be first. RLVR is run on fixed completions (the same for both) for the losses and the times of
    all but generation, whose code is transformers' in both.
    """
    folder = Path(tempfile.mkdtemp())
    bench = StageBench(kind, folder)
    bench.ours(), bench.plain()  # warm up
    found = {"ratio": [], "difference": [], "ours": [], "plain": []}
    for number in range(rounds * 2):
        sides = [bench.ours, bench.plain] if number % 2 else [bench.plain, bench.ours]
        results = {side.__name__: side() for side in sides}
        (ours, our_losses), (plain, losses) = results["ours"], results["plain"]
        assert len(losses) == len(our_losses) == STEPS
        found["ours"].append(ours)
        found["plain"].append(plain)
        found["ratio"].append(ours / plain)
        found["difference"].append(max(abs(a - b) for a, b in zip(our_losses, losses, strict=True)))
    shutil.rmtree(folder)
    print(json.dumps(found))


class StageBench:
    """One stage, run by cpt (`ours`) and by the plain trainer (`plain`) from the same model, rows, seed and arguments."""

    def __init__(self, kind: str, folder: Path):
        from cpt.data.stream import load_stream, stage_forms, stage_rows
        from cpt.recipe import load
        from cpt.screen import QUIET, Screen, hush_libraries

        hush_libraries()
        self.kind, self.folder, self.runs = kind, folder, 0
        file = folder / "recipe.yaml"
        file.write_text(STAGE.replace("KIND", kind).replace("ARGS", json.dumps(ARGS[kind])))
        self.recipe, self.screen = load(file), Screen(QUIET)
        self.task = load_stream(self.recipe, {}).tasks[0]
        if kind == "dpo":
            train = [row | {"chosen": row["demonstration"], "rejected": row["answer"][::-1]} for row in self.task.train]
            self.task = type(self.task)("reverse", train, [], self.task.eval, self.task.spec)
        self.rows = stage_rows(self.task)
        forms = zip(stage_forms(self.task, self.task.spec.stages[0]), self.task.train, strict=True)
        self.plain_rows = [form | ({"answer": row["answer"]} if kind == "rlvr" else {}) for form, row in forms]

    def clock(self):
        """A callback that notes when each step ends, and the losses."""
        from transformers import TrainerCallback

        class Clock(TrainerCallback):
            ends, losses = [], []

            def on_step_end(self, args, state, control, **_):
                self.ends.append(time.perf_counter())

            def on_log(self, args, state, control, logs=None, **_):
                if "loss" in logs:
                    self.losses.append(logs["loss"])

            def per_step(self) -> float:
                """The mean step after the first ten: a median would not see what is done now and then."""
                return (self.ends[-1] - self.ends[10]) / (len(self.ends) - 11)

        Clock.ends, Clock.losses = [], []
        return Clock()

    def ours(self) -> tuple[float, list[float]]:
        from cpt import models, rollouts, stages
        from cpt.context import Services, Stage
        from cpt.rewards import Scorers
        from cpt.stop import Stop
        from cpt.strategies import Strategy

        clock, target = self.clock(), self.folder / f"ours-{self.runs}"
        self.runs += 1

        class Clocked(Strategy):
            kind = "clocked"

            def callbacks(self, stage, services):
                return [clock]

        source = models.resolve(self.recipe)
        with Scorers() as scorers:
            scorer = scorers.get(self.task.spec.reward.model_dump())
            stage = Stage(
                recipe=self.recipe,
                task=self.task,
                spec=self.recipe.stream[0].stages[0],
                name=f"0-{self.kind}",
                key="stream.reverse.stages.0",
                source=source,
                points=(source,),
                stages=(),
                target=target / "model",
                work=target / "trainer",
                seed=0,
            )
            services = Services(
                engine=self.fixed_engine(rollouts.start(self.recipe, source, target, [], target / "log")),
                score=lambda texts, rows, ends: [score.value for score in scorer.score(texts, rows, ends)],
                read=lambda texts, rows, ends: [answer.value for answer in scorer.read(texts, rows, ends)],
                verifier_errors=Counter(),
                evaluate_on_validation=lambda folder: ({}, {}),
                rehearse=lambda *_: {},
                earlier_tasks=(),
                log=lambda line: None,
                rewind=lambda name, step: None,
                screen=self.screen,
                stop=Stop(),
                notes=[],
                leaks=lambda texts: {},
            )
            stages.run(stage, services, self.rows, [Clocked(self.recipe, None, "0-clock")])
        shutil.rmtree(target)
        return clock.per_step(), clock.losses

    def plain(self) -> tuple[float, list[float]]:
        import trl
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from cpt import models

        clock, source = self.clock(), models.resolve(self.recipe)
        name = {"sft": "SFT", "dpo": "DPO", "rlvr": "GRPO"}[self.kind]
        args = dict(self.recipe.stream[0].stages[0].args)
        words = {"output_dir": str(self.folder / "plain"), "seed": 0, "data_seed": 0, "report_to": "none"}
        config = getattr(trl, f"{name}Config")(disable_tqdm=True, **words, **args)
        options, trainer_class = {}, getattr(trl, f"{name}Trainer")
        if self.kind == "rlvr":
            options["reward_funcs"] = self.plain_reward
            trainer_class = self.with_fixed_completions(trainer_class)
        trainer = trainer_class(
            model=AutoModelForCausalLM.from_pretrained(source, dtype="float32"),
            args=config,
            train_dataset=Dataset.from_list(self.plain_rows),
            processing_class=AutoTokenizer.from_pretrained(source, padding_side="left"),
            callbacks=[clock],
            **options,
        )
        trainer.train()
        trainer.accelerator.free_memory()
        return clock.per_step(), clock.losses

    @staticmethod
    def plain_reward(completions, answer, **_):
        """What a user would write for exact match."""
        return [float(said[0]["content"].strip() == right) for said, right in zip(completions, answer, strict=True)]

    @staticmethod
    def completion_for(prompt: list[int], number: int) -> list[int]:
        """A made-up answer: the prompt's letters turned round for every third rollout, as they are for the others."""
        letters = prompt[1:-1]
        return [*(letters[::-1] if number % 3 == 0 else letters), 1]

    def fixed_engine(self, engine):
        if self.kind == "rlvr":
            from cpt.rollouts import Completion

            engine.generate = lambda prompts, sampling, on_done=None: [
                Completion(self.completion_for(prompt, i), finished=True) for i, prompt in enumerate(prompts)
            ]
        return engine

    def with_fixed_completions(self, trainer_class):
        bench = self

        class Fixed(trainer_class):
            def _generate_single_turn(self, prompt_ids, *_, **__):
                return [bench.completion_for(prompt, i) for i, prompt in enumerate(prompt_ids)], None

        return Fixed


# -- (a) the whole stream ------------------------------------------------------------------------------------------------


def stream(rounds: int, folder: Path) -> dict:
    """Ours, by hand with a plain evaluation script, by hand with lm-eval: in turn, `rounds` times."""
    from cpt import tiny
    from cpt.data.stream import load_stream
    from cpt.recipe import load, suites_of

    base, recipe = tiny.path(0), load("quickstart")
    loaded = load_stream(recipe, suites_of(recipe))
    asked = [*loaded.tasks, *(task for suite in loaded.suites.values() for task in suite)]
    (folder / "tasks").mkdir()
    for task in asked:
        file = folder / f"{task.name}.jsonl"
        file.write_text("".join(json.dumps({k: row[k] for k in ("prompt", "answer")}) + "\n" for row in task.eval))
        (folder / "tasks" / f"{task.name}.yaml").write_text(LM_EVAL_TASK.format(name=task.name, file=file))
    for task in loaded.tasks:
        rows = [json.dumps({k: row[k] for k in ("prompt", "answer")}) + "\n" for row in task.train]
        (folder / f"train-{task.name}.jsonl").write_text("".join(rows))
    (folder / "config.json").write_text(json.dumps(recipe.stream[0].stages[0].args))
    questions = [folder / f"{task.name}.jsonl" for task in asked]

    def plain(model: Path) -> list:
        return [sys.executable, HERE / "by_hand" / "evaluate.py", model, *questions]

    def lm_eval(model: Path) -> list:
        names = ",".join(f"cpt_{task.name}" for task in asked)
        words = ["run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32", "--tasks", names]
        words += ["--include_path", folder / "tasks", "--batch_size", "256", "--device", "cpu", "--apply_chat_template"]
        return [sys.executable, "-m", "lm_eval", *words]

    def train(evaluate) -> float:
        shutil.rmtree(folder / "hand", ignore_errors=True)
        taken, model = seconds(evaluate(base))[0], base
        for task in loaded.tasks:
            out = folder / "hand" / task.name
            script = HERE / "by_hand" / "train.py"
            taken += seconds(
                [sys.executable, script, model, folder / f"train-{task.name}.jsonl", out, folder / "config.json"]
            )[0]
            taken += seconds(evaluate(out))[0]
            model = out
        return taken

    def ours() -> float:
        shutil.rmtree(folder / "run", ignore_errors=True)
        return seconds([sys.executable, "-m", "cpt", "run", "quickstart", "--out", folder / "run"])[0]

    print("stream (seconds; ratios of one round)", flush=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    found = {"cpt": [], "plain": [], "lm_eval": []}
    sides = {"cpt": ours, "plain": lambda: train(plain), "lm_eval": lambda: train(lm_eval)}
    for number in range(rounds):
        for name, side in sides.items():
            found[name].append(side())
            print(f"  round {number + 1}: {name} {found[name][-1]:.0f}", flush=True)
    say("cpt run quickstart", found["cpt"], "{:.0f}")
    say("by hand: TRL's trainer, a plain evaluation script", found["plain"], "{:.0f}")
    say("by hand: TRL's trainer, lm-eval's command line", found["lm_eval"], "{:.0f}")
    for name in ("plain", "lm_eval"):
        found[f"{name}_ratio"] = [hand / mine for hand, mine in zip(found[name], found["cpt"], strict=True)]
        say(f"cpt is faster than by hand ({name}), times", found[f"{name}_ratio"])
    return found


if __name__ == "__main__":
    main()
