# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Imagery and labels in degrees, counted from another meridian or across the 180th."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.transform import Affine

from torchgeo_mapsr.datasets.fine import FineLabelPair
from torchgeo_mapsr.datasets.geo.grid import crop
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.pair import LRHRPair
from torchgeo_mapsr.datasets.plot import per_pixel
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.samplers import BalancedChipSampler, ChipSampler

from .conftest import Write

# What geopandas says of areas in degrees is not of interest here.
pytestmark = pytest.mark.filterwarnings('ignore:Geometry is in a geographic CRS')

# A power of two: 180° is a whole number of pixels, and of cells, exactly.
PIXEL = 180 / 2**24
CELL = 16 * PIXEL

Codes = NDArray[np.uint8]


@pytest.fixture
def codes() -> Codes:
    return np.random.default_rng(0).integers(1, 90, (8, 16)).astype('uint8')


@pytest.fixture
def halves(write: Write, codes: Codes) -> dict[str, str]:
    """Labels on both sides of 180°, 8 cells each."""
    return {
        'east': write('east.tif', codes[:, :8], at(180 - 8 * CELL, CELL), 'EPSG:4326'),
        'west': write('west.tif', codes[:, 8:], at(-180, CELL), 'EPSG:4326'),
    }


@pytest.fixture
def image(write: Write) -> str:
    """5 cells on either side of it, from a column within a cell."""
    values = np.random.default_rng(1).integers(1, 255, (3, 64, 160)).astype('uint8')
    return write('image.tif', values, at(180 - 80 * PIXEL, PIXEL), 'EPSG:4326')


def at(west: float, step: float) -> Affine:
    return Affine(step, 0, west, 0, -step, 10)


def looked_up(codes: Codes, columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The code under pixels of 64 rows, some columns from the first cell's edge."""
    return codes[np.ix_(np.arange(64) // 16, columns // 16)].astype(np.int64)


def labels_of(pair: LRHRPair) -> NDArray[np.int64]:
    sample = pair[:]
    found: NDArray[np.int64] = per_pixel(sample['lr_label'], sample['mask_region'])
    return found


@pytest.mark.parametrize('order', ['east west', 'west east', 'east', 'west'])
@pytest.mark.parametrize('apart', [False, True])
def test_labels_on_either_side(
    image: str, halves: dict[str, str], codes: Codes, order: str, apart: bool
) -> None:
    names = order.split()
    labels = [halves[name] for name in names]
    rasters = [LabelRaster.open(path)[0] for path in labels]
    pair = LRHRPair(image, rasters if apart else labels)
    expected = looked_up(codes, np.arange(160) + 48)
    if 'east' not in names:
        expected[:, :80] = -1
    if 'west' not in names:
        expected[:, 80:] = -1
    np.testing.assert_array_equal(labels_of(pair), expected)
    for query in ChipSampler(pair, 32):
        chip = pair[query]
        _, row, col, _ = chip['chip'].tolist()
        found = per_pixel(chip['lr_label'], chip['mask_region'])
        np.testing.assert_array_equal(found, expected[row : row + 32, col : col + 32])


def test_balanced_chips(image: str, halves: dict[str, str], codes: Codes) -> None:
    """Cells of both sides are drawn from: 4 rows of 10."""
    for order in (['east', 'west'], ['west', 'east']):
        pair = LRHRPair(image, [halves[name] for name in order])
        found, places = pair.lr_cells(0)
        assert sorted(found) == sorted(codes[:4, 3:13].ravel())
        assert sorted(set(places[1])) == [8 + 16 * i for i in range(10)]
        assert len(list(BalancedChipSampler(pair, 32, 6))) == 6


@pytest.mark.parametrize('turn', [-360, 0, 360])
@pytest.mark.parametrize('open_', [LRHRPair, FineLabelPair])
def test_degrees_from_another_meridian(
    write: Write, codes: Codes, turn: int, open_: Callable[..., LRHRPair]
) -> None:
    west = -77
    values = np.random.default_rng(1).integers(1, 255, (3, 64, 160)).astype('uint8')
    image = write('i.tif', values, at(west, PIXEL), 'EPSG:4326')
    if open_ is LRHRPair:
        labels = write('l.tif', codes, at(west + turn - 3 * CELL, CELL), 'EPSG:4326')
        expected = looked_up(codes, np.arange(160) + 48)
        np.testing.assert_array_equal(labels_of(LRHRPair(image, labels)), expected)
        return
    fine = np.random.default_rng(1).integers(1, 5, (64, 160)).astype('uint8')
    labels = write('l.tif', fine, at(west + turn, PIXEL), 'EPSG:4326')
    crosswalk = Crosswalk.load('land-cover-4', 'land-cover-4', None)
    found = FineLabelPair(image, labels, crosswalk)[:]['mask']
    np.testing.assert_array_equal(found, fine)


def test_elsewhere_is_elsewhere(write: Write, image: str, codes: Codes) -> None:
    for west in (-179, 0, 178, 538):
        labels = write('far.tif', codes, at(west, CELL), 'EPSG:4326')
        with pytest.raises(InputError, match='does not overlap'):
            LRHRPair(image, labels)


@pytest.mark.parametrize('turn', [0, 360])
def test_codes_are_counted_under_the_imagery(write: Write, turn: int) -> None:
    """Also of labels that are counted from 0° on."""
    values = np.full((40, 200), 11, 'uint8')
    values[10:20, 100:120] = 41
    path = write('l.tif', values, at(-77 + turn - 100 * CELL, CELL), 'EPSG:4326')
    (labels,) = LabelRaster.open(path)
    cells = crop(labels.geobox, (10, 100, 20, 120))
    degrees = type(cells)(
        cells.shape, Affine.translation(-turn, 0) * cells.affine, 'EPSG:4326'
    )
    found, _ = labels.count_codes([degrees])
    assert found == {41: 200}
    metres = degrees.to_crs('EPSG:32618')
    found, _ = labels.count_codes([metres])
    assert found[41] == 200
    assert found[11] < 200
