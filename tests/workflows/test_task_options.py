from dataclasses import FrozenInstanceError

import pytest

from anywidth.workflows.task_options import EvaluationOptions, ExportOptions


def test_options_stay_and_ask_for_nothing_by_default():
    evaluation, export = EvaluationOptions(), ExportOptions()
    assert (evaluation.widths, evaluation.front, evaluation.latency) == (None, None, False)
    assert (export.width, export.front, export.targets) == (None, None, ())
    with pytest.raises(FrozenInstanceError):
        export.width = 0.5
