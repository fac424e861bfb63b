"""Whatever a model's forward leaves behind is undone: attributes, containers, tensors, classes, children, random state."""

from typing import ClassVar

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

import anywidth as aw
from anywidth import Elastic
from model_snapshots import differences, snapshot
from oracles import rand


def floats(*shape: int) -> Tensor:
    return rand(*shape).float()


class Settings:
    def __init__(self) -> None:
        self.calls, self.sizes = 0, [1, 2]


class Busy(nn.Module):
    """Changes everything that a forward can change."""

    runs = 0
    known: ClassVar[dict[int, int]] = {}

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.inner, self.outer, self.fails = nn.Linear(4, 8), nn.Linear(8, 2), fails
        self.norm = nn.BatchNorm1d(8)
        self.calls, self.seen, self.cache, self.settings = 0, [], {"a": {"b": 1}}, Settings()
        self.register_buffer("mean", torch.ones(8))
        self.plain, self.pair = torch.zeros(3), ([1],)
        self.draws = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(x)
        self.cache["a"]["b"] = x
        self.cache[len(x)] = x
        self.settings.calls += 1
        self.settings.sizes.append(3)
        self.settings.late = 4
        self.pair[0].append(2)
        type(self).runs += 1
        type(self).late = 5
        self.known[3] = 4
        self.mean.mul_(0.9)
        self.plain += 1
        if "late_child" not in self._modules:
            self.register_buffer("late_buffer", x)
            self.late_child = nn.Linear(2, 2)
            self.inner.register_forward_hook(lambda module, args, out: out)
        self.inner.bias.data.clamp_(max=0.1)
        self.outer.weight.data = self.outer.weight.data * 2
        self.outer.bias.requires_grad_(False)
        self.norm.train()
        noise = torch.rand(1) + torch.rand(1, generator=self.draws)
        h = self.norm(self.inner(x).relu() * self.mean) + noise
        torch.set_grad_enabled(True)
        if self.fails:
            raise RuntimeError("halfway")
        return self.outer(h)


@pytest.mark.parametrize("training", [False, True])
def test_a_model_that_changes_everything_is_as_before(training):
    model = Busy().train(training)
    model.outer.weight.grad = torch.ones(2, 8)
    before = snapshot(model)
    Elastic(model, floats(5, 4))
    assert differences(before, snapshot(model)) == []


def test_a_model_that_fails_halfway_is_as_before():
    model = Busy(fails=True)
    before = snapshot(model)
    with pytest.raises(aw.errors.TraceError, match="halfway"):
        Elastic(model, floats(5, 4))
    assert differences(before, snapshot(model)) == []


def test_the_snapshot_sees_what_a_forward_changes():
    model = Busy()
    before = snapshot(model)
    with torch.no_grad():
        model(floats(5, 4))
    changed = {n.strip(": ") for n in differences(before, snapshot(model))}
    expected = {
        "random",
        ".calls",
        ".seen",
        ".cache.a.b",
        ".settings vars.calls",
        ".settings vars.sizes",
        "Busy.runs",
    }
    expected |= {
        ".pair[0]",
        ".plain values",
        "._buffers.mean values",
        "._modules",
        "inner._parameters.bias values",
    }
    expected |= {
        "outer._parameters.weight values",
        "outer._parameters.bias",
        "inner._forward_hooks",
        "Busy.known",
    }
    assert {n.removeprefix(": ") for n in expected} <= {n.removeprefix(": ") for n in changed}


def vit() -> tuple[nn.Module, object]:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=16,
        patch_size=8,
    )
    return transformers.ViTModel(config), {"pixel_values": floats(1, 3, 16, 16), "output_hidden_states": True}


def segformer() -> tuple[nn.Module, object]:
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[3, 3], strides=[2, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=12,
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config), floats(1, 3, 16, 16)


def gpt2() -> tuple[nn.Module, object]:
    config = transformers.GPT2Config(n_embd=16, n_head=2, n_layer=2, vocab_size=30, n_positions=16)
    example = {"input_ids": torch.arange(5)[None], "output_hidden_states": True, "output_attentions": False}
    return transformers.GPT2LMHeadModel(config), example


def timm_model() -> tuple[nn.Module, object]:
    return timm.create_model("resnet10t", num_classes=3), floats(1, 3, 32, 32)


@pytest.mark.parametrize("make", [vit, segformer, gpt2, timm_model])
@pytest.mark.parametrize("training", [False, True])
def test_models_of_libraries_are_as_before(make, training):
    model, example = make()
    model.train(training)
    before = snapshot(model)
    Elastic(model, example)
    assert differences(before, snapshot(model)) == []


def test_buffers_on_meta_need_no_comparison():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
        example = torch.empty(1, 3, 6, 6)
    assert [(g.name, g.size) for g in Elastic(model, example).space.groups] == [("0", 8)]
