"""Batch norm at every width: its bank, calibration, constant norms, selection of a stream."""
