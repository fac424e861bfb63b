"""Compact networks compute what masked ones do; what is folded in makes up for the shifts of removed channels."""

import copy

import pytest
import torch
import torchvision
from torch import nn

import anywidth as aw
from anywidth import prune
from anywidth.export.formats import export_onnx, export_weights
from anywidth.models import VGGA, CifarDenseNet, CifarVGG, PreActResNet
from scattered_norms import X, scattered

MODELS = {
    "vgg": lambda: CifarVGG(11, channels=[8, 16, 16, 16, 24, 24, 32, 32]),
    "vgg_a": lambda: VGGA(10, image_size=32, channels=[8, 8, 16, 16, 16, 16, 24, 24, 40, 40]),
    "preact": lambda: PreActResNet(20),
    "densenet": lambda: CifarDenseNet(22),
    "resnet18": lambda: torchvision.models.resnet18(num_classes=5),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=5, width_mult=0.25),
    "mobilenet_v3": lambda: torchvision.models.mobilenet_v3_small(num_classes=5, width_mult=0.5),
    "efficientnet": lambda: torchvision.models.efficientnet_b0(num_classes=5),
    "inception": lambda: torchvision.models.googlenet(num_classes=5, aux_logits=False, init_weights=False),
}
_nets = {}


def network(name):
    if name not in _nets:
        torch.manual_seed(0)
        _nets[name] = aw.Elastic(scattered(MODELS[name]()).double(), X[:1]).eval()
    return _nets[name]


def zeroed_by_hand(net, width) -> nn.Module:
    """What makes a channel that a width drops is zero, found through the axes of the space alone."""
    model = copy.deepcopy(net.model)
    for path, m in model.named_modules():
        if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d | nn.Conv2d):
            start = 0
            for run in net.space.axes.get(f"{path}.weight", (None,))[0] or ():
                if run.group >= 0:
                    units = set(width.units(run.group))
                    for i in range(run.count):
                        if run.first + i not in units:
                            part = slice(start + i * run.each, start + (i + 1) * run.each)
                            m.weight.data[part] = 0
                            if m.bias is not None:
                                m.bias.data[part] = 0
                start += run.positions
    return model.eval()


@pytest.mark.parametrize("ratio", [0.2, 0.6, 0.95])
@pytest.mark.parametrize(
    "name", ["vgg", "vgg_a", "preact", "densenet", "resnet18", "mobilenet_v2", "inception"]
)
def test_compact_is_masked_by_hand(name, ratio):
    net = network(name)
    width = prune.plan(net, ratio)
    with torch.no_grad():
        expected = zeroed_by_hand(net, width)(X)
        torch.testing.assert_close(net.extract(width).eval()(X), expected, rtol=1e-9, atol=1e-12)
        assert not torch.allclose(net.model(X), expected, rtol=1e-3)


@pytest.mark.parametrize("empty", ["keep", "remove"])
@pytest.mark.parametrize("streams", ["coupled", "selection"])
@pytest.mark.parametrize("name", [n for n in MODELS if n not in ("mobilenet_v3", "efficientnet")])
def test_masked_and_compact_agree_with_emptied_layers_too(name, streams, empty):
    net = network(name)
    for ratio in (0.5, 0.9, 0.98):
        found = prune.planned(net, ratio, streams=streams, empty=empty)
        small = net.extract(found.width).eval()
        with torch.no_grad():
            expected = prune.masked(net, found.width).eval()(X)
            torch.testing.assert_close(small(X), expected, rtol=1e-6, atol=1e-9)
            narrow = prune.compact(net, found.width, fold=False).eval()
            torch.testing.assert_close(narrow(X), expected, rtol=1e-6, atol=1e-9)
        if not found.removed:
            assert net.params(found.width) == sum(p.numel() for p in small.parameters())
        small.train()(X).sum().backward()
    assert bool(found.removed) == (empty == "remove")


def test_a_residual_branch_that_became_empty_is_gone():
    net = network("preact")
    weak = {g.name: torch.linspace(1, 2, g.size).numpy() for g in net.selection().space.groups}
    branch = "features.stage2.1.conv2"
    weak[branch] = weak[branch] / 100
    found = prune.planned(net, 0.03, criterion=weak, streams="selection", empty="remove")
    assert found.removed == (branch,)
    assert found.width[branch] == 0
    assert found.width["features.stage2.1.conv1"] == 0  # feeds the emptied layer alone
    assert found.width["features.stage2.1.bn1"] == 0
    small = net.extract(found.width).eval()
    kinds = {n: type(m).__name__ for n, m in small.features.stage2[1].named_children()}
    assert [kinds[f"conv{i}"] for i in (1, 2, 3)] == ["Constant"] * 3
    without = copy.deepcopy(prune.masked(net, found.width)).eval()
    block = without.features.stage2[1]
    block.forward = lambda x: x
    with torch.no_grad():
        torch.testing.assert_close(small(X), without(X), rtol=1e-9, atol=1e-12)
    assert sum(p.numel() for p in small.parameters()) == net.params(found.width)
    x = X.float()
    small = small.float()
    program = torch.export.export(small, (x,))
    torch.testing.assert_close(program.module()(x), small(x))


def without_borders() -> nn.Module:
    """No zero padding, so that a constant channel adds the same everywhere."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, bias=False), nn.BatchNorm2d(16), nn.SiLU(),
        nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4, bias=False),
    )  # fmt: skip


@pytest.mark.parametrize("weights", ["scales of zero", "scattered"])
def test_shifts_are_folded_exactly_where_scales_are_zero(weights):
    model = scattered(without_borders(), 0.5, 1.5)
    if weights == "scales of zero":
        for m in (model[1], model[4], model[7]):
            m.weight.data[::3] = 0
            m.bias.data[0] = 0.4
    net = aw.Elastic(model.double(), X[:1]).eval()
    width = prune.plan(net, 13.5 / 36)  # the 13 scales that may be zero
    whole = net.model(X)
    folded, bare = (prune.compact(net, width, fold=f).eval()(X) for f in (True, False))
    if weights == "scales of zero":
        torch.testing.assert_close(folded, whole, rtol=1e-9, atol=1e-12)
        assert (bare - whole).norm() > 1e-2 * whole.norm()
    else:
        assert (folded - whole).norm() < (bare - whole).norm()
    assert net.extract(width)[3].bias is None  # the batch norm behind it took the shift
    assert prune.compact(net, width)[3].bias is None
    assert prune.compact(net, width)[11].bias is not None


def test_mean_activations_are_made_up_for():
    """Without batch norms there is no shift to go by; over data the mean output of the next layer is kept."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5)).double()
    x = torch.randn(64, 6, dtype=torch.float64) + 1
    net = aw.Elastic(model, x[:1]).eval()
    width = prune.plan(net, 0.5, criterion="l1")
    whole = model(x).mean(0)
    plain, data = prune.compact(net, width), prune.compact(net, width, batches=[x[:32], (x[32:], 0)])
    torch.testing.assert_close(data(x).mean(0), whole)
    assert (plain(x).mean(0) - whole).norm() > 1e-2
    torch.testing.assert_close(plain(x), net.extract(width)(x))


@pytest.mark.parametrize("name", ["mobilenet_v3", "efficientnet", "densenet"])
def test_folding_changes_no_running_network(name):
    net = network(name)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    width = prune.plan(net, 0.3)
    small = prune.compact(net, width).eval()
    assert torch.isfinite(small(X)).all()
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert not any(m._forward_pre_hooks for m in net.model.modules())


def test_a_pruned_network_is_written_and_read(tmp_path):
    net = network("densenet")
    model, steps = net.model, []
    for _ in range(2):
        net = aw.Elastic(model, X[:1]).eval()
        width = prune.plan(net, 0.3, streams="selection")
        model, step = prune.cut_(net, width)
        steps.append(step)
    prune.write(
        tmp_path / "p",
        model,
        {
            "steps": steps,
            "model": "",
            "kwargs": {},
            "input": [],
            "macs": 0,
            "params": 0,
            "macs_of_the_first": 0,
            "params_of_the_first": 0,
        },
    )
    again = prune.rebuilt(tmp_path / "p", MODELS["densenet"]().double(), X[:1]).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(X), model.eval()(X))
    assert [tuple(p.shape) for p in again.parameters()] == [tuple(p.shape) for p in model.parameters()]
    fresh = prune.rebuilt(tmp_path / "p", MODELS["densenet"]().double(), X[:1], fresh=True)
    assert not torch.allclose(fresh.classifier.weight, again.classifier.weight)


@pytest.mark.parametrize("name", ["vgg", "preact", "densenet", "resnet18", "mobilenet_v3"])
@pytest.mark.parametrize("streams", ["coupled", "selection"])
def test_exported_networks_give_the_same_outputs(name, streams, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    net = network(name)
    small = prune.compact(net, prune.plan(net, 0.6, streams=streams)).eval().float()
    x = X.float()
    export_weights(small, tmp_path / "net.safetensors")
    export_onnx(small, (x,), tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), small(x).detach(), rtol=1e-4, atol=1e-4)
    from safetensors.torch import load_file

    other = copy.deepcopy(small)
    for p in other.parameters():
        p.data.zero_()
    other.load_state_dict(load_file(tmp_path / "net.safetensors"))
    torch.testing.assert_close(other(x), small(x))


class Gated(nn.Module):
    """Squeeze and excitation behind a norm, its gate nearly closed; 1x1 convolutions only, so that borders are like the rest."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.a, self.n, self.b, self.m = (
            nn.Conv2d(3, 12, 1),
            nn.BatchNorm2d(12),
            nn.Conv2d(12, 8, 1),
            nn.BatchNorm2d(8),
        )
        self.f1, self.f2, self.head = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1), nn.Linear(8, 3)
        nn.init.constant_(self.f2.bias, bias)

    def forward(self, x):
        x = torch.relu(self.n(self.a(x)))
        x = x * torch.sigmoid(5 * self.f2(torch.relu(self.f1(x.mean((2, 3), keepdim=True)))))
        return self.head(torch.relu(self.m(self.b(x))).mean((2, 3)))


@pytest.mark.parametrize("bias", [-2.0, -0.6, 0.0])
def test_folding_does_no_harm_behind_a_gate(bias):
    model = scattered(Gated(bias), 0.5, 1.5)
    model.n.weight.data[::3] = 0
    model.n.bias.data[::3] = 0.3
    net = aw.Elastic(model.double(), X[:1]).eval()
    width = net.space.width({"a": [1, 2, 4, 5, 7, 8, 10, 11]})
    whole = net.model(X)
    folded, bare = (prune.compact(net, width, fold=f).eval()(X) for f in (True, False))
    assert (folded - whole).norm() <= 1.05 * (bare - whole).norm()


class Twice(nn.Module):
    """A convolution that is called twice, each time before the same norm's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b, self.head = (
            nn.Conv2d(3, 8, 1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 6, 1),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        x = torch.relu(self.n(self.a(x)))
        return self.head(
            (torch.relu(self.b(x)) + torch.relu(self.b(0.5 * x.flip(-1) + 0.5 * x))).mean((2, 3))
        )


def test_folding_of_a_layer_that_is_called_twice():
    model = scattered(Twice(), 0.5, 1.5)
    model.n.weight.data[::2] = 0
    model.n.bias.data[::2] = 0.3
    net = aw.Elastic(model.double(), X[:1]).eval()
    width = net.space.width({"a": [1, 3, 5, 7]})
    torch.testing.assert_close(prune.compact(net, width).eval()(X), net.model(X), rtol=1e-9, atol=1e-12)


def test_a_network_of_selections_follows_this_one():
    """Its weights when they are replaced, its mode, and what it freezes."""
    net = aw.Elastic(scattered(PreActResNet(20)).double(), X[:1], freeze=["features.stage1"]).train()
    width = prune.plan(net, 0.6, streams="selection")
    assert [prune.kept_by_norm(net, width)[f"features.stage1.0.bn{i}"] for i in (2, 3)] == [16, 16]
    net.eval()
    assert not net.extract(width).training
    state = {
        n: torch.zeros_like(t) if n.startswith("classifier") else t for n, t in net.model.state_dict().items()
    }
    net.model.load_state_dict(state, assign=True)
    assert not net.extract(width)(X).any()
    net.to(torch.float32)
    assert not net.extract(width)(X.float()).any()


def test_removing_from_a_transformer():
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3, depth=2).double()
    net = aw.Elastic(model, X[:1]).eval()
    width = prune.plan(net, 0.999, criterion="l2", empty="remove")
    assert net.extract(width)(X).shape == (2, 3)
