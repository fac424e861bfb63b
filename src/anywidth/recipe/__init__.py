"""Recipes: everything that fixes a run, as YAML."""

from anywidth.recipe.detection import DetectionRecipe
from anywidth.recipe.reading import differences, dump, is_detection, load, load_detection
from anywidth.recipe.schema import GateSection, JoslimSection, PruneSection, Recipe

__all__ = [
    "DetectionRecipe",
    "GateSection",
    "JoslimSection",
    "PruneSection",
    "Recipe",
    "differences",
    "dump",
    "is_detection",
    "load",
    "load_detection",
]
