"""Gates that choose a width for each input, and inference that computes only what they chose."""

from anywidth.gating.config import GateConfig
from anywidth.gating.config import Method as GateMethod
from anywidth.gating.gate import Gate, gate_of, new_gates
from anywidth.gating.losses import Hard, wanted
from anywidth.gating.net import DynamicNet, Routed
from anywidth.gating.routes import Route, Routes
from anywidth.gating.saved import read_gates, write_gates
from anywidth.gating.target import bias_for, check_target, costs_of, set_bias_
from anywidth.gating.train import Step, answers, gate_loss, meet_, train_gates
from anywidth.gating.tree import chosen, walk
from anywidth.graph.partition import Cut

__all__ = [
    "Cut",
    "DynamicNet",
    "Gate",
    "GateConfig",
    "GateMethod",
    "Hard",
    "Route",
    "Routed",
    "Routes",
    "Step",
    "answers",
    "bias_for",
    "check_target",
    "chosen",
    "costs_of",
    "gate_loss",
    "gate_of",
    "meet_",
    "new_gates",
    "read_gates",
    "set_bias_",
    "train_gates",
    "walk",
    "wanted",
    "write_gates",
]
