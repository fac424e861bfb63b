import pytest
import torch

from anywidth.data import CocoConfig, coco_eval_batches, coco_set, coco_train_batches
from anywidth.data.coco_batches import grouped
from anywidth.errors import DataError
from coco_images import make_coco


@pytest.fixture
def root(tmp_path):
    return make_coco(tmp_path / "coco", train=14, val=5)  # 13 images to train on: 9 wide, 4 tall


def config_of(root, **values) -> CocoConfig:
    return CocoConfig(**{"root": str(root), "batch_size": 4, **values})


def batches(root, config=None, part="train", *, seed=0, epoch=0, **share):
    config = config or config_of(root)
    return list(coco_train_batches(coco_set(config, part), config, seed=seed, epoch=epoch, **share))


def ids(found) -> list[list[int]]:
    return [[target["image_id"] for target in targets] for _, targets in found]


def same(a, b) -> bool:
    return ids(a) == ids(b) and all(
        torch.equal(x, y) and torch.equal(t["boxes"], u["boxes"])
        for (xs, ts), (ys, us) in zip(a, b, strict=True)
        for x, y, t, u in zip(xs, ys, ts, us, strict=True)
    )


def test_batches_are_lists_and_a_function_of_seed_and_epoch(root):
    torch.manual_seed(5)
    first = batches(root)
    torch.rand(3)
    assert [(len(images), len(targets)) for images, targets in first] == [(4, 4)] * 3
    assert same(first, batches(root))
    assert not same(first, batches(root, seed=1))
    assert not same(first, batches(root, epoch=1))
    seen = [id for batch in ids(first) for id in batch]
    assert len(seen) == len(set(seen)) == 12  # of 13, each once


def test_every_image_has_its_turn(root):
    seen = {id for epoch in range(20) for batch in ids(batches(root, epoch=epoch)) for id in batch}
    assert seen == {1, 2, 3, *range(5, 15)}


def test_an_image_is_flipped_in_some_epochs(root):
    config = config_of(root, batch_size=13)  # every image in every epoch
    pictures = [
        image
        for epoch in range(12)
        for images, targets in batches(root, config, epoch=epoch)
        for image, target in zip(images, targets, strict=True)
        if target["image_id"] == 5
    ]
    flips = [not torch.equal(image, pictures[0]) for image in pictures]
    assert len(flips) == 12
    assert 0 < sum(flips) < 12


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("images", "batch"), [(57, 8), (16, 8), (40, 1), (9, 9), (100, 7)])
def test_groups(images, batch, seed):
    draws = torch.Generator().manual_seed(seed)
    wide = torch.rand(images, generator=draws) < 0.7
    order = grouped(wide, batch, draws)
    assert order.shape == (images // batch, batch)
    assert len(order.unique()) == order.numel()
    mixed = [row for row in wide[order] if row.any() and not row.all()]
    assert len(mixed) <= 1
    for row in mixed:
        assert (row[1:] >= row[:-1]).all()  # tall ones first
    again = grouped(wide, batch, torch.Generator().manual_seed(seed + 1000))
    assert batch == images or not torch.equal(order, again)


def test_batches_of_one_aspect_come_in_any_order():
    wide = torch.arange(400) < 200
    kinds = wide[grouped(wide, 10, torch.Generator().manual_seed(0))].float().mean(1)
    assert kinds.unique().tolist() == [0.0, 1.0]
    assert 8 < kinds[:20].sum() < 12  # not all of one kind at first; the seed is fixed


def test_shares_and_micro_batches_are_parts_of_the_batch(root):
    whole = batches(root, epoch=3)
    parts = [batches(root, epoch=3, rank=rank, world=2, micro=2) for rank in range(2)]
    assert [len(part) for part in parts] == [6, 6]
    for k, (images, targets) in enumerate(whole):
        shares = [parts[rank][2 * k + m] for rank in range(2) for m in range(2)]
        joined = tuple([item for share in shares for item in share[part]] for part in range(2))
        assert same([joined], [(images, targets)])


def test_going_on_within_an_epoch_reads_nothing_before(root, monkeypatch):
    whole = batches(root, rank=1, world=2)
    config = config_of(root)
    images = coco_set(config, "train")
    read = []
    item = images.item
    monkeypatch.setattr(images, "item", lambda position: read.append(position) or item(position))
    rest = list(coco_train_batches(images, config, seed=0, epoch=0, rank=1, world=2, first=2))
    assert same(rest, whole[2:])
    assert len(read) == 2


def test_images_are_the_same_with_reading_processes(root):
    assert same(batches(root), batches(root, config_of(root, workers=2)))


def test_every_image_is_tested_once(root):
    config = config_of(root, eval_batch_size=2)
    images = coco_set(config, "val")
    shares = [list(coco_eval_batches(images, config, rank=rank, world=2)) for rank in range(2)]
    assert [ids(share) for share in shares] == [[[101, 103], [105]], [[102, 104]]]


def test_batches_that_cannot_be_shared_or_filled(root):
    with pytest.raises(
        DataError, match="batch_size = 4: cannot be shared evenly by 3 processes with 1 micro"
    ):
        batches(root, world=3)
    with pytest.raises(
        DataError, match=r"batch_size = 4: .* 2 processes with 4 micro-batches .* multiple of 8"
    ):
        batches(root, world=2, micro=4)
    with pytest.raises(DataError, match="13 training images do not fill one batch of 14"):
        batches(root, config_of(root, batch_size=14))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_ends_the_epoch_with_its_name(root, workers):
    (root / "train2017" / "000000000001.png").write_bytes(b"no")
    config = config_of(root, workers=workers, batch_size=13)
    with pytest.raises(DataError, match=r"000000000001.png \(image id 1 in .*cannot be read"):
        batches(root, config)
