import shutil

import pytest

from anywidth import workflows
from anywidth.errors import RecipeError
from anywidth.workflows.classification import ClassificationTask


def test_a_run_directory_knows_its_task(run):
    directory = workflows.open_run_directory(str(run))
    assert directory.path == run
    assert isinstance(directory.task, ClassificationTask)
    open_run = directory.task.open(directory.path)
    net = directory.task.saved_net(open_run)
    assert list(net.widths) == ["S", "M", "L", "XL"]


def test_an_unfinished_run(run, tmp_path):
    (run / "results.json").unlink()
    with pytest.raises(RecipeError, match=r"has no results.json: the training is not finished"):
        workflows.open_run_directory(run)
    shutil.rmtree(run)
    with pytest.raises(RecipeError, match=r"has no recipe.yaml: it is not a run directory"):
        workflows.report(run)


def test_the_network_of_a_run(run):
    net = workflows.saved_net(run)
    assert list(net.widths) == ["S", "M", "L", "XL"]
    assert net.example().shape[1:] == (1, 8, 8)
    assert all(net.has_statistics(label) for label in net.widths)
