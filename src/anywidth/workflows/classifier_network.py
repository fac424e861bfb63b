"""The elastic classifier of a run: new from its recipe, or read from its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anywidth import interop, prune
from anywidth.elastic import Elastic
from anywidth.errors import RecipeError
from anywidth.recipe import Recipe
from anywidth.search import read_front
from anywidth.space.joined_groups import joined
from anywidth.store import load
from anywidth.views.trial_runs import probed_space
from anywidth.workflows.classifier_run import ClassifierRun, example_image
from anywidth.workflows.naming import build_model
from anywidth.workflows.run_files import NET


def listed_widths(recipe: Recipe) -> dict[Any, Any]:
    """Label -> what `Elastic` takes for a listed width."""
    listed = recipe.widths.listed
    if isinstance(listed, str):
        return {member.label: member.width for member in read_front(Path(listed)).members}
    if isinstance(listed, dict):
        return dict(listed)
    return {ratio: ratio for ratio in listed}


def new_classifier(run: ClassifierRun) -> Elastic:
    """The elastic network of a recipe, its weights fixed by its seed or read from a file."""
    section = run.recipe.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.recipe.seed)
        model = _model(run, fresh=section.scratch != "no")
    net = elastic_classifier(model, example_image(run), run.recipe)
    _check_classes(run, net)
    if section.weights is not None:
        interop.load_wide_(net, Path(section.weights), sort=section.sort)
    return net.to(run.device)


def elastic_classifier(model: torch.nn.Module, x: Tensor, recipe: Recipe) -> Elastic:
    """`model` with the channel groups, norms and listed widths of a recipe; x: (1, C, H, W), one image."""
    section, space = recipe.elastic, None
    if section.join:
        space = joined(
            probed_space(model, x, section.freeze, section.divisor, section.minimum), dict(section.join)
        )
    return Elastic(
        model,
        x,
        norm=section.norm,
        widths=listed_widths(recipe),
        divisor=section.divisor,
        minimum=section.minimum,
        freeze=section.freeze,
        space=space,
    )


def _model(run: ClassifierRun, *, fresh: bool) -> torch.nn.Module:
    """The plain network: the one that is named, or what a pruning left of it."""
    section = run.recipe.model
    network = build_model(section.name, section.kwargs)
    if section.pruned is None:
        return network
    metadata = prune.read(section.pruned)
    if (metadata.get("model"), metadata.get("kwargs")) != (section.name, section.kwargs):
        raise RecipeError(
            f"{section.pruned} holds a pruned {metadata.get('model')} with {metadata.get('kwargs')}; the recipe says model.name = "
            f"{section.name!r} with {section.kwargs}"
        )
    return prune.rebuilt(section.pruned, network, example_image(run), fresh=fresh)


@torch.no_grad()
def _check_classes(run: ClassifierRun, net: Elastic) -> None:
    """A label that is no logit would stop the training deep inside the loss."""
    training = net.training
    logits = net.eval()(example_image(run))
    net.train(training)
    classes = len(run.splits.classes)
    if logits.ndim != 2 or logits.shape[1] < classes:
        raise RecipeError(
            f"model {run.recipe.model.name!r} gives {logits.shape[-1]} logits for the {classes} classes of the data; set "
            f"model.kwargs.num_classes = {classes}"
        )


def saved_classifier(run: ClassifierRun) -> Elastic:
    """The trained network of a finished run."""
    section = run.recipe.model
    model = build_model(section.name, section.kwargs)
    if section.pruned is not None:
        model = prune.again(model, example_image(run), prune.read(run.path)["steps"])
    net = load(run.path / NET, model).to(run.device)
    net.set_example_(example_image(run))
    return net
