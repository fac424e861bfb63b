"""Tracing runs real Python: inputs and outputs of any form, hooks, control flow; and what it cannot follow it reports."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth import Elastic, errors
from oracles import assert_narrow, groups, rand, randomized
from traced_operations import Through


class TwoInputs(nn.Module):
    def __init__(self, a: int, b: int):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, a), nn.Linear(4, b), nn.Bilinear(2, 2, 1)
        self.left, self.right = nn.Linear(a, 2), nn.Linear(b, 2)

    def forward(self, x: Tensor, y: Tensor, *, scale: float = 1.0) -> dict[str, object]:
        p, q = self.left(self.a(x).relu()), self.right(self.b(y).relu())
        return {"sum": p + scale * q, "parts": [p, (q, p.mean())]}


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_several_inputs_and_nested_outputs(form):
    x, y = rand(2, 3), rand(2, 4, seed=2)
    example = (x, y) if form == "tuple" else {"x": x, "y": y, "scale": 2.0}
    model = TwoInputs(8, 6)
    del model.head
    compact = TwoInputs(3, 5)
    del compact.head
    net = Elastic(randomized(model), example)
    assert groups(net) == {"a": (8, 1), "b": (6, 1)}
    assert_narrow(net, {"a": 3, "b": 5}, compact, example)
    assert set(net(x, y)) == {"sum", "parts"}


def mlp(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


def test_hooks_of_the_user_are_part_of_the_network():
    def scaled(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
        return 2 * out

    def shifted(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0] + 1,)

    def hooked(width: int) -> nn.Module:
        model = mlp(width)
        model[0].register_forward_hook(scaled)
        model[2].register_forward_pre_hook(shifted)
        model.register_forward_hook(scaled)
        return model

    net = Elastic(randomized(hooked(8)), rand(4, 3))
    assert groups(net) == {"0": (8, 1)}
    assert_narrow(net, {"0": 5}, hooked(5), rand(4, 3))


class Branching(nn.Module):
    def __init__(self, width: int, depth: int = 3):
        super().__init__()
        self.stem, self.depth = nn.Linear(3, width), depth
        self.blocks = nn.ModuleDict({str(i): nn.Linear(width, width) for i in range(depth)})
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for i in range(self.depth):
            if x.shape[0] % 2 == 0 and i % 2 == 0:
                y = y + self.blocks[str(i)](F.relu(y))
            elif float(x.abs().sum()) >= 0:
                y = self.blocks[str(i)](y)
        return self.head(y)


@pytest.mark.parametrize("batch", [3, 4])
def test_control_flow_is_followed(batch):
    net = Elastic(randomized(Branching(8)), rand(batch, 3))
    separate = ["stem", "blocks.1"] if batch == 4 else ["stem", "blocks.0", "blocks.1", "blocks.2"]
    assert list(groups(net)) == separate
    assert_narrow(net, 0.5, Branching(4), rand(batch, 3))


class Auxiliary(nn.Module):
    """A head that runs in training only."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.stem, self.head = nn.Linear(3, width), nn.Linear(width, 2)
        self.aux = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, x: Tensor) -> object:
        y = self.stem(x)
        return (self.head(y), self.aux(y)) if self.training else self.head(y)


def test_a_head_that_runs_in_training_only_is_traced_but_not_counted():
    net = Elastic(randomized(Auxiliary(8, 6)), rand(4, 3))
    assert groups(net) == {"stem": (8, 1), "aux.0": (6, 1)}
    assert_narrow(net, {"stem": 5, "aux.0": 3}, Auxiliary(5, 3), rand(4, 3))
    assert net.macs(1.0) == 4 * (3 * 8 + 8 * 2)


class Recurrent(nn.Module):
    def __init__(self, width: int, kind: type[nn.RNNBase]):
        super().__init__()
        self.a, self.layer, self.head = nn.Linear(3, width), kind(width, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.a(x))[0])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_narrow_in_what_they_read(kind):
    """They also keep a list of their weights behind PyTorch's back."""
    net = Elastic(randomized(Recurrent(8, kind)), rand(4, 6, 3))
    assert groups(net)["a"] == (8, 1)
    assert_narrow(net, {"a": 3}, Recurrent(3, kind), rand(4, 6, 3))
    small = net.extract(0.5)
    assert all(a is b for a, b in zip(small.layer._flat_weights, small.layer.parameters(), strict=True))


class Reparametrised(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, width), nn.Linear(width, 6), nn.Linear(6, 2)
        nn.utils.parametrizations.weight_norm(self.b)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x)).relu())


def test_parametrised_weights_are_followed_or_reported():
    net = Elastic(randomized(Reparametrised()), rand(4, 3))
    assert net.space.groups or net.space.unknown
    for w in (0.3, 1.0):
        torch.testing.assert_close(net.at(w)(rand(4, 3)), net.extract(w)(rand(4, 3)))
    net.at(0.5)(rand(4, 3)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_size_hidden_in_a_closure_is_found_by_trying_the_narrow_network():
    class Closed(nn.Module):
        def __init__(self, width: int = 8):
            super().__init__()
            self.a, self.inner, self.b = nn.Linear(3, 6), nn.Linear(6, width), nn.Linear(width, 2)
            self.check = self.checker(width)

        @staticmethod
        def checker(width: int):
            def check(size: int) -> None:
                if size != width:
                    raise RuntimeError(f"got {size} channels")

            return check

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(self.a(x).relu())
            self.check(int(y.shape[1]))
            return self.b(y)

    net = Elastic(randomized(Closed()), rand(4, 3))
    assert all(net.at(net.space.uniform(s))(rand(4, 3)).shape == (4, 2) for s in (0.2, 0.5, 0.9))
    assert any("the narrow forward fails (RuntimeError: got" in f.reason for f in net.space.frozen)


def test_a_model_that_fails_on_its_example_is_an_error_with_the_place():
    model = nn.Sequential(nn.Linear(3, 8), nn.Sequential(nn.ReLU(), nn.Linear(9, 2)))
    with pytest.raises(
        errors.TraceError,
        match=r"Sequential failed on its example inputs in module '1\.1'.*Give example_inputs",
    ):
        Elastic(model, torch.randn(4, 3))


def test_a_failure_outside_any_child_is_blamed_on_the_model():
    class Bad(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("no such thing")

    with pytest.raises(errors.TraceError, match=r"in the model itself: KeyError: 'no such thing'"):
        Elastic(Bad(3, 2), torch.randn(4, 3))


def test_a_failed_trace_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(9, 2))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(errors.TraceError, match="in module '3'"):
        Elastic(model, torch.randn(2, 3, 5, 5))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert type(model[0].in_channels) is int
    assert model.training
    assert type(model[3].in_features) is int


def test_tracing_leaves_no_trace():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.Flatten(), nn.Linear(72, 2))
    model[1].eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    attributes = [
        {k: (type(v), v) for k, v in vars(m).items() if isinstance(v, int | tuple)} for m in model.modules()
    ]
    random = torch.random.get_rng_state()
    Elastic(model, torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert attributes == [
        {k: (type(v), v) for k, v in vars(m).items() if isinstance(v, int | tuple)} for m in model.modules()
    ]
    assert [m.training for m in model.modules()] == [True, True, False, True, True, True]
    assert all(p.grad is None for p in model.parameters())


RIGHT_AT_ANY_SIZE = {
    "softmax": lambda y: y.softmax(-1),
    "cumulative sum": lambda y: y.cumsum(-1),
    "norm": lambda y: y / torch.linalg.norm(y, dim=-1, keepdim=True),
    "normalize": lambda y: F.normalize(y, dim=-1),
    "standardise": lambda y: (y - y.mean(-1, keepdim=True)) / y.std(-1, keepdim=True),
    "layer norm without affine": lambda y: F.layer_norm(y, y.shape[-1:]),
    "scaled by its size": lambda y: y / y.shape[-1] ** 0.5,
    "where": lambda y: torch.where(y > 0, y, torch.zeros_like(y)),
    "in place": lambda y: y.add_(1).mul_(2).relu_(),
    "lerp, addcmul, clamp": lambda y: torch.lerp(y, y.relu(), 0.3) + torch.addcmul(y, y, y) + y.clamp(0, 1),
    "outer product": lambda y: torch.einsum("bnc,bnd->bncd", y, y).sum(-1),
    "gram matrix": lambda y: torch.baddbmm(y, y, y.transpose(1, 2) @ y),
    "Fourier transform over tokens": lambda y: torch.fft.fft(y, dim=1).real,
    "log-sigmoid": F.logsigmoid,
    "prelu": lambda y: F.prelu(y, torch.full((1,), 0.3, dtype=y.dtype)),
    "many activations": lambda y: F.mish(
        F.gelu(F.silu(F.elu(F.hardswish(F.softplus(F.leaky_relu(y, 0.2))))))
    ),
}


@pytest.mark.parametrize("name", RIGHT_AT_ANY_SIZE)
def test_operation_that_works_at_any_size(name):
    operation = RIGHT_AT_ANY_SIZE[name]
    net = Elastic(randomized(Through(operation)), rand(4, 5, 3))
    assert groups(net) == {"a": (8, 1)}, str(net.space)
    assert_narrow(net, {"a": 3}, Through(operation, 3), rand(4, 5, 3))


ROUTED_BY_NUMBER = {
    "roll": (lambda y: y.roll(1, -1), "rolled"),
    "every third": (lambda y: y[..., ::3].sum(-1, keepdim=True) * y, "every n-th"),
    "a stored table": (lambda y: y[..., torch.arange(7, -1, -1)], "stored table"),
    "sorted by value": (lambda y: y.gather(-1, y.argsort(-1)), "mixed along"),
    "fixed matrix": (lambda y: y @ torch.eye(8, dtype=y.dtype), "not channels"),
    "fixed scale": (lambda y: y * torch.arange(8, dtype=y.dtype), "not channels"),
    "pooling along channels": (lambda y: F.max_pool1d(y, 3, 1, 1), "runs along channels"),
    "single channels": (lambda y: y * y[..., 1:2] + y[..., 0:1], "number in the code"),
    "singular values": (lambda y: y + torch.linalg.svdvals(y)[..., :1, None], "unknown operation"),
}


@pytest.mark.parametrize("name", ROUTED_BY_NUMBER)
def test_operation_that_is_bound_to_numbers_freezes_its_channels(name):
    operation, reason = ROUTED_BY_NUMBER[name]
    net = Elastic(randomized(Through(operation)), rand(4, 5, 3))
    frozen = next(f for f in net.space.frozen if f.tensor == "a.weight" and f.axis == 0)
    assert reason in frozen.reason
    assert net.at(0.3)(rand(4, 5, 3)).shape == (4, 5, 2)


def test_a_transform_that_changes_the_number_of_channels_is_not_lost_silently():
    """Real FFT: 8 channels become 5 frequencies; without labels on them nothing may narrow."""
    net = Elastic(randomized(Through(lambda y: torch.fft.irfft(torch.fft.rfft(y), n=8))), rand(4, 5, 3))
    assert groups(net) == {}
    assert any("mixed along the channels" in f.reason for f in net.space.frozen if f.tensor == "a.weight")
