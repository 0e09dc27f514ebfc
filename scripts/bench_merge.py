"""`cpt merge` against mergekit 0.1.5, and against reading the inputs and writing the output with cat and cp.

    python scripts/bench_merge.py --folder bench-merge --rounds 3 --out merge.json

Makes an environment of its own with mergekit in the folder (pip), a base and two models of Qwen3-0.6B's shape (596M random
parameters, bfloat16; the models are the base plus noise), and runs each method by both, taking turns, warm (the inputs are
in the page cache) and cold (they were dropped from it); `--caches empty` drops everything, Python and torch too
(/proc/sys/vm/drop_caches, as root). What is dirty is synced before every run. Each run is a process of its own: seconds on
the clock, CPU seconds (user and system), and the peak of its resident memory (ru_maxrss of wait4, which counts mapped file
pages, for all alike). `cpt merge` has its output on the disk when it ends (fsync); mergekit leaves that to the kernel, so a
sync of its output is timed with it. `cp` is without, `cp, sync` with it.

The outputs are compared with those of mergekit computing in float32 (`dtype: float32`, `out_dtype: bfloat16`): the timed runs
compute in bfloat16, mergekit's usual way. DARE draws, and the two draw differently: only its time and memory are compared.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

MERGEKIT = ("mergekit==0.1.5", "torch==2.13.0")
SHAPE = {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8}
SHAPE |= {"head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936, "tie_word_embeddings": True}
METHODS = {  # ours: arguments; mergekit's: its name, and the parameters of each model or of the merge
    "linear": (["--weight", "0.3", "0.7"], "linear", [{"weight": 0.3}, {"weight": 0.7}], {}),
    "slerp": (["--weight", "0.7"], "slerp", [{}, {}], {"t": 0.3}),
    "dare": (["--density", "0.1"], "dare_linear", [{"weight": 1.0, "density": 0.1}] * 2, {}),
    "ties": (["--density", "0.2"], "ties", [{"weight": 1.0, "density": 0.2}] * 2, {}),
}
FROM_BASE = ("dare", "ties")


def main() -> None:
    asked = arguments()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    models = make_models(folder)
    mergekit = make_environment(folder)
    results = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "runs": [], "equal": {}}
    for method in asked.methods:
        commands = {"cpt": ours(method, models, folder), "mergekit": theirs(method, models, folder, mergekit)}
        for cache in asked.caches:
            for number in range(asked.rounds):
                for who, command in commands.items():
                    if who == "mergekit" and number >= (asked.slow_rounds or asked.rounds):
                        continue
                    run = {"method": method, "cache": cache, "who": who} | measured(command, models, folder, cache)
                    results["runs"].append(run)
                    report(run, results, asked.out)
        if method != "dare" and asked.compare:
            measured(commands["cpt"], models, folder, "warm")
            exact = theirs(method, models, folder, mergekit, exact=True)
            measured(exact, models, folder, "warm")
            results["equal"][method] = compare(method, models, folder)
            report(results["equal"][method], results, asked.out)
    for cache in asked.caches if asked.copy else ():
        for _ in range(asked.rounds):
            for who, sync in (("cp", ""), ("cp, sync", f" && sync -d {folder / 'copy'}")):
                one, two = (str(models[name] / "model.safetensors") for name in ("one", "two"))
                command = ["sh", "-c", f"cat {one} {two} > /dev/null && cp {one} {folder / 'copy'}{sync}"]
                run = {"method": "copy", "cache": cache, "who": who} | measured(command, models, folder, cache)
                results["runs"].append(run)
                report(run, results, asked.out)
                (folder / "copy").unlink()
    print(table(results))


def arguments() -> argparse.Namespace:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument(
        "--folder", type=Path, required=True, help="for the environment, the models and the outputs (8 GB)"
    )
    top.add_argument("--rounds", type=int, default=3)
    top.add_argument("--slow-rounds", type=int, help="of mergekit, where fewer (its TIES takes minutes)")
    top.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    top.add_argument("--caches", nargs="+", default=["warm", "cold"], choices=["warm", "cold", "empty"])
    top.add_argument(
        "--no-compare", dest="compare", action="store_false", help="leave out the comparison of the outputs"
    )
    top.add_argument("--no-copy", dest="copy", action="store_false", help="leave out cat and cp")
    top.add_argument("--out", type=Path, help="write the results to this JSON file, after each run")
    return top.parse_args()


# -- what is needed ------------------------------------------------------------------------------------------------------


def make_environment(folder: Path) -> Path:
    """mergekit-yaml of an environment of its own."""
    place = folder / "mergekit"
    program = place / "bin" / "mergekit-yaml"
    if not program.is_file():
        print("making the environment of mergekit (pip; minutes)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        done = subprocess.run([place / "bin" / "pip", "install", "--quiet", *MERGEKIT])
        if done.returncode:
            sys.exit(f"pip could not install {' '.join(MERGEKIT)}: no comparison without it")
    return program


def make_models(folder: Path) -> dict[str, Path]:
    """The base and the two models (made in a process of its own: this one stays small, for ru_maxrss)."""
    models = {name: folder / name for name in ("base", "one", "two")}
    if not all((place / "model.safetensors").is_file() for place in models.values()):
        print("making three models of 596M parameters", flush=True)
        subprocess.run([sys.executable, __file__, "make", *map(str, models.values())], check=True)
    return models


def write_models(base: Path, one: Path, two: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **SHAPE), dtype=torch.bfloat16)
    model.save_pretrained(base)
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    for seed, place in enumerate((one, two), start=1):
        generator = torch.Generator().manual_seed(seed)
        for name, weight in model.state_dict().items():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(start[name].float() + 0.002 * noise)
        model.save_pretrained(place)


def ours(method: str, models: dict[str, Path], folder: Path) -> list[str]:
    shutil.rmtree(folder / "cpt", ignore_errors=True)
    base = ["--base", str(models["base"])] if method in FROM_BASE else []
    command = [sys.executable, "-m", "cpt", "merge", str(models["one"]), str(models["two"]), "--method", method, *base]
    return [*command, *METHODS[method][0], "--out", str(folder / "cpt"), "--quiet"]


def theirs(method: str, models: dict[str, Path], folder: Path, program: Path, exact: bool = False) -> list[str]:
    _, name, each, whole = METHODS[method]
    base = models["base"] if method in FROM_BASE else models["one"]
    config = {"merge_method": name, "parameters": whole}
    config |= {"base_model": str(base)} if method != "linear" else {}
    pairs = zip(("one", "two"), each, strict=True)
    config |= {"models": [{"model": str(models[one]), "parameters": settings} for one, settings in pairs]}
    config |= {"dtype": "float32", "out_dtype": "bfloat16"} if exact else {"dtype": "bfloat16"}
    file = folder / f"{method}{'-exact' if exact else ''}.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    merge = shlex.join([str(program), str(file), str(folder / "theirs"), "--no-copy-tokenizer", "--quiet"])
    return ["sh", "-c", f"{merge} && sync -d {shlex.quote(str(folder / 'theirs'))}/*.safetensors"]


# -- running and measuring -----------------------------------------------------------------------------------------------


def measured(command: list[str], models: dict[str, Path], folder: Path, cache: str) -> dict:
    """Run it; seconds, CPU seconds, peak resident bytes, and the machine's load when it began and ended."""
    for name in ("cpt", "theirs"):
        if any(str(folder / name) in word for word in command):
            shutil.rmtree(folder / name, ignore_errors=True)
    os.sync()
    files = [place / "model.safetensors" for place in models.values()]
    {"warm": warm, "cold": drop, "empty": drop_all}[cache](files)
    before, start = os.getloadavg()[0], time.monotonic()
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status:
        sys.exit(f"failed ({status}): {' '.join(command)}; see {folder / 'log'}")
    cpu = usage.ru_utime + usage.ru_stime
    load = [round(before, 1), round(os.getloadavg()[0], 1)]
    return {"seconds": round(seconds, 2), "cpu": round(cpu, 2), "peak_bytes": usage.ru_maxrss * 1024, "load": load}


def warm(files: list[Path]) -> None:
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.read(1 << 24):
                pass


def drop(files: list[Path]) -> None:
    for file in files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def drop_all(files: list[Path]) -> None:
    Path("/proc/sys/vm/drop_caches").write_text("1")


def compare(method: str, models: dict[str, Path], folder: Path) -> dict:
    command = [sys.executable, __file__, "compare", method, *map(str, models.values())]
    done = subprocess.run(
        [*command, str(folder / "cpt"), str(folder / "theirs")], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def differences(method: str, base: Path, one: Path, two: Path, mine: Path, other: Path) -> dict:
    """How many parameters differ; of them, how many tie at a threshold of TIES, and how many others are apart by more than
    one bfloat16 step of the largest number that went in (a difference that rounding does not explain)."""
    import torch
    from safetensors import safe_open

    from cpt.merging.selection import kth_magnitude
    from cpt.merging.ties import kept

    found = {"method": method, "parameters": 0, "differ": 0, "at_threshold": 0, "beyond_rounding": 0}
    folders = [safe_open(place / "model.safetensors", "pt") for place in (base, one, two, mine, other)]
    for name in folders[3].keys():  # noqa: SIM118 (safe_open is no dict)
        start, *models, got, wanted = [folder.get_tensor(name).reshape(-1) for folder in folders]
        found["parameters"] += got.numel()
        unlike = (got != wanted).nonzero().reshape(-1)
        ties = torch.zeros(len(unlike), dtype=torch.bool)
        for model in models if method == "ties" else ():
            tau = model.float() - start.float()
            ties |= tau[unlike].abs() == kth_magnitude(tau, kept(0.2, tau.numel()))
        largest = torch.stack([tensor[unlike].float().abs() for tensor in (start, *models, got, wanted)]).amax(0)
        apart = (got[unlike].float() - wanted[unlike].float()).abs() > largest * torch.finfo(torch.bfloat16).eps
        found["differ"] += len(unlike)
        found["at_threshold"] += int(ties.sum())
        found["beyond_rounding"] += int((apart & ~ties).sum())
    return found


# -- words ---------------------------------------------------------------------------------------------------------------


def report(run: dict, results: dict, out: Path | None) -> None:
    print(json.dumps(run), flush=True)
    if out:
        out.write_text(json.dumps(results, indent=1) + "\n")


def table(results: dict) -> str:
    """Medians [smallest, largest], and the ratio of the medians."""
    lines = ["| method, cache | who | seconds | CPU seconds | peak MB |", "|---|---|---|---|---|"]
    for key in dict.fromkeys((run["method"], run["cache"], run["who"]) for run in results["runs"]):
        mine = [run for run in results["runs"] if (run["method"], run["cache"], run["who"]) == key]
        cells = [
            spread([run[field] / scale for run in mine])
            for field, scale in (("seconds", 1), ("cpu", 1), ("peak_bytes", 1e6))
        ]
        lines.append(f"| {key[0]}, {key[1]} | {key[2]} ({len(mine)}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} [{min(values):.1f}, {max(values):.1f}]"


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        write_models(*map(Path, sys.argv[2:]))
    elif sys.argv[1:2] == ["compare"]:
        print(json.dumps(differences(sys.argv[2], *map(Path, sys.argv[3:]))))
    else:
        main()
