"""Small tokenizers with the habits of real ones, made on the spot: byte-level BPE and SentencePiece's way with spaces."""

from types import SimpleNamespace

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cpt.data.encoding import Encoder, Encoding

TEXT = ["the answer is yes or no", "question: which colour? answer: red", "red blue green Hello Yes", "answer: no"] * 20
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|end|>", "<|im_start|>", "<|im_end|>")


def byte_level(template: str | None = CHATML, specials=SPECIAL, appends: bool = False, added=(), normalizer=None):
    """GPT-2's kind; the end of sequence is <|end|>. `appends`: it puts that after every text by itself."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=360, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
        ),
    )
    if appends:
        ends = [("<|end|>", made.token_to_id("<|end|>"))]
        made.post_processor = processors.TemplateProcessing(single="$A <|end|>", special_tokens=ends)
    return finished(made, template, added)


def metaspace(template: str | None = None):
    """Llama's kind: a text begins with <s> and a space that nobody wrote, which decoding takes away again."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    specials = ["<unk>", "<s>", "<|end|>", "<|im_start|>", "<|im_end|>"]
    letters = [*sorted(set("".join(TEXT)) - {" "}), "▁", "\n"]
    made.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=200, special_tokens=specials, initial_alphabet=letters, show_progress=False),
    )
    begins = [("<s>", made.token_to_id("<s>"))]
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=begins)
    return finished(made, template, ())


def finished(made: Tokenizer, template: str | None, added) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|end|>", pad_token="<|im_start|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = template
    tokenizer.add_tokens([AddedToken(each, special=False) for each in added])
    return tokenizer


def encoder(tokenizer, *stops: str, options: dict | None = None, **spec) -> Encoder:
    """The encoder of a task whose model stops at the end of sequence and at `stops`."""
    ids = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(stops))]
    given = {"task": "t", "stop": (), "prompt": None, "system": None, "special_tokens": "strip", "overlong": "refuse"}
    return Encoding(tokenizer, ids, options or {}).of(SimpleNamespace(**given | spec))
