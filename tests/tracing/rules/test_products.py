import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth import Elastic
from oracles import assert_narrow, groups, rand, randomized
from traced_operations import Through


class Bilinear(nn.Module):
    def __init__(self, a: int, b: int, out: int):
        super().__init__()
        self.a, self.b = nn.Linear(3, a), nn.Linear(3, b)
        self.form, self.head = nn.Bilinear(a, b, out), nn.Linear(out, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.form(self.a(x), self.b(x)))


def test_a_bilinear_form_reads_two_layers():
    net = Elastic(randomized(Bilinear(8, 6, 5)), rand(4, 3))
    assert groups(net) == {"a": (8, 1), "b": (6, 1), "form": (5, 1)}
    assert_narrow(net, {"a": 3, "b": 4, "form": 2}, Bilinear(3, 4, 2), rand(4, 3))


class Prototypes(nn.Module):
    """Distances to learned points."""

    def __init__(self, width: int, points: int, p: float):
        super().__init__()
        self.a, self.points = nn.Linear(3, width), nn.Parameter(torch.zeros(points, width))
        self.head, self.p = nn.Linear(points, 2), p

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cdist(self.a(x), self.points, p=self.p))


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
@pytest.mark.parametrize("number", [7, 30])  # beyond 25 torch takes another way
def test_distances_to_points_of_the_same_channels(p, number):
    net = Elastic(randomized(Prototypes(8, number, p)), rand(30, 3))
    assert {g.size for g in net.space.groups} == {8, number}
    width = {g.name: 3 if g.size == 8 else 5 for g in net.space.groups}
    assert_narrow(net, width, Prototypes(3, 5, p), rand(30, 3))


def test_distances_of_all_pairs():
    class Pairs(nn.Module):
        def __init__(self, width: int):
            super().__init__()
            self.a = nn.Linear(3, width)

        def forward(self, x: Tensor) -> Tensor:
            return F.pdist(self.a(x))

    net = Elastic(randomized(Pairs(8)), rand(4, 3))
    assert groups(net) == {"a": (8, 1)}
    assert_narrow(net, {"a": 3}, Pairs(3), rand(4, 3))


GRAPH = torch.tensor([[0.0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 2], [1, 0, 0, 0]], dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize(
    "operation",
    [
        lambda y: torch.sparse.mm(GRAPH.to_sparse(), y),
        lambda y: torch.sparse.mm(GRAPH.to_sparse_csr(), y),
        lambda y: GRAPH.to_sparse() @ y,
        lambda y: GRAPH.to_sparse_csr() @ y,
        lambda y: torch.sparse.addmm(y, GRAPH.to_sparse(), y, beta=0.5),
    ],
    ids=["coo", "csr", "coo @", "csr @", "addmm"],
)
def test_a_sparse_graph_passes_channels_on(operation):
    net = Elastic(randomized(Through(operation)), rand(4, 3))
    assert groups(net) == {"a": (8, 1)}
    assert_narrow(net, {"a": 3}, Through(operation, 3), rand(4, 3))


class Weighted(nn.Module):
    """Sums of products that torch writes as one operation."""

    def __init__(self, kind: str, a: int, b: int):
        super().__init__()
        self.a, self.head, self.kind = nn.Linear(3, a), nn.Linear(b, 2), kind
        self.weight, self.base = nn.Parameter(torch.zeros(a, b)), nn.Parameter(torch.zeros(b))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.kind == "addmv":
            return self.head(torch.stack([torch.addmv(self.base, self.weight.T, row) for row in y]))
        if self.kind == "addbmm":
            return self.head(torch.addbmm(self.base, torch.stack([y, -2 * y]), self.weight.expand(2, -1, -1)))
        return self.head(torch.addr(y @ self.weight, y.sum(1), self.base))


@pytest.mark.parametrize("kind", ["addmv", "addbmm", "addr"])
def test_products_that_are_added_to_something(kind):
    net = Elastic(randomized(Weighted(kind, 8, 6)), rand(4, 3))
    assert {n for n, _ in groups(net).values()} == {8, 6}
    width = {g.name: 3 if g.size == 8 else 4 for g in net.space.groups}
    assert_narrow(net, width, Weighted(kind, 3, 4), rand(4, 3))


def test_a_dot_product_sums_its_channels():
    net = Elastic(randomized(Through(lambda y: y * torch.dot(y[0], y[1]))), rand(4, 3))
    assert groups(net) == {"a": (8, 1)}
    assert_narrow(net, {"a": 3}, Through(lambda y: y * torch.dot(y[0], y[1]), 3), rand(4, 3))


class Experts(nn.Module):
    """Tokens sorted by expert, each times the weights of its expert."""

    def __init__(self, width: int, inner: int, transposed: bool):
        super().__init__()
        self.a, self.router, self.head = nn.Linear(3, width), nn.Linear(width, 4), nn.Linear(width, 2)
        self.up = nn.Parameter(torch.zeros(*((4, inner, width) if transposed else (4, width, inner))))
        self.down = nn.Parameter(torch.zeros(*((4, width, inner) if transposed else (4, inner, width))))
        self.transposed = transposed

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        weight, expert = self.router(h).softmax(-1).max(-1)
        order = expert.argsort()
        ends = torch.bincount(expert, minlength=4).cumsum(0).int()
        up, down = (w.mT if self.transposed else w for w in (self.up, self.down))
        y = F.grouped_mm(F.grouped_mm(h[order], up, offs=ends).relu(), down, offs=ends)
        return self.head(torch.zeros_like(h).index_copy(0, order, y) * weight[:, None])


@pytest.mark.parametrize("transposed", [True, False])
@torch.no_grad()
def test_experts_in_one_product_narrow_in_blocks_that_the_kernel_takes(transposed):
    torch.manual_seed(0)
    x, model = torch.randn(9, 3), Experts(16, 24, transposed)
    for p in model.parameters():
        nn.init.normal_(p)
    net = Elastic(model, x)
    assert groups(net) == {"a": (4, 4), "up": (6, 4)}  # float32: 4 channels are 16 bytes
    small = Experts(8, 12, transposed)
    state = {
        n: t[tuple(slice(size) for size in small.state_dict()[n].shape)]
        for n, t in model.state_dict().items()
    }
    small.load_state_dict(state)
    width = net.space.width({"a": 8, "up": 12})
    torch.testing.assert_close(net.at(width)(x), small(x))
    torch.testing.assert_close(net.extract(width)(x), small(x))
