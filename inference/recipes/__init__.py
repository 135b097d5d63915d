"""One short file per published method: which five parts, which numbers, which paper; and the list of all."""

from types import MappingProxyType

from inference.recipes.coarse_ensemble import COARSE_ENSEMBLE
from inference.recipes.cold_mean import COLD_MEAN
from inference.recipes.cold_restore import COLD_RESTORE
from inference.recipes.cold_steps import COLD_STEPS
from inference.recipes.intensity import INTENSITY
from inference.recipes.recipe import Recipe

RECIPES = MappingProxyType({recipe.name: recipe for recipe in (COLD_RESTORE, COLD_MEAN, COLD_STEPS, COARSE_ENSEMBLE, INTENSITY)})
"""Every recipe by its name."""

__all__ = ["RECIPES", "Recipe"]
