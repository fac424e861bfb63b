import json

import pytest

from anywidth import workflows
from anywidth.errors import RecipeError
from anywidth.workflows import PruneOptions


def test_a_pruning_is_what_its_folder_says(run):
    pruning = workflows.prune(run, PruneOptions(ratio=0.4))
    assert pruning.folder == run / "pruned"
    description = json.loads((pruning.folder / "pruned.json").read_text())
    for key in ("macs", "params", "rows", "settings"):
        assert pruning.description[key] == description[key]
    networks = {row["network"]: row for row in pruning.rows}
    assert list(networks) == ["trained", "zeroed", "pruned", "folded"]
    assert networks["pruned"]["accuracy"] == networks["zeroed"]["accuracy"]
    assert networks["pruned"]["params"] < networks["zeroed"]["params"] == networks["trained"]["params"]
    assert [row["network"] for row in pruning.tables[0].rows] == list(networks)


def test_a_budget_and_another_folder(run, tmp_path):
    pruning = workflows.prune(run, PruneOptions(budget="macs=50%", criterion="l1"), out=tmp_path / "half")
    assert pruning.rows[2]["macs_share"] <= 0.5
    assert not (run / "pruned").exists()


def test_impossible_options(run):
    with pytest.raises(RecipeError, match=r"prune: ratio = 1.5"):
        workflows.prune(run, PruneOptions(ratio=1.5))
    with pytest.raises(RecipeError, match="says not how much"):
        workflows.prune(run)
