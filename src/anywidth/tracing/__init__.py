"""From a model to its channel space: labels, rules, trace, space."""
