"""Whether a run that was stopped and went on ended as one that nothing disturbed."""

import json

POINTS = ("01-reverse", "02-caesar")


def weights(run) -> dict[str, bytes]:
    files = [run / "points" / point / "model" / "model.safetensors" for point in POINTS]
    return {file.parts[-3]: file.read_bytes() for file in files if file.parent.is_dir()}


def results(run) -> dict:
    """results.json without what may differ: seconds and memory."""
    found = json.loads((run / "results.json").read_text())
    for key in ("cost", "evaluation_cost"):
        found.pop(key)
    for stage in found["stages"]:
        for key in ("seconds", "peak_memory_bytes"):
            stage.pop(key)
        for merge in stage.get("merges", ()):
            merge.pop("seconds")
    return found


def logged(run) -> list[dict]:
    """metrics.jsonl without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "time" not in key and "seconds" not in key} for line in lines]


def trained_steps(run) -> list[tuple]:
    return [(line["task"], line["stage"], line["step"]) for line in logged(run)]


def assert_same_end(run, reference):
    assert weights(run) == weights(reference)
    assert results(run) == results(reference)
    assert trained_steps(run) == trained_steps(reference), "a resumed run repeats or skips lines of metrics.jsonl"
    assert logged(run) == logged(reference)
    assert [each.name for each in (run / "points").iterdir() if each.name.startswith(".")] == [], "work is left behind"
