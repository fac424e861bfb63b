"""The narrow network is tried before it is promised."""

import pytest
import torch
from torch import Tensor, nn

from anywidth import Elastic, errors
from anywidth.views.trial_runs import _ATTEMPTS, probed_space
from oracles import groups, rand, randomized


class Picky(nn.Module):
    """Refuses any other number of channels than the one it was made for, where no trace can see why."""

    def __init__(self, width: int):
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.check = {"size": str(width)}

    def forward(self, x: Tensor) -> Tensor:
        if str(int(x.shape[-1])) != self.check["size"]:
            raise RuntimeError(f"made for {self.check['size']} channels\nand no others")
        return self.layer(x)


class Net(nn.Module):
    def __init__(self, picky: int = 1):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 6)
        self.picky = nn.Sequential(*(Picky(6) for _ in range(picky)))
        self.c, self.head = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(self.picky(self.b(self.a(x).relu()).relu()).relu()))


def test_the_module_that_fails_is_frozen_and_named():
    net = Elastic(randomized(Net()), rand(2, 3))
    assert groups(net) == {"a": (8, 1), "c": (4, 1)}
    reasons = {f.tensor: f.reason for f in net.space.frozen if "narrow forward fails" in f.reason}
    assert (
        reasons["picky.0.layer.weight"]
        == "the narrow forward fails (RuntimeError: made for 6 channels) (picky.0)"
    )
    assert net.at(0.5)(rand(2, 3)).shape == (2, 2)


def test_several_failures_are_frozen_one_after_another():
    net = Elastic(randomized(Net(picky=3)), rand(2, 3))
    assert set(groups(net)) == {"a", "c"}


def test_a_failure_in_a_module_without_parameters_freezes_its_parent():
    class Bare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if str(int(x.shape[-1])) != "8":
                raise RuntimeError("not 8")
            return x

    net = Elastic(randomized(nn.Sequential(nn.Linear(3, 8), Bare(), nn.Linear(8, 2))), rand(2, 3))
    assert groups(net) == {}
    assert any("the narrow forward fails (RuntimeError: not 8)" in f.reason for f in net.space.frozen)


def test_a_model_that_hides_its_channels_in_the_shape_of_its_output():
    """Channels that come out by a way the trace cannot see change the output's shape: frozen."""

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.a(x)
            return self.b(y), torch.zeros(len(x), int(str(int(y.shape[-1]))))

    net = Elastic(randomized(Hidden()), rand(2, 3))
    assert groups(net) == {}
    assert any("output shapes" in f.reason for f in net.space.frozen)


def test_trying_changes_nothing():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout(), nn.Conv2d(8, 2, 1)).train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    random = torch.random.get_rng_state()
    x = torch.ones(2, 3, 4, 4)
    probed_space(model, x)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_a_model_that_never_works_narrow_is_an_error():
    """More places than the trial is willing to freeze, one by one."""

    class Stubborn(nn.Module):
        def __init__(self, many: int):
            super().__init__()
            self.stem = nn.ModuleList(nn.Linear(3, 4) for _ in range(many))
            self.rest = nn.ModuleList(nn.Sequential(Picky(4), nn.Linear(4, 2)) for _ in range(many))

        def forward(self, x: Tensor) -> Tensor:
            return sum(b(a(x)) for a, b in zip(self.stem, self.rest, strict=True))

    with pytest.raises(
        errors.TraceError,
        match=rf"Stubborn cannot be narrowed: after freezing {_ATTEMPTS} places it still fails",
    ):
        Elastic(randomized(Stubborn(_ATTEMPTS + 1)), rand(2, 3))


def test_an_error_that_the_model_passes_on_as_another_one_is_of_the_module_that_raised_it():
    class Telling(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.picky, self.after = nn.Linear(3, 6), Picky(6), nn.Linear(6, 4)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            try:
                y = self.picky(self.before(x))
            except RuntimeError as error:
                raise ValueError("cannot") from error
            return self.head(self.after(y))

    net = Elastic(randomized(Telling()), rand(2, 3))
    assert groups(net) == {"after": (4, 1)}
    reasons = {f.tensor: f.reason for f in net.space.frozen}
    assert reasons["picky.layer.weight"] == "the narrow forward fails (ValueError: cannot) (picky)"
