import numpy as np
import pytest
import torch

from anywidth.errors import CheckpointError, WidthError
from anywidth.interop.joslim import decode, history, new, read_pareto, write_pareto
from joslim_files import contents, save


def test_a_history(tmp_path):
    net = new("slim_resnet20")
    found, saved = history(save(tmp_path / "a.pt"), net), contents("slim_resnet20")
    assert [p.loss for p in found] == [1.0, 2.0, None, None]
    assert [p.macs for p in found] == [1000, 1001, 1002, 1003]
    assert [p.ratio for p in found] == [ratio for _, ratio in saved["Y"]]
    assert [p.vector for p in found] == [tuple(row) for row in saved["X"].tolist()]
    assert [p.width for p in found] == [decode(net, row) for row in saved["X"]]


def test_histories_that_are_not(tmp_path):
    net, saved, path = new("slim_resnet20"), contents("slim_resnet20"), tmp_path / "a.pt"
    torch.save(saved | {"X": None}, path)
    assert history(path, net) == []
    for changed, message in (
        ({"Y": saved["Y"][:2]}, "entries of different number: {'X': 4, 'Y': 2, 'population_data': 4}"),
        ({"X": saved["X"][0]}, r"expected an array of vectors, one per row, as 'X'; got \(12,\)"),
        ({"X": [[0.5] * 12]}, "as 'X'; got list"),
        (
            {"Y": [[1.0]] * 4},
            r"expected \[loss, ratio\] and a record with flops for each vector, got \[1.0\]",
        ),
        ({"population_data": [{}] * 4}, "a record with flops"),
    ):
        torch.save(saved | changed, path)
        with pytest.raises(CheckpointError, match=message):
            history(path, net)
    torch.save(saved["model_state_dict"], path)
    with pytest.raises(CheckpointError, match="holds no 'X' and no 'Y' and no 'population_data'"):
        history(path, net)
    torch.save(saved, path)
    with pytest.raises(WidthError, match="a vector of this JoslimCifarResNet has 18 entries, got 12"):
        history(path, new("slim_resnet32"))


ROWS = ([0.15635676338, 0.25523867591, 1.0], [45.5, 50.25, 60.0], [75.0, 80.125, 90.0])


def test_fronts(tmp_path):
    ours, theirs = tmp_path / "ours.txt", tmp_path / "theirs.txt"
    write_pareto(ours, *ROWS)
    np.savetxt(theirs, np.array(ROWS))
    assert ours.read_bytes() == theirs.read_bytes()
    found = read_pareto(theirs)
    assert (list(found.ratios), list(found.top1), list(found.top5)) == ROWS
    write_pareto(ours, [1.0], [60.0], [90.0])
    assert read_pareto(ours).top5 == (90.0,)


def test_fronts_that_are_not(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("", "1 2\n3 4\n", "1 2\n3 4\n5\n"):
        path.write_text(text)
        with pytest.raises(CheckpointError, match="expected three rows of equal length"):
            read_pareto(path)
    path.write_text("a b\n")
    with pytest.raises(CheckpointError, match="expected a text of three rows of numbers"):
        read_pareto(path)
    with pytest.raises(CheckpointError, match="expected a text of three rows of numbers"):
        read_pareto(tmp_path / "none.txt")
    for rows in (([1.0], [2.0], []), ([1.0], [2.0], [float("nan")])):
        with pytest.raises(ValueError, match="expected three rows of as many finite numbers"):
            write_pareto(path, *rows)
