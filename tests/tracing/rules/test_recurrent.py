"""Recurrent layers, stepwise and packed, whatever kernel the device has for them."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close

from anywidth import Elastic
from anywidth.tracing.rules.recurrent import fused_cell
from label_walks import walk_of
from oracles import assert_narrow, groups, hand_slice, rand, randomized


class Sequence(nn.Module):
    def __init__(self, kind: type, width: int, hidden: int, lengths: list[int] | None = None, **options):
        super().__init__()
        self.a, self.lengths = nn.Linear(3, width), lengths
        self.layer = kind(width, hidden, batch_first=True, **options)
        self.head = nn.Linear(hidden * (2 if options.get("bidirectional") else 1), 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.lengths is not None:
            y = pack_padded_sequence(y, self.lengths, batch_first=True, enforce_sorted=False)
        out, _ = self.layer(y)
        return self.head(out if self.lengths is None else pad_packed_sequence(out, batch_first=True)[0])


def gates(wide: int, kept: int, number: int) -> list[int]:
    return [g * wide + i for g in range(number) for i in range(kept)]


NUMBER = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


def kept_gates(kind: type, hidden: int, kept: int) -> dict[str, dict[int, list[int]]]:
    rows = {0: gates(hidden, kept, NUMBER[kind])}
    return {f"layer.{n}_l0": rows for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}


@pytest.mark.parametrize("lengths", [None, [3, 5, 1, 5]])
@pytest.mark.parametrize("kind", NUMBER)
def test_a_recurrent_layer_loses_the_same_units_of_every_gate(kind, lengths):
    net = Elastic(randomized(Sequence(kind, 8, 6, lengths)), rand(4, 5, 3))
    assert groups(net) == {"a": (8, 1), "layer": (6, NUMBER[kind])}
    assert net.space.unknown == ()
    width = net.space.from_vector([3 / 8, 4 / 6])
    compact = Sequence(kind, 3, 4, lengths)
    assert_narrow(net, width, compact, rand(4, 5, 3), kept_gates(kind, 6, 4), names=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_kernels_of_single_precision_narrow_too(dtype):
    model = randomized(Sequence(nn.LSTM, 8, 6)).to(dtype)
    x = rand(4, 5, 3).to(dtype)
    net = Elastic(model, x)
    assert groups(net) == {"a": (8, 1), "layer": (6, 4)}
    assert net.space.unknown == ()
    compact = Sequence(nn.LSTM, 3, 4).to(dtype)
    where = kept_gates(nn.LSTM, 6, 4)
    sliced = {
        n: hand_slice(
            model.state_dict()[n],
            [torch.tensor(where.get(n, {}).get(d, list(range(size)))) for d, size in enumerate(t.shape)],
        )
        for n, t in compact.state_dict().items()
    }
    compact.load_state_dict(sliced)
    width = net.space.from_vector([3 / 8, 4 / 6])
    assert_close(net.at(width)(x), compact(x))
    assert_close(net.extract(width)(x), compact(x))


def test_a_layer_with_directions_layers_and_a_projection():
    options = {"num_layers": 2, "bidirectional": True, "proj_size": 4}

    class Projected(Sequence):
        def __init__(self):
            super().__init__(nn.LSTM, 8, 6, **options)
            self.head = nn.Linear(8, 2)

    net = Elastic(randomized(Projected()), rand(2, 5, 3))
    assert net.space.unknown == ()
    assert net.params(0.5) < 0.4 * net.params(1.0)


@pytest.mark.parametrize("number", [3, 4])
def test_the_fused_cell_of_a_gpu_ties_its_gates_to_the_state(number):
    walk, (inputs, hidden, state) = walk_of(2 * number, 2 * number, 2)
    from_input, from_state, before, after = (torch.zeros(3, n) for n in (2 * number, 2 * number, 2, 2))
    for t, labels in ((from_input, inputs), (from_state, hidden), (before, state)):
        walk.set(t, [labels.view(1, -1)])
    fused_cell(number)(walk, None, (from_input, from_state, before, None, None), {}, (after, before))
    assert [s.tolist() for s in walk.shadows(after)] == [[[1, 2]]]
    tied = {(int(a), int(b)) for x, y in walk.ledger.pairs for a, b in zip(x, y, strict=True)}
    assert {(3, 1), (4, 2)} <= tied
    assert (1, int(state[0])) in tied
