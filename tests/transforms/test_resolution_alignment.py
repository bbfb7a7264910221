# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import kornia.augmentation as K
import pytest
import torch
import torch.nn.functional as F

from torchgeo_mapsr.transforms import ResolutionAlignment


@pytest.mark.parametrize('antialias', [False, True])
def test_is_down_and_up(antialias: bool) -> None:
    torch.manual_seed(0)
    images = torch.rand(5, 3, 40, 33)
    module = ResolutionAlignment((0.2, 0.9), antialias, p=1)
    out = module(images)
    ratios = module._params['ratio']
    assert ratios.shape == (5,)
    assert len(set(ratios.tolist())) == 5
    assert ((ratios >= 0.2) & (ratios <= 0.9)).all()
    for image, ratio, found in zip(images, ratios.tolist(), out, strict=True):
        small = F.interpolate(
            image[None],
            (round(40 * ratio), round(33 * ratio)),
            mode='bilinear',
            antialias=antialias,
        )
        large = F.interpolate(small, (40, 33), mode='bilinear')
        torch.testing.assert_close(found, large[0])


def test_ratios_are_uniform() -> None:
    torch.manual_seed(0)
    module = ResolutionAlignment((0.5, 1.0), p=1)
    module(torch.zeros(4000, 1, 2, 2))
    ratios = module._params['ratio']
    assert ratios.mean() == pytest.approx(0.75, abs=0.01)
    assert ratios.std() == pytest.approx(0.5 / 12**0.5, abs=0.01)


def test_probability() -> None:
    torch.manual_seed(0)
    images = torch.rand(400, 1, 8, 8)
    out = ResolutionAlignment((0.3, 0.5), p=0.25)(images)
    changed = (out != images).flatten(1).any(1)
    assert changed.float().mean() == pytest.approx(0.25, abs=0.07)
    torch.testing.assert_close(ResolutionAlignment(p=0)(images), images)


def test_ratio_one_and_constants_change_nothing() -> None:
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(ResolutionAlignment((1, 1), p=1)(images), images)
    constant = torch.full((2, 3, 16, 16), 117.0)
    torch.testing.assert_close(ResolutionAlignment(p=1)(constant), constant)


def test_fine_detail_goes() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 1, 64, 64)
    out = ResolutionAlignment((0.25, 0.25), antialias=True, p=1)(images)
    assert out.var() < images.var() / 4


def test_tiny_images_and_one_ratio_for_the_batch() -> None:
    module = ResolutionAlignment((0.01, 0.5), same_on_batch=True, p=1)
    images = torch.rand(3, 2, 4, 4)
    out = module(images)
    assert out.shape == images.shape
    assert len(set(module._params['ratio'].tolist())) == 1


def test_in_a_sequence_with_masks() -> None:
    """As a container's member: image only, and repeatable from its parameters."""
    torch.manual_seed(0)
    batch = {
        'image': torch.rand(6, 4, 32, 32),
        'mask_region': torch.randint(0, 70_000, (6, 32, 32)),
        'mask': torch.randint(-1, 9, (6, 32, 32)),
        'lr_label': torch.randint(-1, 95, (6, 3, 3)),
    }
    before = {key: value.clone() for key, value in batch.items()}
    augment = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=1.0),
        ResolutionAlignment((0.2, 0.6), p=0.5),
        data_keys=None,
        keepdim=True,
    )
    out = augment(batch)
    for key in ('mask_region', 'mask'):
        assert out[key].dtype == torch.int64
        torch.testing.assert_close(out[key], before[key].flip(-1))
    torch.testing.assert_close(out['lr_label'], before['lr_label'])
    flipped = before['image'].flip(-1)
    same = (out['image'] == flipped).flatten(1).all(1)
    assert 0 < same.sum() < 6
    assert (out['image'] - flipped)[~same].abs().max() > 0.1


def test_one_image_keeps_its_shape_and_its_gradient() -> None:
    image = torch.rand(3, 20, 20, requires_grad=True)
    out = ResolutionAlignment((0.3, 0.5), p=1, keepdim=True)(image)
    assert out.shape == image.shape
    out.sum().backward()
    assert image.grad is not None
    # bilinear weights of the small image sum to 1 for each pixel of the large one
    assert image.grad.sum().item() == pytest.approx(3 * 20 * 20, rel=1e-4)


@pytest.mark.parametrize('ratio', [(0, 1), (0.5, 0.4), (0.5, 2), (-1, 1)])
def test_bad_ratio(ratio: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match='r1'):
        ResolutionAlignment(ratio)


def test_what_is_no_number_spreads_to_nothing() -> None:
    """Means of the rest, with the weights that PyTorch's interpolation has."""
    torch.manual_seed(0)
    image = 100 + 50 * torch.rand(1, 2, 12, 12)
    image[..., :5] = torch.nan
    image[0, 0, 7, 8] = torch.inf
    out = ResolutionAlignment((0.5, 0.5), p=1)(image)
    basis = torch.eye(144).view(144, 1, 12, 12)
    small = F.interpolate(basis, (6, 6), mode='bilinear')
    weight = F.interpolate(small, (12, 12), mode='bilinear').view(144, 144).T
    for found, values in zip(out[0].flatten(1), image[0].flatten(1), strict=True):
        known = values.isfinite()
        share = weight[:, known].sum(1)
        expected = weight[:, known] @ values[known] / share
        seen = known & (share > 0)
        assert seen.sum() > 70
        torch.testing.assert_close(found[seen], expected[seen])
        assert torch.equal(found[~known].isfinite(), known[~known])
    constant = torch.where(image.isfinite(), 117.0, image)
    out = ResolutionAlignment((0.2, 0.9), p=1)(constant)
    torch.testing.assert_close(out, constant, equal_nan=True)
