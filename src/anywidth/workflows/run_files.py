"""The files of a run directory: their names, when a directory may be written, and reading results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anywidth import recipe as recipes
from anywidth.errors import CheckpointError, RecipeError
from anywidth.files import write_text
from anywidth.train import CHECKPOINT

RECIPE, NET, RESULTS, EVALUATION = "recipe.yaml", "net.safetensors", "results.json", "eval.json"
FRONT, PRUNED = "front.json", "pruned"


def is_new(path: Path) -> bool:
    """Whether there is no run yet.

    Raises:
        RecipeError: other files are there.
    """
    if (path / RECIPE).exists():
        return False
    if path.is_dir() and any(path.iterdir()):
        raise RecipeError(f"{path} is not empty and holds no run; name another directory with --run")
    return True


def is_begun(path: Path) -> bool:
    """Whether something was trained that another recipe would destroy."""
    return (path / CHECKPOINT).exists() or (path / RESULTS).exists()


def check_finished(path: Path) -> None:
    """
    Raises:
        RecipeError: there is no run, or its training is not finished.
    """
    for name in (RECIPE, NET, RESULTS):
        if not (path / name).exists():
            state = (
                "the training is not finished" if (path / RECIPE).exists() else "it is not a run directory"
            )
            raise RecipeError(f"{path} has no {name}: {state}; use `anywidth train RECIPE --run {path}`")


def refuse_changes(path: Path, changes: dict[str, tuple[Any, Any]]) -> None:
    """
    Raises:
        RecipeError: there are changes, key -> (old, new), with which an interrupted training cannot go on.
    """
    if changes:
        text = ", ".join(f"{key} was {old!r} and is {new!r}" for key, (old, new) in changes.items())
        raise RecipeError(f"{path} holds a run of another recipe: {text}; name another directory with --run")


def write_recipe(path: Path, recipe: Any) -> None:
    """Make the run directory and write the resolved recipe."""
    path.mkdir(parents=True, exist_ok=True)
    write_text(path / RECIPE, recipes.dump(recipe))


def read_results(path: Path) -> dict[str, Any]:
    """A JSON file with rows of results that a workflow wrote.

    Raises:
        CheckpointError: if it is damaged.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON ({error}); remove it and write it again") from error
    if not isinstance(results, dict) or not isinstance(results.get("rows"), list) or not results["rows"]:
        raise CheckpointError(f"{path}: holds no rows of results; remove it and write it again")
    return results
