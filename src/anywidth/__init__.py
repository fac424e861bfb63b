"""Train once, run at any width."""

from anywidth import errors, interop, models, prune
from anywidth.elastic import Elastic
from anywidth.reorder import reorder_
from anywidth.space.channel_space import ChannelGroup, ChannelSpace
from anywidth.space.width import Width
from anywidth.store import load

__version__ = "0.1.0"

__all__ = [
    "ChannelGroup",
    "ChannelSpace",
    "Elastic",
    "Width",
    "__version__",
    "errors",
    "interop",
    "load",
    "models",
    "prune",
    "reorder_",
]
