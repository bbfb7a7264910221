# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Geod, Proj, Transformer

from torchgeo_mapsr.datasets.geo.areas import PixelAreas, pixel_metres


def box(crs: str, x: float, y: float, size: float, rows: int = 4) -> GeoBox:
    return GeoBox((rows, 6), Affine(size, 0, x, 0, -size, y), crs)


def areas_of(grid: GeoBox, at_its_word: bool = True) -> NDArray[np.float64]:
    whole = slice(0, grid.height), slice(0, grid.width)
    return PixelAreas(grid, at_its_word)(*whole)


@pytest.mark.parametrize(
    ('crs', 'x', 'y', 'size', 'expected'),
    [
        ('EPSG:26917', 5e5, 4e6, 1, 1),  # UTM at its word, though 0.08 % off
        ('EPSG:5070', 1.6e6, 1.9e6, 30, 900),
        ('EPSG:2263', 9e5, 2e5, 10, 100 * (1200 / 3937) ** 2),  # US survey feet
    ],
)
def test_projected(crs: str, x: float, y: float, size: float, expected: float) -> None:
    grid = box(crs, x, y, size)
    np.testing.assert_allclose(areas_of(grid), expected, rtol=1e-9)
    assert PixelAreas(grid).middle == pytest.approx(expected)


def test_rotated() -> None:
    rotated = GeoBox((3, 3), Affine(3, 4, 5e5, 4, -3, 4e6), 'EPSG:26917')
    np.testing.assert_allclose(areas_of(rotated), 25)
    turned = GeoBox((3, 3), Affine(3e-5, 4e-5, 10, 4e-5, -3e-5, 60), 'EPSG:4326')
    plain = GeoBox((1, 1), Affine(5e-5, 0, 10, 0, -5e-5, 60), 'EPSG:4326')
    np.testing.assert_allclose(areas_of(turned), areas_of(plain)[0, 0], rtol=1e-5)


@pytest.mark.parametrize('y', [0.0, 6.5e6, 8.4e6])
def test_web_mercator_is_brought_down_to_the_ground(y: float) -> None:
    """The oracle: the geodesic area of the pixel's corners."""
    grid = box('EPSG:3857', 1e6, y, 50)
    to_degrees = Transformer.from_crs(3857, 4326, always_xy=True)
    for row, area in enumerate(areas_of(grid)[:, 3]):
        x = 1e6 + 50 * np.array([3, 4, 4, 3])
        lon, lat = to_degrees.transform(x, y - 50 * (row + np.array([0, 0, 1, 1])))
        expected = abs(Geod(ellps='WGS84').polygon_area_perimeter(lon, lat)[0])
        # near the equator it is taken at its word
        np.testing.assert_allclose(area, expected, rtol=0.01 if y == 0 else 1e-5)


@pytest.mark.parametrize(
    ('epsg', 'left', 'top', 'width', 'height'),
    [
        (3413, -3.5e6, 4.5e6, 700, 900),  # sea ice, polar stereographic
        (3031, -3.3e6, 3.3e6, 660, 660),  # Antarctica
        (3347, 3.6e6, 4.5e6, 550, 380),  # Canada, conic
        (3978, -2.4e6, 3.9e6, 550, 490),
        (3034, 2.6e6, 4.6e6, 340, 320),  # Europe, conic
    ],
)
def test_scales_that_differ_within_a_row(
    epsg: int, left: float, top: float, width: int, height: int
) -> None:
    """Taken at the middle of a row, areas were up to 17 % off. The oracle: PROJ."""
    grid = GeoBox((height, width), Affine(1e4, 0, left, 0, -1e4, top), f'EPSG:{epsg}')
    projection = Proj(epsg)
    x, y = grid.pix2wld(*np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5))
    factors = projection.get_factors(*projection(x, y, inverse=True))
    expected = 1e8 / factors.areal_scale
    np.testing.assert_allclose(areas_of(grid, False), expected, rtol=2e-4)
    word = np.abs(factors.areal_scale - 1) < 0.0098
    assert 0.02 < word.mean() < 0.98
    np.testing.assert_allclose(areas_of(grid)[word], 1e8)
    far = np.abs(factors.areal_scale - 1) > 0.0102
    np.testing.assert_allclose(areas_of(grid)[far], expected[far], rtol=2e-4)
    # a pixel has one area, whatever is asked for at once
    part = PixelAreas(grid)(slice(37, 191), slice(100, 333))
    np.testing.assert_allclose(part, areas_of(grid)[37:191, 100:333], rtol=1e-12)


def test_where_a_projection_ends() -> None:
    """Beside the rim of an orthographic Earth, and beyond it."""
    grid = GeoBox(
        (80, 80),
        Affine(1e3, 0, 6.32e6, 0, -1e3, 4e4),
        '+proj=ortho +lat_0=0 +lon_0=0 +datum=WGS84 +type=crs',
    )
    areas = areas_of(grid)
    x, _ = grid.pix2wld(np.arange(80) + 0.5, np.full(80, 40.5))
    scale = np.sqrt(1 - (np.minimum(x, 6378137) / 6378137) ** 2)
    on = x < 6.376e6
    assert 0.6 < on.mean() < 0.9
    np.testing.assert_allclose(areas[40, on], 1e6 / scale[on], rtol=0.03)
    assert np.isfinite(areas).all()


def test_geographic_rows_add_up_to_the_ellipsoid() -> None:
    grid = GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), 'EPSG:4326')
    areas = areas_of(grid)
    assert np.ptp(areas[[0, 179]]) < 1  # the same at both poles
    assert areas[90, 0] > 50 * areas[0, 0]
    np.testing.assert_allclose(areas.sum(), 5.10065621724e14, rtol=1e-9)


@pytest.mark.parametrize('crs', ['EPSG:3571', '+proj=aeqd +lat_0=90 +type=crs'])
def test_a_pole_is_a_place_like_others(crs: str) -> None:
    grid = GeoBox((200, 200), Affine(2e4, 0, -2e6, 0, -2e4, 2e6), crs)
    areas = areas_of(grid)
    np.testing.assert_allclose(areas[100, 100], 4e8, rtol=1e-3)
    np.testing.assert_allclose(areas[95:105, 95:105], 4e8, rtol=1e-3)


def test_geographic_pixel() -> None:
    area = areas_of(box('EPSG:4326', 10, 60, 1e-5, rows=1))[0, 0]
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
    np.testing.assert_allclose(areas_of(grid).sum(), expected, rtol=tolerance)


@pytest.mark.parametrize(
    ('crs', 'affine', 'high', 'wide'),
    [
        ('EPSG:32617', Affine(10, 0, 5e5, 0, -10, 4e6), 10, 10),
        ('EPSG:5070', Affine(30, 0, 1e6, 0, -30, 1.5e6), 30, 30),
        ('EPSG:2263', Affine(3, 0, 9e5, 0, -3, 2e5), 0.9144018, 0.9144018),
        ('EPSG:4326', Affine(1e-3, 0, 10, 0, -1e-3, 60), None, None),
        # equal areas: 1 km as projected is 1.6 km high and 0.6 km wide
        ('EPSG:6933', Affine(1000, 0, 1e6, 0, -1000, 6.3e6), None, None),
        # grads from Paris
        ('EPSG:4807', Affine(1e-3, 0, 0, 0, -1e-3, 52), None, None),
    ],
)
def test_sides_of_the_middle_pixel(
    crs: str, affine: Affine, high: float | None, wide: float | None
) -> None:
    """As pyproj measures them on the ellipsoid, or in a good projection's own units."""
    found = pixel_metres(GeoBox((200, 200), affine, crs))
    ends = np.array([[100, 100.5], [101, 100.5], [100.5, 100], [100.5, 101]])
    lon, lat = Transformer.from_crs(crs, 'EPSG:4326', always_xy=True).transform(
        *(affine * ends.T)
    )
    wide_, high_ = Geod(ellps='WGS84').inv(lon[::2], lat[::2], lon[1::2], lat[1::2])[2]
    np.testing.assert_allclose(found, (high or high_, wide or wide_), rtol=1e-4)
