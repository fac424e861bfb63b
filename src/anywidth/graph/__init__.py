"""A network as a graph of parts: cut in two, shared by widths, without what pruning emptied."""
