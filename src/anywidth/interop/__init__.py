"""Checkpoints of other projects."""

from anywidth.interop.files import Report
from anywidth.interop.wide import load_wide_

__all__ = ["Report", "load_wide_"]
