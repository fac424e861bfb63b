"""What each verb of the command line does, from Python: a recipe or a run directory in, values out.

    summary = aw.workflows.train("recipes/digits.yaml", run="runs/x", overrides=["train.epochs=1"])
    aw.workflows.evaluate("runs/x", widths=[0.3, 1.0]).rows

Nothing is printed; a `Reporter` is told what is done.
"""

from anywidth.workflows.calibrating import Calibration, calibrate
from anywidth.workflows.evaluating import Evaluation, evaluate
from anywidth.workflows.exporting import ExportedWidth, export
from anywidth.workflows.front_comparison import FrontComparison, compare_front
from anywidth.workflows.gates import GateResult, gate
from anywidth.workflows.importing import ImportedNet, ImportOptions, import_checkpoint
from anywidth.workflows.packing import pack
from anywidth.workflows.profiling import Profile, profile
from anywidth.workflows.pruning import PruneOptions, Pruning, prune
from anywidth.workflows.reporter import SILENT, Reporter
from anywidth.workflows.reports import RunReport, report
from anywidth.workflows.run_directory import RunDirectory, open_run_directory, saved_net
from anywidth.workflows.search_options import SearchOptions
from anywidth.workflows.searching import SearchResult, search
from anywidth.workflows.tables import TextTable
from anywidth.workflows.training import TrainingSummary, train

__all__ = [
    "SILENT",
    "Calibration",
    "Evaluation",
    "ExportedWidth",
    "FrontComparison",
    "GateResult",
    "ImportOptions",
    "ImportedNet",
    "Profile",
    "PruneOptions",
    "Pruning",
    "Reporter",
    "RunDirectory",
    "RunReport",
    "SearchOptions",
    "SearchResult",
    "TextTable",
    "TrainingSummary",
    "calibrate",
    "compare_front",
    "evaluate",
    "export",
    "gate",
    "import_checkpoint",
    "open_run_directory",
    "pack",
    "profile",
    "prune",
    "report",
    "saved_net",
    "search",
    "train",
]
