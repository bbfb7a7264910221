# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.transform import Affine

from torchgeo_mapsr.datasets.geo.region import lr_coordinates, region_map

from ..conftest import HR, UTM

ALBERS = GeoBox(
    (100_000, 160_000), Affine(30, 0, -2493045, 0, -30, 3310005), 'EPSG:5070'
)
WORLD = GeoBox(
    (1_620_000, 4_320_000), Affine(1 / 12000, 0, -180, 0, -1 / 12000, 75), 4326
)


def chip(size: int, res: float = 1, x: float = HR.c, y: float = HR.f) -> GeoBox:
    return GeoBox((size, size), Affine(res, 0, x, 0, -res, y), UTM)


def exact(hr: GeoBox, lr: GeoBox) -> NDArray[np.float64]:
    """Project every pixel's centre."""
    col, row = np.meshgrid(np.arange(hr.width) + 0.5, np.arange(hr.height) + 0.5)
    a, b, c, d, e, f, *_ = hr.affine
    x, y = a * col + b * row + c, d * col + e * row + f
    transformer = Transformer.from_crs(hr.crs.proj, lr.crs.proj, always_xy=True)
    x, y = transformer.transform(x, y)
    a, b, c, d, e, f, *_ = ~lr.affine
    with np.errstate(invalid='ignore'):
        return np.stack([d * x + e * y + f, a * x + b * y + c])


@pytest.mark.parametrize(
    ('hr', 'lr', 'metres'),
    [
        (chip(448), ALBERS, 30),
        (chip(2000, 4), ALBERS, 30),
        (chip(2000, 4), WORLD, 111_320 / 12000),
        (chip(448, 0.6), WORLD, 111_320 / 12000),
        (GeoBox((900, 700), Affine(1e-5, 0, -80.6, 0, -1e-5, 37.7), 4326), ALBERS, 30),
        (GeoBox((512, 512), Affine(0.5, 0, 346222.75, 0, -0.5, 519412.25), 2180),
         GeoBox((500, 500), Affine(15, 0, 4777290, 0, -15, 3288900), 3035), 15),
        (GeoBox((300, 300), HR * Affine.rotation(20), UTM), ALBERS, 30),
    ],
    ids=['448 m', '8 km', '8 km to degrees', 'chip to degrees', 'from degrees',
         'Poland', 'rotated imagery'],
)  # fmt: skip
def test_coordinates_are_exact_to_a_millimetre(
    hr: GeoBox, lr: GeoBox, metres: float
) -> None:
    error = np.abs(lr_coordinates(hr, lr) - exact(hr, lr)).max()
    assert error * metres < 1e-3


def test_few_points_are_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    transform = Transformer.transform

    def counted(self: Transformer, x: float, y: float) -> object:
        nonlocal count
        count += np.size(x)
        return transform(self, x, y)

    monkeypatch.setattr(Transformer, 'transform', counted)
    lr_coordinates(chip(2000, 4), ALBERS)
    assert count < 17 * 17 * 2


@pytest.mark.parametrize('shape', [(1, 1), (1, 40), (2, 3), (40, 1)])
def test_tiny_chips(shape: tuple[int, int]) -> None:
    hr = GeoBox(shape, HR, UTM)
    np.testing.assert_allclose(
        lr_coordinates(hr, ALBERS), exact(hr, ALBERS), rtol=1e-12
    )
    regions = region_map(hr, ALBERS)
    assert regions.mask_region.shape == shape
    assert regions.mask_region.min() > 0


def test_equal_crs_is_block_arithmetic() -> None:
    lr = GeoBox((10, 10), HR * Affine.scale(30), UTM)
    regions = region_map(lr.zoom_out(1 / 30), lr)
    assert regions.window == (0, 0, 10, 10)
    blocks = np.arange(1, 101).reshape(10, 10).repeat(30, 0).repeat(30, 1)
    np.testing.assert_array_equal(regions.mask_region, blocks)
    np.testing.assert_array_equal(regions.share, 1)


def test_share_of_cut_cells() -> None:
    lr = GeoBox((10, 10), HR * Affine.scale(30), UTM)
    # 20 of 30 rows of the first cells, 15 of 30 columns of the last
    regions = region_map(chip(50).translate_pix(25, 10).crop((50, 50)), lr)
    assert regions.window == (0, 0, 2, 3)
    share = np.outer([20 / 30, 1], [5 / 30, 1, 15 / 30])
    np.testing.assert_allclose(regions.share.reshape(2, 3), share)


def test_tie_does_not_depend_on_rounding() -> None:
    # the centres of every third pixel lie on the edges of cells
    lr = GeoBox((400, 400), HR * Affine.translation(0.5, 0.5) * Affine.scale(3), UTM)
    hr = chip(300)
    whole = region_map(hr, lr)
    rows = np.arange(300) // 3
    cells = rows[:, None] * whole.window[3] + rows + 1
    # pixel 0 is half a pixel before the first edge: it belongs to the cell at −1/6
    assert whole.window[:2] == (0, 0)
    np.testing.assert_array_equal(whole.mask_region, cells)


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(-3e5, 3e5),
    y=st.floats(-3e5, 3e5),
    size=st.integers(20, 150),
    res=st.floats(0.3, 3),
)
def test_map_is_the_floor_and_share_the_visible_part(
    x: float, y: float, size: int, res: float
) -> None:
    hr = chip(size, res, HR.c + x, HR.f + y)
    regions = region_map(hr, ALBERS)
    top, left, height, width = regions.window
    place = exact(hr, ALBERS)
    row, col = np.floor(place).astype(int)
    assert (top, left) == (row.min(), col.min())
    assert (height, width) == (np.ptp(row) + 1, np.ptp(col) + 1)
    far = np.abs(place - np.rint(place)).min(axis=0) > 1e-4
    expected = (row - top) * width + col - left + 1
    np.testing.assert_array_equal(regions.mask_region[far], expected[far])

    # the oracle for the share: areas of the cells in the chip's own pixels
    visible = np.bincount(regions.mask_region.ravel(), minlength=height * width + 1)[1:]
    corners = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
    back = Transformer.from_crs(ALBERS.crs.proj, hr.crs.proj, always_xy=True)
    window = shapely.box(0, 0, size, size)
    for cell, share in enumerate(regions.share):
        i, j = top + cell // width, left + cell % width
        world = back.transform(
            *(ALBERS.affine * (j + corners[:, 1], i + corners[:, 0]))
        )
        shape = shapely.Polygon(np.stack(~hr.affine * world, axis=1))
        inside = shape.intersection(window).area / shape.area
        # a share is made of whole pixels: it differs from the area by some of those
        # on the outline
        assert share == pytest.approx(inside, abs=3 * shape.length / shape.area)
        if shape.within(window):
            assert share == (visible[cell] > 0)


def test_window_may_lie_beyond_the_labels() -> None:
    lr = GeoBox((4, 4), Affine(30, 0, 1339335, 0, -30, 1736145), 'EPSG:5070')
    regions = region_map(chip(448), lr)
    top, left, height, width = regions.window
    assert top < 0
    assert left < 0
    assert height > 4
    assert width > 4
    assert regions.rows == slice(top, top + height)
    assert regions.cols == slice(left, left + width)


@pytest.mark.parametrize('origin', [-180, 0])
def test_antimeridian(origin: int) -> None:
    # 60 km that cross 180°, in UTM zone 1
    hr = GeoBox((100, 300), Affine(200, 0, 275_000, 0, -200, 6_000_000), 'EPSG:32601')
    lr = GeoBox((1800, 3600), Affine(0.1, 0, origin, 0, -0.1, 90), 'EPSG:4326')
    regions = region_map(hr, lr)
    assert regions.window[3] < 20
    place = exact(hr, lr)
    assert np.ptp(place[1]) > (3000 if origin == -180 else 0)
    row, col = np.floor(place).astype(int)
    width = regions.window[3]
    index = regions.mask_region - 1
    np.testing.assert_array_equal(index // width + regions.window[0], row)
    np.testing.assert_array_equal((index % width + regions.window[1] - col) % 3600, 0)


def test_where_the_lr_crs_is_not_defined() -> None:
    lr = GeoBox((100, 100), Affine(1e5, 0, -5e6, 0, -1e5, 5e6), '+proj=ortho +lat_0=0')
    behind = GeoBox((10, 10), Affine(0.1, 0, 170, 0, -0.1, 0), 'EPSG:4326')
    regions = region_map(behind, lr)
    assert regions.window == (0, 0, 0, 0)
    assert regions.share.shape == (0,)
    assert not regions.mask_region.any()
    horizon = GeoBox((10, 60), Affine(1, 0, 60, 0, -1, 5), 'EPSG:4326')
    known = np.isfinite(exact(horizon, lr)).all(axis=0)
    assert 0 < known.mean() < 1
    np.testing.assert_array_equal(region_map(horizon, lr).mask_region > 0, known)


def test_real_scenes(shared: Path) -> None:
    folders = sorted((shared / 'data').glob('chesapeake_wv/*'))
    folders += sorted((shared / 'data').glob('openearthmap/*'))
    assert len(folders) == 10
    for folder in folders:
        with (
            rasterio.open(folder / 'imagery.tif') as imagery,
            rasterio.open(folder / 'lr.tif') as labels,
        ):
            hr, lr = GeoBox.from_rio(imagery), GeoBox.from_rio(labels)
        regions = region_map(hr, lr)
        top, left, _, width = regions.window
        row, col = np.floor(exact(hr, lr)).astype(int)
        expected = (row - top) * width + col - left + 1
        assert np.mean(regions.mask_region != expected) < 1e-4
