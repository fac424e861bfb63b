import pytest

from anywidth import workflows
from anywidth.errors import RecipeError, WidthError
from anywidth.search import read_front
from anywidth.workflows import SearchOptions


def test_a_front_beside_uniform_widths(run):
    options = SearchOptions(budget="macs=60%,30%", steps=2, images=100, batch_size=50)
    result = workflows.search(run, options)
    assert result.front == read_front(run / "front.json")
    assert result.path == run / "front.json"
    assert [row["width"] for row in result.rows] == ["macs=30%", "macs=60%"]
    for row, member in zip(result.rows, result.front.members, strict=True):
        assert (row["macs"], row["quality"]) == (member.macs, member.error)
        assert row["macs_share"] <= float(row["width"].removeprefix("macs=").removesuffix("%")) / 100
        assert row["uniform_macs"] / row["macs"] * row["macs_share"] <= 0.6
    before = (run / "search.jsonl").read_text()
    assert workflows.search(run, options) == result  # from its log
    assert (run / "search.jsonl").read_text() == before


def test_options_of_another_method_are_refused(run):
    with pytest.raises(WidthError, match="--evals is for bayes, random and evolve"):
        workflows.search(run, SearchOptions(evals=10))
    with pytest.raises(RecipeError, match="unknown method of search 'luck'"):
        workflows.search(run, SearchOptions(method="luck"))
