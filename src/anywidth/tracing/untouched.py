"""A model is as before after it was run: whatever its forward left behind is undone.

    class Counting(nn.Module):                     after the forward       after `untouched`
        def forward(self, x):
            self.calls += 1                        calls: 1                calls: 0
            self.seen.append(x)                    seen: [x]               seen: [], the same list object
            self.mean.mul_(0.9)                    mean: 0.9               mean: 1.0, the same tensor, the same version
            self.late = nn.Linear(2, 2)            a child 'late'          no such child
            type(self).runs = 7                    Counting.runs: 7        Counting.runs: as it was

The objects stay what they are; what modules, containers, objects and classes hold is noted before, and put back after.
"""

from __future__ import annotations

import operator
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.parameter import is_lazy

from anywidth.compat.reparametrised import no_cached_weights
from anywidth.compat.tensors import is_wrapper, set_version_, storage_address, version_of

_Undo = Callable[[], object]
_FOREIGN = ("torch.", "builtins", "functools", "numpy", "collections", "typing", "abc", "enum", "_")
"""Modules of Python whose classes and objects are not the model's own."""
_OBJECTS = 3
_ATOMS = frozenset([int, float, bool, str, bytes, type(None)])
_CONTAINERS = frozenset([dict, OrderedDict, list, set, deque])


def _same_items(a: MutableMapping[Any, Any], b: dict[Any, Any]) -> bool:
    return list(a) == list(b) and all(map(operator.is_, a.values(), b.values()))


def _same_order(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(map(operator.is_, a, b))


def _put_back_mapping(mapping: MutableMapping[Any, Any], content: dict[Any, Any]) -> None:
    if not _same_items(mapping, content):
        mapping.clear()
        mapping.update(content)


def _put_back_sequence(sequence: Any, content: list[Any]) -> None:
    if not _same_order(sequence, content):
        sequence.clear()
        sequence.extend(content)


def _put_back_set(values: set[Any], content: set[Any]) -> None:
    if values != content:
        values.clear()
        values.update(content)


def _is_own(value_class: type) -> bool:
    """Whether a class is of the model or of a tool, rather than of torch or of Python."""
    return not f"{value_class.__module__}.".startswith(_FOREIGN)


class _Content:
    """What modules hold: attributes, and what is in the containers, objects and tensors that these lead to."""

    def __init__(self) -> None:
        self.undo: list[_Undo] = []
        self.tensors: list[Tensor] = []
        self._empty: list[Any] = []  # containers: of ten registries of hooks in each module, most
        self._seen: dict[int, Any] = {}  # the objects are kept, so that ids stay theirs

    def skip(self, value: Any) -> None:
        """Something that is noted elsewhere."""
        self._seen[id(value)] = value

    def note(self, values: Iterable[Any]) -> None:
        """Note what these values hold, and what that holds."""
        # A stack instead of recursion: a list may be nested, or contain itself. The second entry counts the objects on the way:
        # `self.config.sizes` is noted, but not what is far behind `self.trainer`, and no tensors of optimisers and data sets.
        stack = _inside(values, 0)
        while stack:
            value, objects = stack.pop()
            if id(value) in self._seen:
                continue
            if type(value) in _CONTAINERS and not value:
                self._empty.append(value)
                continue
            if isinstance(value, int | float | str | bytes | nn.Module):
                continue
            self._seen[id(value)] = value
            if isinstance(value, Tensor):
                self.tensors += [value] if objects == 0 else []
            elif isinstance(value, torch.Generator):
                self.undo.append(partial(value.set_state, value.get_state()))
            elif isinstance(value, dict):
                self.undo.append(partial(_put_back_mapping, value, dict(value)))
                stack += _inside(value.values(), objects)
            elif isinstance(value, list | deque):
                self.undo.append(partial(_put_back_sequence, value, list(value)))
                stack += _inside(value, objects)
            elif isinstance(value, set):
                self.undo.append(partial(_put_back_set, value, set(value)))
            elif isinstance(value, tuple):
                stack += _inside(value, objects)
            elif objects < _OBJECTS and hasattr(value, "__dict__") and _is_own(type(value)):
                stack.append((vars(value), objects + 1))

    def put_back(self) -> None:
        """Everything that was noted, as it was then."""
        for container in self._empty:
            if container:
                container.clear()
        for undo in self.undo:
            undo()


def _inside(values: Iterable[Any], objects: int) -> list[tuple[Any, int]]:
    """What may hold something, of what a container holds."""
    return [(v, objects) for v in values if type(v) not in _ATOMS]


def _own_classes(modules: Sequence[nn.Module]) -> list[type]:
    """The classes of modules, and their bases, that are neither torch's nor Python's; of a graph module, the class made for it."""
    classes = dict.fromkeys(c for kind in dict.fromkeys(map(type, modules)) for c in kind.__mro__)
    generated = {type(m) for m in modules if isinstance(m, GraphModule)} - {GraphModule}
    return [c for c in classes if _is_own(c) or c in generated]


def _note_class(module_class: type, content: _Content) -> None:
    before = _attributes(module_class)
    content.note(v for v in before.values() if isinstance(v, dict | list | set | deque))

    def put_back() -> None:
        now = _attributes(module_class)
        for name in now.keys() - before.keys():
            delattr(module_class, name)
        for name, value in before.items():
            if now.get(name) is not value:
                setattr(module_class, name, value)

    content.undo.append(put_back)


def _attributes(module_class: type) -> dict[str, Any]:
    return {k: v for k, v in vars(module_class).items() if not (k.startswith("__") and k.endswith("__"))}


def _note_parameter(p: Tensor) -> _Undo:
    """Flags and memory of a parameter: `requires_grad`, `grad`, and `p.data = other`. Its content has other guards."""
    flag, gradient, memory = p.requires_grad, p.grad, p.detach()
    address = _address(memory)

    def put_back() -> None:
        if _address(p) != address or p.shape != memory.shape:
            p.data = memory
        if p.requires_grad != flag:
            p.requires_grad_(flag)
        if p.grad is not gradient:
            p.grad = gradient

    return put_back


def _address(t: Tensor) -> int:
    return storage_address(t) if t.layout is torch.strided else id(t)


def _note_values(t: Tensor) -> _Undo:
    """The values of a tensor; writing them back leaves no mark."""
    content, version = t.detach().clone(), version_of(t)

    def put_back() -> None:
        if t.shape != content.shape:  # observers of quantisation grow their buffers
            with torch.no_grad():
                t.detach().resize_(content.shape)
            t.data = content
        # There is nothing to compare on `meta`, and on a GPU comparing would wait for each tensor.
        elif not (t.is_meta or (t.device.type == "cpu" and torch.equal(t, content))):
            t.data.copy_(content)
        # The content is what it was at that version, so caches that watch the counter are still right.
        if version_of(t) != version:
            set_version_(t, version)

    return put_back


def _has_values(t: Tensor) -> bool:
    return not (is_lazy(t) or is_wrapper(t) or t.is_inference()) and t.layout is torch.strided


class _Values:
    """The values of tensors, noted before the first write to any of them."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.undo: list[_Undo] = []
        self._by_address: dict[int, list[Tensor]] = {}
        for t in tensors:
            self._by_address.setdefault(_address(t), []).append(t)

    def before_write(self, t: Tensor) -> list[Tensor]:
        """Note the values of what shares memory with `t`, which will be written to; those tensors."""
        written = self._by_address.pop(_address(t), []) if self._by_address else []
        with torch.no_grad():
            self.undo += [_note_values(w) for w in written]
        return written


class Snapshot:
    """A model as it is now; `put_back` makes it so again, as often as it is run."""

    def __init__(self, model: nn.Module) -> None:
        modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
        content = _Content()
        parameters = list(model.parameters())
        for p in parameters:
            content.skip(p)
        self._undo: list[_Undo] = []
        for m in modules:
            attributes = vars(m)
            content.skip(attributes)
            self._undo.append(partial(_put_back_module, m, type(m), dict(attributes)))
            content.note(attributes.values())
        for module_class in _own_classes(modules):
            _note_class(module_class, content)
        self._default_dtype = torch.get_default_dtype()
        parameters = [p for p in parameters if _has_values(p)]
        with torch.inference_mode(False), torch.no_grad():
            self._undo += map(_note_parameter, parameters)
            tensors = dict.fromkeys([*model.buffers(), *content.tensors])
            self._undo += [_note_values(t) for t in tensors if _has_values(t)]
            self._values = _Values(parameters)
        self._content = content

    def before_write(self, t: Tensor) -> list[Tensor]:
        """To be called with what is about to be written to: the parameters that share its memory, whose values are noted now.

        Copies of all parameters would take as much memory as the model.
        """
        return self._values.before_write(t)

    def put_back(self) -> None:
        """Undo what the model's forward left behind."""
        if torch.get_default_dtype() is not self._default_dtype:
            torch.set_default_dtype(self._default_dtype)
        for undo in self._undo:
            undo()
        self._content.put_back()
        for undo in self._values.undo:
            undo()


@contextmanager
def untouched(model: nn.Module, snapshot: Snapshot | None = None) -> Iterator[Snapshot]:
    """Whatever the forward leaves behind (features kept by hooks, caches, running statistics) is undone.

    Args:
        model: will be run inside.
        snapshot: of it, if there is one already.
    """
    snapshot = snapshot or Snapshot(model)
    try:
        with no_cached_weights():
            yield snapshot
    finally:
        snapshot.put_back()


@contextmanager
def graphs_kept(model: nn.Module) -> Iterator[None]:
    """Graph modules have the same graph and code after the context: some have one for each mode, and compile it when it changes."""
    content = _Content()
    graph_modules = [m for m in model.modules() if isinstance(m, GraphModule)]
    undo = [partial(_put_back_module, m, type(m), dict(vars(m))) for m in graph_modules]
    for module_class in _own_classes(graph_modules):
        _note_class(module_class, content)
    try:
        yield
    finally:
        for put_back in undo:
            put_back()
        content.put_back()


def _put_back_module(m: nn.Module, module_class: type, before: dict[str, Any]) -> None:
    if type(m) is not module_class:
        object.__setattr__(m, "__class__", module_class)
    _put_back_mapping(vars(m), before)
