import json

import pytest

from anywidth import workflows
from anywidth.errors import WidthError


def test_gates_are_measured_beside_static_widths(run, training, recorder):
    result = workflows.gate(run, target="50%", reporter=recorder)
    assert result.results == json.loads((run / "gate.json").read_text())
    assert [row["accuracy"] for row in result.results["static"]] == [
        row["accuracy"] for row in training[0].rows
    ]
    assert sum(result.results["gate"]["routes"][0]) == result.results["images"]
    assert result.picture.stat().st_size > 10_000
    assert recorder.messages


def test_a_target_that_is_none(run):
    with pytest.raises(WidthError, match="expected a share like 60%"):
        workflows.gate(run, target="many")
    assert not (run / "gates.safetensors").exists()
