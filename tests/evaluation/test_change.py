# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A made pair with a flood, a new road and another light; only the first two are change."""

import json
import shutil
import zipfile
from itertools import product
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from rasterio.enums import ColorInterp
from scipy import ndimage
from shapely.geometry import LineString, Polygon, box

from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.evaluation.change import choose_threshold, detect_change
from torchgeo_mapsr.evaluation.linear_calibration import LinearCalibration, PixelSample
from torchgeo_mapsr.evaluation.signal_pair import SignalPair
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
    result = detect_change(SignalPair(*files, scores=bool(suffix)), window)
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
    result = detect_change(SignalPair(*files, scores=bool(suffix)), window)
    assert not result.changed.any()


def test_without_calibration_the_light_would_be_change(folder: Path) -> None:
    pair = SignalPair(folder / 'before.tif', folder / 'dull.tif')
    *_, before, after, _ = next(pair.blocks())
    calibration = LinearCalibration.fit(PixelSample.draw(pair))
    raw = np.abs(before - after).mean()
    assert np.abs(calibration(before) - after).mean() < raw / 5


def test_calibration_is_least_squares(folder: Path) -> None:
    """The oracle: sklearn on all pixels at once; nothing is far off in this pair."""
    from sklearn.linear_model import LinearRegression

    pair = SignalPair(folder / 'before.tif', folder / 'dull.tif')
    *_, before, after, valid = next(pair.blocks())
    x, y = (values[:, valid].T.astype(float) for values in (before, after))
    model = LinearRegression().fit(x, y)
    calibration = LinearCalibration.least_squares(PixelSample.draw(pair).moments)
    np.testing.assert_allclose(calibration.matrix, model.coef_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(calibration.offset, model.intercept_, rtol=1e-6)


def test_windows_are_means_whatever_the_blocks(folder: Path) -> None:
    pair = SignalPair(folder / 'before.tif', folder / 'after.tif')
    whole = detect_change(pair, 130)
    *_, before, after, _ = next(pair.blocks())
    apart = np.abs(whole.calibration(before) - after).mean(0)
    np.testing.assert_allclose(whole.difference[1, 2], apart[65:130, 130:195].mean())
    pair.block = 97
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


def two_classes(share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forest, 30 % of fields, and a share of those that have become impervious.

    Returns:
        Class indices of both dates, (400, 400), and windows of 20 pixels with change.
    """
    old = np.ones((400, 400), int)
    old[:, 280:] = 2
    new = old.copy()
    new[: round(400 * share), 280:] = 3
    return old, new, (old != new).reshape(20, 20, 20, 20).any((1, 3))


def score_file(path: Path, index: np.ndarray, seed: int) -> Path:
    """Scores in percent; those of fields are less sure than those of forest."""
    rng = np.random.default_rng(seed)
    most = 100 - np.where(index == 1, 1, 9) * rng.random(index.shape)
    scores = np.where(index == np.arange(4)[:, None, None], most, (100 - most) / 3)
    # GDAL calls the fourth alpha
    return write(path, scores.round(), nodata=255, photometric='rgb', alpha='yes')


@pytest.mark.parametrize('share', [0.1, 0.3])
def test_an_unchanged_class_is_no_change(tmp_path: Path, share: float) -> None:
    """The commonest class does not differ at all, and one with larger errors is there.

    Trimmed by the median of all pixels, the whole of the fields would be reported.
    """
    *maps, truth = two_classes(share)
    codes = [
        write(tmp_path / f'{i}.tif', index[None] + 1) for i, index in enumerate(maps)
    ]
    legend = Legend.load('land-cover-4')
    result = detect_change(SignalPair(*codes, legend=legend), 40)
    np.testing.assert_array_equal(result.changed, truth)
    # shares of the pixels
    np.testing.assert_array_equal(result.difference, truth)
    scores = [
        score_file(tmp_path / f's{i}.tif', index, i) for i, index in enumerate(maps)
    ]
    result = detect_change(SignalPair(*scores, scores=True), 40)
    np.testing.assert_array_equal(result.changed, truth)


def test_the_fourth_class_of_scores_is_no_transparency(tmp_path: Path) -> None:
    """Scores that are sure are 0 and 100 only, as transparency is."""
    *maps, truth = two_classes(0.1)
    paths = [
        write(
            tmp_path / f'{number}.tif',
            100 * (index == np.arange(4)[:, None, None]),
            nodata=255,
            photometric='rgb',
            alpha='yes',
        )
        for number, index in enumerate(maps)
    ]
    pair = SignalPair(*paths, scores=True)
    assert pair.bands == [1, 2, 3, 4]
    result = detect_change(pair, 40)
    assert np.isfinite(result.difference).all()
    np.testing.assert_array_equal(result.changed, truth)


@pytest.mark.parametrize('share', [0, 0.1, 0.6, 1])
def test_a_class_that_is_mistaken_more_often_is_no_change(
    tmp_path: Path, share: float
) -> None:
    """Class maps: 1 % errors in forest, 8 % in fields; most of a class may change."""
    *maps, truth = two_classes(share)
    rng = np.random.default_rng(1)
    codes = []
    for number, index in enumerate(maps):
        wrong = rng.random(index.shape) < np.where(maps[0] == 1, 0.01, 0.08)
        noisy = np.where(wrong, rng.integers(0, 4, index.shape), index)
        codes.append(write(tmp_path / f'{number}.tif', noisy[None] + 1))
    pair = SignalPair(*codes, legend=Legend.load('land-cover-4'))
    np.testing.assert_array_equal(detect_change(pair, 40).changed, truth)


def test_the_calibration_is_that_of_what_has_not_changed(tmp_path: Path) -> None:
    """The oracle: least squares over the pixels that have not changed.

    Values lie close together and far from 0, as temperatures and radiances do.
    """
    rng = np.random.default_rng(2)
    shape = (2, 150, 150)
    before = rng.normal(0, 60, shape) + 20_000
    clean = np.einsum('ij,jhw->ihw', [[0.5, 0.1], [-0.2, 0.8]], before) + 3000
    clean += rng.normal(0, 3, shape)
    after = clean.copy()
    after[:, :40] = 10_000 + rng.normal(0, 3, (2, 40, 150))
    for name, values in (('a', before), ('b', after)):
        profile = {'driver': 'GTiff', 'dtype': 'float32', 'crs': 'EPSG:26917'}
        size = {'count': 2, 'height': 150, 'width': 150}
        transform = Affine(2, 0, 5e5, 0, -2, 4e6)
        with rasterio.open(
            tmp_path / f'{name}.tif', 'w', transform=transform, **profile, **size
        ) as dataset:
            dataset.write(values.astype(np.float32))
    pair = SignalPair(tmp_path / 'a.tif', tmp_path / 'b.tif')
    calibration = LinearCalibration.fit(PixelSample.draw(pair))
    x = before[:, 40:].reshape(2, -1).astype(np.float32).astype(float)
    y = clean[:, 40:].reshape(2, -1)
    centred = x - x.mean(1, keepdims=True)
    matrix = np.linalg.lstsq(centred.T, (y - y.mean(1, keepdims=True)).T)[0].T
    expected = matrix @ centred + y.mean(1, keepdims=True)
    # a hundredth of the errors of 3
    assert np.abs(calibration(x) - expected).mean() < 0.3
    assert detect_change(pair, 20).changed.mean() == pytest.approx(40 / 150, abs=0.01)


@pytest.mark.parametrize('how', ['half', 'mask', 'alpha'])
@pytest.mark.parametrize('swap', [False, True])
def test_ground_that_one_lacks_is_no_data(
    folder: Path, tmp_path: Path, how: str, swap: bool
) -> None:
    """Columns from 240 on are not in the file, or masked: their values are 0."""
    with rasterio.open(folder / 'before.tif') as dataset:
        values = dataset.read()
    full = write(tmp_path / 'full.tif', values, nodata=None)
    other = values[..., :240] if how == 'half' else values.copy()
    mask = np.full(SHAPE, 255, np.uint8)
    mask[:, 240:] = 0
    if how != 'half':
        other[..., 240:] = 0
    if how == 'alpha':
        other = np.concatenate([other, mask[None]])
    colors = {'photometric': 'rgb', **({'alpha': 'yes'} if how == 'alpha' else {})}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write(tmp_path / 'other.tif', other, nodata=None, **colors)
        if how == 'mask':
            with rasterio.open(path, 'r+') as dataset:
                dataset.write_mask(mask)
    pair = (full, path) if swap else (path, full)
    result = detect_change(SignalPair(*pair), 60)
    assert not result.changed.any()
    width = 8 if how == 'half' and swap else 20
    expected = np.broadcast_to(np.arange(width) >= 8, result.difference.shape)
    np.testing.assert_array_equal(np.isnan(result.difference), expected)
    np.testing.assert_allclose(result.difference[~expected], 0, atol=1e-3)


def test_near_infrared_that_is_called_alpha_is_data(tmp_path: Path) -> None:
    """Water is dark in near infrared: 0 there is no transparency."""
    values = picture(classes(), 1, False)
    near = np.random.default_rng(0).integers(1, 255, SHAPE).astype(np.uint8)
    near[200:300, 200:300] = 0
    values = np.concatenate([values, near[None]])
    options = {'nodata': None, 'photometric': 'rgb'}
    called = write(tmp_path / 'a.tif', values, alpha='yes', **options)
    plain = write(tmp_path / 'u.tif', values, alpha='unspecified', **options)
    with rasterio.open(called) as one, rasterio.open(plain) as two:
        assert one.colorinterp[3] == ColorInterp.alpha != two.colorinterp[3]
    after = write(tmp_path / 'b.tif', 255 - values, alpha='unspecified', **options)
    for bands in (None, [1, 2, 3]):
        results = [
            detect_change(SignalPair(path, after, bands), 60)
            for path in (called, plain)
        ]
        assert np.isfinite(results[0].difference).all()
        np.testing.assert_array_equal(results[0].difference, results[1].difference)


def test_the_first_raster_may_be_of_the_whole_earth(tmp_path: Path) -> None:
    """Its values are longitudes; the oracle is PROJ."""
    longitude = np.broadcast_to(np.arange(-179.5, 180), (1, 180, 360))
    profile = {'driver': 'GTiff', 'dtype': 'float32', 'count': 1, 'crs': 'EPSG:4326'}
    whole = Affine(1, 0, -180, 0, -1, 90)
    with rasterio.open(
        tmp_path / 'w.tif', 'w', height=180, width=360, transform=whole, **profile
    ) as dataset:
        dataset.write(longitude.astype(np.float32))
    county = write(tmp_path / 'c.tif', np.ones((1, *SHAPE)), nodata=None)
    *_, before, _, valid = next(SignalPair(tmp_path / 'w.tif', county).blocks())
    assert valid.all()
    rows, cols = np.indices(SHAPE) + 0.5
    transformer = Transformer.from_crs('EPSG:26917', 'EPSG:4326', always_xy=True)
    expected, _ = transformer.transform(5e5 + 2 * cols, 4e6 - 2 * rows)
    np.testing.assert_allclose(before[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ('west', 'pixel', 'width'), [(0, 1, 360), (0, 0.5, 720), (170, 1, 30)]
)
def test_beyond_one_edge_of_the_earth_is_the_other(
    tmp_path: Path, west: float, pixel: float, width: int
) -> None:
    """In blocks that no edge is between; their values are those of the same meridians."""

    def made(name: str, west: float, pixel: float, width: int) -> Path:
        lon = np.radians(west + pixel * (np.arange(width) + 0.5))
        values = np.broadcast_to(np.sin(lon) * 100, (1, 8, width)).astype(np.float32)
        profile = {'driver': 'GTiff', 'dtype': 'float32', 'count': 1}
        place = {'crs': 'EPSG:4326', 'transform': Affine(pixel, 0, west, 0, -pixel, 9)}
        with rasterio.open(
            tmp_path / name, 'w', height=8, width=width, **profile, **place
        ) as dataset:
            dataset.write(values)
        return tmp_path / name

    pair = SignalPair(made('a.tif', -180, 1, 360), made('b.tif', west, pixel, width))
    for _, _, before, after, valid in pair.blocks():
        assert valid.all()
        # between pixels values are on chords
        np.testing.assert_allclose(before, after, atol=1e-3 if pixel == 1 else 1)


def test_a_finer_first_raster_is_averaged(folder: Path, tmp_path: Path) -> None:
    with rasterio.open(folder / 'before.tif') as dataset:
        values = dataset.read()
    means = values.reshape(3, 125, 4, 150, 4).mean((2, 4))
    coarse = Affine(8, 0, 5e5, 0, -8, 4e6)
    other = write(tmp_path / 'c.tif', means.round(), transform=coarse)
    pair = SignalPair(folder / 'before.tif', other)
    pair.block = 200
    for rows, cols, before, _, valid in pair.blocks():
        assert before.shape[1] <= 50
        assert valid.all()
        np.testing.assert_allclose(before, means[:, rows, cols], atol=1e-3)


def test_resampling_is_no_change(folder: Path, tmp_path: Path) -> None:
    """A raster and itself: equal nearly everywhere, off by rounding in some windows."""
    with rasterio.open(folder / 'before.tif') as dataset:
        values = dataset.read()
    noise = np.zeros(values.shape, int)
    noise[:, 120:240, 120:240] = np.random.default_rng(3).integers(0, 2, (3, 120, 120))
    near = write(tmp_path / 'n.tif', values + noise)
    result = detect_change(SignalPair(folder / 'before.tif', near), 60)
    assert (np.nan_to_num(result.difference) > np.median(result.difference)).any()
    assert not result.changed.any()
    noise *= 40
    other = write(tmp_path / 'o.tif', (values + noise).clip(1, 255))
    assert detect_change(SignalPair(folder / 'before.tif', other), 60).changed.any()


@pytest.mark.parametrize(('pixels', 'changed'), [(1, False), (40, False), (50, True)])
def test_few_pixels_of_class_maps_are_no_change(
    tmp_path: Path, pixels: int, changed: bool
) -> None:
    """Of 900 in a window; 5 % are 45."""
    old = np.ones((1, 150, 150), int)
    new = old.copy()
    new[0, 30:60, 30:60].flat[:pixels] = 2
    paths = [write(tmp_path / f'{i}.tif', codes) for i, codes in enumerate((old, new))]
    result = detect_change(SignalPair(*paths, legend=Legend.load('land-cover-4')), 60)
    assert result.changed.sum() == changed
    assert result.difference[1, 1] == pytest.approx(pixels / 900)


@pytest.mark.parametrize('angle', [0, 20])
def test_areas_end_where_the_data_does(tmp_path: Path, angle: float) -> None:
    """A raster of 190 × 202 m in windows of 60 m, without data in its first 10 columns."""
    values = np.ones((1, 101, 95), int)
    values[..., :10] = 0
    transform = (
        Affine.translation(5e5, 4e6) * Affine.rotation(angle) * Affine.scale(2, -2)
    )
    path = write(tmp_path / 'a.tif', values, transform=transform)
    result = detect_change(SignalPair(path, path), 60, threshold=0)
    assert result.hectares == pytest.approx(101 * 85 * 4 / 1e4)
    polygons = result.polygons()
    assert polygons['hectares'].sum() == pytest.approx(result.hectares)
    corners = [transform * corner for corner in ((0, 0), (95, 0), (95, 101), (0, 101))]
    outline = Polygon(corners)
    union = polygons.union_all()
    assert union.symmetric_difference(outline).area == pytest.approx(0, abs=1e-6)


def test_a_folder_or_an_archive_of_one_raster(folder: Path, tmp_path: Path) -> None:
    content = (folder / 'before.tif').read_bytes()
    (tmp_path / 'one').mkdir()
    (tmp_path / 'one' / 'a.tif').write_bytes(content)
    with zipfile.ZipFile(tmp_path / 'z.zip', 'w') as archive:
        archive.writestr('a.tif', content)
    after, found = str(folder / 'after.tif'), []
    for number, before in enumerate((folder / 'before.tif', 'one', 'z.zip')):
        out = tmp_path / f'{number}.tif'
        arguments = [str(tmp_path / before), after, '--output', str(out)]
        assert main(['change', *arguments, '--window', '60']) == 0
        with rasterio.open(out) as dataset:
            found.append(dataset.read())
    for values in found[1:]:
        np.testing.assert_array_equal(values, found[0])


def cut(path: Path, folder: Path) -> Path:
    """Cut a raster into tiles, and the scores beside it too."""
    folder.mkdir()
    for layer in ('', '_scores'):
        source = path.with_name(f'{path.stem}{layer}.tif')
        if not source.exists():
            continue
        with rasterio.open(source) as dataset:
            values, tags = dataset.read(), dataset.tags()
            nodata = dataset.nodata
        for row, col in product((0, 170, 340), (0, 230)):
            part = values[:, row : row + 170, col : 230 if col == 0 else None]
            place = Affine(2, 0, 5e5 + 2 * col, 0, -2, 4e6 - 2 * row)
            name = folder / f'{row}_{col}{layer}.tif'
            write(name, part, tags=tags, transform=place, nodata=nodata)
    return folder


@pytest.mark.parametrize(
    ('names', 'options'),
    [
        (('before', 'after'), []),
        (('old', 'new'), ['--signal', 'scores']),
        (('old', 'new'), ['--signal', 'classes']),
    ],
)
def test_tiles_of_a_date_are_one_raster(
    folder: Path, tmp_path: Path, names: tuple[str, str], options: list[str]
) -> None:
    whole = [folder / f'{name}.tif' for name in names]
    tiles = [cut(path, tmp_path / path.stem) for path in whole]
    found = []
    for number, pair in enumerate((whole, tiles, (whole[0], tiles[1]))):
        out, figures = tmp_path / f'{number}.tif', tmp_path / f'{number}.json'
        arguments = [*map(str, pair), '--output', str(out), '--json', str(figures)]
        assert main(['change', *arguments, '--window', '60', *options]) == 0
        with rasterio.open(out) as dataset:
            found.append((dataset.read(), dataset.transform, figures.read_text()))
    for values, transform, text in found[1:]:
        np.testing.assert_allclose(values, found[0][0], atol=1e-4)
        assert transform == found[0][1]
        one, other = (json.loads(part) for part in (text, found[0][2]))
        assert one['transitions'] == other['transitions']
        assert one['windows_changed'] == other['windows_changed'] > 0


def test_two_dates_in_one_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, names in (('maps', ('old', 'new')), ('images', ('before', 'after'))):
        (tmp_path / kind).mkdir()
        for name in names:
            shutil.copy(folder / f'{name}.tif', tmp_path / kind)
        after = str(folder / f'{names[1]}.tif')
        out = ['--output', str(tmp_path / 'x.tif')]
        assert main(['change', str(tmp_path / kind), after, *out]) == 2
        error = capsys.readouterr().err
        assert 'leave one of them out' in error
        assert error.count('\n') == 1


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
        ([before, after, *out, '--bands', '7'], 'are 1 to 3'),
        ([before, new, *out, '--signal', 'imagery'], 'choose those'),
        ([before, new, *out], 'is a class map, and'),
        ([str(bare), new, *out], 'bare.tif does not say that it is one'),
        ([str(named), new, *out], 'maps of different legends'),
        ([str(bare), str(bare), *out], 'hold few whole numbers, as class maps do'),
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


def test_maps_most_of_which_have_changed(folder: Path, tmp_path: Path) -> None:
    """A threshold on shares is never above a half."""
    codes = np.ones((1, *SHAPE), np.uint8)
    codes[:, ::2] = 2
    before = write(tmp_path / 'a.tif', codes)
    codes[:, :400] = 3
    after = write(tmp_path / 'b.tif', codes)
    legend = Legend.load('land-cover-4')
    result = detect_change(SignalPair(before, after, legend=legend), 40)
    assert result.thresholds.max() <= 0.5
    assert result.changed[:18].all()
    assert not result.changed[21:].any()


def test_class_maps_with_an_alpha_band(folder: Path, tmp_path: Path) -> None:
    """They are class maps, and not imagery of their codes."""
    found = []
    for name in ('old', 'new'):
        with rasterio.open(folder / f'{name}.tif') as dataset:
            codes, place = dataset.read(), dataset.transform
        alpha = np.full_like(codes, 255)
        path = write(
            tmp_path / f'{name}.tif', np.concatenate([codes, alpha]), transform=place
        )
        with rasterio.open(path, 'r+') as dataset:
            dataset.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
        found.append(str(path))
    figures = tmp_path / 'f.json'
    arguments = ['--output', str(tmp_path / 'c.tif'), '--json', str(figures)]
    assert main(['change', *found, *arguments, '--legend', 'land-cover-4']) == 0
    assert json.loads(figures.read_text())['signal'] == 'classes'


def test_outputs_of_one_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'c.tif'
    arguments = [str(folder / 'old.tif'), str(folder / 'new.tif'), '--output', str(out)]
    assert main(['change', *arguments, '--json', str(out), '--overwrite']) == 2
    assert 'another output' in capsys.readouterr().err
    assert not out.exists()
    # one window, however large it is said to be
    assert main(['change', *arguments, '--window', '1e19']) == 0
    with rasterio.open(out) as dataset:
        assert dataset.shape == (1, 1)


def test_polygons_are_valid_and_have_all_of_the_area(tmp_path: Path) -> None:
    """Windows that touch by a corner only are places of their own."""
    rng = np.random.default_rng(0)
    small = np.where(rng.random((30, 30)) < 0.45, 4, 2).astype(np.uint8)
    after = np.kron(small, np.ones((5, 5), np.uint8))[None]
    own = {'transform': Affine(10, 0, 5e5, 0, -10, 5e6), 'crs': 'EPSG:32633'}
    paths = [
        write(tmp_path / name, values, **own)
        for name, values in (('a.tif', np.full_like(after, 2)), ('b.tif', after))
    ]
    output, places = tmp_path / 'c.tif', tmp_path / 'c.gpkg'
    arguments = ['change', *map(str, paths), '--legend', 'land-cover-4']
    arguments += ['--window', '50', '--threshold', '0.5', '--output', str(output)]
    assert main([*arguments, '--polygons', str(places)]) == 0
    frame = geopandas.read_file(places)
    # scipy's components: those that share an edge
    labels, count = ndimage.label(small == 4)
    assert len(frame) == count
    assert frame.is_valid.all()
    assert (frame.geom_type == 'Polygon').all()
    expected = np.sort(np.bincount(labels.ravel())[1:]) * 0.25
    np.testing.assert_allclose(np.sort(frame.area / 1e4), expected)
    # on the ground, where a square metre of the zone is a little less
    np.testing.assert_allclose(np.sort(frame['hectares']), expected, rtol=1e-3)
    np.testing.assert_allclose(frame['difference'], 1)


@pytest.mark.parametrize(('asked', 'used'), [(140, 100), (149, 100), (240, 200)])
def test_the_window_is_reported_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: int, used: int
) -> None:
    before = np.full((1, 40, 40), 2)
    after = before.copy()
    after[:, :10, :10] = 4
    own = {'transform': Affine(100, 0, 5e5, 0, -100, 5e6), 'crs': 'EPSG:32633'}
    paths = [
        str(write(tmp_path / name, values, **own))
        for name, values in (('a.tif', before), ('b.tif', after))
    ]
    figures, output = tmp_path / 'c.json', tmp_path / 'c.tif'
    arguments = ['change', *paths, '--legend', 'land-cover-4', '--window', str(asked)]
    assert main([*arguments, '--json', str(figures), '--output', str(output)]) == 0
    with rasterio.open(output) as dataset:
        assert dataset.res == (used, used)
    # 0.04 % of the scale at the middle of a UTM zone
    window = json.loads(figures.read_text())['window_metres']
    assert window == pytest.approx(used, rel=1e-3)
    assert f'windows of {window:.4g} m' in capsys.readouterr().out
