# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchgeo.samplers
from rasterio.transform import Affine

from tests.data.chesapeake_pairs.data import make_rasters
from torchgeo_mapsr.datasets.collate import collate_pairs
from torchgeo_mapsr.datasets.geo.grid import crop
from torchgeo_mapsr.datasets.mosaic import LRHRPairs
from torchgeo_mapsr.datasets.pair import LRHRPair
from torchgeo_mapsr.datasets.query import ChipQuery
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.samplers import ChipSampler

from .conftest import HR, Write


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('rasters')
    make_rasters(folder)
    return folder


@pytest.fixture
def pairs(root: Path) -> LRHRPairs:
    return LRHRPairs.from_files(root / 'naip', root / 'nlcd', root / 'lc')


def test_index(pairs: LRHRPairs) -> None:
    assert len(pairs) == 2
    assert [pair.crs.to_epsg() for pair in pairs.pairs] == [26918, 26917]
    assert pairs.crs.to_epsg() == 26918
    assert pairs.res == (1, 1)
    # both tiles' labels are one mosaic, opened once
    assert pairs.pairs[0].labels[0] is pairs.pairs[1].labels[0]


def test_a_raster_has_one_number(root: Path, pairs: LRHRPairs) -> None:
    """Whoever opens it, by whatever path; another has another."""
    places = [
        pair.sample(ChipQuery(0, pair.tiles[0][:9, :9]))['lr_place']
        for pair in pairs.pairs
    ]
    again = LRHRPair(next((root / 'naip').iterdir()), os.path.relpath(root / 'nlcd'))
    other = LRHRPair(next((root / 'naip').iterdir()), next((root / 'nlcd').iterdir()))
    numbers = [int(place[0]) for place in places]
    assert numbers == [again.labels[0].number] * 2
    assert pickle.loads(pickle.dumps(again)).labels[0].number == numbers[0]
    assert 0 < other.labels[0].number != numbers[0]


@pytest.mark.parametrize('tile', [0, 1])
def test_a_query_comes_back_as_the_same_chip(pairs: LRHRPairs, tile: int) -> None:
    pair, grid = pairs.pairs[tile], pairs.tiles[tile]
    for box in [
        (0, 0, 64, 64),
        (100, 37, 190, 140),
        (-10, -20, 54, 44),
        (0, 0, 192, 192),
    ]:
        chip = crop(grid, box)
        found, expected = pairs[pairs.query(chip)], pair.sample(ChipQuery(0, chip))
        for key in ('image', 'mask', 'mask_region', 'mask_valid', 'lr_label'):
            torch.testing.assert_close(found[key], expected[key])


def test_the_tile_that_covers_most(pairs: LRHRPairs) -> None:
    # the box around both tiles
    x, y, _ = pairs.bounds
    sample = pairs[pairs.query(crop(pairs.tiles[1], (-50, -50, 242, 242)))]
    assert sample['mask_valid'].sum() == 192**2
    with pytest.raises(IndexError):
        pairs[x.start + 100_000 : x.start + 100_100, y.start : y.start + 100]


@pytest.mark.parametrize('name', ['RandomGeoSampler', 'GridGeoSampler'])
def test_torchgeo_samplers(pairs: LRHRPairs, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        sampler = getattr(torchgeo.samplers, name)
        queries = list(
            sampler(pairs, size=90, **({'length': 6} if 'Random' in name else {}))
        )
    assert len(queries) >= 6
    batch = collate_pairs(pairs[query] for query in queries)
    assert batch['image'].shape == (len(queries), 4, 90, 90)
    assert batch['mask_valid'].float().mean() > 0.5


def test_transforms_and_options(root: Path) -> None:
    pairs = LRHRPairs.from_files(
        root / 'naip', root / 'nlcd', transforms=lambda s: s | {'seen': True}, bands=[4]
    )
    sample = pairs[next(iter(ChipSampler(pairs, 64)))]
    assert sample['seen']
    assert sample['image'].shape == (1, 64, 64)
    assert 'mask' not in sample


def test_pickle(pairs: LRHRPairs) -> None:
    query = next(iter(ChipSampler(pairs, 64)))
    again = pickle.loads(pickle.dumps(pairs))
    np.testing.assert_array_equal(again[query]['image'], pairs[query]['image'])


def test_no_pairs() -> None:
    with pytest.raises(InputError, match='no imagery'):
        LRHRPairs([])


def test_real_patches_side_by_side(shared: Path) -> None:
    """The eight patches are fitted together: each in its own pixels, none warped."""
    folders = sorted((shared / 'data/chesapeake_wv').iterdir())
    pairs = LRHRPairs.from_files(
        [folder / 'imagery.tif' for folder in folders],
        [folder / 'lr.tif' for folder in folders],
        [folder / 'hr.tif' for folder in folders],
    )
    for query, pair in zip(ChipSampler(pairs, 256), pairs.pairs, strict=True):
        sample = pairs[query]
        image, _ = pair.imagery.read(pair.imagery.geobox)
        np.testing.assert_array_equal(sample['image'], image)
        truth = pair.truth[0].at(pair.imagery.geobox)
        np.testing.assert_array_equal(sample['mask'], truth)


def test_bands_must_be_as_many_everywhere(root: Path) -> None:
    first, second = sorted((root / 'naip').glob('*.tif'))
    pairs = [
        LRHRPair(first, root / 'nlcd', bands=[1, 2, 3]),
        LRHRPair(second, root / 'nlcd'),
    ]
    with pytest.raises(InputError, match=r'has 4 bands but .* has 3; choose common'):
        LRHRPairs(pairs)


@pytest.fixture
def one_place(write: Write) -> LRHRPairs:
    """Ten-metre pixels and one-metre pixels of one place, with no date."""
    rng = np.random.default_rng(0)
    coarse = write(
        'a.tif', rng.integers(1, 99, (1, 26, 26), 'uint8'), HR * Affine.scale(10)
    )
    tiles = [
        write(
            f'b{i}.tif',
            np.full((1, 128, 128), 101 + i, 'uint8'),
            HR * Affine.translation(128 * (i % 2), 128 * (i // 2)),
        )
        for i in range(4)
    ]
    labels = write('lr.tif', np.full((12, 12), 11, 'uint8'), HR * Affine.scale(30))
    return LRHRPairs.from_files([coarse, *tiles], labels)


@pytest.mark.filterwarnings('ignore::torchgeo_mapsr.errors.InputWarning')
@pytest.mark.parametrize('length', [None, 40])
def test_chips_are_of_the_raster_that_they_are_drawn_from(
    one_place: LRHRPairs, length: int | None
) -> None:
    """Also where a finer or coarser one shows the same place."""
    generator = torch.Generator().manual_seed(0)
    sampler = ChipSampler(one_place, 64, length=length, generator=generator)
    queries = [pickle.loads(pickle.dumps(query)) for query in sampler]
    seen = []
    for query in queries:
        x, _, _ = query
        assert isinstance(x, slice)
        sample = one_place[query]
        assert sample['mask_valid'].any()
        values = sample['image'][0][sample['mask_valid'] > 0]
        first = int(values[0])
        if first > 100:
            assert (values == first).all()
            assert sample['mask_valid'].all()
        seen.append(max(first - 100, 0))
    counts = np.bincount(seen, minlength=5)
    if length is None:
        assert counts[1:].tolist() == [4] * 4
        assert counts[0] == len(queries) - 16
    else:
        assert (counts[1:] > 0).all()  # the other has a hundredth of the pixels


def test_transforms_of_a_pair_are_not_dropped(root: Path) -> None:
    pair = LRHRPair(
        min((root / 'naip').iterdir()), root / 'nlcd', transforms=lambda s: s
    )
    with pytest.raises(InputError, match='give them to LRHRPairs'):
        LRHRPairs([pair])
