"""Settings of torchvision's detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def proposal_settings(counts: Mapping[str, int]) -> dict[str, Any]:
    """Attributes of a `RegionProposalNetwork` that say how many proposals it keeps, before and after suppression.

    The constructor takes these numbers under public names; of a network that is there they can only be changed here.

    Args:
        counts: "training" and "testing" -> number of proposals.
    """
    return {"_pre_nms_top_n": counts, "_post_nms_top_n": counts}
