"""The config of a Hugging Face model says the sizes of its extracted copy, so that `from_pretrained` builds that copy again.

Which entry of a config makes which size is asked of the class itself: it is built once per entry, on the meta device, with that entry
doubled, and compared with what it was.

    intermediate_size 96 -> 192    mlp.up_proj.weight (96, 64) -> (192, 64), ...    in the copy 48: intermediate_size is 96 * 48 / 96
    num_attention_heads 4 -> 8     attention.num_heads 4 -> 8 (an attribute), no shape
"""

from __future__ import annotations

import copy
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.config_entries import (
    Entry,
    Place,
    edited,
    entries_of,
    entry_value,
    listed,
    sizes_of,
    tensors_of,
    update_,
)
from anywidth.errors import WidthError
from anywidth.tracing.model_outputs import named_tensors
from anywidth.tracing.random_state import random_state_kept
from anywidth.tracing.trace import call
from anywidth.tracing.training_mode import mode_kept

_OF_A_TENSOR = 1000
"""Votes of a dimension of a tensor, where an attribute has one: a shape is a fact, and an attribute may be read by nobody."""


def has_pretrained_config(model: nn.Module) -> bool:
    """Whether a model is one of Hugging Face's, built from a config."""
    return any(
        c.__name__ == "PreTrainedModel" and c.__module__.startswith("transformers.")
        for c in type(model).__mro__
    )


@dataclass(frozen=True)
class _Effect:
    """What happens to the sizes of a model when some entries of its config grow by a factor.

    Attributes:
        entries: one, or several of the same value that only grow together.
        powers: place -> power of the factor that its size grew by, 1 or -1.
        others: places that change in another way.
    """

    entries: tuple[Entry, ...]
    powers: Mapping[Place, int]
    others: frozenset[Place]


class ConfigSizes:
    """What the entries of a model's config are for.

    Args:
        model: of Hugging Face; its class is built on the meta device, once for every entry.
    """

    def __init__(self, model: Any) -> None:
        self.model_class: Any = type(model)
        self.config_class: Any = type(model.config)
        self.hidden = {k: v for k, v in vars(model.config).items() if k.startswith("_")}
        self.json: dict[str, Any] = copy.deepcopy(model.config).to_dict()
        self.built = self._build(self.json)
        self.before = {} if self.built is None else sizes_of(self.built)
        self.effects: list[_Effect] = []
        entries = dict(entries_of(self.json)) if self.before else {}
        for entry, value in entries.items():
            together = tuple(e for e, v in entries.items() if v == value)
            if not any(entry in e.entries for e in self.effects):
                effect = self._effect((entry,)) or (self._effect(together) if len(together) > 1 else None)
                self.effects += [] if effect is None else [effect]

    def _build(self, json: Mapping[str, Any], device: str = "meta") -> Any:
        """The model of another config, on the meta device without weights; None if its class does not take that."""
        try:
            config = self.config_class.from_dict(copy.deepcopy(dict(json)))
            vars(config).update(self.hidden)
            with torch.device(device), torch.random.fork_rng(devices=[]):
                return self.model_class(config)
        except Exception:
            return None

    def _effect(self, entries: tuple[Entry, ...]) -> _Effect | None:
        """What entries of the same value do; None if the class does not take them larger."""
        value = entry_value(self.json, entries[0])
        # Embeddings of size 32 that grow to the hidden size 64 need no projection any more, and the network is another one: then 96.
        for factor in (2, 3):
            larger = self._build(edited(self.json, dict.fromkeys(entries, factor * value)))
            after = {} if larger is None else sizes_of(larger)
            if after.keys() != self.before.keys():
                continue
            powers, others = {}, set()
            for place, size in self.before.items():
                if after[place] == size * factor:
                    powers[place] = 1
                elif after[place] * factor == size:
                    powers[place] = -1
                elif after[place] != size:
                    others.add(place)
            return _Effect(entries, powers, frozenset(others))
        return None

    # --- from the sizes of a copy to the entries --------------------------------------------------------------------

    def candidates(self, small: nn.Module) -> Iterator[dict[Entry, int]]:
        """Entries with which the class may build the sizes of `small`, the likeliest first."""
        now = sizes_of(small)
        ratios = self._ratios(now)
        # `self.num_heads` and `self.head_dim` of a copy may contradict each other where its forward reads one of them only: what an
        # entry is may then be told in more ways than one.
        contested = [i for i, found in enumerate(ratios) if len(found) > 1][:3]
        for choice in itertools.product(*(ratios[i][:2] for i in contested)):
            chosen = [found[0] for found in ratios]
            for i, ratio in zip(contested, choice, strict=True):
                chosen[i] = ratio
            values = {}
            for effect, ratio in zip(self.effects, chosen, strict=True):
                for entry in effect.entries:
                    value = ratio * entry_value(self.json, entry)
                    if ratio != 1 and value.denominator == 1:
                        values[entry] = int(value)
            yield values

    def _ratios(self, now: Mapping[Place, int]) -> list[list[Fraction]]:
        """By how much each effect took place, the ratio that most of its places tell first."""
        # Ratios are those of the copy to the wide model.
        known: dict[int, Fraction] = {}
        found: dict[int, list[Fraction]] = {}
        waiting = dict(enumerate(self.effects))
        # head_dim doubles the rows of q_proj, and so does the number of heads; `self.head_dim` is of the first alone. So entries
        # with places of their own come first, and what they explain is divided out for the others.
        while waiting:
            alone = {i: self._alone(i, waiting) for i in waiting}
            chosen = max(waiting, key=lambda i: len(alone[i]))
            effect = waiting.pop(chosen)
            votes: Counter[Fraction] = Counter()
            # A place that waiting effects reach, too, tells nothing yet.
            for place in alone[chosen] or effect.powers:
                power = effect.powers[place]
                if place not in now or any(place in known_effect.others for known_effect in self.effects):
                    continue
                ratio = Fraction(now[place], self.before[place])
                for other, other_ratio in known.items():
                    ratio /= other_ratio ** self.effects[other].powers.get(place, 0)
                votes[ratio**power] += _OF_A_TENSOR if isinstance(place[1], int) else 1
            # Of two that as many tensors tell, the one that is no standstill: an attribute that nobody reads stays as it was.
            order = sorted(votes, key=lambda r: (-(votes[r] // _OF_A_TENSOR), r == 1, -votes[r]))
            found[chosen] = order or [Fraction(1)]
            known[chosen] = found[chosen][0]
        return [found[i] for i in range(len(self.effects))]

    def _alone(self, index: int, waiting: Mapping[int, _Effect]) -> set[Place]:
        """Places that only one of the effects reaches."""
        others = [e for i, e in waiting.items() if i != index]
        return {p for p in waiting[index].powers if not any(p in e.powers or p in e.others for e in others)}

    # --- writing it -------------------------------------------------------------------------------------------------

    def write_(self, small: Any, unused: Collection[str] = (), example: Any = None) -> str | None:
        """Put the sizes of an extracted copy into its config.

        Args:
            small: the copy.
            unused: tensors that no forward reads: they are cut to the size that the class builds.
            example: inputs on which candidates are tried, where there are several; None for none.

        Returns:
            Why its class cannot be built so, or None if it can.
        """
        name = self.model_class.__name__
        if self.built is None:
            return f"{name} could not be built from its config alone"
        reasons = []
        candidates = list(self.candidates(small))
        for values in candidates:
            json = edited(self.json, values)
            rebuilt = self._build(json)
            if rebuilt is None:
                reasons.append(f"{name} does not take a config with {listed(values)}")
                continue
            reason = _difference(small, rebuilt, unused, f"with {listed(values)}")
            if reason is None:
                reason = self._other_values(json, small, unused)
            if reason is None and len(candidates) > 1 and example is not None:
                computes_the_same = self._computes(json, small, unused, example)
                reason = (
                    None if computes_the_same else f"{name} computes something else with {listed(values)}"
                )
            if reason is None:
                _cut_unused_(small, rebuilt, unused)
                self._update_attributes_(small, rebuilt)
                update_(small.config, rebuilt.config)
                return None
            reasons.append(reason)
        return reasons[0]

    def _other_values(self, json: Mapping[str, Any], small: nn.Module, unused: Collection[str]) -> str | None:
        """The first tensor that is not saved, and that the class computes to other values: the angles of narrower positions, say."""
        wide_shapes = {n: t.shape for n, t in tensors_of(self.built)}
        cut = {n: t for n, t in _unsaved(small) if t.shape != wide_shapes.get(n) and n not in unused}
        built = self._build(json, "cpu") if cut else None
        rebuilt = {} if built is None else dict(tensors_of(built))
        for tensor, t in cut.items():
            values = rebuilt.get(tensor)
            if values is None or values.shape != t.shape or not torch.allclose(values.to(t), t, rtol=1e-4):
                return f"'{tensor}' is not saved, and {self.model_class.__name__} computes other values of it at this size"
        return None

    def _computes(
        self, json: Mapping[str, Any], small: nn.Module, unused: Collection[str], example: Any
    ) -> bool:
        """Whether the class, built from a config, computes with the weights of the copy what the copy does."""
        rebuilt = self._build(json, "cpu")
        if rebuilt is None:
            return False
        rebuilt = rebuilt.to(next(iter(small.parameters())))
        rebuilt.load_state_dict(
            {n: t for n, t in small.state_dict().items() if n not in unused}, strict=False
        )
        with torch.no_grad(), mode_kept(small), random_state_kept(small, lambda: True):
            expected = _outputs(small, example)
            try:
                computed = _outputs(rebuilt, example)
            except Exception:  # shapes fit, and a size that no shape shows does not
                return False
        return expected.keys() == computed.keys() and all(
            t.shape == computed[n].shape and torch.allclose(t, computed[n], rtol=1e-4, atol=1e-6)
            for n, t in expected.items()
        )

    def _update_attributes_(self, small: nn.Module, rebuilt: nn.Module) -> None:
        """Integers that the class computes from its config, also those that no forward reads."""
        computed = {p for e in self.effects for p in (*e.powers, *e.others) if isinstance(p[1], str)}
        for path, attribute in computed:
            value = getattr(rebuilt.get_submodule(path.removesuffix(".")), str(attribute))
            vars(small.get_submodule(path.removesuffix(".")))[str(attribute)] = value


def _outputs(model: nn.Module, example: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)  # some draw masks
    return dict(named_tensors(call(model.eval(), example)))


def _unsaved(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors that are computed anew when a model is loaded."""
    state = model.state_dict()
    patterns = list(getattr(model, "_keys_to_ignore_on_save", None) or ())
    for name, t in tensors_of(model):
        if name not in state or any(re.search(p, name) for p in patterns):
            yield name, t


def _difference(small: nn.Module, rebuilt: nn.Module, unused: Collection[str], how: str) -> str | None:
    """The first tensor of which the rebuilt network has another shape."""
    shapes = {n: tuple(t.shape) for n, t in rebuilt.state_dict().items()}
    for tensor, t in small.state_dict().items():
        if shapes.get(tensor) != tuple(t.shape) and tensor not in unused:
            return f"'{tensor}' is {tuple(t.shape)}, and {type(small).__name__} builds it as {shapes.get(tensor)} {how}"
    return None


def _cut_unused_(small: nn.Module, rebuilt: nn.Module, unused: Collection[str]) -> None:
    shapes = {n: t.shape for n, t in tensors_of(rebuilt)}
    for name, t in tensors_of(small):
        shape = shapes.get(name)
        if name not in unused or shape is None or len(shape) != t.ndim:
            continue
        if all(a <= b for a, b in zip(shape, t.shape, strict=True)):
            t.data = t.data[tuple(slice(n) for n in shape)].clone()


class RefusedSave:
    """In the place of `save_pretrained` where no config says the sizes of a network: what was saved could not be loaded."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise WidthError(
            f"save_pretrained: {self.reason}, so from_pretrained could not build this network. Use a width whose groups the config can "
            "say (the same share of all layers), or save the wide network: net.save(path)."
        )
