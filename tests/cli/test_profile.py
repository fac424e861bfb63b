import json
import re
import socket

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from anywidth.models import SmallResNet

FAST = ("--repeats", "2", "--threads", "1")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def counted_macs(model: torch.nn.Module, shape: tuple[int, ...]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2


def test_costs_equal_torch_counts(run_command):
    code, out, err = run_command(
        "profile", "torchvision:resnet18", "--widths", "0.5,1.0", "--shape", "3x64x64", "--json", *FAST
    )
    assert (code, err) == (0, "")
    facts = json.loads(out)
    half, full = facts["widths"]
    assert full["macs"] == counted_macs(resnet18(), (3, 64, 64))
    assert full["params"] == sum(p.numel() for p in resnet18().parameters())
    assert 0.2 < half["macs"] / full["macs"] < 0.3
    assert 0 < half["latency"] < full["latency"]
    slower = max(half["latency"], full["latency"])
    assert half["latency_ratio"] == pytest.approx(half["latency"] / slower)
    assert {"conv1", "layer4.1.conv1"} <= {group["name"] for group in facts["groups"]}
    assert facts["input"] == [3, 64, 64]


def test_own_models_and_their_narrow_cost(run_command):
    _, out, _ = run_command("profile", "SmallResNet", "--widths", "0.25", "--json", *FAST)
    (row,) = json.loads(out)["widths"]
    narrow = SmallResNet(channels=(8, 16, 32))
    assert row["macs"] == counted_macs(narrow, (1, 8, 8))
    assert row["params"] == sum(p.numel() for p in narrow.parameters())


def test_tables_name_groups_costs_and_what_is_frozen(run_command):
    code, out, _ = run_command("profile", "timm:resnet10t", "--shape", "3x64x64", "--widths", "0.5", *FAST)
    assert code == 0
    for word in ("layer1.0.conv1", "frozen", "MACs", "latency", "0.5"):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("resnet81",),
            "model 'resnet81' is not in anywidth.models, torchvision and timm; did you mean 'resnet",
        ),
        (("timm:resnet81",), "model 'timm:resnet81' is not in timm; did you mean 'resnet"),
        (("keras:resnet50",), "expected NAME, torchvision:NAME or timm:NAME"),
        (("SmallResNet", "--shape", "8"), "shape '8': expected sizes with an x between them"),
        (("SmallResNet", "--widths", "2"), "2"),
    ],
)
def test_a_mistake_is_one_line(refused, arguments, message):
    assert message in refused("profile", *arguments)


BAD_MODELS = """
import torch
from torch import nn


class Fails(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.inside = nn.Sequential(nn.Conv2d(1, 4, 1))

    def forward(self, x):
        return self.inside(x)


class NeedsTwo(nn.Conv2d):
    def __init__(self, num_classes=10):
        super().__init__(3, 4, 1)

    def forward(self, x, mask):
        return super().forward(x) * mask


def lazy(num_classes=10):
    return nn.Sequential(nn.LazyConv2d(4, 1))


def scripted(num_classes=10):
    return torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1)))


def empty(num_classes=10):
    return nn.Sequential(nn.Flatten())


def quantised(num_classes=10):
    return torch.ao.nn.quantized.Linear(4, 4)
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Fails",
            r"Fails failed on its example inputs in module 'inside.0': RuntimeError: .*Give example_inputs",
        ),
        ("NeedsTwo", r"NeedsTwo failed .*'mask'.* called with 1 argument: float32 \(1, 3, 8, 8\)"),
        ("lazy", r"'0.weight' of LazyConv2d has no shape .*Run the model once first"),
        ("scripted", r"is a scripted module.*Give the nn.Module that it was made from"),
        ("empty", r"Sequential has no parameters"),
        ("quantised", r"Linear is a quantised module.*quantise a copy"),
    ],
)
def test_models_that_cannot_be_traced_get_one_line(run_command, tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad_models.py").write_text(BAD_MODELS)
    code, out, err = run_command("profile", f"bad_models:{name}", "--shape", "3x8x8", *FAST)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert "Traceback" not in err
    assert {p.name for p in tmp_path.iterdir()} <= {"bad_models.py", "__pycache__"}


def test_a_model_without_products_has_a_table_too(run_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scaling_model.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Scaling(nn.Module):\n    def __init__(self, num_classes=10):\n        super().__init__()\n"
        "        self.scale = nn.Parameter(torch.ones(3, 1, 1))\n\n    def forward(self, x):\n        return x * self.scale\n"
    )
    code, out, err = run_command("profile", "scaling_model:Scaling", "--shape", "3x8x8", *FAST)
    assert (code, err) == (0, "")
    assert "(0.000)" in out
