"""Views: modules of the model's own classes that read the wide network at the time of use.

A view is a module tree beside the wide one. Its tensors are cut out of the wide network's current tensors, in the graph,
whenever they are read; attributes, buffers and hooks are the wide module's; narrow integers are its own. Nothing is
copied, nothing is hooked, nothing can go stale. `standalone` makes a copy that owns its tensors.
"""

from anywidth.views.base import Live, is_view, own_of_width
from anywidth.views.baseline import Baseline, baseline
from anywidth.views.blueprint import Blueprint
from anywidth.views.classes import NormKind
from anywidth.views.compiling import compile_, eagerly, is_compiled
from anywidth.views.packed_copies import PackStore
from anywidth.views.slices import AxisPlan, TensorCut, cut
from anywidth.views.standalone import standalone, without_graphs
from anywidth.views.temporary_tensors import hold_, holding, instead, standing_for_tensors, unnoticed

__all__ = [
    "AxisPlan",
    "Baseline",
    "Blueprint",
    "Live",
    "NormKind",
    "PackStore",
    "TensorCut",
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
    "without_graphs",
]
