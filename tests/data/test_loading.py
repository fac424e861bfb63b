import pytest
import torch
from torch.utils.data import TensorDataset

from anywidth.data import loader

NUMBERS = TensorDataset(torch.arange(10), torch.arange(10))


def read(**options) -> list[list[int]]:
    return [x.tolist() for x, _ in loader(NUMBERS, **options)]


def test_without_a_generator_every_item_in_order():
    assert read(batch_size=4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_generator_fixes_the_order_and_batches_are_full():
    first = read(batch_size=4, generator=torch.Generator().manual_seed(0))
    again = read(batch_size=4, generator=torch.Generator().manual_seed(0))
    other = read(batch_size=4, generator=torch.Generator().manual_seed(1))
    assert first == again != other
    assert [len(batch) for batch in first] == [4, 4]
    assert len({item for batch in first for item in batch}) == 8


def test_the_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    read(batch_size=4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="10 training images do not fill one batch of 11"):
        loader(NUMBERS, batch_size=11, generator=torch.Generator())
