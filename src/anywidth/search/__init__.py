"""Searching for the best widths under a budget."""

from anywidth.search.budget import Budget, check, closed_form, costs_of, largest_uniform, measured, parse
from anywidth.search.driver import Round, Searcher, Together, run_search
from anywidth.search.evolve import Evolve
from anywidth.search.front import Front, Member, named, read_front, undominated, write_front
from anywidth.search.greedy import Greedy

__all__ = [
    "Budget",
    "Evolve",
    "Front",
    "Greedy",
    "Member",
    "Round",
    "Searcher",
    "Together",
    "check",
    "closed_form",
    "costs_of",
    "largest_uniform",
    "measured",
    "named",
    "parse",
    "read_front",
    "run_search",
    "undominated",
    "write_front",
]
