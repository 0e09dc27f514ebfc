"""One task by hand, rollouts by vLLM: TRL's GRPOTrainer, colocated. The plain alternative of bench_rollouts.py.

python train_vllm.py MODEL ROWS.jsonl OUT SETTINGS.json    {"args": of GRPOConfig, "engine": of vLLM's LLM}

TRL gives its engine no dtype, and on the CPU cannot sync to vLLM's packed weights: both are mended here, nothing else.
The seconds of all training steps are TRL's own `step_time` (rollouts, reward, loss, gradients), written to OUT/steps.json.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # TRL reaches into the engine

import torch
from datasets import load_dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
from trl.generation import vllm_generation
from vllm import _custom_ops

model, rows, out = sys.argv[1:4]
settings = json.loads(Path(sys.argv[4]).read_text())
vllm_generation.LLM = partial(vllm_generation.LLM, **settings["engine"])
if not torch.cuda.is_available():
    _custom_ops._supports_onednn = False


def exact(completions, answer, **_):
    return [float(said[0]["content"].strip() == right) for said, right in zip(completions, answer, strict=True)]


config = GRPOConfig(
    output_dir=out, report_to="none", disable_tqdm=True, use_vllm=True, vllm_mode="colocate", **settings["args"]
)
trainer = GRPOTrainer(
    model=model,
    reward_funcs=exact,
    args=config,
    train_dataset=load_dataset("json", data_files=rows, split="train"),
    processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
)
trainer.train()
trainer.save_model(out)
steps = [line["step_time"] for line in trainer.state.log_history if "step_time" in line]
Path(out, "steps.json").write_text(json.dumps(steps))
