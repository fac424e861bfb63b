"""How much a heavy test does: `make test-full` sets ANYWIDTH_FULL."""

import os

FULL = os.environ.get("ANYWIDTH_FULL") == "1"
KILLS = 10 if FULL else 4
"""How often a command is killed before it may finish."""
SEEDS = 4 if FULL else 1
"""How many problems a search is tried on."""
SEQUENCES = 30 if FULL else 10
"""How many sequences of actions are tried on a network and its views."""
THREADS_SECONDS = 6 if FULL else 3
"""How long threads use one network at the same time."""
