"""What a recipe may say: its schema, and how a file becomes a `Recipe`. No torch here."""

from cpt.errors import RecipeErrors
from cpt.recipe.evaluation import Alarms, Evaluation, Gate
from cpt.recipe.loading import RecipeLike, all_suites, benchmarks_of, load, load_suite, placed, suites_of, unused
from cpt.recipe.nodes import Override
from cpt.recipe.schema import (
    Adapter,
    Model,
    Recipe,
    ServerRollouts,
    Suite,
    SuiteTask,
    Task,
    TransformersRollouts,
    dump,
    identity,
)
from cpt.recipe.sources import File, Hub, Mixture, Procedural, ReasoningGym, Source, Written
from cpt.recipe.stages import Pairs, Samples, Stage

__all__ = [
    "Adapter",
    "Alarms",
    "Evaluation",
    "File",
    "Gate",
    "Hub",
    "Mixture",
    "Model",
    "Override",
    "Pairs",
    "Procedural",
    "ReasoningGym",
    "Recipe",
    "RecipeErrors",
    "RecipeLike",
    "Samples",
    "ServerRollouts",
    "Source",
    "Stage",
    "Suite",
    "SuiteTask",
    "Task",
    "TransformersRollouts",
    "Written",
    "all_suites",
    "benchmarks_of",
    "dump",
    "identity",
    "load",
    "load_suite",
    "placed",
    "suites_of",
    "unused",
]
