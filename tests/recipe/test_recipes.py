"""Every recipe of the project names a network that can be built, at widths that it has, with the published costs."""

import csv
from pathlib import Path

import pytest
import torch

from anywidth import recipe as recipes
from anywidth.detect import elastic_detector
from anywidth.gating import Cut, Routes
from anywidth.interop import dsnet
from anywidth.models.ds_mbnet import sub_networks
from anywidth.search import Bayes
from anywidth.train import Joslim, targets
from anywidth.workflows.classifier_network import elastic_classifier
from anywidth.workflows.naming import build_model

ROOT = Path(__file__).parents[2]
EVERY = sorted((ROOT / "recipes").glob("*.yaml"))
DETECTORS = [path for path in EVERY if recipes.is_detection(path)]
PATHS = [path for path in EVERY if path not in DETECTORS]
with (ROOT / "tests" / "support" / "published_macs.csv").open() as file:
    PUBLISHED = list(csv.DictReader(file))
TEN = {row["model"] for row in PUBLISHED}
SLIMMING = {
    f"slimming_{net}_{data}"
    for net in ("vgg19", "resnet164", "densenet40")
    for data in ("cifar10", "cifar100", "svhn")
}
SLIMMING |= {"slimming_vgg19_cifar10_multipass", "slimming_vgg_a_imagenet"}
JOSLIM = {
    f"joslim_{net}"
    for net in ("mobilenet_v2", "mobilenet_v3_large", "resnet18", "resnet20_cifar10", "resnet56_cifar100")
}
JOSLIM |= {
    f"joslim_torchvision_{net}"
    for net in (
        "resnet18",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "mobilenet_v3_large",
        "efficientnet_b0",
        "regnet_y_400mf",
    )
}


TABLES = ((16, 24), (32, 64), (48, 96), range(80, 241, 32), range(160, 481, 64))
DS_NET = {
    "dsnet_ds_mbnet": sub_networks(),
    "dsnet_ds_mbnet_ieb": sub_networks(),
    "cifar10_ds_mbnet": sub_networks([tuple(table) for table in TABLES]),
    "dsnet_ds_resnet50": {
        k: tuple(c * eighths // 8 for c in (64, 128, 256, 512))
        for k, eighths in [*enumerate(range(2, 8)), ("smallest", 2), ("largest", 8)]
    },
}


def test_the_recipes_are_all_here():
    names = {path.stem for path in PATHS}
    assert (
        TEN
        | SLIMMING
        | JOSLIM
        | set(DS_NET)
        | {
            "digits",
            "digits_gated",
            "digits_joslim",
            "dsnet_mobilenet_v2",
            "us_resnet50",
            "convnext_tiny",
            "cifar10_us_resnet20",
            "cifar10_us_resnet56",
        }
        == names
    )


def test_the_recipes_of_detectors_are_all_here():
    assert {path.stem for path in DETECTORS} == {
        "detect_fasterrcnn_r50",
        "detect_maskrcnn_r50",
        "detect_ssdlite_tiny",
    }


@pytest.mark.parametrize("path", DETECTORS, ids=lambda path: path.stem)
def test_a_recipe_builds_its_detector(path):
    recipe = recipes.load_detection(path)
    chosen = recipe.detector
    # Costs of small images; the backbone's file is the user's.
    net = elastic_detector(
        chosen.name, preset=chosen.preset, widths=recipe.widths.listed, norm=chosen.norm, size=64, num_classes=81, **chosen.kwargs
    )  # fmt: skip
    macs = [net.macs(w) for w in recipe.widths.listed]
    assert macs == sorted(macs)
    assert (recipe.train.clip, recipe.losses.reduction, recipe.losses.proposals) == (35, "sum", "own")
    if path.stem != "detect_ssdlite_tiny":  # arXiv 1812.08928, and the published settings
        train = recipe.train
        assert (train.lr, train.momentum, train.weight_decay, train.nesterov) == (0.02, 0.9, 1e-4, False)
        assert (train.epochs, train.milestones, recipe.data.batch_size) == (12, (8, 11), 16)
        assert (chosen.min_size, chosen.max_size, chosen.trainable_layers) == (800, 1333, 3)
    assert "arXiv" in path.read_text().split("\ndetector:")[0]
    assert "ot run here" in path.read_text().split("\ndetector:")[0]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_recipe_builds_its_network_and_its_widths(path):
    recipe = recipes.load(path)
    model = build_model(recipe.model.name, recipe.model.kwargs)
    size = {"digits": 8, "cifar10": 32, "cifar100": 32, "svhn_extra": 32}.get(recipe.data.name, 224)
    example = torch.zeros(1, 1 if recipe.data.name == "digits" else 3, size, size)
    net = elastic_classifier(model, example, recipe)
    widths, train = recipe.widths, recipe.train
    draw = joint(recipe, net) if recipe.joslim else widths.draw(net)
    chosen = [net.width(w) for w in draw(torch.Generator().manual_seed(0), 1.0)]
    assert all(width <= chosen[0] for width in chosen)
    assert net.macs(chosen[0]) == net.macs(net.space.full)
    targets.make_target(
        train.target, smoothing=train.label_smoothing, over=train.smoothing_over, options=train.target_options
    )
    if recipe.gate is not None:
        cuts = [Cut(at=place.at, feature=place.feature) for place in recipe.gate.places]
        assert Routes(net, cuts, recipe.gate.widths).choices == len(recipe.gate.widths)
    rows = [row for row in PUBLISHED if row["model"] == path.stem]
    if path.stem in TEN:
        costs = [(net.macs(w, convention="slimmable"), net.params(w)) for w in net.widths]
        assert costs == [(int(row["macs_slimmable"]), int(row["params"])) for row in rows]
    heading = path.read_text().split("\nmodel:")[0]
    assert "arXiv" in heading
    assert path.stem.startswith("digits") or "ot run here" in heading


@pytest.mark.parametrize("name", DS_NET)
def test_dynamic_slimmable_networks_train_the_ends_and_two_widths(name):
    recipe = recipes.load(ROOT / "recipes" / f"{name}.yaml")
    size = 32 if recipe.data.name == "cifar10" else 224
    net = elastic_classifier(
        build_model(recipe.model.name, recipe.model.kwargs), torch.zeros(1, 3, size, size), recipe
    )
    assert {label: width.kept for label, width in net.widths.items()} == DS_NET[name]
    if name.startswith("dsnet_ds_mbnet"):
        published = dsnet.new()
        for label in published.widths:
            assert net.macs(label) == published.macs(label)
    draw = recipe.widths.draw(net)
    drawn = [draw(torch.Generator().manual_seed(seed)) for seed in range(300)]
    assert {(w[0], w[-1], len(w)) for w in drawn} == {("largest", "smallest", 4)}
    assert {label for w in drawn for label in w[1:3]} == set(DS_NET[name]) - {0, "smallest", "largest"}


def joint(recipe, net):
    """Before the model, widths are spread over the range; a few of them."""
    chosen = recipe.joslim
    bayes = Bayes(net, low=recipe.narrowest, batch=chosen.num_sampled_arch, prior_points=chosen.prior_points)
    draw = Joslim(bayes, lambda widths: [1.0] * len(widths), tau=chosen.tau, low=recipe.narrowest)
    for step in range(3 * chosen.tau):
        draw.advance_(step)
    assert len({t.width for t in bayes.trials}) == 3 * chosen.num_sampled_arch
    return draw
