"""The teacher of a distill stage: where its folder is, and whether it speaks the student's tokens. No heavy import."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cpt import models
from cpt.adapters import is_adapter
from cpt.errors import UserError
from cpt.recipe import Recipe
from cpt.recipe.stages import Distill


@contextmanager
def of_the_teacher(key: str) -> Iterator[None]:
    """What is wrong with a model in this block is wrong with the teacher of the stage at `key`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{key}.teacher: {str(error).removeprefix('model.path: ')}") from error


def as_model(recipe: Recipe, stage: Distill) -> Recipe:
    """The recipe as it would be if the teacher were its model."""
    changes = {"dtype": stage.teacher_dtype or recipe.model.dtype}
    if stage.teacher != "base":
        changes |= {"path": stage.teacher, "revision": stage.teacher_revision, "chat_template": None}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=changes), "adapter": None})


def folder_of(recipe: Recipe, stage: Distill, base: Path, key: str) -> Path:
    """The teacher's folder. Raises UserError where there is none, here or on the hub."""
    with of_the_teacher(key):
        return base if stage.teacher == "base" else models.resolve(as_model(recipe, stage))


def check(recipe: Recipe, stage: Distill, base: Path, key: str) -> int | None:
    """How many positions the teacher was made for (None: it does not say).

    Raises:
        UserError: no such model, or one of other tokens or another width of vocabulary than the student's.
    """
    folder, theirs = folder_of(recipe, stage, base, key), as_model(recipe, stage)
    with of_the_teacher(key):
        tokenizer = models.load_tokenizer(folder, theirs)
        config = None if is_adapter(folder) else models.load_config(folder, theirs)
    own = models.load_tokenizer(base, recipe)
    if tokenizer.get_vocab() != own.get_vocab() or tokenizer.eos_token_id != own.eos_token_id:
        raise UserError(
            f"{key}.teacher: {stage.teacher} has another tokenizer than the student ({len(tokenizer)} and {len(own)} "
            "tokens): its distribution says nothing about the student's tokens; use a teacher of the same family"
        )
    if config is None:  # its base, and so its width, is known when it is loaded; TRL then compares
        return None
    sizes = [each.get_text_config().vocab_size for each in (config, models.load_config(base, recipe))]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{key}.teacher: {stage.teacher} has {sizes[0]} rows of embeddings and the student {sizes[1]}: the two "
            "distributions must be over one vocabulary; use another teacher, or resize one of the two"
        )
    return getattr(config.get_text_config(), "max_position_embeddings", None)
