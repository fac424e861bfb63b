"""An elastic network as a module whose forward takes the width: what runs inside it is what wrappers synchronise."""

from __future__ import annotations

from typing import Any

from torch import nn

from anywidth.elastic import Elastic


class AtWidth(nn.Module):
    """Runs an elastic network at the width that a call names.

    `DistributedDataParallel`, FSDP2, Lightning and Accelerate act around the forward of the module that they wrap. Wrap this one, and
    call it: `ddp(0.5, x)`. As with any module, what is called past the wrapper (`ddp.module.net.at(0.5)(x)`) is not synchronised.

    Args:
        net: the network; its parameters are this module's.
    """

    def __init__(self, net: Elastic) -> None:
        super().__init__()
        self.net = net

    def forward(self, width: Any, *args: Any, **kwargs: Any) -> Any:
        """The output of the network at a width.

        Args:
            width: a `Width`, a multiplier in (0, 1], or a label of `net.widths`.
            *args, **kwargs: of the model's forward.
        """
        return self.net.at(width)(*args, **kwargs)
