"""What a width costs: multiply-adds and parameters in closed form, latency measured, budgets."""

from anywidth.cost.budget import Budget, Costs, closed_form, largest_uniform, parse

__all__ = ["Budget", "Costs", "closed_form", "largest_uniform", "parse"]
