import re

import torch
from torch import nn

from anywidth import Elastic


def mlp(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


def test_the_text_of_a_space_says_groups_and_reasons():
    text = str(Elastic(mlp(), torch.randn(4, 3)).space)
    assert re.search(r"^group +units +x channels +divisor +written by +read by$", text, re.MULTILINE)
    assert re.search(r"^0 +8 +1 +1 +0 +2$", text, re.MULTILINE)
    assert "frozen:" in text
