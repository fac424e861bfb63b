"""Several processes (gloo) behind a wrapper, each with its share of every batch, find the weights that one finds without."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import anywidth as aw
import wrappers
from processes import run
from wrappers import CASES, classifier, reference

SCRIPT = wrappers.__file__


def weights(directory: Path, name: str, world: int) -> list[dict[str, torch.Tensor]]:
    """Of every process."""
    return [torch.load(directory / f"{name}-{world}-{rank}.pt", weights_only=True) for rank in range(world)]


def assert_weights_of_one(name: str, processes: list[dict[str, torch.Tensor]]) -> None:
    expected = reference(name)
    for found in processes:
        assert found.keys() == expected.keys()
        for parameter, tensor in expected.items():
            assert torch.equal(found[parameter], processes[0][parameter]), (
                f"{parameter} differs between processes"
            )
            assert_close(found[parameter], tensor, rtol=0, atol=1e-9, msg=lambda m, n=parameter: f"{n}: {m}")


def test_several_processes_find_what_one_finds(tmp_path: Path, subtests: pytest.Subtests) -> None:
    run(SCRIPT, str(tmp_path))
    for name in CASES:
        with subtests.test(name):
            assert_weights_of_one(name, weights(tmp_path, name, 2))
    with subtests.test("four processes"):
        assert_weights_of_one("ddp-no_sync", weights(tmp_path, "ddp-no_sync", 4))
    with subtests.test("what is called past the wrapper is not synchronised"):
        first, second = weights(tmp_path, "past-ddp", 2)
        assert not any(torch.equal(first[n], second[n]) for n in first)


def test_the_reference_trains_every_parameter() -> None:
    """Else two processes could agree about nothing."""
    torch.manual_seed(0)
    start = dict(CASES["ddp-no_sync"].build().named_parameters())
    trained = reference("ddp-no_sync")
    assert all((trained[n] - p).abs().max() > 1e-4 for n, p in start.items())


def test_the_trainer_takes_the_network_itself(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    net: aw.Elastic = classifier()
    before = {n: p.clone() for n, p in net.named_parameters()}
    images = [{"pixel_values": torch.randn(3, 8, 8, dtype=torch.float64), "labels": i % 3} for i in range(4)]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True
    )
    Trainer(net, arguments, train_dataset=images).train()
    assert not any(torch.equal(before[n], p) for n, p in net.named_parameters())
