import pytest
import torch

from anywidth import recipe as recipes
from anywidth.errors import RecipeError
from anywidth.workflows.classifier_network import saved_classifier
from anywidth.workflows.classifier_run import example_image, open_classifier
from anywidth.workflows.run_directory import finished_classifier


@pytest.fixture
def open_run(run):
    return finished_classifier(run)


def test_the_batches_of_an_epoch_are_those_of_its_seed_and_go_on_after_steps(open_run):
    whole, later, other = (list(open_run.train_batches(*at)) for at in ((0, 0), (0, 2), (1, 0)))
    assert len(later) == len(whole) - 2
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(whole[2:], later, strict=True))
    assert not torch.equal(whole[0][0], other[0][0])


def test_accuracies_leave_mode_and_statistics_as_they_were(open_run):
    net = saved_classifier(open_run).train()
    before = {name: t.clone() for name, t in net.norm_state().items()}
    accuracies = open_run.accuracies(net)
    assert list(accuracies) == ["S", "M", "L", "XL"]
    assert all(0 < accuracy <= 1 for accuracy in accuracies.values())
    assert net.training
    assert all(torch.equal(t, before[name]) for name, t in net.norm_state().items())


def test_calibration_takes_the_same_images_each_time(open_run):
    net, states = saved_classifier(open_run), []
    for _ in range(2):
        open_run.calibrate_(net, [0.4], batches=2)
        states.append({name: t.clone() for name, t in net.norm_state().items()})
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(t, states[1][name]) for name, t in states[0].items())


def test_rows_have_what_was_measured_and_what_it_costs(open_run, training):
    net = saved_classifier(open_run)
    small, half = open_run.results(net, ["S", 1.0], listed=["S"])
    expected = training[0].rows[0]
    assert {key: small[key] for key in ("width", "accuracy", "macs", "params", "images")} == {
        key: expected[key] for key in ("width", "accuracy", "macs", "params", "images")
    }
    assert (small["listed"], half["listed"], half["width"]) == (True, False, 1.0)
    assert (half["macs_share"], half["error"]) == (1.0, 1 - half["accuracy"])
    assert small["channels"]["stages.2.0.conv1"] == 8


def test_an_example_is_one_image(open_run):
    assert example_image(open_run).shape == (1, 1, 8, 8)
    first, _ = next(iter(open_run.eval_batches()))
    assert torch.equal(example_image(open_run), first[:1])


def test_a_gpu_that_is_not_there_is_refused(recipe, overrides, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_gpu = recipes.load(recipe, (*overrides, "device=cuda"))
    with pytest.raises(RecipeError, match="torch sees no GPU"):
        open_classifier(tmp_path, on_gpu)
