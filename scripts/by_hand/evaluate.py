"""One checkpoint by hand: load it, answer every task's questions greedily in batches, print the accuracies as JSON.

python evaluate.py MODEL TASK.jsonl...
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], padding_side="left")
accuracy = {}
for file in map(Path, sys.argv[2:]):
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    right = 0
    for start in range(0, len(rows), 256):
        batch = rows[start : start + 256]
        inputs = tokenizer.apply_chat_template(
            [row["prompt"] for row in batch],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=16, do_sample=False)
        texts = tokenizer.batch_decode(out[:, inputs["input_ids"].size(1) :], skip_special_tokens=True)
        right += sum(text.strip() == row["answer"] for text, row in zip(texts, batch, strict=True))
    accuracy[file.stem] = right / len(rows)
print(json.dumps(accuracy))
