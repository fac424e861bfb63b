"""Recipes: everything that fixes a run, as YAML."""

from anywidth.recipe.reading import differences, dump, load
from anywidth.recipe.schema import GateSection, JoslimSection, PruneSection, Recipe

__all__ = ["GateSection", "JoslimSection", "PruneSection", "Recipe", "differences", "dump", "load"]
