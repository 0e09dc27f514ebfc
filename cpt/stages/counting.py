"""How many tokens a trainer that learns from rollouts has trained on.

What counts is what the loss of an optimiser step is computed on, prompts included, each time: not what was generated. So
answers that were dropped, or asked for besides, count as rollouts alone, and rows that are trained on twice count twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from cpt import ranks


class CountsAtLoss:
    """For a trainer of TRL's whose batches have `prompt_mask` and `completion_mask`."""

    trained = 0  # tokens, on this rank, since the trainer began

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.count_inputs(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def count_inputs(self, inputs) -> None:
        """Count the rows of a micro-batch that its loss is computed on."""
        self.count_rows(inputs["prompt_mask"], inputs["completion_mask"])

    def count_rows(self, prompt_mask, completion_mask) -> None:
        """Those of these rows that have a token in `completion_mask`."""
        lengths = completion_mask.sum(1)
        self.trained += int(((prompt_mask.sum(1) + lengths) * (lengths > 0)).sum())

    def train_tokens(self) -> int:
        """Of all ranks, since the trainer began: a collective."""
        return sum(ranks.gather([self.trained]))

    def resume_tokens(self, count: int) -> None:
        """Nothing: a resumed stage adds what it trains on to what its checkpoint says."""


@contextmanager
def uncounted(trainer) -> Iterator[None]:
    """What a GRPOTrainer generates in this block is not trained on: TRL's token count and lengths stay as they were."""
    seen, logged = trainer.state.num_input_tokens_seen, trainer._metrics["train"]
    lengths = {name: list(logged[name]) for name in logged if name.startswith("completions/")}
    yield
    trainer.state.num_input_tokens_seen = seen
    for name in [name for name in logged if name.startswith("completions/")]:
        logged[name] = lengths.get(name, [])
