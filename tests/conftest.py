"""Shared fixtures: offline, one thread, and short recipes on the built-in toy model (made once, cached)."""

import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import hypothesis
import pytest

pytest.register_assert_rewrite("helpers")
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
os.environ["CPT_NO_CACHE"] = "1"  # what a test measures is computed, unless it says otherwise
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def tiny_folder():
    """The built-in toy model's folder."""
    from cpt import tiny

    return tiny.path(0)


class Zygote:
    """Runs `cpt` command lines in forked children of one warm process; see helpers/zygote.py."""

    def __init__(self, folder: Path):
        from helpers.launchers import environment

        command = [sys.executable, "-m", "helpers.zygote"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), cwd=folder
        )
        self.folder, self.output = folder, ""
        self.given: tuple[str, ...] = ()  # see helpers/given.py
        assert json.loads(self.process.stdout.readline()) == "ready"

    def __call__(
        self,
        *arguments,
        at: dict | None = None,
        file_size: int | None = None,
        given: tuple[str, ...] | None = None,
        bound: bool = False,
        environment: dict[str, str] | None = None,
    ) -> int:
        """The exit code; what was printed is in `self.output`."""
        file = self.folder / "output.txt"
        order = {"arguments": [str(each) for each in arguments], "output": str(file), "at": at}
        order["environment"] = environment or {}
        order |= {"file_size": file_size, "given": self.given if given is None else given, "bound": bound}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        code = json.loads(self.process.stdout.readline())
        self.output = file.read_text(encoding="utf-8")
        return code


@pytest.fixture(scope="session")
def cpt(tmp_path_factory, tiny_folder):
    """`cpt("run", "recipe.yaml", ...)`: the command line, in a warm process with one thread."""
    zygote = Zygote(tmp_path_factory.mktemp("zygote"))
    yield zygote
    zygote.process.stdin.close()
    zygote.process.wait(timeout=30)


@pytest.fixture(scope="module")
def server(tiny_folder, tmp_path_factory):
    """One server for the tests that do not break it."""
    from cpt.recipe import load
    from cpt.rollouts.server_process import ServerProcess
    from helpers.recipes import RECIPES, write_recipe

    folder = tmp_path_factory.mktemp("server")
    settings = load(write_recipe(folder / "recipe.yaml", RECIPES["rlvr"] | {"rollouts": {"engine": "server"}}))
    serving = ServerProcess(settings, tiny_folder, folder / "server.log", "gloo")
    serving.start()
    yield serving
    serving.stop()


@pytest.fixture
def small_chunks(monkeypatch):
    """Merges read and write a few numbers at a time."""
    from cpt.merging import stream

    monkeypatch.setattr(stream, "CHUNK", 64)
    monkeypatch.setattr(stream, "BLOCK", 48)


@pytest.fixture
def given_answers(cpt):
    """The runs of this test are given their rollouts."""
    cpt.given = ("answers",)
    yield
    cpt.given = ()


@pytest.fixture
def given_rewards(cpt):
    """The runs of this test are given the rewards of their rollouts: there are right and wrong ones whatever was answered."""
    cpt.given = ("rewards",)
    yield
    cpt.given = ()


@pytest.fixture(scope="session")
def alone(cpt, tmp_path_factory):
    """Runs with given rewards that nothing disturbed, one for each recipe, made on first use."""
    from helpers.recipes import RECIPES, write_recipe

    folder, made = tmp_path_factory.mktemp("alone"), {}

    def get(kind: str):
        if kind not in made:
            write_recipe(folder / f"{kind}.yaml", RECIPES[kind])
            run = ("run", folder / f"{kind}.yaml", "--out", folder / kind, "--quiet")
            assert cpt(*run, given=("rewards",)) == 0, cpt.output
            made[kind] = folder / kind
        return made[kind]

    return get
