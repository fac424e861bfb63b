from anywidth.cost.budget import closed_form
from anywidth.search import Random, run_search
from known_fronts import Problem


def test_random_search_asks_what_it_was_told(chain):
    random = Random(chain, evals=30, batch=7, low=0.4, seed=2)
    front = run_search(random, Problem(0).errors, closed_form(chain, "macs"))
    assert len({t.width.kept for t in random.trials}) == 30
    assert min(min(t.width.kept) for t in random.trials) >= chain.space.uniform(0.4).kept[0]
    assert [m.error for m in front.members] == sorted((m.error for m in front.members), reverse=True)
