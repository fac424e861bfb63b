"""Networks are traced in several threads at once, beside others that run and train, with the same result as alone."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import nn

from anywidth import Elastic
from oracles import rand, randomized


def convolutions(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(), nn.Conv2d(width, 6, 1), nn.Flatten(),
        nn.Linear(6 * 16, width), nn.ReLU(), nn.Linear(width, 2),
    )  # fmt: skip


def attention(width: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, width, batch_first=True)
    return nn.Sequential(nn.Linear(4, 16), layer, nn.Linear(16, 2))


def build(number: int) -> str:
    model, example = (
        (convolutions(8 + number % 3), rand(1, 3, 6, 6))
        if number % 2
        else (attention(24 + number % 3), rand(1, 5, 4))
    )
    return Elastic(model.double(), example).space.to_json()


def test_fifty_networks_in_four_threads():
    expected = {n: build(n) for n in range(6)}  # six kinds: 2 networks x 3 widths
    flash, gradients = torch.backends.cuda.flash_sdp_enabled(), torch.is_grad_enabled()
    finished, failures = threading.Event(), []

    def beside(work) -> None:
        try:
            while not finished.wait(0.005):
                work()
        except Exception as error:
            failures.append(error)

    runner, students = randomized(attention(24)).eval(), [randomized(convolutions(8)) for _ in range(2)]
    output = runner(rand(1, 5, 4))

    def run() -> None:
        torch.testing.assert_close(runner(rand(1, 5, 4)), output)

    def train(student: nn.Module) -> None:
        student.zero_grad()
        student(rand(2, 3, 6, 6)).square().mean().backward()
        assert all(p.grad is not None for p in student.parameters())

    work = [run, run, *(partial(train, student) for student in students)]
    others = [threading.Thread(target=beside, args=(w,)) for w in work]
    for thread in others:
        thread.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            spaces = list(pool.map(build, range(50)))
    finally:
        finished.set()
        for thread in others:
            thread.join()
    assert failures == []
    assert spaces == [expected[n % 6] for n in range(50)]
    assert torch.backends.cuda.flash_sdp_enabled() == flash
    assert torch.is_grad_enabled() == gradients
