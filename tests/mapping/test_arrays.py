# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox

from torchgeo_mapsr import FitOptions, InputError, LandCoverModel, fit, map_array
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.models.model import LandCoverModel as Model

from .conftest import BACKBONE


@pytest.fixture(scope='module')
def model(scene: Scene) -> LandCoverModel:
    return fit(
        scene.imagery, scene.labels, 'nlcd', backbone=BACKBONE, chip_size=128,
        device='cpu',
    )  # fmt: skip


def arrays(path: Path) -> tuple[np.ndarray, GeoBox]:
    with rasterio.open(path) as file:
        return file.read(), GeoBox(file.shape, file.transform, str(file.crs))


def test_same_as_the_command(scene: Scene, model: LandCoverModel, mapped: Path) -> None:
    assert model.to_bytes() == (mapped / 'fit.safetensors').read_bytes()
    codes = map_array(model, scene.imagery, scene.labels, chip_size=128)
    with rasterio.open(mapped / 'cover.tif') as file:
        np.testing.assert_array_equal(codes, file.read(1))


def test_arrays_are_like_files(scene: Scene, model: LandCoverModel) -> None:
    image, labels = arrays(scene.imagery), arrays(scene.labels)
    again = fit(image, labels, 'nlcd', backbone=BACKBONE, chip_size=128, device='cpu')
    assert again.to_bytes() == model.to_bytes()
    of_files = map_array(model, scene.imagery, chip_size=128)
    np.testing.assert_array_equal(map_array(again, image, chip_size=128), of_files)
    percent = map_array(model, image, chip_size=128, probabilities=True)
    assert percent.shape == (4, *of_files.shape)
    np.testing.assert_array_equal(
        model.target.codes[percent.argmax(0)][percent.max(0) > 60],
        of_files[percent.max(0) > 60],
    )


def test_data_array_keeps_its_place(scene: Scene, model: LandCoverModel) -> None:
    xr = pytest.importorskip('odc.geo.xr')
    values, grid = arrays(scene.imagery)
    image = xr.wrap_xr(values, grid, dims=('band', 'y', 'x'), axis=1)
    found = map_array(model, image, chip_size=128)
    assert found.odc.geobox == grid
    np.testing.assert_array_equal(found['x'], image['x'])
    np.testing.assert_array_equal(found, map_array(model, scene.imagery, chip_size=128))
    with pytest.raises(InputError, match='CRS'):
        map_array(model, image.drop_vars(['spatial_ref', 'x', 'y']))


def test_save_and_load(scene: Scene, model: LandCoverModel, tmp_path: Path) -> None:
    model.save(tmp_path / 'fit')
    again = Model.load(tmp_path / 'fit')
    np.testing.assert_array_equal(
        map_array(again, scene.imagery, chip_size=128),
        map_array(model, scene.imagery, chip_size=128),
    )


def test_other_bands(scene: Scene, model: LandCoverModel) -> None:
    values, grid = arrays(scene.imagery)
    with pytest.raises(InputError, match='4 bands'):
        map_array(model, (values[:3], grid))
    with pytest.raises(InputError, match='does not lie'):
        map_array(model, (values[:, 1:], grid))


def test_options(scene: Scene) -> None:
    cosine = fit(
        scene.imagery,
        scene.labels,
        'nlcd',
        backbone=BACKBONE,
        options=FitOptions(score='cosine'),
        propagate='tokens?spacing=16',
        chip_size=128,
        device='cpu',
    )
    assert cosine.head.score == 'cosine'
    assert cosine.head.prior.weight == 0
    assert cosine.propagate == 'tokens?spacing=16'


def test_axes_of_an_array_are_known_by_name(
    scene: Scene, model: LandCoverModel
) -> None:
    xr = pytest.importorskip('odc.geo.xr')
    values, grid = arrays(scene.imagery)
    image = xr.wrap_xr(values, grid, dims=('band', 'y', 'x'), axis=1)
    found = map_array(model, image, chip_size=128)
    for other in (
        image.transpose('y', 'x', 'band'),
        image.isel(y=slice(None, None, -1)).sortby('y', ascending=False),
        image.astype('int64'),
        image.astype('float16'),
    ):
        np.testing.assert_array_equal(map_array(model, other, chip_size=128), found)


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('uneven', "coordinates 'x' of the array are not evenly spaced"),
        ('bare', r'shape \(4, \d+, \d+\) has no grid; pass \(values, GeoBox\)'),
        ('listed', 'a raster is a path, not ndarray'),
        ('number', 'a raster is a path, not int'),
        ('complex', 'An array of complex64 is neither'),
        ('dates', r'An array of datetime64\[ns\] is neither'),
    ],
)
def test_arrays_that_are_no_rasters(
    scene: Scene, model: LandCoverModel, kind: str, message: str
) -> None:
    xr = pytest.importorskip('odc.geo.xr')
    values, grid = arrays(scene.imagery)
    image = xr.wrap_xr(values, grid, dims=('band', 'y', 'x'), axis=1)
    source = {
        'uneven': image.assign_coords(
            x=float(image['x'][0]) + np.arange(image.sizes['x']) ** 1.1
        ),
        'bare': values,
        'listed': [values],
        'number': 5,
        'complex': image.astype('complex64'),
        'dates': image.astype('datetime64[ns]'),
    }[kind]
    with pytest.raises(InputError, match=message) as error:
        map_array(model, source, chip_size=128)
    assert '\n' not in str(error.value)
