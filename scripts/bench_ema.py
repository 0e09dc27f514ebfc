"""What an average of the weights costs: the time of its hooks beside that of the training step they belong to.

    python scripts/bench_ema.py                    every rule, 5 steps each, 50M parameters, 2048 tokens
    python scripts/bench_ema.py --device cuda --size 1b --dtype bfloat16

A random Qwen3 model and AdamW; both times are taken in every step, so nothing is compared over runs. Wanted: at most 2 % of a
step, and 6 % for the rules that look at gradients. Medians, with the smallest and the largest in brackets.
"""

import argparse
import time
from types import SimpleNamespace

import torch
from bench_stream import say
from transformers import Qwen3Config, Qwen3ForCausalLM

from cpt.recipe.strategies import GRADIENT_RULES, Ema
from cpt.strategies.ema.strategy import Ema as EmaStrategy

SIZES = {
    "50m": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 10, "num_attention_heads": 8},
    "1b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 18, "num_attention_heads": 16},
}
RULES = {
    "constant": {},
    "constant, every 10": {"every": 10},
    "constant, in CPU memory": {"device": "cpu"},
    "bema": {"rule": "bema"},
    "lcia-code": {"rule": "lcia-code"},
    "lcia-paper": {"rule": "lcia-paper"},
    "balanced": {"rule": "balanced"},
    "psmt": {"rule": "psmt"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="measured for each rule; default: %(default)s")
    parser.add_argument("--tokens", type=int, default=2048, help="of a step; default: %(default)s")
    parser.add_argument("--size", choices=SIZES, default="50m", help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="of the weights; default: %(default)s")
    parser.add_argument("--rules", nargs="*", choices=RULES, default=list(RULES), help="default: all")
    asked = parser.parse_args()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32000, num_key_value_heads=4, head_dim=64, tie_word_embeddings=True, **SIZES[asked.size]
    )
    model = Qwen3ForCausalLM(config).to(asked.device, getattr(torch, asked.dtype))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    size = sum(weight.numel() for weight in model.parameters()) / 1e6
    print(f"{size:.0f}M parameters, {asked.dtype}, {torch.get_num_threads()} threads")
    for name in asked.rules:
        steps, hooks = measure(model, optimizer, RULES[name], asked)
        wanted = 6 if RULES[name].get("rule") in GRADIENT_RULES else 2
        say(f"{name}: a step, seconds", steps, "{:.3f}")
        say(
            f"{name}: its hooks, % of the step (wanted: {wanted})",
            [100 * h / s for s, h in zip(steps, hooks, strict=True)],
        )


def measure(model, optimizer, options: dict, asked) -> tuple[list[float], list[float]]:
    """Seconds of each step without the hooks, and of the hooks; the first two steps are left out."""
    strategy = EmaStrategy(None, Ema(kind="ema", **options), "0-ema")
    (callback,) = strategy.callbacks(SimpleNamespace(key="bench", task=SimpleNamespace(name="bench")), None)
    callback.on_train_begin(None, None, None, model=model)
    steps, hooks = [], []
    for _ in range(asked.steps + 2):
        ids = torch.randint(32000, (asked.tokens // 256, 256), device=asked.device)
        start = now(asked.device)
        model(input_ids=ids, labels=ids).loss.backward()
        before = now(asked.device)
        callback.on_pre_optimizer_step(None, None, None)
        looked = now(asked.device)
        optimizer.step()
        stepped = now(asked.device)
        callback.on_optimizer_step(None, None, None)
        callback.on_step_end(None, None, None)
        end = now(asked.device)
        optimizer.zero_grad()
        hooks.append(looked - before + end - stepped)
        steps.append(before - start + stepped - looked)
    callback.rule.average.wait()
    return steps[2:], hooks[2:]


def now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
