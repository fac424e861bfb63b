"""Channels, MACs and parameters of the published slimmable networks, at every published width, to the unit.

Numbers: the tables of arXiv 1812.08928, 1903.05134 and 1903.11728, measured on the reference code at 224 x 224 pixels
(`published_macs.csv`). The last column counts convolutions, linear layers and affine pairs of the active width.
"""

import csv
from pathlib import Path

import pytest
import torch
import torchvision

from anywidth import Elastic, errors
from anywidth.interop.slimmable_networks import LISTS, MODELS, new

with (Path(__file__).parents[1] / "support" / "published_macs.csv").open() as file:
    ROWS = list(csv.DictReader(file))

with (Path(__file__).parents[1] / "support" / "published_channels.csv").open() as file:
    CHANNELS = {
        (row["model"], float(row["width"]), int(row["base"])): int(row["channels"])
        for row in csv.DictReader(file)
    }

MOBILENET_V1 = (32, 64, 128, 256, 512, 1024)
MOBILENET_V2 = (16, 24, 32, 64, 96, 160, 320)


@pytest.fixture(scope="module")
def nets() -> dict[str, Elastic]:
    return {}


def net_of(nets: dict[str, Elastic], model: str) -> Elastic:
    if model not in nets:
        nets[model] = new(model)
    return nets[model]


def test_the_table_is_whole():
    counts = {model: sum(row["model"] == model for row in ROWS) for model in MODELS}
    lists = {model: len(found) for model, found in LISTS.items()}
    assert counts == {model: len(about.widths) or lists[model] for model, about in MODELS.items()}
    assert len(ROWS) == 86


@pytest.mark.parametrize("model", MODELS)
def test_macs_and_params_at_every_published_width(nets, model):
    net = net_of(nets, model)
    rows = [row for row in ROWS if row["model"] == model]
    assert [float(label) for label in net.widths] == [float(row["switch"]) for row in rows]
    for label, row in zip(net.widths, rows, strict=True):
        got = (net.macs(label, convention="slimmable"), net.macs(label), net.params(label))
        assert got == tuple(int(row[key]) for key in ("macs_slimmable", "macs", "params")), (model, label)


def make_divisible(value: float) -> int:
    """The rounding rule of the reference as its tables show it: divisor 8, minimum 1."""
    rounded = max(1, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


@pytest.mark.parametrize(
    ("model", "bases", "count"), [("mobilenet_v1", MOBILENET_V1, 31), ("mobilenet_v2", MOBILENET_V2, 27)]
)
def test_rounding_gives_every_row_of_the_published_tables(model, bases, count):
    widths = {width for name, width, _ in CHANNELS if name == model}
    assert widths == set(MODELS[f"us_{model}"].widths)
    assert len(widths) == count
    for width in widths:
        assert [make_divisible(base * width) for base in bases] == [CHANNELS[model, width, b] for b in bases]


def test_channels_of_mobilenet_v1_at_every_width(nets):
    net = net_of(nets, "us_mobilenet_v1")
    bases = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
    for width in net.widths:
        channels = net.space.channels(net.width(width))
        assert tuple(channels.values()) == tuple(make_divisible(base * width) for base in bases)


def test_channels_of_mobilenet_v2_at_every_width(nets):
    net = net_of(nets, "us_mobilenet_v2")
    for width in net.widths:
        view = net.at(width)
        inputs = make_divisible(32 * width)
        assert view.features[0][0].out_channels == inputs
        block = 1
        for base, blocks in zip(MOBILENET_V2, (1, 2, 3, 4, 3, 3, 1), strict=True):
            for _ in range(blocks):
                body = view.features[block].body
                outputs = make_divisible(base * width)
                hidden = inputs if block == 1 else 6 * inputs
                assert (body[0].in_channels, body[-2].in_channels, body[-2].out_channels) == (
                    inputs,
                    hidden,
                    outputs,
                )
                inputs, block = outputs, block + 1
        assert view.features[18][0].out_channels == 1280


def test_streams_of_resnet_and_shufflenet(nets):
    net = net_of(nets, "s_resnet50")
    for width in (0.25, 0.5, 0.75, 1.0):
        view = net.at(width)
        assert view.features[0][0].out_channels == int(64 * width)
        ends = [view.features[block].body[6].out_channels for block in (3, 7, 13, 16)]
        assert ends == [int(base * width) for base in (256, 512, 1024, 2048)]
    net = net_of(nets, "s_shufflenet")
    for width in (0.5, 1.0, 2.0):
        view = net.at(width)
        assert view.classifier[0].in_features == int(960 * width)
        middles = [view.get_submodule(f"features.{block}.b.1").out_channels for block in (1, 5, 15)]
        assert middles == [int(base * width) for base in (60, 120, 240)]


@pytest.mark.parametrize("model", LISTS)
def test_residual_additions_are_those_of_the_lists(model):
    """The widest net adds where the whole columns of the lists are equal, as the reference decides it."""
    columns = list(zip(*LISTS[model], strict=True))
    net = MODELS[model].build(channels=[max(column) for column in columns[:-1]])
    if model == "autoslim_mobilenet_v1":
        return
    convolutions = MODELS[model].convolutions
    output = {path: column for path, column in zip(convolutions, columns, strict=False) if path is not None}
    last = 6
    for block in range(2, 17):
        before, after = (
            output.get(f"features.{b}.body.{last}", output.get(f"features.{b}.body.3"))
            for b in (block - 1, block)
        )
        module = net.features[block]
        strided = any(getattr(m, "stride", 1) == (2, 2) for m in module.body)
        adds = (
            module.residual if hasattr(module, "residual") else isinstance(module.shortcut, torch.nn.Identity)
        )
        assert adds == (not strided and before == after), (model, block)


def test_mobilenet_v2_of_torchvision_has_the_same_costs():
    rows = {float(r["switch"]): r for r in ROWS if r["model"] == "us_mobilenet_v2"}
    hidden = [f"features.{i}.conv.0.0" for i in range(2, 18)]
    net = Elastic(
        torchvision.models.mobilenet_v2(weights=None),
        torch.randn(1, 3, 224, 224),
        divisor={"*": 8} | dict.fromkeys(hidden, 48),
        freeze=["features.18"],
    )
    widths = list(rows)
    assert net.macs(widths).tolist() == [int(rows[w]["macs"]) for w in widths]
    assert net.params(widths).tolist() == [int(rows[w]["params"]) for w in widths]


@pytest.mark.parametrize(
    ("policy", "message"),
    [({"nothing": 8}, "unknown channel group in a rounding policy"), ({"*": 0}, "at least 1")],
)
def test_policies_that_cannot_be(policy, message):
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 2))
    with pytest.raises(errors.WidthError, match=message):
        Elastic(model, torch.randn(1, 3), divisor=policy)
