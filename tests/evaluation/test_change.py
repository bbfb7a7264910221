# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A made pair with a flood, a new road and another light; only the first two are change."""

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from scipy import ndimage
from shapely.geometry import LineString, box

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.evaluation.change import (
    LinearCalibration,
    SignalPair,
    choose_threshold,
    detect_change,
)
from torchgeo_mapsr.main import main

# 1.2 km × 1 km at 2 m
SHAPE = (500, 600)
FLOOD = (slice(330, 470), slice(60, 260))  # rows, columns
ROAD = slice(100, 106)  # rows: 12 m wide, from edge to edge
COLORS = np.array([[40, 70, 80], [50, 90, 45], [150, 140, 90], [170, 170, 175]])


def classes() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=SHAPE), 18)
    return np.digitize(smooth, np.quantile(smooth, [0.05, 0.45, 0.9]))


def changed(index: np.ndarray) -> np.ndarray:
    index = index.copy()
    index[FLOOD] = 0
    index[ROAD] = 3
    return index


def picture(index: np.ndarray, seed: int, dull: bool) -> np.ndarray:
    """Imagery of classes; dull: less light, more haze, and a warmer tone."""
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(np.random.default_rng(9).normal(size=SHAPE), 1.5)
    values = COLORS[index].transpose(2, 0, 1) + 25 * texture
    if dull:
        gain, haze = np.array([0.75, 0.62, 0.5]), np.array([38, 22, 12])
        values = values * gain[:, None, None] + haze[:, None, None]
    return (values + rng.normal(0, 2, values.shape)).clip(1, 255).astype(np.uint8)


def write(path: Path, values: np.ndarray, **more: object) -> Path:
    profile = {
        'driver': 'GTiff',
        'dtype': 'uint8',
        'count': len(values),
        'height': values.shape[1],
        'width': values.shape[2],
        'crs': 'EPSG:26917',
        'transform': Affine(2, 0, 5e5, 0, -2, 4e6),
        'nodata': 0,
        'photometric': 'minisblack',
        **more,
    }
    tags = profile.pop('tags', {})
    with rasterio.open(path, 'w', **profile) as dataset:
        dataset.write(values.astype(np.uint8))
        dataset.update_tags(**tags)
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('change')
    old = classes()
    write(folder / 'before.tif', picture(old, 1, False))
    write(folder / 'dull.tif', picture(old, 2, True))
    write(folder / 'after.tif', picture(changed(old), 2, True))
    for name, index in (('old', old), ('new', changed(old)), ('same', old)):
        noise = np.random.default_rng(len(name) + ord(name[0]))
        mapped = np.where(
            noise.random(SHAPE) < 0.03, noise.integers(0, 4, SHAPE), index
        )
        write(folder / f'{name}.tif', mapped[None] + 1, tags={'LEGEND': 'land-cover-4'})
        scores = 100 * (mapped == np.arange(4)[:, None, None])
        scores = ndimage.gaussian_filter(scores.astype(float), (0, 1.5, 1.5))
        write(folder / f'{name}_scores.tif', scores.round(), nodata=255)
    return folder


def truth(window: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of so many pixels with much of the flood, and with any of the two."""
    mask = np.zeros(SHAPE, bool)
    mask[FLOOD] = True
    shape = (-(-SHAPE[0] // window), -(-SHAPE[1] // window))
    row, col = np.indices(SHAPE) // window
    share = ndimage.mean(mask, row * shape[1] + col, range(shape[0] * shape[1]))
    mask[ROAD] = True
    some = ndimage.maximum(mask, row * shape[1] + col, range(shape[0] * shape[1]))
    return share.reshape(shape) > 0.5, np.reshape(some, shape) > 0


@pytest.mark.parametrize('names', [('before', 'after'), ('old', 'new')])
@pytest.mark.parametrize('window', [60, 120])
def test_flood_and_road_are_found(
    folder: Path, names: tuple[str, str], window: int
) -> None:
    suffix = '_scores' if names[0] == 'old' else ''
    files = [folder / f'{name}{suffix}.tif' for name in names]
    result = detect_change(SignalPair(*files), window)
    flood, either = truth(window // 2)
    assert result.changed[flood].all()
    road = result.changed[ROAD.start // (window // 2)]
    assert road.mean() > 0.8
    assert not (result.changed & ~either).any()


@pytest.mark.parametrize('names', [('before', 'dull'), ('old', 'same')])
@pytest.mark.parametrize('window', [60, 120, 240])
def test_another_light_is_no_change(
    folder: Path, names: tuple[str, str], window: int
) -> None:
    suffix = '_scores' if names[0] == 'old' else ''
    files = [folder / f'{name}{suffix}.tif' for name in names]
    result = detect_change(SignalPair(*files), window)
    assert not result.changed.any()


def test_without_calibration_the_light_would_be_change(folder: Path) -> None:
    pair = SignalPair(folder / 'before.tif', folder / 'dull.tif')
    *_, before, after, _ = next(pair.blocks(1024))
    calibration = LinearCalibration.fit(pair)
    raw = np.abs(before - after).mean()
    assert np.abs(calibration(before) - after).mean() < raw / 5


def test_calibration_is_least_squares(folder: Path) -> None:
    """The oracle: sklearn on all pixels at once; nothing is far off in this pair."""
    from sklearn.linear_model import LinearRegression

    pair = SignalPair(folder / 'before.tif', folder / 'dull.tif')
    *_, before, after, valid = next(pair.blocks(1024))
    model = LinearRegression().fit(before[:, valid].T, after[:, valid].T)
    calibration = LinearCalibration._fit(pair, None, np.inf)
    np.testing.assert_allclose(calibration.matrix, model.coef_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(calibration.offset, model.intercept_, rtol=1e-6)


def test_windows_are_means_whatever_the_blocks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchgeo_mapsr.evaluation import change

    pair = SignalPair(folder / 'before.tif', folder / 'after.tif')
    whole = detect_change(pair, 130)
    *_, before, after, _ = next(pair.blocks(1024))
    apart = np.abs(whole.calibration(before) - after).mean(0)
    np.testing.assert_allclose(whole.difference[1, 2], apart[65:130, 130:195].mean())
    monkeypatch.setattr(change, '_BLOCK', 97)
    difference = detect_change(pair, 130).difference
    # the median that leaves pixels out is of a sample, which is drawn by block
    np.testing.assert_allclose(difference, whole.difference, rtol=1e-4)


def test_another_grid_is_warped(folder: Path, tmp_path: Path) -> None:
    """The first raster in another CRS, with a part missing."""
    from rasterio.warp import Resampling, calculate_default_transform, reproject

    with rasterio.open(folder / 'before.tif') as source:
        transform, width, height = calculate_default_transform(
            source.crs, 'EPSG:5070', source.width, source.height, *source.bounds
        )
        values = np.zeros((3, height, width), np.uint8)
        reproject(
            rasterio.band(source, [1, 2, 3]),
            values,
            dst_transform=transform,
            dst_crs='EPSG:5070',
            resampling=Resampling.bilinear,
        )
    values[:, : height // 4] = 0
    other = write(tmp_path / 'a.tif', values, transform=transform, crs='EPSG:5070')
    result = detect_change(SignalPair(other, folder / 'after.tif'), 60)
    flood, _ = truth(30)
    assert np.isnan(result.difference).any()
    assert result.changed[flood].mean() > 0.95


def test_threshold_of_windows_that_are_alike() -> None:
    assert choose_threshold(np.zeros((3, 3))) > 0
    values = np.array([0.1, 0.11, 0.12, 0.1, 0.9, np.nan])
    assert 0.12 < choose_threshold(values) < 0.9


def test_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = {name: tmp_path / name for name in ('c.tif', 'c.gpkg', 'c.csv', 'c.json')}
    arguments = ['change', str(folder / 'old.tif'), str(folder / 'new.tif')]
    arguments += ['--output', str(out['c.tif']), '--polygons', str(out['c.gpkg'])]
    arguments += ['--matrix', str(out['c.csv']), '--json', str(out['c.json'])]
    arguments += ['--window', '60']
    assert main(arguments) == 0
    assert 'on scores' in capsys.readouterr().out
    figures = json.loads(out['c.json'].read_text())
    # transitions: every pixel of the two class maps, 4 m² each
    maps = []
    for name in ('old', 'new'):
        with rasterio.open(folder / f'{name}.tif') as dataset:
            maps.append(dataset.read(1).astype(int) - 1)
    expected = np.zeros((4, 4))
    np.add.at(expected, tuple(maps), 4 / 1e4)
    np.testing.assert_allclose(figures['transitions']['hectares'], expected, atol=1e-4)
    table = np.genfromtxt(out['c.csv'], delimiter=',', skip_header=1)[:, 1:]
    np.testing.assert_allclose(table, expected, atol=1e-4)
    polygons = geopandas.read_file(out['c.gpkg'])
    flood = box(
        5e5 + 2 * FLOOD[1].start,
        4e6 - 2 * FLOOD[0].stop,
        5e5 + 2 * FLOOD[1].stop,
        4e6 - 2 * FLOOD[0].start,
    )
    middle = 4e6 - 2 * (ROAD.start + ROAD.stop) / 2
    road = LineString([(5e5 + 100, middle), (5e5 + 1100, middle)])
    union = polygons.union_all()
    assert union.intersection(flood).area > 0.9 * flood.area
    assert union.intersection(road).length > 0.8 * road.length
    assert union.area < 3 * flood.area
    np.testing.assert_allclose(polygons.area / 1e4, polygons['hectares'], rtol=1e-3)
    with rasterio.open(out['c.tif']) as dataset:
        assert dataset.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
        assert dataset.res == (60, 60)
        assert np.nansum(dataset.read(2)) == figures['windows_changed']
    capsys.readouterr()
    assert main(arguments) == 2
    assert 'exists' in capsys.readouterr().err


def test_one_line_errors(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = str(folder / 'before.tif'), str(folder / 'after.tif')
    out = ['--output', str(tmp_path / 'c.tif')]
    far = write(
        tmp_path / 'far.tif',
        np.ones((3, 9, 9)),
        transform=Affine(2, 0, 9e5, 0, -2, 4e6),
    )
    new = str(folder / 'new.tif')
    bare, named = tmp_path / 'bare.tif', tmp_path / 'named.tif'
    with rasterio.open(new) as dataset:
        codes, transform = dataset.read(), dataset.transform
    for path, tags in ((bare, {}), (named, {'LEGEND': 'worldcover'})):
        write(path, codes, transform=transform)
        with rasterio.open(path, 'r+') as dataset:
            dataset.update_tags(**tags)
    for arguments, message in (
        ([before, after, '--output', 'c.png'], 'is not a .tif'),
        ([before, after, *out, '--window', '1'], 'smaller than a pixel'),
        ([before, after, *out, '--bands', '7'], 'from 1 to 3'),
        ([before, new, *out, '--signal', 'imagery'], 'choose those'),
        ([before, new, *out], 'is a class map, and'),
        ([str(bare), new, *out], 'bare.tif does not say that it is one'),
        ([str(named), new, *out], 'maps of different legends'),
        ([before, after, *out, '--matrix', 'm.csv'], 'two class maps'),
        ([before, after, *out, '--signal', 'scores'], 'NAME_scores.tif'),
        ([before, after, *out, '--signal', 'classes'], 'of one band'),
        ([before, str(far), *out], 'in common'),
        ([before, after, '--output', after, '--overwrite'], 'is an input'),
    ):
        assert main(['change', *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert message in error
        assert error.count('\n') == 1
    with pytest.raises(InputError):
        SignalPair(before, after, bands=[0])
