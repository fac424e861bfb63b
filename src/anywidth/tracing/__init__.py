"""From a model to its channel space: labels, rules, trace, space."""

from anywidth.tracing.rules import Rule, register_rule
from anywidth.tracing.trace_state import Walk

__all__ = ["Rule", "Walk", "register_rule"]
