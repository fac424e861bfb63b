"""A few models of every family of the coverage benchmark, through the benchmark's own laws."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import anywidth as aw
import coverage_laws as laws
import coverage_models

MODELS = [
    "tv:mobilenet_v3_small", "timm:test_vit2", "timm:test_convnext2", "timm:test_resnet",
    "hf:LlamaForCausalLM", "hf:T5ForConditionalGeneration", "hf:BertForSequenceClassification", "rnn:seq2seq", "gan:stylegan",
    "audio:conformer", "other:experts", "other:dlrm",
]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_laws_hold(name):
    model, example = coverage_models.make(name)
    net, example, dtype = laws.double_(aw.Elastic(model, example).eval(), example)
    limit = laws.TOLERANCE[dtype]
    generator = torch.Generator().manual_seed(0)
    for width in (net.space.uniform(0.5), net.space.sample(generator, low=0.2)):
        row = laws.at_width(net, width, example)
        assert row["finite"]
        assert {k: v for k, v in row.items() if k != "finite" and not (v is not None and v <= limit)} == {}
    assert laws.reorder_gap(net, example) <= limit
    masked = laws.masked_gap(net, width, example)
    assert isinstance(masked, str) or masked <= limit


def test_a_config_says_the_narrow_sizes():
    model, example = coverage_models.make("hf:LlamaForCausalLM")
    assert laws.pretrained_gap(aw.Elastic(model, example).eval(), example) == 0.0


class _TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.a(x).relu())


def test_the_laws_notice_a_wrong_answer(monkeypatch):
    x = torch.randn(3, 4, dtype=torch.float64)
    net = aw.Elastic(_TwoLayers().double(), x)
    width = net.space.uniform(0.5)
    extract = net.extract

    def wrong(w):
        small = copy.deepcopy(extract(w))
        with torch.no_grad():
            small.b.bias[0] += 1e-3
        return small

    assert laws.at_width(net, width, x)["view"] == 0.0
    monkeypatch.setattr(net, "extract", wrong)
    assert laws.at_width(net, width, x)["view"] > laws.TOLERANCE[torch.float64]


def test_gap():
    a = {"x": torch.tensor([1.0, 2.0]), "free": torch.zeros(1)}
    assert laws.gap(a, {**a, "free": torch.zeros(2)}, free={"free"}) == 0.0
    assert laws.gap(a, {"x": torch.tensor([1.0, 2.5]), "free": torch.zeros(1)}) == pytest.approx(0.2)
    assert laws.gap(a, {"x": torch.tensor([1.0, float("nan")]), "free": torch.zeros(1)}) == float("inf")
    assert laws.gap(a, {"x": torch.zeros(3), "free": torch.zeros(1)}) == float("inf")
    assert laws.gap({}, a) == float("inf")
