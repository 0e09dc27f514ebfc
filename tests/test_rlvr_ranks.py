"""What rlvr counts over processes: gradient samples, and the votes and baselines of groups that are split. One launch."""

import json
import subprocess
from collections import Counter

import pytest
import torch

from helpers import snr_ranks
from helpers.launchers import LAUNCHERS, command, environment
from helpers.recipes import write_recipe
from helpers.rlvr_runs import rlvr
from helpers.snr_ranks import ratio_of

SPY = """
import json, os, sys
from helpers import snr_ranks
from cpt.cli import main as cli
from cpt.stages import rlvr
folder = sys.argv.pop(1)
snr_ranks.main(f"{folder}/rows.json", f"{folder}/two", "2", "2")
class Spied(rlvr.Vote):
    def score(self, texts, rows, finished):
        votes, values = self.services.read(texts, rows, finished), super().score(texts, rows, finished)
        with open(os.path.join(folder, "rank" + os.environ["RANK"]), "a") as out:
            out.write(json.dumps([[row["id"] for row in rows], votes, values, self.measured]) + chr(10))
        return values
rlvr.Vote = Spied
made = rlvr.Baseline.replace_advantages
def spied(self, trainer, output):
    made(self, trainer, output)
    lengths = output["completion_mask"].sum(1).tolist()
    with open(os.path.join(folder, "advantages" + os.environ["RANK"]), "a") as out:
        out.write(json.dumps([lengths, output["advantages"].tolist()]) + chr(10))
rlvr.Baseline.replace_advantages = spied
cli.main()
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory, tiny_folder):
    """Two processes: two steps of snr_ranks, then ttrl on six completions each, in groups of four."""
    folder = tmp_path_factory.mktemp("ranks")
    generator = torch.Generator().manual_seed(3)
    x, noise = torch.randn(16, 3, generator=generator), torch.randn(16, generator=generator)
    rows = [{"x": each.tolist(), "y": (each.sum() + 0.5 * n).item()} for each, n in zip(x, noise, strict=True)]
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "spy.py").write_text(SPY)
    content = rlvr(ttrl={}, advantage="length-weighted", steps=2)
    content["stream"][0]["stages"][0]["args"] |= {"per_device_train_batch_size": 6, "num_generations": 4}
    file = write_recipe(folder / "recipe.yaml", content)
    words = command(LAUNCHERS / "ddp-cpu.yaml", "run", file, "--out", folder / "run")
    words[words.index("-m", 3) : words.index("cpt") + 1] = [str(folder / "spy.py"), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def by_hand(rows: list[dict], micro: int, parts: int) -> dict:
    """Two steps of plain descent scaled by SNR / (1 + SNR), written out."""
    weight, told = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64), []
    for first in (0, micro * parts):
        samples = []
        for start in range(first, first + micro * parts, micro):
            x = torch.tensor([row["x"] for row in rows[start : start + micro]], dtype=torch.float64)
            y = torch.tensor([row["y"] for row in rows[start : start + micro]], dtype=torch.float64)
            samples.append(2 * x.T @ (x @ weight - y) / micro)
        told.append(ratio_of(torch.stack(samples)))
        weight = weight - 0.1 * told[-1] / (1 + told[-1]) * torch.stack(samples).mean(0)
    return {"snr/ratio": told, "weight": weight.tolist()}


@pytest.mark.slow
def test_processes_are_micro_batches(launched):
    """Two processes with two micro-batches each, one process with four, and the formula: the same ratios and weights."""
    snr_ranks.main(f"{launched}/rows.json", f"{launched}/one", "2", "4")
    one, two = (json.loads((launched / name).read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    expected = by_hand(json.loads((launched / "rows.json").read_text()), 2, 4)
    assert all(0.1 < ratio < 100 for ratio in expected["snr/ratio"])
    for found in (one, two):
        for name, values in expected.items():
            assert found[name] == pytest.approx(values, rel=1e-4)


@pytest.mark.slow
def test_a_group_that_is_split_over_processes(launched):
    """The second group has two members on each rank: all four vote."""
    one, two = ([json.loads(line) for line in (launched / f"rank{rank}").read_text().splitlines()] for rank in (0, 1))
    assert len(one) == len(two) == 2
    for first, second in zip(one, two, strict=True):
        ids, votes, values = (first[part] + second[part] for part in range(3))
        shares = []
        for start in (0, 4, 8):
            group = slice(start, start + 4)
            assert len(set(ids[group])) == 1, "TRL splits its groups in another order than its gather"
            counted = Counter(vote for vote in votes[group] if vote is not None).most_common()
            label = counted[0][0] if counted else None
            assert values[group] == [float(vote is not None and vote == label) for vote in votes[group]]
            shares.append(counted[0][1] / 4 if counted else 0.0)
        assert first[3] == second[3] and first[3]["ttrl/majority_share"] == pytest.approx(sum(shares) / 3)
    baselines(launched, one, two)


def baselines(folder, one: list, two: list) -> None:
    """The advantages of both ranks are OPO's of the whole groups, by the rewards that the votes gave."""
    ranks = ([json.loads(line) for line in (folder / f"advantages{rank}").read_text().splitlines()] for rank in (0, 1))
    for (first, second), *rest in zip(zip(one, two, strict=True), *ranks, strict=True):
        rewards, (lengths, found) = first[2] + second[2], (rest[0][part] + rest[1][part] for part in range(2))
        for start in (0, 4, 8):
            group = range(start, start + 4)
            mean = sum(lengths[i] * rewards[i] for i in group) / sum(lengths[i] for i in group)
            assert [found[i] for i in group] == pytest.approx([rewards[i] - mean for i in group], abs=1e-5)
