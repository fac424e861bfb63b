"""Views: modules of the model's own classes that read the wide network at the time of use.

A view is a module tree beside the wide one. Its tensors are cut out of the wide network's current tensors, in the graph,
whenever they are read; attributes, buffers and hooks are the wide module's; narrow integers are its own. Nothing is
copied, nothing is hooked, nothing can go stale. `standalone` makes a copy that owns its tensors.
"""

from anywidth.view.base import Live, is_view, own_of_width
from anywidth.view.baseline import Baseline, baseline
from anywidth.view.blueprint import Blueprint
from anywidth.view.changes import hold_, holding, instead, standing_for_tensors, unnoticed
from anywidth.view.classes import NormKind
from anywidth.view.compiling import compile_, eagerly, is_compiled
from anywidth.view.copies import standalone
from anywidth.view.packs import PackStore
from anywidth.view.slices import AxisPlan, Cut, cut

__all__ = [
    "AxisPlan",
    "Baseline",
    "Blueprint",
    "Cut",
    "Live",
    "NormKind",
    "PackStore",
    "baseline",
    "compile_",
    "cut",
    "eagerly",
    "hold_",
    "holding",
    "instead",
    "is_compiled",
    "is_view",
    "own_of_width",
    "standalone",
    "standing_for_tensors",
    "unnoticed",
]
