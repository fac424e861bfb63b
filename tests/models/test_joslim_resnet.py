import pytest
import torch
from torch import nn

from anywidth import Elastic
from anywidth.export.formats import export_onnx, export_program
from anywidth.interop.joslim import decode
from anywidth.models import JoslimCifarResNet
from anywidth.models.joslim_resnet import FillUp
from joslim_nets import assert_one_function, images
from joslim_tables import vector
from oracles import randomized


@pytest.mark.parametrize("channels", [(5, 9, 20), (16, 16, 16), (13, 6, 40), (9, 30, 7)])
def test_streams_of_a_cifar_network_take_any_channels(channels):
    """Also fewer than the stage before has: the last ones are left out, as in the masked network."""
    net = Elastic(randomized(JoslimCifarResNet()), torch.zeros(1, 3, 16, 16, dtype=torch.float64))
    streams = ("features.0", "features.2.head.conv.3", "features.3.head.conv.3")
    assert {g.name for g in net.space.groups if g.stream} == set(streams)
    width = net.space.width(dict(zip(streams, channels, strict=True)), default=0.6)
    assert_one_function(net, width, images(3, 18, 17), cut=channels)


def test_filling_up():
    x, like = torch.arange(2 * 3 * 5 * 4.0).reshape(2, 3, 5, 4), torch.zeros(2, 5, 3, 2)
    filled = FillUp(2)(x, like)
    assert filled.shape == like.shape
    torch.testing.assert_close(filled[:, :3], nn.functional.avg_pool2d(x, 1, 2))
    assert not filled[:, 3:].any()
    torch.testing.assert_close(FillUp(1)(x, like[:, :2]), x[:, :2])


def test_narrow_copies_can_be_exported(tmp_path):
    net = Elastic(JoslimCifarResNet(), torch.zeros(1, 3, 16, 16)).eval()
    small = net.extract(decode(net, vector("ramp", 12))).eval()
    x = images(3, 16, 16).float()
    export_program(small, (x,), tmp_path / "a.pt2")
    got = torch.export.load(tmp_path / "a.pt2").module()(x)
    torch.testing.assert_close(got, small(x))
    onnxruntime = pytest.importorskip("onnxruntime")
    export_onnx(small, (x,), tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), small(x), rtol=1e-4, atol=1e-5)
