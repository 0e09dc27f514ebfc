"""The built-in toy model: what it is made of, its exact making, what it can spell and render, and that it is cached."""

import shutil
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from cpt import models, tiny
from cpt.checks.tokenizer_coverage import unspellable
from cpt.errors import Interrupted, UserError
from cpt.files import is_intact
from cpt.recipe import load
from cpt.skills import split_of
from cpt.stop import Stop


def test_size_and_shape():
    torch.manual_seed(0)
    assert sum(parameter.numel() for parameter in tiny.network().parameters()) == tiny.PARAMETERS


def test_the_same_seed_gives_the_same_weights(tmp_path):
    """A few steps of its making, twice, and once with another seed; the caller's random state is as it was."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tiny.make(tmp_path / name, seed, steps=3)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_seed_0_comes_with_the_package(tmp_path):
    """It is what this code makes, but for the weights: shape, tokenizer, chat template. And they are loaded by a run."""
    place = tiny.path(0)
    assert place == Path(tiny.__file__).parent / "tiny_model" and is_intact(place)
    assert models.resolve(load("quickstart")) == place
    tiny.network().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    made = {file.name for file in tmp_path.iterdir()}
    assert {file.name for file in place.iterdir()} == made | {"DONE"}
    for name in made - {"model.safetensors"}:
        assert (place / name).read_text() == (tmp_path / name).read_text(), name
    shapes = [
        {name: each.shape for name, each in load_file(f / "model.safetensors").items()} for f in (place, tmp_path)
    ]
    assert shapes[0] == shapes[1]


def test_damaged_files_of_the_package_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(tiny, "SHIPPED", shutil.copytree(tiny.SHIPPED, tmp_path / "tiny_model"))
    (tmp_path / "tiny_model" / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match="built-in toy model are damaged or missing: install cpt again"):
        tiny.path(0)


def test_other_seeds_are_cached_by_the_hash_of_their_making(monkeypatch):
    one, two = tiny.folder(1), tiny.folder(2)
    assert one != two and one.parent == two.parent != tiny.folder(0).parent
    monkeypatch.setattr(tiny, "TRAINING", tiny.TRAINING | {"steps": 7})
    assert tiny.folder(1) != one


def test_a_wait_for_another_process_is_said(monkeypatch, tmp_path):
    class Heard:
        def line(self, text):
            said.append(text)
            mine.release()

    said, mine = [], FileLock(tmp_path / "x.lock", thread_local=False)
    monkeypatch.setattr(tiny, "PATIENCE", 1)

    def wait():
        with tiny.held(tmp_path / "x.lock", Heard(), None):
            said.append("held")

    mine.acquire()
    thread = Thread(target=wait)
    thread.start()
    thread.join(timeout=10)
    assert said == ["waiting for another process, which is making the built-in toy model", "held"]


def test_a_damaged_cache_is_made_again(monkeypatch, tmp_path):
    place = tmp_path / "tiny-x"
    monkeypatch.setattr(tiny, "folder", lambda seed: place)
    made = []

    def make(target, seed, screen=None, stop=None, steps=0):
        made.append(seed)
        target.mkdir()
        (target / "weights").write_text("good")

    monkeypatch.setattr(tiny, "make", make)
    tiny.path(0), tiny.path(0)
    assert made == [0]
    (place / "weights").write_text("bad!")
    assert (tiny.path(0) / "weights").read_text() == "good" and made == [0, 0]


def test_a_signal_ends_its_making(monkeypatch, tmp_path):
    """At the next step, and also while another process holds the lock; nothing is left half made."""
    place = tmp_path / "tiny-x"
    monkeypatch.setattr(tiny, "folder", lambda seed: place)
    stop = Stop()
    stop.signal = 15
    with pytest.raises(Interrupted):
        models.resolve(load("quickstart"), stop=stop)
    with FileLock(f"{place}.lock"), pytest.raises(Interrupted):
        tiny.path(0, stop=stop)
    assert [file.name for file in tmp_path.iterdir() if file.is_dir()] == []


def test_it_never_saw_an_evaluation_string():
    import numpy as np

    prompts, _ = tiny.training_rows(2000, np.random.default_rng(0))
    assert {split_of("".join(prompt[1:-1])) for prompt in prompts} == {"train"}


def test_what_it_spells_comes_back():
    tokenizer = tiny.tokenizer()
    for text in ("reverseabcde=", "so ans is: edcba.", "abc->cba", "e d c b a", "(1+2)"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_its_template_ends_answers_and_masks_prompts():
    tokenizer = tiny.tokenizer()
    talk = [{"role": "user", "content": "copyab"}, {"role": "assistant", "content": "ab"}]
    assert tokenizer.apply_chat_template(talk, tokenize=False) == "copyab=ab<eos>"
    made = tokenizer.apply_chat_template(talk, return_assistant_tokens_mask=True, return_dict=True, tokenize=True)
    assert made["assistant_masks"] == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    "text, found",
    [("copyabc=", []), ("copyaXc=", [(1, 5)]), ("äb", [(1, 0)]), ("ab!", [(1, 2)]), ("a<pad>b", [])],
)
def test_what_it_cannot_spell(text, found):
    assert list(unspellable(tiny.tokenizer(), ["ab", text, "ba"])) == found


def test_a_tokenizer_that_drops_characters():
    """One that maps what it does not know to nothing at all."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<pad>": 2}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split("-", behavior="removed")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")
    assert list(unspellable(tokenizer, ["a-b", "a", "b-"])) == [(0, 1), (2, 1)]


def test_a_tokenizer_written_in_python(tmp_path):
    from transformers import Wav2Vec2CTCTokenizer

    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text('{"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "a": 5, "b": 6}')
    tokenizer = Wav2Vec2CTCTokenizer(vocabulary)
    assert not tokenizer.is_fast
    assert list(unspellable(tokenizer, ["ab", "abX", "b"])) == [(1, 2)]


def skills(folder: Path, place: Path) -> dict[str, float]:
    """{task: greedy accuracy} of the model in `folder` on the quickstart's evaluation rows and its held-out suite."""
    from cpt import rollouts
    from cpt.data.stream import load_stream
    from cpt.evaluation.evaluate import evaluate
    from cpt.evaluation.results import greedy_scores
    from cpt.recipe import suites_of
    from cpt.rewards import Scorers
    from cpt.screen import QUIET, Screen

    recipe = load("quickstart")
    stream = load_stream(recipe, suites_of(recipe))
    with Scorers() as scorers:
        lines, _ = evaluate(
            folder,
            folder,
            recipe,
            stream,
            engine=rollouts.start(recipe, folder, place, [], place / "log"),
            scorers=scorers,
            screen=Screen(QUIET),
            stop=Stop(),
            label="",
        )
    return {task: float(scores.mean()) for (_, task), scores in greedy_scores([lines]).items()}


@pytest.mark.slow
def test_a_new_making_reaches_the_same_skills(tiny_folder, tmp_path):
    """The script makes a model that knows the general skills, and the recipes' tasks about as well as the shipped one."""
    script = Path(__file__).parent.parent / "scripts" / "make_tiny.py"
    done = subprocess.run([sys.executable, script, tmp_path / "again"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert is_intact(tmp_path / "again")
    shipped, again = skills(tiny_folder, tmp_path), skills(tmp_path / "again", tmp_path)
    assert all(found[skill] >= 0.95 for skill in tiny.GENERAL for found in (shipped, again)), (shipped, again)
    assert again == pytest.approx(shipped, abs=0.25), (shipped, again)  # two processors differed by .16 at most


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path, tiny_folder):
    """What is in it is used; what is not cannot be made, and that is one line."""
    monkeypatch.setattr(tiny, "folder", lambda seed: tiny_folder)
    monkeypatch.setattr(tiny, "check_cache", lambda place: pytest.fail("there is nothing to write"))
    assert tiny.path(1) == tiny_folder
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(tiny, "folder", lambda seed: tmp_path / "file" / "tiny-x")
    with pytest.raises(UserError, match=r"kept in .*file, which cannot be written .*XDG_CACHE_HOME"):
        tiny.path(1)
