# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import torch
from rasterio.transform import Affine
from torchgeo.datasets import roi_split
from torchgeo.samplers import GeoSampler

from tests.data.chesapeake_pairs.data import make_rasters
from torchgeo_mapsr.datamodules import PairDataModule
from torchgeo_mapsr.datasets import Legend, LRHRPair
from torchgeo_mapsr.datasets.mosaic import LRHRPairs
from torchgeo_mapsr.datasets.query import ChipQuery
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.samplers import BalancedChipSampler


@pytest.fixture(scope='module')
def dataset(made_scene: Scene) -> LRHRPair:
    return LRHRPair(made_scene.imagery, made_scene.labels)


@pytest.fixture
def write_pair(tmp_path: Path) -> LRHRPair:
    """Imagery of 120 x 120 m; 30 m labels of its west, 10 m labels of all of it."""
    place = Affine(1, 0, 5e5, 0, -1, 4e6)
    rasters = {
        'image': (np.full((120, 120), 9, 'uint8'), 1),
        'west': (np.full((4, 2), 11, 'uint8'), 30),
        'all': (np.full((12, 12), 41, 'uint8'), 10),
    }
    for name, (values, pixel) in rasters.items():
        with rasterio.open(
            tmp_path / f'{name}.tif', 'w', driver='GTiff', count=1, dtype='uint8',
            height=len(values), width=values.shape[1], crs='EPSG:32618',
            transform=place * Affine.scale(pixel),
        ) as file:  # fmt: skip
            file.write(values, 1)
    labels = [tmp_path / 'west.tif', tmp_path / 'all.tif']
    return LRHRPair(tmp_path / 'image.tif', labels)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_cells_are_those_of_the_sample(dataset: LRHRPair) -> None:
    codes, places = dataset.lr_cells(0)
    sample = dataset.sample(ChipQuery(0, dataset.tiles[0]))
    region, labels = sample['mask_region'].numpy(), sample['lr_label'].numpy().ravel()
    row, col = places.astype(int)
    np.testing.assert_array_equal(labels[region[row, col] - 1], codes)
    # every cell once, and none missing but what the edge cuts in half
    assert len(np.unique(region[row, col])) == len(codes)
    pixels = np.bincount(region.ravel(), minlength=len(labels) + 1)[1:]
    whole = np.flatnonzero((pixels > 860) & (labels >= 0)) + 1
    assert set(whole) <= set(region[row, col])


@pytest.mark.parametrize('balance', [0.0, 0.5, 1.0])
def test_classes_are_drawn_by_their_power(dataset: LRHRPair, balance: float) -> None:
    """A chip of one pixel is of the class that was drawn for it."""
    n = 3000
    sampler = BalancedChipSampler(dataset, 1, n, balance, generator=seeded())
    assert isinstance(sampler, GeoSampler)
    codes, _ = dataset.lr_cells(0)
    known, count = np.unique(codes, return_counts=True)
    assert sampler.codes.tolist() == known.tolist()
    np.testing.assert_allclose(sampler.frequency, count / count.sum())
    expected = (count / count.sum()) ** (1 - balance)
    expected = n * expected / expected.sum()
    grid = dataset.imagery.geobox
    whole = dataset.sample(ChipQuery(0, grid))
    region, labels = whole['mask_region'].numpy(), whole['lr_label'].numpy().ravel()
    drawn = []
    for x, y, _ in sampler:
        col, row = ~grid.affine * ((x.start + x.stop) / 2, (y.start + y.stop) / 2)
        drawn.append(labels[region[int(row), int(col)] - 1])
    found = np.array([drawn.count(code) for code in known])
    assert found.sum() == n
    # four standard deviations of a Poisson count
    assert (np.abs(found - expected) < 4 * np.sqrt(expected) + 1).all()


def test_place_in_the_chip_is_uniform_where_there_is_room(dataset: LRHRPair) -> None:
    """A chip may hold its cell anywhere, as far as the tile's edge lets it."""
    sampler = BalancedChipSampler(dataset, 40, 1, generator=seeded())
    tops = np.array([sampler._start(200.5, 384) for _ in range(2000)])
    assert set(tops) == set(range(161, 201))
    assert {sampler._start(10.5, 384) for _ in range(500)} == set(range(11))
    assert {sampler._start(383.9, 384) for _ in range(200)} == {344}
    assert {sampler._start(20.0, 30) for _ in range(10)} == {0}


def test_chips_lie_in_tiles_of_two_zones(tmp_path: Path) -> None:
    make_rasters(tmp_path)
    pairs = LRHRPairs.from_files(tmp_path / 'naip', tmp_path / 'nlcd')
    sampler = BalancedChipSampler(pairs, 150, 40, generator=seeded())
    queries = list(sampler)
    assert len(queries) == len(sampler) == 40
    west = 0
    for query in queries:
        sample = pairs[query]
        assert sample['image'].shape == (4, 150, 150)
        assert sample['mask_valid'].all()
        west += query[0].start < 300_000
    assert 5 < west < 35
    again = BalancedChipSampler(pairs, 150, 40, generator=seeded())
    assert list(again) == queries
    assert list(again) != queries


def test_legend_leaves_codes_out(dataset: LRHRPair) -> None:
    four = Legend.load('land-cover-4')
    with pytest.raises(InputError, match='no LR label of a class of the legend'):
        BalancedChipSampler(dataset, 10, 5, legend=four)
    sampler = BalancedChipSampler(dataset, 10, 5, legend=Legend.load('nlcd'))
    assert len(list(sampler)) == 5


def test_mistakes(dataset: LRHRPair, made_scene: Scene) -> None:
    for length, balance, wrong in (
        (0, 1.0, 'length'),
        (5, 1.5, 'balance'),
        (5, -0.1, 'balance'),
    ):
        with pytest.raises(InputError, match=f'{wrong} must be'):
            BalancedChipSampler(dataset, 10, length, balance)
    with pytest.raises(InputError, match='give their number, length'):
        PairDataModule(str(made_scene.imagery), str(made_scene.labels), balance=1.0)


def test_data_module_trains_on_balanced_chips(made_scene: Scene) -> None:
    paths = str(made_scene.imagery), str(made_scene.labels)
    data = PairDataModule(*paths, patch_size=64, length=7, batch_size=4, balance=0.5)
    data.setup('fit')
    assert isinstance(data.train_sampler, BalancedChipSampler)
    assert data.train_sampler.balance == 0.5
    assert [len(b['image']) for b in data.train_dataloader()] == [4, 3]


def test_cells_of_all_label_rasters_count_once(write_pair: LRHRPair) -> None:
    """The first labels count, and the next fill: as in a sample."""
    pair = write_pair
    codes, places = pair.lr_cells(0)
    sample = pair.sample(ChipQuery(0, pair.tiles[0]))
    region, labels = sample['mask_region'].numpy(), sample['lr_label'].numpy().ravel()
    row, col = places.astype(int)
    np.testing.assert_array_equal(labels[region[row, col] - 1], codes)
    assert (
        set(codes) == {11, 41} == set(BalancedChipSampler(pair, 16, 4).codes.tolist())
    )
    # 30 m cells in the west, and 10 m ones where these end
    assert (codes == 11).sum() == 4 * 2
    assert (codes == 41).sum() == 12 * 6


def test_chips_of_splits_that_are_no_rectangles(dataset: LRHRPair) -> None:
    """A cell's centre may lie in the split, and no pixel's centre near it."""
    left, _, right, _ = dataset.index.total_bounds
    grid = dataset.tiles[0]
    row, col = dataset.lr_cells(0)[1][:, 40]
    assert abs(row % 1 - 0.5) > 0.06
    # thinner than a pixel, around the centre of a cell; and what has pixels
    x, low = grid.pix2wld(col, row + 0.05)
    _, high = grid.pix2wld(0, row - 0.05)
    thin = shapely.box(left, low, right, high)
    thick = shapely.Polygon([(x + 9, low), (right, low - 40), (right, low + 20)])
    (part,) = roi_split(dataset, [shapely.union(thin, thick)])
    cells, (tile,) = part.lr_cells(0)[1], part.tiles
    at_col, at_row = ~tile.affine * (grid.affine * (col, row))
    assert np.isclose(cells.T, (at_row, at_col)).all(1).any()
    for query in BalancedChipSampler(part, 1, 200, generator=seeded()):
        assert part[query]['mask_valid'].all()
