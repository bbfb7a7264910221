# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine
from rasterio.warp import Resampling, reproject

from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.recovered import NLCD_GRID, RecoveredLabels

from .conftest import HR, UTM, Write

SIZE = 400


@pytest.fixture
def native(write: Write) -> LabelRaster:
    codes = np.random.default_rng(0).choice(np.array([11, 21, 41, 82, 95]), (40, 40))
    affine = Affine(30, 0, 1339185 - 390, 0, -30, 1736145 + 390)
    path = write('native.tif', codes.astype('uint8'), affine, 'EPSG:5070', nodata=0)
    return LabelRaster.open(path)[0]


@pytest.fixture
def recovered(write: Write, native: LabelRaster) -> RecoveredLabels:
    """The native labels, warped to 1 m as Chesapeake's NLCD layer was."""
    warped = np.zeros((SIZE, SIZE), 'uint8')
    reproject(
        native.read(slice(0, 40), slice(0, 40)).astype('uint8'),
        warped,
        src_transform=native.geobox.affine,
        src_crs='EPSG:5070',
        dst_transform=HR,
        dst_crs=UTM,
        resampling=Resampling.nearest,
    )
    warped[:40, :40] = 0
    return RecoveredLabels(write('warped.tif', warped, nodata=0))


def test_cells_come_back(recovered: RecoveredLabels, native: LabelRaster) -> None:
    grid = recovered.geobox
    found = recovered.read(slice(0, grid.height), slice(0, grid.width))
    expected = native.at(grid)
    covered = found >= 0
    assert 0.55 < covered.mean() < 0.9  # a rotated square in its bounding box
    np.testing.assert_array_equal(found[covered], expected[covered])
    # every cell that has a pixel was found
    pixels = recovered._fine.at(GeoBox((SIZE, SIZE), HR, UTM))
    np.testing.assert_array_equal(
        recovered.at(GeoBox((SIZE, SIZE), HR, UTM))[pixels >= 0], pixels[pixels >= 0]
    )


def test_windows_agree(recovered: RecoveredLabels) -> None:
    height, width = recovered.geobox.shape
    whole = recovered.read(slice(-5, height + 5), slice(-5, width + 5))
    np.testing.assert_array_equal(whole[:5], -1)
    for rows in (slice(-5, 4), slice(3, 9), slice(height - 2, height + 5)):
        for cols in (slice(-3, 2), slice(2, width), slice(5, 5), slice(6, 7)):
            part = whole[rows.start + 5 : rows.stop + 5, cols.start + 5 : cols.stop + 5]
            np.testing.assert_array_equal(recovered.read(rows, cols), part)
    far = recovered.read(slice(10**4, 10**4 + 3), slice(0, 4))
    np.testing.assert_array_equal(far, np.full((3, 4), -1))


def test_majority(write: Write) -> None:
    codes = np.full((60, 60), 41, 'uint8')
    codes[:30, :14], codes[:30, 30:46] = 11, 11
    codes[30:, :15], codes[30:, 30:] = 82, 0
    path = write('a.tif', codes, nodata=0)
    recovered = RecoveredLabels(path, GeoBox((2, 2), HR * Affine.scale(30), UTM))
    # 14 of 30 columns lose, 16 win, halves go to the smaller code, none is none
    np.testing.assert_array_equal(
        recovered.read(slice(0, 2), slice(0, 2)), [[41, 11], [41, -1]]
    )


def test_nothing_labelled(write: Write) -> None:
    recovered = RecoveredLabels(write('a.tif', np.zeros((90, 90), 'uint8'), nodata=0))
    assert (recovered.read(slice(0, 3), slice(0, 3)) == -1).all()


def test_nlcd_grid_is_that_of_the_real_labels(shared: object) -> None:
    from pathlib import Path

    from torchgeo_mapsr.datasets.geo.grid import pixel_offset

    assert isinstance(shared, Path)
    paths = sorted((shared / 'data/chesapeake_wv').glob('*/lr.tif'))
    for raster in LabelRaster.open(paths):
        assert pixel_offset(raster.geobox, NLCD_GRID) is not None
