import os

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing downloads in tests

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "anywidth", deadline=None, derandomize=True, max_examples=30, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("anywidth")


@pytest.fixture(autouse=True)
def _deterministic():
    """One thread and a fixed seed: small networks gain nothing from a second thread, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
