"""Stand-alone files of one width, one function for each format: weights, a torch program, ONNX."""

from anywidth.export.formats import ExportError, export_onnx, export_program, export_weights
from anywidth.export.targets import TARGETS, ExportTarget, export_as, export_target

__all__ = [
    "TARGETS",
    "ExportError",
    "ExportTarget",
    "export_as",
    "export_onnx",
    "export_program",
    "export_target",
    "export_weights",
]
