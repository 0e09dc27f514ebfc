"""Whether the recipe's adapter can be laid over its model: PEFT tries."""

import logging
from pathlib import Path

from cpt import models
from cpt.errors import UserError, nearest, shown
from cpt.recipe import Recipe

log = logging.getLogger(__name__)


def check_adapter(base: Path, recipe: Recipe) -> None:
    """Lay the recipe's adapter over the model of `base`. Raises UserError where that cannot be done."""
    if recipe.adapter is None:
        return
    laid, config = laid_over(base, recipe), models.load_config(base, recipe)
    check_matches(laid, recipe)
    check_head(laid, recipe)
    if any(spec.adapters == "weights" for spec in recipe.strategies):
        check_tied(laid, config)


def laid_over(base: Path, recipe: Recipe):
    """The recipe's adapter over the model of `base`, without its weights where PEFT's kind of adapter looks at none."""
    import torch
    from transformers import AutoModelForCausalLM

    from cpt.pissa import lay

    options, settings = models.load_config(base, recipe), models.adapter_config(recipe)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(options, trust_remote_code=recipe.model.trust_remote_code)
        try:
            return lay(empty, settings)
        except (NotImplementedError, RuntimeError) as error:  # what torch says of weights that are not there
            log.info("adapter %s: laid out with weights, for without them: %s", recipe.adapter.kind, error)
        except Exception as error:
            raise refused_adapter(recipe, error) from error
    model = models.load_full(base, recipe)  # boft, adamss, frod, shira, unilora read them
    with torch.random.fork_rng(devices=[]):
        try:
            return lay(model, models.adapter_config(recipe))
        except Exception as error:
            raise refused_adapter(recipe, error) from error


def refused_adapter(recipe: Recipe, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"adapter: PEFT cannot add {recipe.adapter.kind} to this model: {reason}")


def check_matches(laid, recipe: Recipe) -> None:
    """Raise UserError where the adapter names modules that the PEFT model `laid` does not have; PEFT passes over them."""
    from peft.utils.other import get_pattern_key

    options = recipe.adapter.model_dump()
    adapted = list(getattr(laid.base_model, "targeted_module_names", None) or [])
    modules = [name for name, _ in laid.named_modules()]
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in options.get(field) or {}:
            if not any(get_pattern_key([pattern], name) != name or pattern == name for name in adapted):
                raise unmatched(field, pattern, adapted)
    for field, names in (("target_modules", adapted), ("modules_to_save", modules)):
        for part in options.get(field) or () if isinstance(options.get(field), list) else ():
            if not any(f".{name}".endswith(f".{part}") for name in names):
                raise unmatched(field, part, modules)


def unmatched(field: str, part: str, modules: list[str]) -> UserError:
    names = list(dict.fromkeys(name.split(".")[-1] for name in modules if not name.split(".")[-1].isdigit()))
    return UserError(f"adapter.{field}: no module of this model is named {shown(part)}{nearest(part, names)}")


def check_head(laid, recipe: Recipe) -> None:
    """Raise UserError where the adapter is over the head, and a stage's trainer reads the head's weights past it."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import TrainableTokensWrapper

    fused = any(stage.trl_config != "DPOConfig" for task in recipe.stream for stage in task.stages)
    if fused and isinstance(laid.get_output_embeddings(), BaseTunerLayer | TrainableTokensWrapper):
        raise UserError(
            "adapter: it changes the head (`lm_head`, or the embedding it is tied to), and TRL computes log-probabilities "
            "from the head's own weights, so that this part would never be trained: leave it out of the adapter"
        )


def check_tied(laid, config) -> None:
    """Raise UserError where the adapter of the PEFT model `laid` changes an embedding that is the head too, or that head."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    ends = (laid.get_input_embeddings(), laid.get_output_embeddings())
    adapted = any(isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) for module in ends)
    if adapted and config.get_text_config().tie_word_embeddings:
        raise UserError(
            "adapter: it changes the embedding or the head, which this model ties together, so a merge with "
            "`adapters: weights` cannot write the one without the other: leave both out of the adapter, or set "
            "`adapters: factors`"
        )
