"""Searching for the best widths under a budget."""

from anywidth.budget import Budget, Costs, check, closed_form, largest_uniform, parse
from anywidth.search.driver import Round, Searcher, run_search
from anywidth.search.evolve import Evolve
from anywidth.search.front import Front, Member, named, read_front, undominated, write_front
from anywidth.search.greedy import Greedy
from anywidth.search.latency import measured, remembered
from anywidth.search.together import Together

__all__ = [
    "Budget",
    "Costs",
    "Evolve",
    "Front",
    "Greedy",
    "Member",
    "Round",
    "Searcher",
    "Together",
    "check",
    "closed_form",
    "largest_uniform",
    "measured",
    "named",
    "parse",
    "read_front",
    "remembered",
    "run_search",
    "undominated",
    "write_front",
]
