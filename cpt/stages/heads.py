"""Log-probabilities at two temperatures: rollouts at the temperature they were sampled at, demonstrations at 1.

TRL's trainers score tokens by a fused head over the model, built for one temperature. `SftHead` lays a second one beside it,
at temperature 1, and says which of the two answers.
"""

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate.utils import is_peft_model
from trl.trainer.utils import add_fused_lm_head


class SftHead:
    """Of a GRPOTrainer's model, before it is prepared for several processes. At temperature 1 nothing is added."""

    def __init__(self, trainer):
        self.active = False
        if trainer.temperature != 1.0:
            model = trainer.model.get_base_model() if is_peft_model(trainer.model) else trainer.model
            self._add(model, trainer.args.cast_lm_head_to_fp32)

    def _add(self, model, cast_lm_head_to_fp32: bool) -> None:
        sampled = model.forward
        add_fused_lm_head(model, 1.0, cast_lm_head_to_fp32, outputs=("log_probs", "entropy"))
        plain = model.forward

        @functools.wraps(type(model).forward)  # generation reads the signature
        def forward(_, *args, **kwargs):
            return (plain if self.active else sampled)(*args, **kwargs)

        model.forward = types.MethodType(forward, model)

    @contextmanager
    def at_one(self) -> Iterator[None]:
        """Tokens are scored at temperature 1 in this block."""
        self.active = True
        try:
            yield
        finally:
            self.active = False
