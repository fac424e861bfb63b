"""Searching for the best widths under a budget."""

from anywidth.cost.budget import Budget, ClosedForm, Costs, check, closed_form, largest_uniform, parse
from anywidth.search.acquisition import Acquisition
from anywidth.search.bayes import Bayes
from anywidth.search.bayes_config import BayesConfig, Sampling
from anywidth.search.driver import Round, Searcher, run_search
from anywidth.search.evolve import Evolve
from anywidth.search.front import Front, Member, named, read_front, undominated, write_front
from anywidth.search.front_quality import area_under, hypervolume
from anywidth.search.greedy import Greedy
from anywidth.search.history import Trial
from anywidth.search.latency import measured, remembered
from anywidth.search.methods import METHODS, make_searcher, method_of
from anywidth.search.processes import Together, shared
from anywidth.search.random_widths import Random, RandomConfig
from anywidth.search.trial_front import front_of_trials

__all__ = [
    "METHODS",
    "Acquisition",
    "Bayes",
    "BayesConfig",
    "Budget",
    "ClosedForm",
    "Costs",
    "Evolve",
    "Front",
    "Greedy",
    "Member",
    "Random",
    "RandomConfig",
    "Round",
    "Sampling",
    "Searcher",
    "Together",
    "Trial",
    "area_under",
    "check",
    "closed_form",
    "front_of_trials",
    "hypervolume",
    "largest_uniform",
    "make_searcher",
    "measured",
    "method_of",
    "named",
    "parse",
    "read_front",
    "remembered",
    "run_search",
    "shared",
    "undominated",
    "write_front",
]
