import pytest
import torch
from torch import nn

from anywidth.elastic import Elastic
from anywidth.errors import RecipeError, WidthError
from anywidth.search import Bayes, Budget, Evolve, Greedy, Random, closed_form, make_searcher
from anywidth.search.methods import needs_budget, takes


@pytest.fixture(scope="module")
def offered():
    net = Elastic(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)), torch.zeros(1, 4))
    budget = Budget(kind="macs", limits={"half": 96.0})
    return {
        "net": net, "budget": budget, "limit": [], "kind": "macs", "costs": closed_form(net, "macs"), "low": 0.25, "high": 1.0,
        "evals": None, "seed": 5, "batch": 2, "prior_points": 4, "steps": 6, "criterion": "error", "population": 8, "generations": 2,
    }  # fmt: skip


def test_what_a_method_takes_is_read_off_its_arguments():
    assert [needs_budget(m) for m in ("greedy", "evolve", "bayes", "random")] == [True, True, False, False]
    assert [takes(m, "evals") for m in ("greedy", "evolve", "bayes", "random")] == [False, True, True, True]
    assert [takes(m, "limit") for m in ("greedy", "evolve", "bayes", "random")] == [False, False, True, False]


def test_a_method_gets_what_it_names(offered):
    random = make_searcher("random", offered, {})
    assert isinstance(random, Random)
    assert (random.config.evals, random.config.batch, random.config.seed) == (1000, 20, 5)
    bayes = make_searcher("bayes", {**offered, "evals": 30}, {"tolerance": 0.1})
    assert isinstance(bayes, Bayes)
    assert (bayes.config.evals, bayes.config.history, bayes.config.tolerance) == (30, 200, 0.1)
    greedy = make_searcher("greedy", offered, {})
    assert isinstance(greedy, Greedy)
    assert greedy.criterion == "error"
    evolve = make_searcher("evolve", {**offered, "evals": 20}, {})
    assert isinstance(evolve, Evolve)
    assert (evolve.population, evolve.generations) == (8, 1)  # 20 widths: 8 at first, 8 once more


def test_options_and_names_that_do_not_exist_are_refused(offered):
    with pytest.raises(RecipeError, match="unknown option of the method of search 'random' 'evalz'"):
        make_searcher("random", offered, {"evalz": 3})
    with pytest.raises(RecipeError, match="unknown method of search 'luck'"):
        make_searcher("luck", offered, {})
    with pytest.raises(WidthError, match="--evals 1 is less than two widths for each of 1 limits"):
        make_searcher("evolve", {**offered, "evals": 1}, {})
