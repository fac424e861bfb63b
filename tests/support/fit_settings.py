"""A short training of small networks."""

from anywidth.train import FitConfig, sandwich

CONFIG = FitConfig(epochs=4, lr=0.05, warmup_epochs=1, log_every=2)
DRAW = sandwich(low=0.25, high=1.0, random=2)
