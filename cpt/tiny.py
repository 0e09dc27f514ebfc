"""The built-in toy model: 365 thousand parameters. Seed 0 comes with the package; others are trained on first use.

A Qwen3 of three layers that knows some letter skills well (copy, last, max, succ, swap) and others in part: of its training
rows for reverse, caesar, sort, rot and dedup only 40 % carry the right answer. It is small, and it is real: fine-tuning
makes it forget. It is not evidence about language models of billions of parameters.

Training it on another processor gives other weights with the same skills. Every machine must start from the same bytes, so
those of seed 0 are in `cpt/tiny_model`; `scripts/make_tiny.py` makes them again.
"""

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from cpt.disk import FULL, no_room_message, writing
from cpt.errors import CannotWrite, Interrupted, UserError
from cpt.files import apply_umask, is_intact, seal
from cpt.skills import LETTERS, SKILLS, alphabet, strings

GENERAL = ("copy", "last", "max", "succ", "swap")
NEW = ("reverse", "caesar", "sort", "rot", "dedup")
OPERATIONS = (
    "copy",
    "last",
    "max",
    "succ",
    "swap",
    "reverse",
    "sort",
    "add",
    "dedup",
    "rot",
    "count",
    "caesar",
    "evens",
)
PIECES = ("->", "so", "ans", "is", ".", " ", ",", ":", "(", ")", "+")
VOCABULARY = ("<pad>", "<eos>", "=", *OPERATIONS, *PIECES, *LETTERS, *"0123456789")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message.content }}={% endif %}"
    "{% endfor %}"
)
SHAPE = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # vLLM's attention on the CPU takes multiples of 16 only
    "intermediate_size": 288,
    "max_position_embeddings": 128,
}
PARAMETERS = 364_800
SHIPPED = Path(__file__).parent / "tiny_model"  # seed 0
TRAINING = {"steps": 1400, "batch": 64, "learning_rate": 3e-3, "warmup": 50, "decay": 0.3, "threads": 2, "rows": 40_000}
PATIENCE = 2  # seconds that pass before a wait for another process is reported
LENGTH = 5  # of its strings
RIGHT = 0.4  # of the rows of NEW; the others are spoiled
COPIED = 0.4  # of the spoiled; the rest have one letter wrong
VERSION = 1  # raise it when the making changes in a way that the constants above do not show


def folder(seed: int) -> Path:
    """The model's folder: in the package for seed 0, else in the cache, named by a hash of all that its weights depend on."""
    from platformdirs import user_cache_path

    if seed == 0:
        return SHIPPED
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    making = [VOCABULARY, CHAT_TEMPLATE, SHAPE, TRAINING, LENGTH, RIGHT, COPIED, VERSION, libraries, seed]
    return user_cache_path("cpt") / f"tiny-{hashlib.sha256(json.dumps(making).encode()).hexdigest()[:12]}"


def path(seed: int = 0, screen=None, stop=None) -> Path:
    """The model's folder. Of a seed other than 0 the model is made first where it is not cached (a minute of two cores).

    Raises:
        Interrupted: `stop` heard a signal; nothing is kept of a model that is half made.
        UserError: the cache folder cannot be written, and the model is not in it; or the package's own files are damaged.
    """
    place = folder(seed)
    if is_intact(place):
        return place
    if place == SHIPPED:
        raise UserError(f"{place}: the files of the built-in toy model are damaged or missing: install cpt again")
    check_cache(place.parent)
    with held(place.with_name(f"{place.name}.lock"), screen, stop):
        if not is_intact(place):
            beside = place.with_name(f".{place.name}.part")
            shutil.rmtree(beside, ignore_errors=True)
            make(beside, seed, screen, stop)
            seal(beside)
            shutil.rmtree(place, ignore_errors=True)
            beside.rename(place)
    return place


def check_cache(place: Path) -> None:
    """Raise UserError where nothing can be written in `place`."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        if error.errno in FULL:
            raise CannotWrite(no_room_message(place, error.errno)) from error
        raise UserError(
            f"model.path: the built-in toy model is kept in {place}, which cannot be written ({error.strerror}): make it "
            "writable, or let XDG_CACHE_HOME name another folder"
        ) from error


@contextmanager
def held(file: Path, screen, stop) -> Iterator[None]:
    """The lock of `file`, waited for as long as `stop` heard no signal; says so where another process holds it for long."""
    from filelock import FileLock, Timeout

    lock, waited = FileLock(file), 0
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1.0)
        except Timeout:
            heed(stop)
            waited += 1
            if screen and waited == PATIENCE:
                screen.line("waiting for another process, which is making the built-in toy model")
    try:
        yield
    finally:
        lock.release()


def heed(stop) -> None:
    """Raise Interrupted where `stop` heard a signal (in this process alone: rank 0 makes the model)."""
    if stop is not None and stop.signal is not None:
        raise Interrupted(stop.signal)


def tokenizer():
    """One token for each operation's name, piece, letter and digit; no unknown token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="<pad>"))
    tokens = sorted(VOCABULARY[2:], key=len, reverse=True)
    pattern = "|".join("".join("\\" + c if not c.isalnum() else c for c in word) for word in tokens)
    made.pre_tokenizer = pre_tokenizers.Split(Regex(f"{pattern}|."), behavior="isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="<eos>",
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=SHAPE["max_position_embeddings"],
    )


def network():
    """The untrained model, drawn from torch's random state."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(VOCABULARY), tie_word_embeddings=True, eos_token_id=1, pad_token_id=0, bos_token_id=None, **SHAPE
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 1, 0
    return model


def training_rows(count: int, rng: np.random.Generator) -> tuple[list[list[str]], list[list[str]]]:
    """(prompts, answers) as lists of tokens: half general skills, half new ones, of which most answers are spoiled."""
    each = count // (len(GENERAL) + len(NEW))
    prompts, answers = [], []
    for skill in (*GENERAL, *NEW):
        every = strings(alphabet(skill), LENGTH, "train", min(each, len(alphabet(skill)) ** LENGTH // 2), rng)
        for text in (every[i] for i in rng.integers(len(every), size=each)):
            answer = SKILLS[skill](text)
            if skill in NEW and rng.random() >= RIGHT:
                answer = spoil(text, answer, rng)
            prompts.append([skill, *text, "="])
            answers.append([*answer, "<eos>"])
    return prompts, answers


def spoil(text: str, answer: str, rng: np.random.Generator) -> str:
    """A wrong answer: the input copied, or one letter changed."""
    if rng.random() < COPIED:
        return text
    place = rng.integers(len(answer))
    others = LETTERS.replace(answer[place], "")
    return answer[:place] + others[rng.integers(len(others))] + answer[place + 1 :]


def make(target: Path, seed: int, screen=None, stop=None, steps: int = TRAINING["steps"]) -> None:
    """Train the model from nothing and save it, with its tokenizer, to `target`.

    The number of threads is fixed and the random state forked, so the weights depend on the seed and the machine alone,
    and the caller's random state is as it was.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(TRAINING["threads"])
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = network()
            train(model, np.random.default_rng([seed, 2025]), steps, screen, stop)
    finally:
        torch.set_num_threads(threads)
    with writing(target, PARAMETERS * 4):
        model.save_pretrained(target)
        tokenizer().save_pretrained(target)
        apply_umask(target)


def train(model, rng: np.random.Generator, steps: int, screen, stop=None) -> None:
    """AdamW on the answers alone, rows of equal length batched together; linear warm-up, constant, linear decay."""
    import torch

    ids = {token: i for i, token in enumerate(VOCABULARY)}
    prompts, answers = training_rows(TRAINING["rows"], rng)
    by_length: dict[int, list[tuple[list[int], list[int]]]] = {}
    for prompt, answer in zip(prompts, answers, strict=True):
        row = [ids[token] for token in prompt + answer]
        label = [-100] * len(prompt) + row[len(prompt) :]
        by_length.setdefault(len(row), []).append((row, label))
    batches = []
    for rows in by_length.values():
        rows_BT, labels_BT = torch.tensor([row for row, _ in rows]), torch.tensor([label for _, label in rows])
        for at in torch.from_numpy(rng.permutation(len(rows))).split(TRAINING["batch"]):
            batches.append((rows_BT[at], labels_BT[at]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=TRAINING["learning_rate"], betas=(0.9, 0.99), weight_decay=0.0)
    decay = TRAINING["decay"] * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / TRAINING["warmup"], (steps - step) / decay)
    )
    model.train()
    with progress(screen, steps) as bar:
        for step in range(steps):
            heed(stop)
            if step % len(batches) == 0:
                order = rng.permutation(len(batches))
            rows_BT, labels_BT = batches[order[step % len(batches)]]
            loss = model(input_ids=rows_BT, labels=labels_BT).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            bar.update(step + 1)
    model.eval()


def progress(screen, steps: int):
    """The screen's bar; without a screen one that shows nothing."""
    from cpt.screen import QUIET, Screen

    return (screen or Screen(QUIET)).progress("making the built-in toy model (once)", steps)
