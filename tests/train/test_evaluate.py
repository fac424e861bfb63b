import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from anywidth.errors import StatisticsError
from anywidth.train import evaluate


def test_equals_a_count_over_the_extracted_network(new_net, images):
    net = new_net()
    net.calibrate([images.tensors[:1]], widths=[0.5], batches=1)
    x, labels = images.tensors
    logits = net.extract(0.5).eval().double()(x.double())
    (score,) = evaluate(net, DataLoader(images, batch_size=20), [0.5])
    assert score.images == 48
    assert (
        score.accuracy
        == sum(int(row.argmax()) == y for row, y in zip(logits, labels.tolist(), strict=True)) / 48
    )
    assert score.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_keeps_its_mode_and_statistics(new_net, images, training):
    net = new_net()
    net.calibrate([images.tensors[:1]], widths=[0.5], batches=1)
    net.train(training)
    before = {key: value.clone() for key, value in net.norm_state().items()}
    evaluate(net, DataLoader(images, batch_size=20), [0.5])
    assert net.training is training
    assert all(torch.equal(before[key], value) for key, value in net.norm_state().items())


def test_a_width_without_statistics_is_refused(new_net, images):
    with pytest.raises(StatisticsError):
        evaluate(new_net(), DataLoader(images, batch_size=20), [0.5])


def test_an_empty_loader_is_refused(new_net, images):
    net = new_net()
    net.calibrate([images.tensors[:1]], widths=[0.5], batches=1)
    with pytest.raises(ValueError, match="the loader yields no images"):
        evaluate(net, [], [0.5])
