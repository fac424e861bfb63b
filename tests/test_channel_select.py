import copy

import pytest
import torch
from torch import nn

from anywidth.channel_select import handed_on, select_, select_first_, selects
from anywidth.export.formats import export_onnx, export_program
from anywidth.models import PreActResNet
from anywidth.models.blocks import stream_norm

X = torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def scattered(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).double()
    for tensor in (norm.weight.data, norm.running_var):
        tensor.uniform_(0.5, 1.5)
    for tensor in (norm.bias.data, norm.running_mean):
        tensor.normal_()
    return norm


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("index", [[1, 4], [5, 0, 3], [2], list(range(6))])
def test_choosing_first_is_choosing_afterwards(index, training):
    reference = scattered(6).train(training)
    after, first = (nn.Sequential(copy.deepcopy(reference)) for _ in range(2))
    select_(after[0], torch.tensor(index))
    select_(first[0], torch.tensor(index))
    select_first_(first)
    whole = reference(X)
    for net in (after, first):
        got = net(X)
        torch.testing.assert_close(got, whole[:, index])
        assert not torch.allclose(got, whole[:, [(i + 1) % 6 for i in index]])
    wide = len(index) == 6 or first[0].running_mean.numel() == 6
    torch.testing.assert_close(
        first[0].running_mean, reference.running_mean if wide else reference.running_mean[index]
    )


def test_what_it_holds():
    net = nn.Sequential(nn.BatchNorm2d(6))
    select_(net[0], torch.tensor([1, 4]))
    assert selects(net[0])
    assert handed_on(net[0]) == 2
    assert net[0].state_dict()["index"].tolist() == [1, 4]
    assert net[0].weight.shape == (6,)
    select_first_(net)
    assert {n: tuple(p.shape) for n, p in net[0].named_parameters()} == {"weight": (2,), "bias": (2,)}
    assert handed_on(net[0]) == 2


def test_a_norm_that_hands_on_everything_is_an_ordinary_one_again():
    net = nn.Sequential(nn.BatchNorm2d(6))
    select_(net[0], torch.arange(6))
    select_first_(net)
    assert not selects(net[0])
    assert "index" not in net[0].state_dict()


def test_the_index_comes_with_the_weights():
    norm = nn.BatchNorm2d(6).eval()
    select_(norm, torch.tensor([0, 1]))
    norm.load_state_dict({**norm.state_dict(), "index": torch.tensor([5, 2])})
    torch.testing.assert_close(norm(X.float()), X[:, [5, 2]].float() / (1 + 1e-5) ** 0.5)


def test_a_norm_over_all_channels_is_an_ordinary_one():
    assert not selects(stream_norm("Net", "norm", 6, 6))
    assert stream_norm("Net", "norm", 6, 2).index.tolist() == [0, 1]
    with pytest.raises(ValueError, match="Net: norm reads 7 channels, but there are 6"):
        stream_norm("Net", "norm", 6, 7)


@pytest.fixture(scope="module")
def narrow():
    channels = [11, 12, 12, 41, 13, 11, 37, 17, 26, 92, 23, 24, 92, 40, 44, 185, 39, 50, 182]
    net = PreActResNet(20, channels=channels).eval()
    for module in net.modules():
        if selects(module):
            module.index.copy_(torch.randperm(module.num_features)[: handed_on(module)].sort().values)
    return net


def test_it_compiles_as_one_graph(narrow):
    x = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(narrow, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), narrow(x))


def test_it_exports(narrow, tmp_path):
    x = torch.randn(2, 3, 32, 32)
    export_program(narrow, (x,), tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    torch.testing.assert_close(loaded(x), narrow(x))


def test_it_exports_to_onnx(narrow, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    x = torch.randn(2, 3, 32, 32)
    export_onnx(narrow, (x,), tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), narrow(x).detach(), rtol=1e-3, atol=1e-4)
