"""Configs that modules hold (`self.config.hidden_size`), with the sizes of a narrow network.

Like a view's module, the narrow config shares the `__dict__` of the wide one, so that settings changed later are seen; the sizes that
follow the width are slots of a subclass, which Python asks first. A copy of it is an ordinary config.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from typing import Any


class NarrowConfig:
    """Mixed in before a config's class."""

    __slots__ = ()

    def __deepcopy__(self, memo: dict) -> Any:
        copied = memo[id(self)] = _plain(self)
        copied.__dict__.update(copy.deepcopy(copied.__dict__, memo))
        return copied

    def __copy__(self) -> Any:
        return _plain(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _plain(self).__reduce_ex__(protocol)

    def to_dict(self) -> dict[str, Any]:
        """As Hugging Face's configs have it, and save it."""
        return _plain(self).to_dict()


_classes: weakref.WeakValueDictionary[tuple[type, tuple[str, ...]], type] = weakref.WeakValueDictionary()


def narrow_config(config: Any, sizes: Mapping[str, Any]) -> Any:
    """The config as a network sees it in which these attributes have other values."""
    names = tuple(sorted(sizes))
    config_class: Any = type(config)
    known = _classes.get((config_class, names))
    if known is None:
        namespace = {
            "__slots__": names,
            "__module__": config_class.__module__,
            "__qualname__": config_class.__qualname__,
            "_wide_class": config_class,
        }
        known = type(config_class)(config_class.__name__, (NarrowConfig, config_class), namespace)
        _classes[config_class, names] = known
    narrow = object.__new__(known)
    object.__setattr__(narrow, "__dict__", vars(config))
    for name, value in sizes.items():
        object.__setattr__(narrow, name, value)
    return narrow


def _plain(narrow: Any) -> Any:
    """An ordinary config of these sizes."""
    names = next(vars(c)["__slots__"] for c in type(narrow).__mro__ if "_wide_class" in vars(c))
    config = object.__new__(narrow._wide_class)
    config.__dict__.update(narrow.__dict__, **{name: getattr(narrow, name) for name in names})
    return config
