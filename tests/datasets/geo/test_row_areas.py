# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer

from torchgeo_mapsr.datasets.geo.grid import row_areas


def box(crs: str, x: float, y: float, size: float, rows: int = 4) -> GeoBox:
    return GeoBox((rows, 6), Affine(size, 0, x, 0, -size, y), crs)


@pytest.mark.parametrize(
    ('crs', 'x', 'y', 'size', 'expected'),
    [
        ('EPSG:26917', 5e5, 4e6, 1, 1),  # UTM at its word, though 0.08 % off
        ('EPSG:5070', 1.6e6, 1.9e6, 30, 900),
        ('EPSG:2263', 9e5, 2e5, 10, 100 * (1200 / 3937) ** 2),  # US survey feet
    ],
)
def test_projected(crs: str, x: float, y: float, size: float, expected: float) -> None:
    np.testing.assert_allclose(row_areas(box(crs, x, y, size)), expected, rtol=1e-9)


def test_rotated() -> None:
    rotated = GeoBox((3, 3), Affine(3, 4, 5e5, 4, -3, 4e6), 'EPSG:26917')
    np.testing.assert_allclose(row_areas(rotated), 25)


@pytest.mark.parametrize('y', [0.0, 6.5e6, 8.4e6])
def test_web_mercator_is_brought_down_to_the_ground(y: float) -> None:
    """The oracle: the geodesic area of the pixel's corners."""
    grid = box('EPSG:3857', 1e6, y, 50)
    to_degrees = Transformer.from_crs(3857, 4326, always_xy=True)
    for row, area in enumerate(row_areas(grid)):
        x = 1e6 + 50 * np.array([3, 4, 4, 3])
        lon, lat = to_degrees.transform(x, y - 50 * (row + np.array([0, 0, 1, 1])))
        expected = abs(Geod(ellps='WGS84').polygon_area_perimeter(lon, lat)[0])
        np.testing.assert_allclose(area, expected, rtol=0.01)


def test_geographic_rows_add_up_to_the_ellipsoid() -> None:
    grid = GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), 'EPSG:4326')
    areas = row_areas(grid)
    assert np.ptp(areas[[0, 179]]) < 1  # the same at both poles
    assert areas[90] > 50 * areas[0]
    # Geodesics bulge off the parallels, which cancels between the hemispheres only
    # roughly: one degree is coarse for the sum over the whole ellipsoid.
    np.testing.assert_allclose(areas.sum() * 360, 5.10065622e14, rtol=1e-4)


def test_geographic_pixel() -> None:
    area = row_areas(box('EPSG:4326', 10, 60, 1e-5, rows=1))[0]
    geod = Geod(ellps='WGS84')
    _, _, wide = geod.inv(10, 60, 10 + 1e-5, 60)
    _, _, high = geod.inv(10, 60, 10, 60 - 1e-5)
    np.testing.assert_allclose(area, wide * high, rtol=1e-4)


@pytest.mark.parametrize(
    ('crs', 'x', 'y', 'size'),
    [
        ('EPSG:27572', 520_000, 1_800_000, 1.0),
        ('EPSG:27572', 600_000, 2_600_000, 1.0),
        ('EPSG:4807', 0.5, 54.0, 1e-5),
    ],
)
def test_grads_from_paris(crs: str, x: float, y: float, size: float) -> None:
    """Old French maps. The oracle: corners in WGS 84, whose ellipsoid differs by 1e-5."""
    grid = box(crs, x, y, size)
    to_degrees = Transformer.from_crs(crs, 4326, always_xy=True)
    corners = size * np.array([[0, 6, 6, 0], [0, 0, -4, -4]])
    lon, lat = to_degrees.transform(x + corners[0], y + corners[1])
    expected = abs(Geod(ellps='WGS84').polygon_area_perimeter(lon, lat)[0])
    tolerance = 1e-4 if crs == 'EPSG:4807' else 0.01
    np.testing.assert_allclose(6 * row_areas(grid).sum(), expected, rtol=tolerance)
