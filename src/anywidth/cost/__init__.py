"""What a width costs: multiply-adds and parameters in closed form, latency measured, budgets."""
