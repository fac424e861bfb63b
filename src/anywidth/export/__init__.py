"""Stand-alone files of one width, one function for each format: weights, a torch program, ONNX."""

from anywidth.export.formats import ExportError, export_onnx, export_program, export_weights

__all__ = ["ExportError", "export_onnx", "export_program", "export_weights"]
