# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchgeo_mapsr.datasets.collate import collate_pairs, renumber, widen
from torchgeo_mapsr.errors import InputError

shapes = st.tuples(st.integers(0, 7), st.integers(0, 9))


def make(shape: tuple[int, int], seed: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    cells = shape[0] * shape[1]
    return {
        'image': torch.rand(3, 8, 8, generator=generator),
        'lr_label': torch.randint(-1, 96, shape, generator=generator),
        'lr_pixels': torch.rand(shape, generator=generator),
        'mask_region': torch.randint(0, cells + 1, (8, 8), generator=generator),
        'crs': f'EPSG:{seed}',
    }


def look_up(label: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.tensor([-1]), label.flatten()])[region]


@settings(max_examples=80, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=5), st.integers(0, 999))
def test_every_pixel_keeps_its_cell(sizes: list[tuple[int, int]], seed: int) -> None:
    samples = [make(shape, seed + i) for i, shape in enumerate(sizes)]
    copies = [make(shape, seed + i) for i, shape in enumerate(sizes)]
    batch = collate_pairs(samples)
    height, width = (max(sizes) for sizes in zip(*sizes, strict=True))
    assert batch['lr_label'].shape == (len(sizes), height, width)
    assert batch['lr_pixels'].shape == (len(sizes), height, width)
    assert batch['crs'] == [f'EPSG:{seed + i}' for i in range(len(sizes))]
    for i, (sample, copy) in enumerate(zip(samples, copies, strict=True)):
        region = batch['mask_region'][i]
        torch.testing.assert_close(
            look_up(batch['lr_label'][i], region),
            look_up(copy['lr_label'], copy['mask_region']),
        )
        assert torch.equal(region > 0, copy['mask_region'] > 0)
        h, w = sizes[i]
        padding = batch['lr_label'][i].clone()
        padding[:h, :w] = -1
        assert (padding == -1).all()
        # what the caller holds stays as it was
        for key, value in copy.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(sample[key], value)


def test_other_tensors_are_stacked_and_shares_are_optional() -> None:
    samples = [make((2, 3), 0), make((3, 2), 1)]
    for sample in samples:
        del sample['lr_pixels']
    batch = collate_pairs(samples)
    assert 'lr_pixels' not in batch
    assert batch['image'].shape == (2, 3, 8, 8)


windows = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 7))


@settings(max_examples=60, deadline=None)
@given(st.lists(windows, min_size=1, max_size=4), st.integers(0, 999))
def test_several_label_rasters(sizes: list[tuple[int, int, int]], seed: int) -> None:
    """Also where samples have different numbers of them."""
    samples = []
    for i, (rasters, h, w) in enumerate(sizes):
        sample = make((rasters * h, w), seed + i) | {
            'lr_place': torch.arange(3 * rasters).view(rasters, 3),
            'mask_coordinates': torch.rand(2 * rasters, 8, 8),
        }
        for key in ('lr_label', 'lr_pixels'):
            sample[key] = sample[key].view(rasters, h, w)
            sample[key] = sample[key][0] if rasters == 1 else sample[key]
        if rasters == 1:
            sample['lr_place'] = sample['lr_place'][0]
        samples.append(sample)
    batch = collate_pairs(samples)
    most, height, width = (max(sizes) for sizes in zip(*sizes, strict=True))
    shape = (height, width) if most == 1 else (most, height, width)
    assert batch['lr_label'].shape == batch['lr_pixels'].shape == (len(sizes), *shape)
    assert batch['mask_coordinates'].shape == (len(sizes), 2 * most, 8, 8)
    for i, (sample, (rasters, _, _)) in enumerate(zip(samples, sizes, strict=True)):
        region = batch['mask_region'][i]
        for key in ('lr_label', 'lr_pixels'):
            found, expected = (
                look_up(values, cells)
                for values, cells in (
                    (batch[key][i], region),
                    (sample[key], sample['mask_region']),
                )
            )
            torch.testing.assert_close(found, expected)
        assert torch.equal(region > 0, sample['mask_region'] > 0)
        place = batch['lr_place'][i].reshape(-1, 3)
        assert torch.equal(place[:rasters], sample['lr_place'].reshape(-1, 3))
        at = batch['mask_coordinates'][i]
        assert torch.equal(at[: 2 * rasters], sample['mask_coordinates'])
        assert at[2 * rasters :].isnan().all()


def test_widen() -> None:
    region = torch.tensor([0, 1, 3, 4, 6])
    torch.testing.assert_close(widen(region, 3, 5), torch.tensor([0, 1, 3, 6, 8]))
    torch.testing.assert_close(widen(region, 3, 3), region)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6)),
        min_size=2,
        max_size=4,
    ),
    st.integers(0, 999),
)
def test_windows_of_several_rasters(
    sizes: list[tuple[int, int, int]], seed: int
) -> None:
    """Every pixel keeps the label, the pixels and the place of its cell."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for rasters, h, w in sizes:
        shape = (h, w) if rasters == 1 else (rasters, h, w)
        place = (3,) if rasters == 1 else (rasters, 3)
        samples.append(
            {
                'image': torch.rand(3, 8, 8, generator=generator),
                'lr_label': torch.randint(-1, 96, shape, generator=generator),
                'lr_pixels': torch.rand(shape, generator=generator),
                'lr_place': torch.randint(0, 99, place, generator=generator),
                'mask_region': torch.randint(
                    0, rasters * h * w + 1, (8, 8), generator=generator
                ),
                'mask_coordinates': torch.rand(2 * rasters, 8, 8, generator=generator),
            }
        )
    batch = collate_pairs(samples)
    count, height, width = (max(numbers) for numbers in zip(*sizes, strict=True))
    shape = (height, width) if count == 1 else (count, height, width)
    assert batch['lr_label'].shape == batch['lr_pixels'].shape == (len(sizes), *shape)
    assert batch['mask_coordinates'].shape == (len(sizes), 2 * count, 8, 8)
    for i, (sample, (rasters, h, w)) in enumerate(zip(samples, sizes, strict=True)):
        region, before = batch['mask_region'][i], sample['mask_region']
        for key in ('lr_label', 'lr_pixels'):
            torch.testing.assert_close(
                look_up(batch[key][i], region), look_up(sample[key], before)
            )
        # Cell by cell: raster, row and column.
        cell = before - 1
        raster, row, col = cell // (h * w), cell // w % h, cell % w
        expected = 1 + (raster * height + row) * width + col
        assert torch.equal(region, torch.where(before > 0, expected, 0))
        torch.testing.assert_close(
            batch['lr_place'][i].reshape(-1, 3)[:rasters],
            sample['lr_place'].reshape(-1, 3),
        )
        torch.testing.assert_close(
            batch['mask_coordinates'][i][: 2 * rasters], sample['mask_coordinates']
        )
        assert batch['mask_coordinates'][i][2 * rasters :].isnan().all()


def test_renumber() -> None:
    region = torch.tensor([0, 1, 4, 6, 7, 12])
    # Two windows of 2 × 3, then of 4 × 5.
    expected = torch.tensor([0, 1, 6, 8, 21, 28])
    assert torch.equal(renumber(region, (2, 3), (4, 5)), expected)


def test_what_cannot_be_stacked() -> None:
    first, second = make((2, 2), 0), make((2, 2), 1)
    second['image'] = torch.zeros(3, 9, 8)
    with pytest.raises(InputError, match='chips of one size'):
        collate_pairs([first, second])
    first['mask'] = torch.zeros(8, 8)
    with pytest.raises(InputError, match='only some samples have mask'):
        collate_pairs([first, make((2, 2), 1)])


def test_keys_of_any_sample_count() -> None:
    """What only a later one has was dropped."""
    one, other = make((2, 2), 0), make((2, 2), 1)
    other['mask'] = torch.zeros(8, 8)
    for samples in ([one, other], [other, one]):
        with pytest.raises(InputError, match='only some samples have mask'):
            collate_pairs(samples)
    with pytest.raises(InputError, match='no sample'):
        collate_pairs([])


def test_samples_without_labels_are_stacked() -> None:
    samples = [{'image': torch.rand(3, 8, 8), 'crs': i} for i in range(2)]
    batch = collate_pairs(samples)
    assert batch['image'].shape == (2, 3, 8, 8)
    assert batch['crs'] == [0, 1]
    with pytest.raises(InputError, match='only some samples have lr_label'):
        collate_pairs([make((2, 2), 0), *samples])
