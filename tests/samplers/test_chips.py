# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
import torch
from rasterio.features import geometry_mask
from torchgeo.datasets import roi_split

from tests.data.chesapeake_pairs.data import make_rasters
from torchgeo_mapsr.datasets.mosaic import LRHRPairs
from torchgeo_mapsr.datasets.query import ChipQuery
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.samplers import BalancedChipSampler, ChipSampler, PatchSampler
from torchgeo_mapsr.samplers.chips import RandomSampler


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LRHRPairs:
    """Two tiles of 192 pixels, in two UTM zones."""
    root: Path = tmp_path_factory.mktemp('rasters')
    make_rasters(root)
    return LRHRPairs.from_files(root / 'naip', root / 'nlcd', root / 'lc')


@pytest.mark.parametrize(
    ('size', 'stride', 'count'),
    [(64, None, 9), (100, None, 4), (192, None, 1), (150, 30, 9), (300, None, 1)],
)
def test_every_pixel_is_visited(
    dataset: LRHRPairs, size: int, stride: int | None, count: int
) -> None:
    sampler = ChipSampler(dataset, size, stride)
    assert len(sampler) == 2 * count
    queries = list(sampler)
    assert len(queries) == 2 * count
    for tile, pair in enumerate(dataset.pairs):
        grid = pair.imagery.geobox
        whole = pair.sample(ChipQuery(0, grid))['image']
        seen = torch.zeros(grid.height, grid.width)
        for query in queries[tile * count : (tile + 1) * count]:
            sample = dataset[query]
            assert sample['image'].shape == (4, size, size)
            if size <= 192:
                assert sample['mask_valid'].all()
                # where the chip lies is found by the content of its corner
                patches = whole.unfold(1, 4, 1).unfold(2, 4, 1)
                corner = sample['image'][:, None, None, :4, :4]
                same = (patches == corner).all(-1).all(-1).all(0)
                ((top, left),) = same.nonzero().tolist()
                chip = whole[:, top : top + size, left : left + size]
                torch.testing.assert_close(sample['image'], chip)
                seen[top : top + size, left : left + size] = 1
            else:
                torch.testing.assert_close(sample['image'][:, :192, :192], whole)
                seen[:] = 1
        assert seen.all()


def test_random_chips_lie_in_tiles(dataset: LRHRPairs) -> None:
    torch.manual_seed(0)
    sampler = ChipSampler(dataset, 150, length=40)
    assert len(sampler) == 40
    queries = list(sampler)
    assert len(set(map(str, queries))) == 40
    assert list(sampler) != queries
    west = 0
    for query in queries:
        sample = dataset[query]
        assert sample['mask_valid'].all()
        west += query[0].start < 300_000
    assert 8 < west < 32


def test_generator(dataset: LRHRPairs) -> None:
    drawn = [
        list(
            ChipSampler(
                dataset, 50, length=5, generator=torch.Generator().manual_seed(seed)
            )
        )
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


@pytest.mark.parametrize('kind', ['chips', 'balanced', 'patches'])
def test_an_epoch_that_is_taken_again_draws_the_same(
    dataset: LRHRPairs, kind: str
) -> None:
    """Whatever was drawn before; and the first one draws as PyTorch was seeded."""

    def make(generator: torch.Generator | None = None) -> RandomSampler:
        if kind == 'chips':
            return ChipSampler(dataset, 32, length=3, generator=generator)
        if kind == 'balanced':
            return BalancedChipSampler(dataset, 32, 3, generator=generator)
        left, _, _, top = (
            dataset.pairs[0].imagery.geobox.footprint(dataset.crs).geom.bounds
        )
        boxes = [
            shapely.box(left + 12 * i, top - 60 - 9 * i, left + 12 * (i + 1), top - 30)
            for i in range(1, 9)
        ]
        patches = geopandas.GeoDataFrame(geometry=boxes, crs=dataset.crs)
        return PatchSampler(dataset, patches, 32, generator=generator)

    def drawn(sampler: RandomSampler, *epochs: int) -> list[str]:
        torch.manual_seed(0)
        found = []
        for epoch in epochs:
            sampler.set_epoch(epoch)
            found.append(str(list(sampler)))
        return found

    first, second, third = drawn(make(), 0, 1, 2)
    assert len({first, second, third}) == 3
    again = make()
    assert drawn(again, 2, 1, 0) == [third, second, first]
    torch.manual_seed(0)
    assert str(list(make())) == first
    # a generator that was given knows no epochs
    given = make(torch.Generator().manual_seed(0))
    assert drawn(given, 0, 1) != [first, second]
    assert given.generator.initial_seed() == 0  # type: ignore[union-attr]


def test_an_empty_split(dataset: LRHRPairs) -> None:
    (empty,) = roi_split(dataset, [shapely.box(0, 0, 1, 1)])
    assert len(empty) == 0
    assert list(ChipSampler(empty, 32)) == []
    with pytest.raises(InputError, match='is empty: there is nothing to draw 5 chips'):
        ChipSampler(empty, 32, length=5)
    with pytest.raises(InputError, match='is empty: there is nothing to draw 7 chips'):
        BalancedChipSampler(empty, 32, 7)


def triangles(dataset: LRHRPairs, count: int) -> list[shapely.Polygon]:
    """Of any shape, thin ones too, in the first tile."""
    left, bottom, right, top = dataset.index.geometry.iloc[0].bounds
    corners = torch.rand(count, 3, 2, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor([left, bottom]) + corners.double() * torch.tensor(
        [right - left, top - bottom]
    )
    return [shapely.Polygon(three) for three in corners.tolist()]


def test_chips_of_splits_that_are_no_rectangles(dataset: LRHRPairs) -> None:
    """All pixels whose centre lies in the split, none else; and every chip has some."""
    chips = 0
    for triangle in triangles(dataset, 12):
        (part,) = roi_split(dataset, [triangle])
        grid = dataset.pairs[0].imagery.geobox
        inside = geometry_mask([triangle], grid.shape, grid.affine, invert=True)
        for options in ({}, {'length': 30, 'generator': torch.Generator()}):
            seen = np.zeros(grid.shape, bool)
            for query in ChipSampler(part, 20, **options):
                chip, valid = query.chip.geobox, part[query]['mask_valid'].numpy() > 0
                assert valid.any()
                col, row = ~grid.affine * (chip.affine * (0, 0))
                box = (
                    slice(round(row), round(row) + 20),
                    slice(round(col), round(col) + 20),
                )
                seen[box] |= valid
                chips += 1
            assert (seen <= inside).all()
            assert options or (seen == inside).all()
    assert chips > 400


def test_a_split_between_the_centres_of_pixels(dataset: LRHRPairs) -> None:
    """It has an area and no pixel, so there is nothing to sample."""
    left, _, _, top = dataset.index.geometry.iloc[0].bounds
    corners = [(left + 9.1, top - 2), (left + 9.4, top - 2), (left + 9.4, top - 90)]
    (part,) = roi_split(dataset, [shapely.Polygon(corners)])
    for options in ({}, {'length': 5}):
        with pytest.raises(InputError, match='has no pixels in this region'):
            ChipSampler(part, 32, **options)
