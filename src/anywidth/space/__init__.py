"""Pure data about channels: groups, widths, axes, and spaces made of other spaces."""
