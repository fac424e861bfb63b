"""Batch norm at every width: its bank, calibration, constant norms, channel selection, synchronisation."""
