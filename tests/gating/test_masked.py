import pytest
import torch
import torchvision
from torch.nn import functional as F

from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.gating import Cut, GateConfig, Routes, gate_loss, train_gates
from anywidth.gating.masked import Masked, straight_through
from anywidth.graph.partition import split
from gates import gates_of


def test_masked_sliced_and_extracted_agree(case):
    masked = Masked(case.routes)
    _, *values = masked.first(case.images)
    routes = torch.arange(24) % 4
    mixed = masked(values, F.one_hot(routes, 4).double())
    for k in range(4):
        own = F.one_hot(torch.full((24,), k), 4).double()
        static = case.net.extract(k).eval()(case.images)
        torch.testing.assert_close(masked(values, own), static, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(case.net.at(k)(case.images), static, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(mixed[routes == k], static[routes == k], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("double", [False, True])
def test_a_published_step_is_that_of_an_oracle(case, double):
    """The gradient through masks, by finite differences of the masks' continuous values at the drawn choice."""
    config = GateConfig(method="gumbel", cost=0.5, double_softmax=double)
    gates = gates_of(case)
    loss, _ = gate_loss(
        case.routes, list(gates), case.images, case.labels, config, noise=torch.Generator().manual_seed(3)
    )
    loss.backward()
    trunk = split(case.net.extract(0).eval(), case.routes.gates)[0].module
    feature, *values = (v.detach() for v in trunk(case.images))
    weight = gates[0].weight.detach().clone().requires_grad_()
    logits = feature.flatten(1) @ weight.T + gates[0].bias
    noise = torch.empty_like(logits).exponential_(generator=torch.Generator().manual_seed(3))
    soft = (logits - noise.log()).softmax(1)
    hard = F.one_hot(soft.argmax(1), 4).double()
    masked = Masked(case.routes)

    def answer(choice):
        out = masked(values, choice)
        logp = out.log_softmax(1)
        return -(0.9 * logp[range(24), case.labels] + 0.1 * logp.mean(1)).mean()

    slopes = torch.zeros_like(hard)
    for i in range(0, 24, 7):
        for k in range(4):
            step = torch.zeros_like(hard)
            step[i, k] = 1e-7
            slopes[i, k] = (answer(hard + step) - answer(hard - step)).detach() / 2e-7
    rows = list(range(0, 24, 7))
    through = hard.clone().requires_grad_()
    answer(through).backward()
    torch.testing.assert_close(through.grad[rows], slopes[rows], rtol=1e-4, atol=1e-6)
    easy = case.net.extract(0).eval()(case.images).argmax(1) == case.labels
    target = torch.where(easy, 0, 3)
    shown = soft.log_softmax(1) if double else soft.log()
    guided = -(0.9 * shown[range(24), target] + 0.1 * shown.mean(1)).mean()
    costs = torch.tensor(
        [float(case.routes.macs((k,)) + weight.numel()) for k in range(4)], dtype=torch.float64
    )
    drawn = hard - soft.detach() + soft
    oracle = answer(drawn) + guided + 0.5 * ((drawn @ costs).mean() / 1e9) ** 2
    oracle.backward()
    assert loss.item() == pytest.approx(oracle.item(), rel=1e-10)
    torch.testing.assert_close(gates[0].weight.grad, weight.grad, rtol=1e-8, atol=1e-12)


def test_straight_through_draws_from_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20_000, 3)
    _, hard = straight_through(logits, noise=torch.Generator().manual_seed(0))
    torch.testing.assert_close(hard.mean(0), logits[0].softmax(0), rtol=0.05, atol=0.01)


def test_masks_that_do_not_fit_are_refused():
    """Batch norms after a concatenation have no prefix; a group convolution narrows each of its groups."""
    images, labels = torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.long)
    for model, cut, late in (
        (torchvision.models.densenet121(num_classes=5), "features.transition2", ("features.denseblock3*",)),
        (torchvision.models.resnext50_32x4d(num_classes=5), "layer3", ("layer4*",)),
    ):
        net = Elastic(model, torch.zeros(1, 3, 32, 32))
        widths = [net.space.width(dict.fromkeys(late, 0.5)), net.space.full]
        net.calibrate([images], widths=widths, batches=1)
        routes = Routes(net.eval(), [Cut(at=cut)], widths)
        with pytest.raises(WidthError, match="some layer mixes channels or does not keep the first ones"):
            train_gates(routes, lambda e: [(images, labels)], GateConfig(method="gumbel", epochs=1))
