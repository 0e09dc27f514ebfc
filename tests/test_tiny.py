"""The embedded model: what it is made of, that its making is exact, what it can spell and render, and that it is cached."""

from threading import Thread

import pytest
import torch
from filelock import FileLock

from cpt import models, tiny
from cpt.data import procedural
from cpt.errors import Interrupted, UserError
from cpt.files import is_intact
from cpt.recipe import load
from cpt.spelling import unspellable
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


def test_it_is_cached_by_the_hash_of_its_making(monkeypatch, tiny_folder):
    assert tiny.path(0) == tiny_folder == tiny.folder(0) and is_intact(tiny_folder)
    assert tiny.folder(1) != tiny.folder(0)
    monkeypatch.setattr(tiny, "TRAINING", tiny.TRAINING | {"steps": 7})
    assert tiny.folder(0) != tiny_folder


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
    assert said == ["waiting for another process, which is making the embedded model", "held"]


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
    assert {procedural.split_of("".join(prompt[1:-1])) for prompt in prompts} == {"train"}


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


@pytest.mark.slow
def test_what_it_knows(tiny_folder, tmp_path):
    """At first it knows the general skills and has the new ones in part: what the recipes' numbers stand on."""
    from cpt import rollouts
    from cpt.data.stream import load_stream
    from cpt.evaluation.evaluate import evaluate
    from cpt.recipe import load, suites_of
    from cpt.rewards import Scorers
    from cpt.screen import QUIET, Screen
    from cpt.stop import Stop

    recipe = load("quickstart")
    stream = load_stream(recipe, suites_of(recipe))
    with Scorers() as scorers:
        lines, _ = evaluate(
            tiny_folder,
            tiny_folder,
            recipe,
            stream,
            engine=rollouts.start(recipe, tiny_folder, tmp_path, [], tmp_path / "log"),
            scorers=scorers,
            screen=Screen(QUIET),
            stop=Stop(),
            label="",
        )
    accuracy = {}
    for line in lines:
        accuracy.setdefault((line["suite"], line["task"]), []).append(line["score"])
    accuracy = {name: sum(scores) / len(scores) for name, scores in accuracy.items()}
    assert all(value >= 0.9 for (suite, _), value in accuracy.items() if suite == "general"), accuracy
    assert sum(value for (suite, _), value in accuracy.items() if suite is None) / 4 < 0.95, accuracy


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path, tiny_folder):
    """What is in it is used; what is not cannot be made, and that is one line."""
    monkeypatch.setattr(tiny, "check_cache", lambda place: pytest.fail("there is nothing to write"))
    assert tiny.path(0) == tiny_folder
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(tiny, "folder", lambda seed: tmp_path / "file" / "tiny-x")
    with pytest.raises(UserError, match=r"kept in .*file, which cannot be written .*XDG_CACHE_HOME"):
        tiny.path(0)
