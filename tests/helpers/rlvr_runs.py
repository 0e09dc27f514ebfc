"""Runs of one rlvr stage."""

import json
import signal

from helpers.recipes import recipe, write_recipe
from helpers.same_end import logged


def rlvr(steps: int = 6, **options) -> dict:
    """A recipe of one task and one rlvr stage with these options."""
    content = recipe("rlvr", tasks=("reverse",), evaluate=4)
    stage = content["stream"][0]["stages"][0]
    stage["args"] |= {"max_steps": steps, "save_steps": 2}
    stage |= options
    return content


def run(cpt, folder, content, name="run", code=0, **how):
    file, out = write_recipe(folder / f"{name}.yaml", content), folder / name
    assert cpt("run", file, "--out", out, **how) == code, cpt.output
    return out


def stage_of(out) -> dict:
    (stage,) = json.loads((out / "results.json").read_text())["stages"]
    return stage


def weights(out) -> bytes:
    return (out / "points" / "01-reverse" / "model" / "model.safetensors").read_bytes()


def assert_a_kill_changes_nothing(cpt, folder, content, place, call, **how):
    alone = run(cpt, folder, content, "alone", **how)
    out = run(cpt, folder, content, "killed", code=-signal.SIGKILL, at={"place": place, "call": call}, **how)
    run(cpt, folder, content, "killed", **how)
    assert weights(out) == weights(alone)
    assert logged(out) == logged(alone)
    changing = {"seconds", "peak_memory_bytes"}
    one, two = ({k: v for k, v in stage_of(each).items() if k not in changing} for each in (out, alone))
    assert one == two
    return alone
