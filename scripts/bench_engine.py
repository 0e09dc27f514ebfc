"""What bench_rollouts.py measures inside a process with an engine: `python bench_engine.py FUNCTION CASE NUMBER FOLDER`

Prints what the function finds as JSON, last. CASE is the JSON of a `Case`.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

WARM_UP = 2  # generations, which are slow
VOCABULARY = {"vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 4096}
TOKENS = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}  # of the built-in toy model's tokenizer
SHAPES = {  # the published configs
    "0.5B": {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14}
    | {"num_key_value_heads": 2, "intermediate_size": 4864},  # Qwen2.5-0.5B
    "1.7B": {"model_type": "qwen3", "hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16}
    | {"num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 6144},  # Qwen3-1.7B
}
ONE_TASK = "[{task: sort, data: {source: procedural, name: sort}, reward: exact, stages: [{kind: rlvr}]}]"


@dataclass
class Case:
    """A model, and the same engine settings in cpt's words and in those of vLLM's `LLM`."""

    name: str
    words: list[str]  # overrides of the recipe `quickstart`
    engine: dict

    def load(self, *words: str):
        from cpt.recipe import load

        return load("quickstart", [*self.words, *words])


def random_model(shape: str, folder: Path, dtype: str) -> Path:
    """A model of that shape with random weights, and the built-in toy model's tokenizer, whose ids fit."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from cpt import tiny

    words = dict(SHAPES[shape])
    config = AutoConfig.for_model(words.pop("model_type"), **words, **VOCABULARY, **TOKENS)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder / shape)
    tiny.tokenizer().save_pretrained(folder / shape)
    return folder / shape


def metrics(out: Path) -> list[dict]:
    """What the run logged of every training step."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "step_time" in line]


def with_policy(recipe, folder: Path):
    """A started engine, the policy and the tokenizer."""
    from cpt import models, ranks, rollouts

    folder.parent.mkdir(parents=True, exist_ok=True)
    base = models.resolve(recipe)
    tokenizer = models.load_tokenizer(base, recipe)
    probes = tokenizer(["reverseabcde=", "sortjihgf=", "caesarabbca=", "rotefghi="])["input_ids"]
    engine = rollouts.start(recipe, base, folder / "place", probes, folder.with_suffix(".log"))
    return engine, models.load_full(base, recipe).to(ranks.state().device), tokenizer


# -- (b) tokens a second -----------------------------------------------------------------------------------------------


def speed(case: Case, pairs: int, folder: Path) -> dict:
    """Tokens a second of both, on one engine, from rows to texts; the two take turns to be first."""
    from cpt import models
    from cpt.data import encoding
    from cpt.data.stream import load_stream
    from cpt.evaluation.suites.rows import questions_of
    from cpt.recipe import suites_of

    recipe = case.load("rollouts.sleep=0")
    engine, model, tokenizer = with_policy(recipe, folder)
    engine.sync(model, tokenizer)
    base = models.resolve(recipe)
    questions = questions_of(recipe, load_stream(recipe, suites_of(recipe)), encoding.load(base, base, recipe))
    prompts = [question.row["prompt"] for question, _ in questions]
    samplings = [sampling for _, sampling in questions]
    counted, generate = [], engine.llm.generate

    def counting(*arguments, **options):
        outputs = generate(*arguments, **options)
        counted.append(sum(len(one.token_ids) for output in outputs for one in output.outputs))
        return outputs

    engine.llm.generate = counting

    def cpt() -> list[str]:  # as evaluation/evaluate.py does
        ids = encoding.prompts([(question.encoder, question.row) for question, _ in questions])
        completions = engine.generate(ids, samplings, lambda done: None)
        return [q.encoder.text(each.token_ids) for (q, _), each in zip(questions, completions, strict=True)]

    sides = {"cpt": cpt, "lm-eval": lm_eval_side(engine.llm, models.resolve(recipe), prompts, samplings)}
    found = {"cpt": [], "lm-eval": [], "ratio": []}
    for number in range(WARM_UP + pairs):
        texts, tokens = {}, {}
        for name in list(sides)[:: 1 if number % 2 else -1]:
            engine.llm.reset_prefix_cache()
            began = time.perf_counter()
            texts[name] = sides[name]()
            tokens[name] = counted[-1]
            found[name].append(tokens[name] / (time.perf_counter() - began))
        assert tokens["cpt"] == tokens["lm-eval"]
        alike = [mine.strip() == theirs.strip() for mine, theirs in zip(*texts.values(), strict=True)]
        assert all(alike) or case.name != "tiny"  # most tokens of a random model have no text
    found = {name: values[WARM_UP:] for name, values in found.items()}
    found["ratio"] = [mine / theirs for mine, theirs in zip(found["cpt"], found["lm-eval"], strict=True)]
    engine.close()
    return found | {"tokens": tokens["cpt"]}


def lm_eval_side(llm, model: Path, prompts: list, samplings: list):
    """lm-eval's class on the living engine: it makes its own by this name."""
    from lm_eval.api.instance import Instance
    from lm_eval.models import vllm_causallms

    vllm_causallms.LLM = lambda **_: llm
    lm = vllm_causallms.VLLM(pretrained=str(model), batch_size="auto")

    def generate() -> list[str]:
        requests = []
        for i, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
            words = {"until": [], "max_gen_toks": sampling.max_tokens, "do_sample": False}
            requests.append(Instance("generate_until", {}, (lm.apply_chat_template(prompt), words), i))
        return lm.generate_until(requests)

    return generate


# -- (c) syncs ---------------------------------------------------------------------------------------------------------


def sync_in_process(case: Case, rounds: int, folder: Path) -> dict:
    return sync(case, "vllm", rounds, folder)


def sync_served(case: Case, rounds: int, folder: Path) -> dict:
    return sync(case, "server", rounds, folder)


def sync(case: Case, kind: str, rounds: int, folder: Path) -> dict:
    """Seconds of sending and of the proof, for each way; the weights move a little before each."""
    import torch

    from cpt.rollouts.transfer import Directory

    given = [f"rollouts.{key}={value}" for key, value in case.engine.items()]
    words = [word for word in case.words if not word.startswith("rollouts.")]
    recipe = Case(case.name, words, case.engine).load(f"rollouts.engine={kind}", *given)
    engine, model, tokenizer = with_policy(recipe, folder / kind)
    ways = {"in process": None}
    if kind == "server":
        ways = {engine.transfer_name: engine.transfer, "directory": Directory(engine.servers, engine.place)}
    found = {name: {"send s": [], "proof s": []} for name in ways}
    for number in range(WARM_UP + rounds):
        for name, way in ways.items():
            engine.transfer = way
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.0001)
            taken = engine.sync(model, tokenizer)
            if number >= WARM_UP:
                found[name]["send s"].append(taken["sync_seconds"])
                found[name]["proof s"].append(taken["proof_seconds"])
    engine.close()
    return found | {"MB": sum(each.numel() * each.element_size() for each in model.parameters()) / 1e6}


# -- (d) shares of a step ----------------------------------------------------------------------------------------------


def shares(case: Case, steps: int, out: Path) -> dict:
    """One run of one task in this process, with a clock around what TRL asks of the engine; the first steps warm it up."""
    from cpt.loop import run
    from cpt.screen import QUIET, Screen
    from cpt.stages.generation import EngineGeneration

    taken: dict[str, list[float]] = {"generate": [], "sync_weights": []}
    tokens: list[int] = []

    def clocked(name: str):
        method = getattr(EngineGeneration, name)

        def call(self, *arguments, **options):
            began, before = time.perf_counter(), self.engine.rollout_tokens
            result = method(self, *arguments, **options)
            taken[name].append(time.perf_counter() - began)
            if name == "generate":
                tokens.append(self.engine.rollout_tokens - before)
            return result

        setattr(EngineGeneration, name, call)

    for name in taken:
        clocked(name)
    words = [
        f"stream={ONE_TASK}",
        f"defaults.rlvr.args.max_steps={steps + WARM_UP}",
        "defaults.rlvr.args.logging_steps=1",
    ]
    words += ["evaluation.gates=null", "evaluation.suites=[]"]
    run(case.load(*words), out, Screen(QUIET))
    whole = [line["step_time"] for line in metrics(out)]
    parts = list(zip(whole, taken["generate"], taken["sync_weights"], tokens, strict=True))[WARM_UP:]
    return {
        "seconds a step": [step for step, *_ in parts],
        "share of generation": [generation / step for step, generation, *_ in parts],
        "share of sync with its proof": [sync / step for step, _, sync, _ in parts],
        "share of training": [1 - (generation + sync) / step for step, generation, sync, _ in parts],
        "rollout tokens a second": [count / generation for _, generation, _, count in parts],
    }


FUNCTIONS = {"speed": speed, "sync_in_process": sync_in_process, "sync_served": sync_served, "shares": shares}

if __name__ == "__main__":
    name, case, number, place = sys.argv[1:]
    result = FUNCTIONS[name](Case(**json.loads(case)), int(number), Path(place))
    print("\n" + json.dumps(result))
