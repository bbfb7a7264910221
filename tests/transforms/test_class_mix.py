# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import torch
from torch import Tensor

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.transforms import ClassMix, RegionAggregation, mix_samples

Sample = dict[str, Any]


def batch(seed: int, n: int, window: tuple[int, int], size: int = 12) -> Sample:
    """Random images, masks and cells of a window, some pixels outside of all."""
    g = torch.Generator().manual_seed(seed)
    h, w = window
    return {
        'image': torch.rand(n, 3, size, size, generator=g),
        'mask': torch.randint(-1, 5, (n, size, size), generator=g),
        'mask_valid': torch.randint(0, 2, (n, size, size), generator=g),
        'mask_region': torch.randint(0, h * w + 1, (n, size, size), generator=g),
        'lr_label': torch.randint(-1, 90, (n, h, w), generator=g),
        'lr_pixels': 20 + torch.rand(n, h, w, generator=g),
        'crs': ['EPSG:26918'] * n,
    }


def under(sample: Sample, key: str, outside: float) -> Tensor:
    """The value of the cell under each pixel, one pixel after the other."""
    region, values = sample['mask_region'], sample[key]
    found = torch.full(region.shape, outside, dtype=values.dtype)
    for b in range(len(region)):
        for i in range(region.shape[1]):
            for j in range(region.shape[2]):
                cell = int(region[b, i, j])
                if cell > 0:
                    found[b, i, j] = values[b].ravel()[cell - 1]
    return found


@pytest.mark.parametrize(
    'windows', [((2, 3), (2, 3)), ((3, 2), (1, 4)), ((1, 5), (4, 1))]
)
def test_every_pixel_keeps_its_own(
    windows: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    source, target = batch(0, 3, windows[0]), batch(1, 3, windows[1])
    paste = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(2)) < 0.4
    mixed = mix_samples(source, target, paste)
    for key, outside in (('lr_label', -1), ('lr_pixels', 0.0)):
        expected = torch.where(
            paste, under(source, key, outside), under(target, key, outside)
        )
        torch.testing.assert_close(under(mixed, key, outside), expected)
    for key in ('mask', 'mask_valid'):
        expected = torch.where(paste, source[key], target[key])
        assert (mixed[key] == expected).all()
    where = paste[:, None].expand(-1, 3, -1, -1)
    assert (mixed['image'][where] == source['image'][where]).all()
    assert (mixed['image'][~where] == target['image'][~where]).all()
    assert (mixed['mask_source'] == paste).all()
    assert 'crs' not in mixed
    # cells of the two samples are apart
    left = set(mixed['mask_region'][paste].tolist()) - {0}
    assert left.isdisjoint(mixed['mask_region'][~paste].tolist())


def placed(seed: int, windows: tuple[int, int, int]) -> Sample:
    """A batch of samples of some label rasters, with each pixel's place in its window."""
    rasters, h, w = windows
    sample = batch(seed, 3, (rasters * h, w))
    shape = (3, h, w) if rasters == 1 else (3, rasters, h, w)
    for key in ('lr_label', 'lr_pixels'):
        sample[key] = sample[key].view(shape)
    sample['lr_place'] = torch.arange(3 * 3 * rasters).view(3, rasters, 3)
    cell = sample['mask_region'] - 1
    places = torch.full((3, 2 * rasters, 12, 12), torch.nan)
    for raster in range(rasters):
        inside = (cell >= 0) & (cell // (h * w) == raster)
        for axis, index in enumerate((cell // w % h, cell % w)):
            place = places[:, 2 * raster + axis]
            place[inside] = index[inside] + 0.25
    sample['mask_coordinates'] = places
    return sample


@pytest.mark.parametrize(
    'windows',
    [
        ((1, 2, 3), (1, 3, 2)),
        ((2, 2, 3), (2, 4, 2)),
        ((2, 4, 2), (2, 2, 3)),
        ((1, 3, 2), (2, 2, 2)),
        ((3, 2, 2), (1, 3, 4)),
    ],
)
def test_several_label_rasters(
    windows: tuple[tuple[int, int, int], tuple[int, int, int]],
) -> None:
    """Every pixel keeps its cell, and its place in it."""
    source, target = placed(0, windows[0]), placed(1, windows[1])
    paste = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(2)) < 0.4
    before = [sample['mask_coordinates'].clone() for sample in (source, target)]
    mixed = mix_samples(source, target, paste)
    for key, outside in (('lr_label', -1), ('lr_pixels', 0.0)):
        expected = torch.where(
            paste, under(source, key, outside), under(target, key, outside)
        )
        torch.testing.assert_close(under(mixed, key, outside), expected)
    *several, height, width = mixed['lr_label'].shape[1:]
    rasters = several[0] if several else 1
    assert rasters == max(windows[0][0], windows[1][0])
    assert width == windows[0][2] + windows[1][2]
    # The cell that a pixel's place names is the cell that it lies in.
    places = mixed['mask_coordinates'].view(3, rasters, 2, 12, 12)
    found = torch.zeros(3, 12, 12, dtype=torch.int64)
    for raster in range(rasters):
        row, col = places[:, raster].unbind(1)
        number = (raster * height + row.floor()) * width + col.floor() + 1
        found = torch.where(row.isnan(), found, number.long())
        assert row[~row.isnan()].frac().eq(0.25).all()
        assert col[~col.isnan()].frac().eq(0.25).all()
    assert torch.equal(found, mixed['mask_region'])
    # A mixture lies nowhere, and its parts stay as they were.
    assert 'lr_place' not in mixed
    for sample, copy in zip((source, target), before, strict=True):
        assert torch.equal(sample['mask_coordinates'].nan_to_num(), copy.nan_to_num())


def test_visible_shares_are_those_of_what_is_left() -> None:
    """RegionAggregation, which reads mask_region, lr_label and lr_pixels, agrees."""
    source, target = batch(0, 2, (2, 2)), batch(1, 2, (2, 3))
    for sample in (source, target):
        del sample['mask_valid']
    paste = torch.zeros(2, 12, 12, dtype=torch.bool)
    paste[..., :5] = True
    mixed = RegionAggregation(key='image')(mix_samples(source, target, paste))
    weight = mixed['region_weight'].view(2, 2, 5)
    for b, row, col in ((0, 0, 1), (1, 1, 0)):
        seen = (source['mask_region'][b, :, :5] == row * 2 + col + 1).sum()
        whole = source['lr_pixels'][b, row, col]
        assert weight[b, row, col] == pytest.approx(float(seen / whole))
        seen = (target['mask_region'][b, :, 5:] == row * 3 + col + 1).sum()
        whole = target['lr_pixels'][b, row, col]
        assert weight[b, row, 2 + col] == pytest.approx(float(seen / whole))


@pytest.mark.parametrize(
    ('classes', 'pasted'), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)]
)
def test_half_of_the_classes_rounded_up(classes: int, pasted: int) -> None:
    torch.manual_seed(0)
    index = torch.randint(0, classes, (4, 20, 20)) * 2
    index[:, :2] = -1
    chosen = ClassMix().choose(index)
    for which, label in zip(chosen, index, strict=True):
        inside = set(label[which].tolist())
        assert len(inside) == pasted
        assert -1 not in inside
        # whole classes, not parts of them
        assert inside.isdisjoint(label[~which].tolist())


def test_all_classes_are_drawn_alike() -> None:
    torch.manual_seed(0)
    index = torch.arange(4).repeat(2000, 1, 1)
    share = ClassMix().choose(index).float().mean((0, 1))
    torch.testing.assert_close(share, torch.full((4,), 0.5), atol=0.05, rtol=0)


def test_unlabelled_source_leaves_the_target_alone() -> None:
    source, target = batch(0, 2, (2, 2)), batch(1, 2, (2, 2))
    mixed = ClassMix()(source, target, torch.full((2, 12, 12), -1))
    assert (mixed['image'] == target['image']).all()
    assert (under(mixed, 'lr_label', -1) == under(target, 'lr_label', -1)).all()


def test_fewer_sources_than_targets() -> None:
    source, target = batch(0, 2, (2, 2)), batch(1, 5, (2, 2))
    classes = torch.zeros(2, 12, 12, dtype=torch.long)
    mixed = ClassMix()(source, target, classes)
    assert (mixed['image'] == source['image'][[0, 1, 0, 1, 0]]).all()


def test_target_without_labels() -> None:
    source, target = batch(0, 2, (2, 2)), batch(1, 2, (2, 2))
    bare = {'image': target['image'], 'mask_valid': target['mask_valid']}
    mixed = mix_samples(source, bare, source['mask'] > 2)
    assert set(mixed) == {'image', 'mask_valid', 'mask_source'}
    # nor places in cells that are not there
    bare['mask_coordinates'] = source['mask_coordinates'] = torch.rand(2, 2, 12, 12)
    assert 'mask_coordinates' not in mix_samples(source, bare, source['mask'] > 2)


def test_masks_with_a_channel_axis() -> None:
    """As kornia leaves them without keepdim."""
    source, target = batch(0, 2, (2, 2)), batch(1, 2, (2, 2))
    flat = mix_samples(source, target, source['mask'] > 2)
    for sample in (source, target):
        sample['mask'] = sample['mask'][:, None]
    mixed = mix_samples(source, target, source['mask'][:, 0] > 2)
    assert (mixed['mask'][:, 0] == flat['mask']).all()


def test_leaves_its_arguments_alone() -> None:
    source, target = batch(0, 2, (1, 2)), batch(1, 2, (2, 2))
    before = [{k: v for k, v in s.items()} for s in (source, target)]
    copies = [v.clone() for s in before for v in s.values() if isinstance(v, Tensor)]
    ClassMix()(source, target, source['mask'])
    now = [v for s in (source, target) for v in s.values() if isinstance(v, Tensor)]
    assert all((a == b).all() for a, b in zip(copies, now, strict=True))


def test_mistakes() -> None:
    with pytest.raises(ValueError, match='between 0 and 1'):
        ClassMix(1.5)
    with pytest.raises(InputError, match='patch_size'):
        mix_samples(
            batch(0, 1, (1, 1), 8), batch(0, 1, (1, 1), 12), torch.ones(1, 8, 8)
        )
