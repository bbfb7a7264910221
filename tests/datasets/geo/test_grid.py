# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Whole turns round the Earth; what else grids do is tested where they are used."""

import math

import numpy as np
import pytest
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.transform import Affine

from torchgeo_mapsr.datasets.geo.grid import (
    box_in,
    coverage,
    pixel_offset,
    pixel_ratio,
    project,
)
from torchgeo_mapsr.datasets.geo.region import region_map

MERCATOR = 2 * np.pi * 6378137


def grid(
    left: float,
    width: int,
    step: float = 1 / 1024,
    height: int = 64,
    crs: str = 'EPSG:4326',
) -> GeoBox:
    return GeoBox((height, width), Affine(step, 0, left, 0, -step, 1), crs)


@pytest.mark.parametrize(('crs', 'turn'), [('EPSG:4326', 360), ('EPSG:3857', MERCATOR)])
@pytest.mark.parametrize('turns', [-1, 0, 1])
def test_a_turn_makes_no_difference(crs: str, turn: float, turns: int) -> None:
    step = turn / 2**20
    reference = grid(-77 * step, 100, step, crs=crs)
    moved = Affine.translation(turns * turn, 0)
    inner = GeoBox((32, 20), moved * Affine(step, 0, -67 * step, 0, -step, 1), crs)
    # 50 columns of 0.4, from 0.3 of a cell on
    fine = inner.affine * Affine.translation(0.3, 0) * Affine.scale(0.4, 1)
    finer = GeoBox((32, 50), fine, crs)
    assert pixel_offset(inner, reference) == (0, 10)
    assert pixel_offset(finer, reference) is None
    for part, left, right in ((inner, 10, 30), (finer, 10.3, 30.3)):
        box = 0, math.floor(left), 32, math.ceil(right)
        assert box_in(part, reference) == box
        assert coverage(part, reference) == pytest.approx(1)
        # a point as well
        for points in (np.zeros(1), np.array([0.0, 9])):
            _, col = project(part, reference, np.zeros(len(points)), points)
            assert col[0] == pytest.approx(left)
    assert pixel_ratio(inner, reference) == pytest.approx(1)
    # and the other way round
    assert box_in(reference, inner) == (0, -10, 64, 90)


@pytest.mark.parametrize('origin', [-180, 0])
@pytest.mark.parametrize('west', [-180.125, 179.5, 359.875, -0.25])
def test_cells_under_degrees(origin: int, west: float) -> None:
    """Pixel by pixel, by longitudes from 0° to 360°: where most of the chip lies."""
    lr = GeoBox((90, 360 * 8), Affine(0.125, 0, origin, 0, -0.125, 5), 'EPSG:4326')
    hr = GeoBox((20, 40), Affine(1 / 64, 0, west, 0, -1 / 64, 1), 'EPSG:4326')
    regions = region_map(hr, lr)
    assert regions.window[3] <= 7
    longitude = west + (np.arange(40) + 0.5) / 64
    expected = np.floor((longitude - origin) % 360 * 8)
    width = regions.window[3]
    found = (regions.mask_region - 1) % width + regions.window[1]
    np.testing.assert_array_equal((found - expected) % (360 * 8), 0)
    within = ((found >= 0) & (found < 360 * 8)).mean()
    assert within >= 0.5
    row = (regions.mask_region - 1) // width + regions.window[0]
    np.testing.assert_array_equal(row[:, 0], (4 * 64 + np.arange(20)) // 8)


def test_half_a_chip_lies_beside_the_labels() -> None:
    chip = grid(180 - 32 / 1024, 64)
    assert coverage(chip, grid(-180, 64)) == pytest.approx(0.5)
    assert box_in(chip, grid(-180, 64)) == (0, -32, 64, 32)
    assert box_in(chip, grid(180 - 64 / 1024, 64)) == (0, 32, 64, 96)


def test_tiles_of_the_whole_earth_stay() -> None:
    """Those that meet on the other side of it, and those that meet nowhere."""
    tiles = [grid(left, 120, 1, 9) for left in (-180, -60, 60)]
    boxes = [box_in(tile, tiles[0]) for tile in tiles]
    assert boxes == [(0, 0, 9, 120), (0, 120, 9, 240), (0, 240, 9, 360)]
    halves = [grid(left, 1800, 0.1, 9) for left in (-180, 0)]
    assert box_in(halves[1], halves[0]) == (0, 1800, 9, 3600)
    assert box_in(halves[0], halves[1]) == (0, -1800, 9, 0)
    # not by rounding either
    third = grid(-180, 1201, 0.1, 9)
    assert box_in(grid(60.1, 1199, 0.1, 9), third)[1] == 2401


def test_no_turn_where_x_does_not_go_round() -> None:
    utm = grid(500_000, 100, 1, crs='EPSG:32618')
    away = grid(500_000 - 360, 100, 1, crs='EPSG:32618')
    assert box_in(away, utm) == (0, -360, 64, -260)
    assert coverage(away, utm) == 0


@pytest.mark.parametrize('side', [-1, 1])
def test_metres_across_the_antimeridian_to_mercator(side: int) -> None:
    """Its x jumps there as longitudes do."""
    hr = GeoBox((60, 300), Affine(200, 0, 275_000, 0, -200, 6_000_000), 'EPSG:32601')
    left = side * MERCATOR / 2 - 50_000
    lr = GeoBox((400, 1000), Affine(100, 0, left, 0, -100, 7.22e6), 'EPSG:3857')
    transformer = Transformer.from_crs('EPSG:32601', 'EPSG:3857', always_xy=True)
    col, row = np.meshgrid(np.arange(300) + 0.5, np.arange(60) + 0.5)
    x, y = transformer.transform(*hr.pix2wld(col, row))
    assert np.ptp(x) > MERCATOR / 2
    place = project(hr, lr, row, col)
    assert np.ptp(place[1]) < 1200
    around = (place[1] * 100 + left - x) / MERCATOR
    np.testing.assert_allclose(around, np.rint(around), atol=1e-9)
    np.testing.assert_allclose(place[0] * -100 + 7.22e6, y, atol=1e-3)
    assert ((place[1] >= 0) & (place[1] < 1000)).mean() > 0.5
