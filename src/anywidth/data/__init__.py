"""Data sets and loaders; nothing here knows about width."""

from anywidth.data.digits import digits
from anywidth.data.loading import Splits, loader

__all__ = ["Splits", "digits", "loader"]
