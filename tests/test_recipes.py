"""Every recipe of the project names a network that can be built, at widths that it has, with the published costs."""

import csv
from pathlib import Path

import pytest
import torch

from anywidth import Elastic
from anywidth import recipe as recipes
from anywidth.cli.names import build_model
from anywidth.cli.run import listed_widths
from anywidth.train import policies, targets

ROOT = Path(__file__).parent.parent
PATHS = sorted((ROOT / "recipes").glob("*.yaml"))
with (ROOT / "tests" / "published_macs.csv").open() as file:
    PUBLISHED = list(csv.DictReader(file))
TEN = {row["model"] for row in PUBLISHED}
SLIMMING = {
    f"slimming_{net}_{data}"
    for net in ("vgg19", "resnet164", "densenet40")
    for data in ("cifar10", "cifar100", "svhn")
}
SLIMMING |= {"slimming_vgg19_cifar10_multipass", "slimming_vgg_a_imagenet"}


def test_the_recipes_are_all_here():
    names = {path.stem for path in PATHS}
    assert (
        TEN
        | SLIMMING
        | {"digits", "us_resnet50", "convnext_tiny", "cifar10_us_resnet20", "cifar10_us_resnet56"}
        == names
    )


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_recipe_builds_its_network_and_its_widths(path):
    recipe = recipes.load(path)
    model = build_model(recipe.model.name, recipe.model.kwargs)
    size = {"digits": 8, "cifar10": 32, "cifar100": 32, "svhn_extra": 32}.get(recipe.data.name, 224)
    example = torch.zeros(1, 1 if recipe.data.name == "digits" else 3, size, size)
    net = Elastic(
        model,
        example,
        norm=recipe.elastic.norm,
        widths=listed_widths(recipe),
        divisor=recipe.elastic.divisor,
        minimum=recipe.elastic.minimum,
        freeze=recipe.elastic.freeze,
    )
    widths, train = recipe.widths, recipe.train
    draw = policies.make(
        widths.rule,
        net,
        low=widths.min,
        high=widths.max,
        random=widths.random,
        grid=widths.grid,
        options=widths.options,
    )
    chosen = [net.width(w) for w in draw(torch.Generator().manual_seed(0), 1.0)]
    assert all(width <= chosen[0] for width in chosen)
    assert net.macs(chosen[0]) == net.macs(net.space.full)
    targets.make(
        train.target, smoothing=train.label_smoothing, over=train.smoothing_over, options=train.target_options
    )
    rows = [row for row in PUBLISHED if row["model"] == path.stem]
    if path.stem in TEN:
        costs = [(net.macs(w, convention="slimmable"), net.params(w)) for w in net.widths]
        assert costs == [(int(row["macs_slimmable"]), int(row["params"])) for row in rows]
    heading = path.read_text().split("\nmodel:")[0]
    assert "arXiv" in heading
    assert path.stem == "digits" or "ot run here" in heading
