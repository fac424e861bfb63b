"""Members of a list of modules that the example did not visit, such as experts that no token was sent to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from anywidth.tracing.labels import Partition
from anywidth.tracing.model_outputs import tensors_in
from anywidth.tracing.opaque_modules import kind_of_opaque, open_modules
from anywidth.tracing.trace_state import Walk

# A layer of 8 experts, of which the tokens of the example visited 0, 2 and 5. These three read and write the same channels of the
# stream, so the other five would too, and each of them is run once beside expert 0, on the input that it gets: their outputs are
# the same channels. Layers of a plain chain are no such members: each reads what the one before it wrote.

Place = list[tuple[tuple[int, ...], Tensor]]
"""The shadows of the tensors that go into a module, or come out: which tensor, and its labels."""


@dataclass
class Visits:
    """What the members of lists of modules read and wrote when they first ran."""

    seen: dict[nn.Module, tuple[list[list[Tensor]], list[list[Tensor]]]] = field(default_factory=dict)


def _lists(model: nn.Module) -> list[list[nn.Module]]:
    lists = [m for m in open_modules(model).values() if isinstance(m, nn.ModuleList | nn.ModuleDict)]
    return [[c for c in m.children() if kind_of_opaque(c) is None] for m in lists]


def _form(module: nn.Module) -> tuple[Any, ...]:
    """Class, and names and shapes of the tensors."""
    return type(module), tuple((n, tuple(t.shape)) for n, t in module.state_dict().items())


@contextmanager
def visits(walk: Walk, model: nn.Module) -> Iterator[Visits]:
    """Note the labels that members of lists read and write inside this context."""
    record = Visits()

    def after(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if module not in record.seen:
            inputs, results = tensors_in([args, kwargs]), tensors_in(out)
            record.seen[module] = (
                [list(walk.shadows(t)) for t in inputs],
                [list(walk.shadows(t)) for t in results],
            )

    members = {m for members in _lists(model) for m in members if len(members) > 2}
    handles = [m.register_forward_hook(after, prepend=True, with_kwargs=True) for m in members]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def unvisited(walk: Walk, model: nn.Module, record: Visits) -> dict[nn.Module, list[nn.Module]]:
    """A visited member -> members of its list that were not, and that would read and write the same channels.

    At least two visited members of the same form have to agree on both.
    """
    partition: Partition | None = None
    names = {id(t): n for n, t in model.named_parameters()}
    result: dict[nn.Module, list[nn.Module]] = {}
    for members in _lists(model):
        missed = [m for m in members if _all_missed(walk, m, names)]
        forms = {id(m): _form(m) for m in members} if missed else {}
        for module in missed:
            siblings = [m for m in members if m in record.seen and forms[id(m)] == forms[id(module)]]
            if len(siblings) < 2:
                continue
            partition = partition or _merged(walk)
            if len({_channels(partition, record, m) for m in siblings}) == 1:
                result.setdefault(siblings[0], []).append(module)
    return result


def _all_missed(walk: Walk, module: nn.Module, names: dict[int, str]) -> bool:
    parameters = [names.get(id(p)) for p in module.parameters()]
    return bool(parameters) and not any(n in walk.used for n in parameters)


def _merged(walk: Walk) -> Partition:
    partition = Partition(walk.ledger.count)
    if walk.ledger.pairs:
        partition.merge(*(np.concatenate(side) for side in zip(*walk.ledger.pairs, strict=True)))
    return partition


def _channels(partition: Partition, record: Visits, module: nn.Module) -> tuple[Any, ...]:
    """Which sets of channels a member reads and writes, comparable."""

    def form(places: list[list[Tensor]]) -> tuple[Any, ...]:
        return tuple(
            tuple((tuple(s.shape), partition.name[s.numpy()].tobytes()) for s in shadows)
            for shadows in places
        )

    inputs, results = record.seen[module]
    return form(inputs), form(results)


@contextmanager
def beside(walk: Walk, pairs: dict[nn.Module, list[nn.Module]]) -> Iterator[None]:
    """Run unvisited members on what a visited one gets, inside this context; what comes out are the same channels."""
    done: set[nn.Module] = set()

    def after(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if module in done:
            return
        done.add(module)
        for sibling in pairs[module]:
            used = set(walk.used)
            try:
                results = tensors_in(sibling(*args, **kwargs))
                _equate(walk, tensors_in(out), results)
            except Exception:
                walk.used.clear()
                walk.used.update(used)

    handles = [m.register_forward_hook(after, with_kwargs=True) for m in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _equate(walk: Walk, results: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    for a, b in zip(results, others, strict=True):
        walk.together(walk.shadows(a), a.shape, walk.shadows(b), b.shape)
