"""What averages gradients, in a process group of one."""

import copy

import pytest
import torch
import torch.distributed as dist

from anywidth.elastic import Elastic
from anywidth.models import SmallResNet
from anywidth.train.replicas import Replicas
from anywidth.train.sharding import ShardedNet
from anywidth.train.step import Pass, accumulate_

KINDS = {"replicas": Replicas, "shards": lambda net: ShardedNet(net, ["stages.*"])}


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_several_widths_are_those_without_a_wrapper(group, kind, capfd):
    torch.manual_seed(0)
    model = SmallResNet(num_classes=3, channels=(4, 8)).double()
    images, labels = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.arange(6) % 3
    expected = Elastic(model, images[:2], widths=[0.5, 1.0], norm="switchable").train()
    net = copy.deepcopy(expected)
    synchronisation = KINDS[kind](net)
    trained = getattr(synchronisation, "net", net)
    how = Pass(run=synchronisation.run, synchronised=synchronisation.synchronised)
    for _ in range(2):
        losses = accumulate_(trained, images, labels, (1.0, 0.5), how=how)
        synchronisation.finish_()
        torch.testing.assert_close(losses, accumulate_(expected, images, labels, (1.0, 0.5)))
        for (name, p), q in zip(expected.named_parameters(), trained.parameters(), strict=True):
            gradient = q.grad.full_tensor() if kind == "shards" and name.startswith("model.") else q.grad
            torch.testing.assert_close(gradient, p.grad, msg=lambda m, n=name: f"{n}: {m}")
    assert "find_unused_parameters" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_synchronises_no_pass(group, kind):
    net = Elastic(SmallResNet(num_classes=3, channels=(4, 8)), torch.zeros(2, 1, 8, 8)).train()
    synchronisation = KINDS[kind](net)
    trained = getattr(synchronisation, "net", net)
    for _ in range(2):
        with synchronisation.synchronised(False):
            synchronisation.run(lambda: trained.at(0.5)(torch.randn(2, 1, 8, 8))).sum().backward()
        with pytest.raises(RuntimeError, match=r"A task runs each width inside how\.synchronised\(last\)"):
            synchronisation.finish_()
        with synchronisation.synchronised(True):
            synchronisation.run(lambda: trained.at(0.5)(torch.randn(2, 1, 8, 8))).sum().backward()
        synchronisation.finish_()
