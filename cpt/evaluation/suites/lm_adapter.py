"""lm-eval's model interface over the engine of a run: whatever engine it is, lm-eval asks the weights that it holds.

Texts become tokens exactly as in lm-eval's own `HFLM`: context and continuation are encoded together and parted after the
context's tokens, spaces at a context's end belong to the continuation, an empty context is the beginning-of-text token (else
the end-of-text token), and what is too long loses its beginning. Every rank calls it with all requests; the ranks share them.
"""

import copy
import math
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from cpt.evaluation.suites import spread
from cpt.evaluation.suites.base import Asking
from cpt.evaluation.suites.rows import EVALUATION_SEED
from cpt.rollouts import Sampling

UNKNOWN_CONTEXT = 2048  # positions of a model that does not say how many it has, as lm-eval's own
MAX_GEN_TOKS = 256  # of a task that does not say how many, as lm-eval's own
SAMPLED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # what `generation_kwargs` may have besides
Place = tuple[str, int, int]  # task, question, request within it


class EngineLM(TemplateLM):
    """One evaluation's engine as lm-eval sees a model.

    `tokens` are those that each request's log-likelihood is of, `finished` says which answers came to an end by
    themselves, and `cut` counts the requests that lost their beginning.
    """

    def __init__(self, asking: Asking, context: int | None):
        super().__init__()
        self.asking, self.tokenizer = asking, asking.encoding.tokenizer
        self.max_length = context or UNKNOWN_CONTEXT
        self.tokens: dict[Place, int] = {}
        self.finished: dict[Place, bool] = {}
        self.cut = 0

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    @property
    def most(self) -> int:
        """Tokens that a context and its continuation may have together."""
        return self.max_length + self.asking.engine.scored_beyond

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        options = {"tokenize": False, "add_generation_prompt": add_generation_prompt, **self.asking.encoding.options}
        return self.tokenizer.apply_chat_template(
            chat_history, continue_final_message=not add_generation_prompt, **options
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        if add_special_tokens is None:
            add_special_tokens = not has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False)

    # -- what lm-eval asks ---------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: list[tuple[Any, list[int], list[int]]], **_: Any) -> list:
        """(log-likelihood, whether every token is the likeliest) of each (texts, context, continuation)."""
        pairs = []
        for _, context, continuation in requests:
            whole, most = context + continuation, self.most
            self.cut += len(whole) > most
            whole = whole[-most:]
            start = max(1, len(whole) - len(continuation))
            pairs.append((whole[:start], whole[start:]))
        scored = spread.score(self.asking, pairs, "lm-eval, log-likelihoods")
        return [(math.fsum(each.logprobs), all(each.greedy)) for each in scored]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """The log-likelihood of each text, in windows of the model's whole context where it is longer."""
        windows, of_request = [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            self.tokens[place_of(request)] = len(ids)
            rolled = get_rolling_token_windows(
                token_list=ids, prefix_token=self.prefix_token_id, max_seq_len=self.most - 1, context_len=1
            )
            mine = [(None, *make_disjoint_window(window)) for window in rolled]
            windows += mine
            of_request += [number] * len(mine)
        totals: list[list[float]] = [[] for _ in requests]
        for number, (logprob, _) in zip(of_request, self._loglikelihood_tokens(windows), strict=True):
            totals[number].append(logprob)
        return [math.fsum(each) for each in totals]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The answer to each prompt, up to the first of its task's stop texts."""
        alike: dict[str, list[int]] = {}  # the places of the requests that are continued in the same way
        for place, request in enumerate(requests):
            alike.setdefault(repr(request.args[1]), []).append(place)
        texts = [""] * len(requests)
        for places in alike.values():
            until, sampling = self.sampling(requests[places[0]].args[1])
            most = self.max_length - sampling.max_tokens
            prompts = [self.tok_encode(requests[place].args[0]) for place in places]
            self.cut += sum(len(prompt) > most for prompt in prompts)
            made = spread.generate(self.asking, [p[-most:] for p in prompts], sampling, "lm-eval, answers")
            for place, completion in zip(places, made, strict=True):
                whole = self.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
                texts[place] = postprocess_generated_text(whole, until, None)
                self.finished[place_of(requests[place])] = completion.finished
        return texts

    def sampling(self, gen_kwargs: dict[str, Any]) -> tuple[list[str], Sampling]:
        """The stop texts, and how the engine continues a prompt, of a task's `generation_kwargs`."""
        kwargs = normalize_gen_kwargs(copy.deepcopy(gen_kwargs), MAX_GEN_TOKS)
        end = self.tokenizer.decode([self.eot_token_id], skip_special_tokens=False)
        until = [text for text in handle_stop_sequences(kwargs.pop("until", None), eos=end) if text]
        drawn = {name: kwargs[name] for name in SAMPLED if kwargs.get(name) is not None}
        if not kwargs.get("do_sample"):
            drawn = {name: value for name, value in drawn.items() if name == "repetition_penalty"}
        seed = EVALUATION_SEED if drawn.get("temperature") else None
        stop = tuple(text for text in until if text != end)
        return until, Sampling(max_tokens=kwargs["max_gen_toks"], stop=stop, seed=seed, **drawn)


def place_of(request: Instance) -> Place:
    """Which request of which question it is."""
    return request.task_name, request.doc_id, request.idx
