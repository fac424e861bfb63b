import pytest
import torch
from torch import nn

from anywidth.errors import RecipeError
from anywidth.models import SmallResNet
from anywidth.train.optim import optimizer as new_optimizer
from anywidth.train.schedule import set_lr_

OPTIONS = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}


def decays(net: nn.Module) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = new_optimizer(net, **OPTIONS).param_groups
    return {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}


def test_only_linear_and_ordinary_convolution_weights_decay():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.GroupNorm(2, 8),
        nn.Linear(8, 4),
    )
    found = decays(net)
    assert {name for name, decay in found.items() if decay} == {"0.weight", "3.weight", "5.weight"}
    assert found.keys() == dict(net.named_parameters()).keys()


def test_the_stem_of_a_one_channel_image_is_no_depthwise_convolution():
    assert decays(SmallResNet(in_channels=1))["conv.weight"] == 0.01


def test_frozen_parameters_are_left_out():
    net = nn.Linear(2, 2)
    net.weight.requires_grad_(False)
    assert decays(net) == {"bias": 0.0}


def test_two_steps_equal_the_formula_of_nesterov_sgd():
    torch.manual_seed(0)
    net = nn.Linear(3, 2).double()
    weight, bias = net.weight.detach().clone(), net.bias.detach().clone()
    optimizer = new_optimizer(net, **OPTIONS)
    velocity, bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)
    for lr in (0.1, 0.02):
        gradient, bias_gradient = torch.randn_like(weight), torch.randn_like(bias)
        net.weight.grad, net.bias.grad = gradient.clone(), bias_gradient.clone()
        set_lr_(optimizer, lr)
        optimizer.step()
        gradient = gradient + 0.01 * weight
        velocity = 0.9 * velocity + gradient
        bias_velocity = 0.9 * bias_velocity + bias_gradient
        weight = weight - lr * (gradient + 0.9 * velocity)
        bias = bias - lr * (bias_gradient + 0.9 * bias_velocity)
    torch.testing.assert_close(net.weight.detach(), weight)
    torch.testing.assert_close(net.bias.detach(), bias)


@pytest.mark.parametrize("name", ["torch:SparseAdam", "torch:LBFGS"])
def test_optimisers_that_cannot_take_such_a_step_are_refused(name):
    with pytest.raises(RecipeError, match="cannot train here"):
        new_optimizer(nn.Linear(2, 2), name, lr=0.1, weight_decay=0.0)
