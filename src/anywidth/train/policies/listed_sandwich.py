"""The sandwich rule over listed widths: dynamic slimmable networks."""

from collections.abc import Hashable, Mapping

import torch

from anywidth.errors import WidthError, unknown_name
from anywidth.space.width import Width
from anywidth.train.policies.draw import Draw, Widths, width_policy


@width_policy(draws_unlisted=False)
def listed_sandwich(
    *,
    named: Mapping[Hashable, Width],
    random: int = 2,
    widest: Hashable = None,
    narrowest: Hashable = None,
) -> Draw:
    """At each step the widest listed width, some random ones of the others, and the narrowest.

    Random widths are drawn independently, each width equally often however many labels it has.

    Args:
        named: label -> width, the widest first.
        random: how many widths are drawn.
        widest, narrowest: labels of the ends; by default the first and the last.

    Raises:
        WidthError: random < 0, a label that is not listed, or no other width to draw from.

    Source: Li et al., arXiv 2103.13258; as published, the last width of a step is the narrowest.
    """
    top, low = (
        end if end is not None else list(named)[position] for end, position in ((widest, 0), (narrowest, -1))
    )
    for end in (top, low):
        if end not in named:
            raise WidthError(unknown_name("width label", end, map(str, named)) + "; widths.listed names them")
    # Two labels of one width count once; reversed, so that the first label stays.
    labels = {width: label for label, width in reversed(list(named.items()))}
    intermediate = [labels[w] for w in dict.fromkeys(named.values()) if w not in (named[top], named[low])]
    if random < 0 or named[top] == named[low] or (random and not intermediate):
        raise WidthError(
            f"listed sandwich: expected random >= 0, two different ends, and listed widths between them to draw from; got "
            f"random={random}, the ends {top!r} and {low!r}, and {len(intermediate)} others"
        )

    def draw(generator: torch.Generator, progress: float = 0.0) -> Widths:
        if not random:
            return (top, low)
        indices = torch.randint(len(intermediate), (random,), generator=generator).tolist()
        return (top, *(intermediate[i] for i in indices), low)

    return draw
