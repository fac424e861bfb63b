import pytest
import torch
from torch import nn

from anywidth.export import export_onnx, export_program
from anywidth.models import PreActResNet
from anywidth.models.select import SelectNorm, stream_norm

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
def test_it_is_a_full_norm_and_then_a_choice(index, training):
    full, narrow = scattered(6).train(training), SelectNorm(6, index).double().train(training)
    kept = {k: v[index] if v.ndim else v for k, v in full.state_dict().items()}
    narrow.load_state_dict({**kept, "index": torch.tensor(index)})
    expected = full(X)[:, index]
    torch.testing.assert_close(narrow(X), expected)
    torch.testing.assert_close(narrow.running_mean, full.running_mean[index])
    assert not torch.allclose(expected, full(X)[:, [(i + 1) % 6 for i in index]])


def test_what_it_holds():
    norm = SelectNorm(6, [1, 4]).half()
    assert norm.index.dtype == torch.int64
    assert norm.state_dict()["index"].tolist() == [1, 4]
    assert {n: tuple(p.shape) for n, p in norm.named_parameters()} == {"weight": (2,), "bias": (2,)}
    assert str(norm).startswith("SelectNorm(6 -> 2, eps=1e-05")


def test_the_index_comes_with_the_weights():
    norm = SelectNorm(6, [0, 1])
    norm.load_state_dict(SelectNorm(6, [5, 2]).state_dict())
    torch.testing.assert_close(norm.eval()(X.float()), X[:, [5, 2]].float() / (1 + 1e-5) ** 0.5)


@pytest.mark.parametrize("index", [[], [0, 0], [6], [-1]])
def test_an_index_that_cannot_be(index):
    with pytest.raises(ValueError, match=r"SelectNorm: index .* none of them twice, each from 0 to 5"):
        SelectNorm(6, index)


def test_a_norm_over_all_channels_is_an_ordinary_one():
    assert type(stream_norm("Net", "norm", 6, 6)) is nn.BatchNorm2d
    assert stream_norm("Net", "norm", 6, 2).index.tolist() == [0, 1]
    with pytest.raises(ValueError, match="Net: norm reads 7 channels, but there are 6"):
        stream_norm("Net", "norm", 6, 7)


@pytest.fixture(scope="module")
def narrow():
    channels = [11, 12, 12, 41, 13, 11, 37, 17, 26, 92, 23, 24, 92, 40, 44, 185, 39, 50, 182]
    net = PreActResNet(20, channels=channels).eval()
    for module in net.modules():
        if isinstance(module, SelectNorm):
            module.index.copy_(torch.randperm(module.num_channels)[: module.num_features].sort().values)
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
