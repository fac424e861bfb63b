import numpy as np
import pytest
import torch
from PIL import Image

from anywidth.data import Augment
from anywidth.data.transforms import CIFAR, IMAGENET, Lighting, eval_transform, train_transform
from anywidth.seeds import seeded


def image(width=60, height=50) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_testing_takes_the_centre_square_and_normalises():
    got = eval_transform(Augment(preset="imagenet_mobile"), 50, 1.0)(image())
    middle = torch.from_numpy(np.array(image())).permute(2, 0, 1)[:, :, 5:55] / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
    torch.testing.assert_close(got, (middle - mean) / std)


def test_the_share_of_the_crop():
    flat = Image.new("RGB", (200, 300), (124, 116, 104))
    assert eval_transform(Augment(), 112, None)(flat).shape == (3, 112, 112)
    pixels = np.zeros((256, 256, 3), dtype=np.uint8)
    pixels[16:240, 16:240] = 255  # the centre 224 of 256
    got = eval_transform(Augment(preset="imagenet_inception"), 224, None)(Image.fromarray(pixels))
    assert (got == 1).all()


@pytest.mark.parametrize(
    "augment",
    [
        Augment(preset="imagenet_basic"),
        Augment(preset="imagenet_mobile"),
        Augment(preset="imagenet_inception"),
        Augment(auto="rand-m9-mstd0.5-inc1", area=0.2),
        Augment(auto="augmix-m3-w3"),
        Augment(auto="original"),
        Augment(preset="cifar", erase=1.0),
    ],
)
@pytest.mark.parametrize("kind", ["pil", "bytes"])
def test_noise_is_fixed_by_the_seed_and_only_by_it(augment, kind):
    transform = train_transform(augment, 32)
    source = image() if kind == "pil" else torch.from_numpy(np.array(image())).permute(2, 0, 1)
    results = []
    for seed in (1, 1, 2):
        torch.rand(7), np.random.rand(3)
        before = torch.get_rng_state()
        with seeded(seed):
            results.append(transform(source))
        assert torch.equal(before, torch.get_rng_state())
    assert results[0].shape == (3, 32, 32)
    assert results[0].dtype == torch.float32
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_what_is_set_goes_before_the_preset():
    transform = train_transform(
        Augment(preset="cifar", padding=0, flip=1.0, mean=(0, 0, 0), std=(1, 1, 1)), 50, CIFAR
    )
    got = transform(image(50, 50))
    torch.testing.assert_close(got, torch.from_numpy(np.array(image(50, 50))).permute(2, 0, 1).flip(2) / 255)


def test_a_crop_of_a_padded_image_moves_it_by_at_most_the_padding():
    white = Image.new("RGB", (32, 32), (255, 255, 255))
    transform = train_transform(Augment(preset="cifar", mean=(0, 0, 0), std=(1, 1, 1)), 32)
    lost = set()
    for seed in range(40):
        with seeded(seed):
            lost.add(int((transform(white)[0].mean(1) == 0).sum()))
    assert lost == {0, 1, 2, 3, 4}


def test_lighting_has_the_covariance_of_the_principal_components():
    lighting = Lighting(0.1)
    with seeded(0):
        shifts = torch.stack([lighting(torch.zeros(3, 2, 2))[:, 0, 1] for _ in range(20_000)])
    covariance = lighting.vectors @ torch.diag((0.1 * lighting.values) ** 2) @ lighting.vectors.T
    torch.testing.assert_close(shifts.T.cov(), covariance, rtol=0.05, atol=1e-6)
    torch.testing.assert_close(lighting.vectors.T @ lighting.vectors, torch.eye(3), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"area": 2.0}, "augment.area = 2.0: expected a number from 0 to 1"),
        ({"auto": "magic"}, "augment.auto = 'magic': expected timm's name of a policy"),
    ],
)
def test_settings_that_cannot_be(values, message):
    with pytest.raises(ValueError, match=message):
        Augment(**values)
