import math

import pytest

from anywidth.gating import GateConfig


@pytest.mark.parametrize(
    "options",
    [{"method": "luck"}, {"epochs": 0}, {"lr": 0}, {"lr": math.inf}, {"hard": "x"}, {"temperature": 0}, {"target": -1.0}],
)  # fmt: skip
def test_settings_that_cannot_be(options):
    with pytest.raises(ValueError, match=f"gate.{next(iter(options))}"):
        GateConfig(**options)
