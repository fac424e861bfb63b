"""The same widths at every step: slimmable networks, and AutoSlim's explicit channel lists."""

import torch

from anywidth.errors import WidthError
from anywidth.train.policies.draw import Draw, Widths, width_policy


@width_policy(draws_unlisted=False)
def listed(listed: Widths) -> Draw:
    """These widths at every step, in this order (Yu et al., arXiv 1812.08928).

    Args:
        listed: the widest first.

    Raises:
        WidthError: if there is none.
    """
    if not listed:
        raise WidthError("training widths: the list is empty; name at least one width")
    widths = tuple(listed)

    def draw(generator: torch.Generator, progress: float = 0.0) -> Widths:
        return widths

    return draw
