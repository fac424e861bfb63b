"""Views: ordinary modules whose tensors alias parts of the wide network's. The only place that touches tensors.

A view is a shallow copy of the module tree. Each of its parameters is a leaf whose data is a slice of the wide
parameter; when its gradient is complete, it is added to the same slice of the wide parameter's gradient and dropped.
Where the active channels are no prefix (concatenated inputs, packed qkv), a leaf holds a gathered copy that is renewed
when the wide parameter has changed. During inference, slices that are not contiguous are packed, on the same terms.
"""

from anywidth.view.build import Blueprint, compile_, standalone
from anywidth.view.link import Link, link_of
from anywidth.view.slices import AxisPlan, Cut, cut

__all__ = ["AxisPlan", "Blueprint", "Cut", "Link", "compile_", "cut", "link_of", "standalone"]
