"""Train once, run at any width."""

from anywidth import errors, interop, models, prune
from anywidth.channels.space import ChannelGroup, ChannelSpace
from anywidth.elastic import Elastic
from anywidth.reorder import reorder_
from anywidth.store import load
from anywidth.width import Width

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
