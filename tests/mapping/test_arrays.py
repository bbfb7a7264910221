# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from lightning.pytorch import Trainer
from odc.geo.geobox import GeoBox
from odc.geo.xr import wrap_xr
from rasterio.transform import Affine
from xarray import DataArray, Dataset

from torchgeo_mapsr import (
    FitOptions,
    InputError,
    LandCoverModel,
    SegmentationTask,
    fit,
    map_array,
)
from torchgeo_mapsr.datasets import Crosswalk
from torchgeo_mapsr.datasets.geo import opened
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputWarning
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
    unnamed = replace(model.origin, descriptions=again.origin.descriptions)
    assert again.to_bytes() == replace(model, origin=unnamed).to_bytes()
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
    with pytest.raises(InputError, match='3 bands but the imagery of the fit has 4'):
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


@pytest.mark.filterwarnings('ignore::torchgeo_mapsr.errors.InputWarning')
@pytest.mark.parametrize('pixel', [0.6, 1 / 3, 1.0])
def test_coordinates_are_those_of_the_source(
    scene: Scene, model: LandCoverModel, pixel: float
) -> None:
    """Made as people make them, they differ from the grid's in the last digits."""
    values, _ = arrays(scene.imagery)
    values = values[:, :130, :140]
    image = DataArray(
        values,
        {
            'y': 4_210_000.1 - pixel * (np.arange(130) + 0.5),
            'x': 325_000.3 + pixel * (np.arange(140) + 0.5),
        },
        ('band', 'y', 'x'),
    ).odc.assign_crs('EPSG:26918')
    found = map_array(model, image, chip_size=128)
    assert found.x.equals(image.x)
    assert found.y.equals(image.y)
    assert image.where(found == 3).shape == image.shape
    assert found.odc.crs == image.odc.crs
    assert found.odc.nodata == 255
    shares = map_array(model, image, chip_size=128, probabilities=True)
    assert shares.dims == ('class', 'y', 'x')
    assert shares.x.equals(image.x)
    assert list(shares['class'].values) == list(model.target.class_names)


@pytest.mark.parametrize('dims', [('latitude', 'longitude'), ('lat', 'lon')])
def test_dimensions_keep_their_names(
    scene: Scene, model: LandCoverModel, dims: tuple[str, str]
) -> None:
    values, _ = arrays(scene.imagery)
    values = values[:, :100, :100]
    steps = 1e-5 * (np.arange(100) + 0.5)
    image = DataArray(
        values, {dims[0]: 38 - steps, dims[1]: steps - 77}, ('band', *dims)
    ).odc.assign_crs('EPSG:4326')
    found = map_array(model, image, chip_size=128)
    assert found.dims == dims
    assert image.where(found == 3).shape == image.shape


def test_flag_meanings_are_as_many_words_as_values(scene: Scene) -> None:
    """CF 1.11, section 3.5: "a string whose value is a list of words"."""
    model = fit(
        scene.imagery, scene.labels, 'nlcd', target='nlcd', backbone='identity',
        chip_size=128, device='cpu',
    )  # fmt: skip
    values, grid = arrays(scene.imagery)
    image = wrap_xr(values, grid, dims=('band', 'y', 'x'), axis=1)
    attrs = map_array(model, image, chip_size=128).attrs
    words = attrs['flag_meanings'].split()
    assert len(words) == len(attrs['flag_values']) == len(model.target)
    assert words[0] == model.target.class_names[0].replace(' ', '_')


def test_masked_pixels_are_no_data(scene: Scene, model: LandCoverModel) -> None:
    """As ``rasterio.read(masked=True)`` gives them; of integers where all bands are."""
    values, grid = arrays(scene.imagery)
    masked = np.ma.MaskedArray(values, mask=np.zeros(values.shape, bool))
    masked.mask[:, :50] = True
    masked.mask[0, 60:] = True
    found = map_array(model, (masked, grid), chip_size=128)
    assert (found[:50] == 255).all()
    assert (found[50:] != 255).all()
    floats = np.ma.MaskedArray(values.astype(np.float32), mask=masked.mask)
    found = map_array(model, (floats, grid), chip_size=128)
    assert (found[:50] == 255).all()
    assert (found[60:] == 255).all()
    codes, place = arrays(scene.labels)
    hidden = np.ma.masked_equal(codes, 41)
    blank = wrap_xr(np.where(codes == 41, 255, codes)[0], place, nodata=255)
    np.testing.assert_array_equal(
        map_array(model, (values, grid), (hidden, place), chip_size=128),
        map_array(model, (values, grid), blank, chip_size=128),
    )


@pytest.mark.parametrize('nodata', [-9999, float('nan'), 300, 0.5])
def test_no_data_that_no_pixel_can_have(
    scene: Scene, model: LandCoverModel, nodata: float
) -> None:
    values, grid = arrays(scene.imagery)
    image = wrap_xr(values, grid, dims=('band', 'y', 'x'), axis=1)
    found = map_array(model, image.assign_attrs(nodata=nodata), chip_size=128)
    np.testing.assert_array_equal(found, map_array(model, image, chip_size=128))


def test_models_by_their_files(
    scene: Scene, model: LandCoverModel, tmp_path: Path
) -> None:
    path = tmp_path / 'fit.safetensors'
    model.save(path)
    np.testing.assert_array_equal(
        map_array(path, scene.imagery, chip_size=128),
        map_array(model, scene.imagery, chip_size=128),
    )
    torch.manual_seed(0)
    task = SegmentationTask('unet', 'resnet18', in_channels=model.bands)
    trainer = Trainer(accelerator='cpu', logger=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / 'seg.ckpt')
    codes = map_array(str(tmp_path / 'seg.ckpt'), scene.imagery, chip_size=256)
    assert set(np.unique(codes)) <= {*model.target.codes.tolist()}
    twice = map_array([tmp_path / 'seg.ckpt'] * 2, scene.imagery, chip_size=256)
    np.testing.assert_array_equal(codes, twice)
    for wrong in (task, 3, [], None):
        with pytest.raises(InputError, match='is no model'):
            map_array(wrong, scene.imagery)
    with pytest.raises(InputError, match='does not exist'):
        map_array(tmp_path / 'none.ckpt', scene.imagery)


def test_grid_without_a_crs(scene: Scene, model: LandCoverModel) -> None:
    values, grid = arrays(scene.imagery)
    with pytest.raises(InputError, match='has no CRS'):
        map_array(model, (values, GeoBox(grid.shape, grid.affine, None)))


def test_options_of_a_fit_are_checked(model: LandCoverModel) -> None:
    for options in ({'prior': -1}, {'prior': float('nan')}, {'score': 'best'}):
        with pytest.raises(InputError, match=next(iter(options))):
            model.with_options(**options)


@pytest.mark.parametrize(
    ('code', 'message'), [(311, 'codes above 255'), (255, 'which is no data')]
)
def test_codes_that_a_map_cannot_hold(
    scene: Scene, code: int, message: str, tmp_path: Path
) -> None:
    legend, crosswalk = tmp_path / 'own.yaml', tmp_path / 'way.yaml'
    legend.write_text(
        f'classes: [{{code: 1, name: Water}}, {{code: {code}, name: Land}}]'
    )
    crosswalk.write_text(f'mapping: {{11: 1, 41: {code}, 82: {code}}}')
    own = fit(
        scene.imagery, scene.labels, 'nlcd', target=legend, crosswalk=crosswalk,
        backbone=BACKBONE, chip_size=128, device='cpu',
    )  # fmt: skip
    with pytest.raises(InputError, match=message):
        map_array(own, scene.imagery, chip_size=128)


def test_labels_of_another_legend_are_refused(scene: Scene) -> None:
    """As the command does."""
    with pytest.raises(InputError, match="'nlcd' has them"):
        fit(scene.imagery, scene.labels, 'worldcover', backbone='identity')


def test_arrays_do_not_stay_in_memory(scene: Scene, model: LandCoverModel) -> None:
    before = set(getattr(opened._local, 'handles', {}))
    map_array(model, arrays(scene.imagery), arrays(scene.labels), chip_size=128)
    left = set(opened._local.handles) - before
    assert not [key for key in left if key[0].startswith('/vsimem')]


@pytest.mark.parametrize('score', ['lda', 'cosine'])
def test_prompts_without_pixels_are_told(scene: Scene, score: str) -> None:
    options = {'score': score, 'prompts': 1000, 'max_pixels': 500}
    with pytest.raises(InputError, match='No class has the pixels'):
        fit(
            scene.imagery, scene.labels, 'nlcd', backbone='identity', options=options,
            device='cpu',
        )  # fmt: skip


def test_decoded_arrays(scene: Scene, model: LandCoverModel) -> None:
    """What the encoding calls no data is a number of the file, not of the array."""
    values, grid = arrays(scene.imagery)
    plain = wrap_xr(values.astype(np.float32), grid, axis=1)
    decoded = plain.copy()
    decoded.encoding |= {'_FillValue': 50, 'scale_factor': 1.0, 'dtype': 'uint8'}
    assert (values == 50).any()
    expected = map_array(model, plain, chip_size=128)
    np.testing.assert_array_equal(map_array(model, decoded, chip_size=128), expected)


def test_variables_without_pixels_are_no_bands(
    scene: Scene, model: LandCoverModel
) -> None:
    values, grid = arrays(scene.imagery)
    bands = {f'b{i}': wrap_xr(band, grid) for i, band in enumerate(values)}
    dataset = Dataset(bands).reset_coords('spatial_ref')
    assert 'spatial_ref' in dataset.data_vars
    expected = map_array(model, (values, grid), chip_size=128)
    np.testing.assert_array_equal(map_array(model, dataset, chip_size=128), expected)


def test_names_of_classes_are_those_of_the_model(
    scene: Scene, model: LandCoverModel
) -> None:
    values, grid = arrays(scene.imagery)
    array = wrap_xr(values, grid, axis=1).assign_coords({'class': 'x'})
    percent = map_array(model, array, chip_size=128, probabilities=True)
    assert list(percent['class'].values) == list(model.target.class_names)


def test_a_fit_under_any_name(
    scene: Scene, model: LandCoverModel, tmp_path: Path
) -> None:
    model.save(tmp_path / 'fit')
    found = map_array(tmp_path / 'fit', scene.imagery, chip_size=128)
    np.testing.assert_array_equal(found, map_array(model, scene.imagery, chip_size=128))


def test_remarks_of_a_fit_are_warned_of(scene: Scene) -> None:
    """No class is missing without a word, also where there is neither map nor report."""
    labels, grid = arrays(scene.labels)
    labels = np.where(labels[0] == 11, 81, labels[0])
    options = {'backbone': BACKBONE, 'chip_size': 128, 'device': 'cpu'}
    with pytest.warns(InputWarning, match='Water is not mapped: no label') as told:
        model = fit(
            scene.imagery,
            (labels, grid),
            'nlcd',
            crosswalk='scenes',
            calibrate=False,
            **options,
        )
    assert model.remarks
    assert ' '.join(model.remarks) in [str(warning.message) for warning in told]


def test_a_crosswalk_may_be_an_object(scene: Scene, model: LandCoverModel) -> None:
    walk = Crosswalk.load('nlcd', 'land-cover-4')
    options = {'backbone': BACKBONE, 'chip_size': 128, 'device': 'cpu'}
    again = fit(scene.imagery, scene.labels, 'nlcd', crosswalk=walk, **options)
    assert again.to_bytes() == model.to_bytes()
    with pytest.raises(InputError, match='not from'):
        fit(scene.imagery, scene.labels, 'worldcover', crosswalk=walk, **options)


def test_bands_that_are_not_those_of_the_fit(
    scene: Scene, model: LandCoverModel
) -> None:
    """By what the fit's files and others say of them; without a word nothing is said."""
    values, grid = arrays(scene.imagery)
    array = wrap_xr(values, grid, dims=('band', 'y', 'x'), axis=1)

    def named(*names: str) -> Any:
        return map_array(model, array.assign_coords(band=list(names)), chip_size=128)

    with pytest.raises(
        InputError, match=r'order blue, .* of the fit .* --bands 3 2 1 4'
    ):
        named('Blue', 'green', 'red', 'nir')
    with pytest.warns(InputWarning, match='calls its bands coastal, green, .* the fit'):
        named('coastal', 'green', 'blue', 'nir')
    with warnings.catch_warnings():
        warnings.simplefilter('error', InputWarning)
        named('RED 2021-07-01', 'green', 'blue', '')
        named('Band 1', 'Band 2', 'Band 3', 'B04')


@pytest.mark.filterwarnings('ignore:.* hardly tells')
@pytest.mark.parametrize('backbone', [BACKBONE, 'identity'])
def test_pixels_of_another_size(scene: Scene, backbone: str) -> None:
    """Textures look otherwise in them; single pixels have none."""
    options = {'backbone': backbone, 'chip_size': 128, 'device': 'cpu'}
    model = fit(scene.imagery, scene.labels, 'nlcd', **options)
    values, grid = arrays(scene.imagery)
    with warnings.catch_warnings():
        warnings.simplefilter('error', InputWarning)
        map_array(model, (values[:, :80, :80], grid[:80, :80]), chip_size=128)
        if backbone == 'identity':
            map_array(model, (values, grid * Affine.scale(2)), chip_size=128)
            return
    with pytest.warns(InputWarning, match='has pixels of 2 m and .* the fit of 1 m'):
        map_array(model, (values, grid * Affine.scale(2)), chip_size=128)


def test_labels_that_say_nothing_to_the_fit(
    scene: Scene, model: LandCoverModel
) -> None:
    """Of another legend, or of another place: they had no effect, or a wrong one."""
    codes, grid = arrays(scene.labels)
    with pytest.raises(
        InputError, match='no cell in the imagery with a code that the fit'
    ):
        map_array(model, scene.imagery, (np.full_like(codes, 10), grid), chip_size=128)
    plain = model.with_options(prior=0)
    map_array(plain, scene.imagery, (np.full_like(codes, 10), grid), chip_size=128)


def test_scaled_values_are_warned_of(scene: Scene, model: LandCoverModel) -> None:
    values, grid = arrays(scene.imagery)
    with pytest.warns(InputWarning, match='of uint8, and this has values of 0 to 1'):
        map_array(model, (values / np.float32(255), grid), chip_size=128)
    with pytest.warns(InputWarning, match='of uint8, and this has values above 255'):
        map_array(model, (values.astype(np.uint16) * 257, grid), chip_size=128)
    with pytest.warns(InputWarning, match='a deviation of .* where those of the fit'):
        map_array(model, (values / np.float32(300) + 1, grid), chip_size=128)
    origin = replace(model.origin, dtype=None)
    small = replace(model, origin=origin, spread=tuple(np.array(model.spread) / 255))
    with pytest.warns(InputWarning, match='of fractions, and this has values with a'):
        map_array(small, (values, grid), chip_size=128)
    with warnings.catch_warnings():
        warnings.simplefilter('error', InputWarning)
        map_array(model, (values // 4, grid), chip_size=128)
