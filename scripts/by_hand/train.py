"""One task by hand: TRL's GRPOTrainer as its documentation shows it. The plain alternative of bench_stream.py.

python train.py MODEL ROWS.jsonl OUT CONFIG.json
"""

import json
import sys
from pathlib import Path

from datasets import load_dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

model, rows, out, config = sys.argv[1:]


def exact(completions, answer, **_):
    return [
        float(completion[0]["content"].strip() == right) for completion, right in zip(completions, answer, strict=True)
    ]


trainer = GRPOTrainer(
    model=model,
    reward_funcs=exact,
    args=GRPOConfig(output_dir=out, report_to="none", disable_tqdm=True, **json.loads(Path(config).read_text())),
    train_dataset=load_dataset("json", data_files=rows, split="train"),
    processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
)
trainer.train()
trainer.save_model(out)
