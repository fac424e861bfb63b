import json

from anywidth import workflows


def test_both_curves_are_those_of_the_file(run):
    options = workflows.SearchOptions(method="random", evals=8, images=100, batch_size=50)
    workflows.search(run, options)
    comparison = workflows.compare_front(run)
    assert comparison is not None
    contents = json.loads((run / "pareto.json").read_text())
    assert comparison.curves == contents["curves"]
    assert comparison.quality == contents["quality"]
    assert list(comparison.between) == contents["between"]
    front, uniform = comparison.curves["front"], comparison.curves["uniform"]
    assert front[-1]["accuracy"] == uniform[-1]["accuracy"]  # both end with the widest
