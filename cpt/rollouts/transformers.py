"""Rollouts by transformers' `generate` on the policy itself.

The engine holds no weights of its own: `sync` takes the live model, so rollouts come from the present weights by
construction: there is no copy that could be stale.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from transformers import GenerationConfig, StoppingCriteria

from cpt import ranks
from cpt.models import stop_ids
from cpt.rollouts.base import Completion, Sampling, Scored, Tensors, each_sampling
from cpt.rollouts.batches import Limits, batches
from cpt.stop import Stop, current

LOGITS = 2**28  # of one batch of `score`: a gigabyte in float32


class TransformersEngine:
    """See `rollouts.base.Engine`. A batch has at most `batch_size` prompts and, with their answers, `batch_tokens` tokens."""

    corrected = False
    scored_beyond = 1  # the last token is no input

    def __init__(self, batch_size: int, batch_tokens: int | None = None):
        self.limits = Limits(batch_size, batch_tokens)
        self.rollout_tokens = 0
        self.model = self.tokenizer = None
        self.stop_ids: list[int] = []
        self.pad_id = 0

    def sync(self, model, tokenizer, tensors: Tensors | None = None) -> dict[str, float]:
        self.model, self.tokenizer = model, tokenizer
        self.stop_ids = stop_ids(model, tokenizer)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.stop_ids[0]
        return {}

    def release(self) -> None:
        self.model = None

    def close(self) -> None:
        self.release()

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling | Sequence[Sampling],
        on_done: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        alike: dict[str, list[int]] = {}  # the places of the prompts that are continued in the same way
        samplings = each_sampling(sampling, len(prompts))
        for i, each in enumerate(samplings):
            alike.setdefault(repr(each), []).append(i)
        completions: list[Completion | None] = [None] * len(prompts)
        training = self.model.training
        self.model.eval()
        done = 0
        for places in alike.values():
            tell = (lambda count, before=done: on_done(before + count)) if on_done else None
            made = self._alike([prompts[i] for i in places], samplings[places[0]], tell)
            for place, completion in zip(places, made, strict=True):
                completions[place] = completion
            done += len(places)
        self.model.train(training)
        current().check_cut()
        self.rollout_tokens += sum(len(completion.token_ids) for completion in completions)
        return completions

    def _alike(self, prompts: list[list[int]], sampling: Sampling, on_done) -> list[Completion]:
        config, done = self._generation_config(sampling), 0
        completions: list[Completion | None] = [None] * len(prompts)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices, enabled=sampling.seed is not None), torch.no_grad():
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            for batch in batches([len(prompt) for prompt in prompts], sampling.max_tokens, self.limits):
                watch = Watch(
                    current(),
                    set(config.eos_token_id),
                    on_done and (lambda count, before=done: on_done(before + count)),
                )
                made = self._batch([prompts[i] for i in batch], config, watch, sampling.stop)
                for index, completion in zip(batch, made, strict=True):
                    completions[index] = completion
                done += len(batch)
                if ranks.world_size() == 1:  # several ranks look when all have their answers
                    current().check_cut()
                if on_done:
                    on_done(done)
        return completions

    def _generation_config(self, sampling: Sampling) -> GenerationConfig:
        drawn = sampling.temperature > 0
        choice = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        return GenerationConfig(
            **{
                "max_new_tokens": sampling.max_tokens,
                "do_sample": drawn,
                "eos_token_id": [*self.stop_ids, *sampling.stop_ids],
                "pad_token_id": self.pad_id,
                "repetition_penalty": sampling.repetition_penalty,
                **(choice | {"min_p": sampling.min_p} if drawn else {}),
                **sampling.options,
            },
            disable_compile=True,
        )

    def _batch(
        self, prompts: list[list[int]], config: GenerationConfig, watch: "Watch", stop: tuple[str, ...] = ()
    ) -> list[Completion]:
        ids_BT, mask_BT = left_pad(prompts, self.pad_id, self.model.device)
        texts = [StopTexts(self.tokenizer, stop, ids_BT.size(1))] if stop else []
        # transformers fills what `config` leaves open from the model's own file: a model that ships sampling defaults
        # (temperature, top_k) would otherwise colour ours.
        own, self.model.generation_config = self.model.generation_config, config
        try:
            out_BT = self.model.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                generation_config=config,
                stopping_criteria=[watch, *texts],
            )
        finally:
            self.model.generation_config = own
        answers = out_BT[:, ids_BT.size(1) :].tolist()
        if stop:
            lengths = texts[0].lengths
            return [_cut(ids[:end], watch.ends, end is not None) for ids, end in zip(answers, lengths, strict=True)]
        return [_cut(ids, watch.ends) for ids in answers]

    def score(
        self,
        prompts: Sequence[list[int]],
        completions: Sequence[list[int]],
        on_done: Callable[[int], None] | None = None,
    ) -> list[Scored]:
        scored: list[Scored | None] = [None] * len(prompts)
        made = logits_of_inputs(self.model, prompts, completions, self.limits, self.pad_id)
        for done, (place, logits_CV, ids_C) in enumerate(made, start=1):
            own = logits_CV.gather(-1, ids_C[:, None]).squeeze(-1)
            logprobs = own - logits_CV.logsumexp(-1)
            scored[place] = Scored(logprobs.tolist(), (own == logits_CV.amax(-1)).tolist())
            if on_done:
                on_done(done)
            if ranks.world_size() == 1:
                current().check_cut()
        current().check_cut()
        return scored


class Watch(StoppingCriteria):
    """Looks at a batch after each token: tells how many answers have come to their end (a token of `ends`), and ends all of
    them where the process was asked to stop."""

    def __init__(self, stop: Stop, ends: set[int], on_done: Callable[[int], None] | None):
        self.stop, self.ends, self.on_done = stop, ends, on_done
        self.finished: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores, **_) -> torch.Tensor:
        if self.on_done:
            last = torch.isin(input_ids[:, -1], torch.tensor([*self.ends], device=input_ids.device))
            self.finished = last if self.finished is None else self.finished | last
            self.on_done(int(self.finished.sum()))
        return torch.full((len(input_ids),), self.stop.cuts(), device=input_ids.device)


class StopTexts(StoppingCriteria):
    """Ends each answer of a batch, which begins after `start` tokens, where its text holds one of `texts`.

    `lengths` are the tokens of the answers that ended so, None of the others.
    """

    MORE = 2  # tokens that are read besides those of the longest text: it may begin within one

    def __init__(self, tokenizer, texts: tuple[str, ...], start: int):
        self.tokenizer, self.texts, self.start = tokenizer, texts, start
        self.window = self.MORE + max(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
        self.lengths: list[int | None] = []

    def __call__(self, input_ids: torch.Tensor, scores, **_) -> torch.Tensor:
        made = input_ids.size(1) - self.start
        self.lengths = self.lengths or [None] * len(input_ids)
        ends = self.tokenizer.batch_decode(input_ids[:, -min(self.window, made) :])
        for row, text in enumerate(ends):
            if self.lengths[row] is None and any(each in text for each in self.texts):
                self.lengths[row] = made
        return torch.tensor([length is not None for length in self.lengths], device=input_ids.device)


@torch.no_grad()
def logits_of_answers(
    model, prompts: Sequence, completions: Sequence, limits: Limits, pad_id: int, forward: Callable
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(place, logits_CV in float32, ids_C) of each completion after its prompt, batch by batch; `forward` is the model's."""
    rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    own = base_of(model)
    training = model.training
    model.eval()
    for batch in batches([len(row) for row in rows], 0, limits):
        ids_BT, mask_BT = left_pad([rows[i] for i in batch], pad_id, model.device)
        positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
        # Of a long prompt the logits would be the largest tensor of all: none but those before an answer's token are made.
        kept = min(ids_BT.size(1), 1 + max(len(completions[i]) for i in batch))
        few = {"logits_to_keep": kept} if own._supports_logits_to_keep() else {}
        logits_BTV = forward(input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, **few).logits[:, :-1]
        for row, place in enumerate(batch):
            length = min(len(completions[place]), logits_BTV.size(1))
            if length:
                yield place, logits_BTV[row, -length:].float(), ids_BT[row, -length:]
    model.train(training)


@torch.no_grad()
def logits_of_inputs(
    model, prompts: Sequence, completions: Sequence, limits: Limits, pad_id: int
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(place, logits_CV in float32, ids_C) of each completion after its prompt, batch by batch.

    The last token of a row is no input, so rows that differ in that alone (the letters of a multiple choice) are one row of
    a batch.
    """
    places: dict[tuple[int, ...], list[int]] = {}  # of the completions that have these inputs
    for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        places.setdefault((*prompt, *completion[:-1]), []).append(place)
    rows, training = list(places), model.training
    longest = [max(len(completions[place]) for place in places[row]) for row in rows]
    model.eval()
    for batch in scored_batches([len(row) for row in rows], longest, limits, model.config.get_text_config().vocab_size):
        ids_BT, mask_BT = left_pad([rows[i] for i in batch], pad_id, model.device)
        positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
        few = {"logits_to_keep": max(longest[i] for i in batch)} if base_of(model)._supports_logits_to_keep() else {}
        logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, **few).logits
        for number, i in enumerate(batch):
            for place in places[rows[i]]:
                ids_C = torch.tensor(completions[place], device=logits_BTV.device, dtype=torch.long)
                yield place, logits_BTV[number, logits_BTV.size(1) - len(ids_C) :].float(), ids_C
    model.train(training)


def scored_batches(
    lengths: Sequence[int], scored: Sequence[int], limits: Limits, vocabulary: int
) -> Iterator[list[int]]:
    """The batches of rows of `lengths` tokens, of which the last `scored` have logits. A batch has at most LOGITS of them."""
    for batch in batches(lengths, 0, limits):
        most = max(1, LOGITS // (vocabulary * max(1, *(scored[i] for i in batch))))
        yield from (batch[first : first + most] for first in range(0, len(batch), most))


def base_of(model):
    """The model itself, without its adapter."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def left_pad(rows: Sequence[list[int]], pad_id: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BT, mask_BT), both int64, padded on the left to the longest row."""
    width = max(len(row) for row in rows)
    ids_BT = torch.full((len(rows), width), pad_id)
    mask_BT = torch.zeros_like(ids_BT)
    for i, row in enumerate(rows):
        ids_BT[i, width - len(row) :] = torch.tensor(row)
        mask_BT[i, width - len(row) :] = 1
    return ids_BT.to(device), mask_BT.to(device)


def _cut(ids: list[int], stop: set[int], finished: bool = False) -> Completion:
    """`ids` up to and with the first stop token; without one the completion is unfinished, unless it is `finished`."""
    for i, token in enumerate(ids):
        if token in stop:
            return Completion(ids[: i + 1], finished=True)
    return Completion(ids, finished=finished)
