"""Which widths a step trains. One file a policy; `Draw` says what a policy is."""

import inspect
from collections.abc import Mapping
from typing import Any

from anywidth.elastic import Elastic
from anywidth.errors import RecipeError, WidthError
from anywidth.import_path import call_with, find
from anywidth.train.policies.draw import Adaptive, Draw, WidthPolicy, Widths, as_policy, width_policy
from anywidth.train.policies.joslim import Drawn, Joslim, Proposer
from anywidth.train.policies.listed import listed
from anywidth.train.policies.listed_sandwich import listed_sandwich
from anywidth.train.policies.min_max import min_max
from anywidth.train.policies.progressive import progressive
from anywidth.train.policies.random_only import random_only
from anywidth.train.policies.sandwich import sandwich

POLICIES: dict[str, WidthPolicy] = {
    "listed": listed,
    "listed_sandwich": listed_sandwich,
    "sandwich": sandwich,
    "random": random_only,
    "min_max": min_max,
    "progressive": progressive,
    "joslim": WidthPolicy(make=Joslim, searches=True),
}


def policy_of(name: str) -> WidthPolicy:
    """The policy behind the name that a recipe gives it: one of ours, or the user's own as "package.module:function".

    Raises:
        RecipeError: no such policy, module or function.
    """
    return as_policy(find("width policy", name, POLICIES))


def make_draw(
    name: str,
    net: Elastic,
    *,
    low: float,
    high: float,
    random: int,
    grid: float | None = None,
    per_group: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Draw:
    """The policy that a recipe names, over the listed widths and the channel space of `net`.

    Raises:
        RecipeError: unknown name or option.
        WidthError: impossible widths, or ratios that a label of another width hides.
    """
    policy = policy_of(name)
    widest_first = sorted(net.widths, key=lambda label: -net.macs(net.widths[label]))
    offered = {"listed": widest_first, "low": low, "high": high, "random": random, "grid": grid}
    offered |= {"per_group": per_group, "space": net.space}
    offered |= {"named": {label: net.widths[label] for label in widest_first}}
    # A key that has no effect is refused: a recipe says what was done.
    for key, value in (("grid", grid), ("per_group", per_group)):
        if value and key not in inspect.signature(policy).parameters:
            raise RecipeError(
                f"widths.{key} = {value!r}: the width policy {name!r} does not take it; leave it out"
            )
    if policy.draws_unlisted:
        check_ratios(net, (low, high))
    return call_with("width policy", name, policy, offered, options or {})


def check_ratios(net: Elastic, ratios: tuple[float, ...]) -> None:
    """Refuse ratios that a policy trains by their number where a label of another width hides them.

    Raises:
        WidthError: with the label.
    """
    for ratio in ratios:
        # widths.listed = {0.5: [16, 40, ...]} gives the name 0.5 to other channels than the ratio 0.5 has.
        if ratio in net.widths and net.widths[ratio] != net.space.uniform(ratio):
            raise WidthError(
                f"the label {ratio} of the listed widths is not the ratio {ratio}; train listed widths "
                "(widths.policy = 'listed' or 'listed_sandwich'), or give them other labels"
            )


def declared(name: str) -> WidthPolicy:
    """As `policy_of`, for what only reads a recipe: a policy that cannot be imported here may train any width."""
    try:
        return policy_of(name)
    except RecipeError:
        if ":" not in name:
            raise
        return WidthPolicy(make=listed.make)


__all__ = [
    "POLICIES",
    "Adaptive",
    "Draw",
    "Drawn",
    "Joslim",
    "Proposer",
    "WidthPolicy",
    "Widths",
    "as_policy",
    "check_ratios",
    "declared",
    "listed",
    "listed_sandwich",
    "make_draw",
    "min_max",
    "policy_of",
    "progressive",
    "random_only",
    "sandwich",
    "width_policy",
]
