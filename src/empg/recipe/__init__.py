"""Recipes: YAML, read into validated, immutable models.

Every value that affects a run is defined here once, with its unit and its default. The resolved recipe is written into
the run folder, so a run can be repeated. Unknown keys are errors that name the key and the nearest valid one.
"""

from empg.recipe.recipe import Recipe, dump_recipe, load_recipe, override_recipe, parse_recipe
from empg.recipe.sections import (
    AgentSection,
    EnvironmentSection,
    LoraSection,
    OptimizerSection,
    PolicySection,
    RolloutSection,
    TinyModel,
    WarmStartSection,
)

__all__ = [
    "AgentSection",
    "EnvironmentSection",
    "LoraSection",
    "OptimizerSection",
    "PolicySection",
    "Recipe",
    "RolloutSection",
    "TinyModel",
    "WarmStartSection",
    "dump_recipe",
    "load_recipe",
    "override_recipe",
    "parse_recipe",
]
