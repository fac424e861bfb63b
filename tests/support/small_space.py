"""A space of three groups, and its widths."""

from hypothesis import strategies as st

from anywidth import ChannelGroup, ChannelSpace, Width


def group(name: str, size: int, *, unit: int = 1, divisor: int = 1, minimum: int = 1) -> ChannelGroup:
    return ChannelGroup(
        name=name,
        size=size,
        unit=unit,
        divisor=divisor,
        minimum=minimum,
        permutable=True,
        writers=(name,),
        readers=(),
    )


SPACE = ChannelSpace(
    groups=(group("stem", 8), group("block.up", 16), group("block.heads", 4, unit=6)), axes={}
)


widths = st.tuples(st.integers(1, 8), st.integers(1, 16), st.integers(1, 4)).map(
    lambda k: Width(names=SPACE.names, kept=k)
)


chosen = st.sets(st.integers(0, 7), min_size=1).map(lambda u: SPACE.width({"stem": sorted(u)}))
