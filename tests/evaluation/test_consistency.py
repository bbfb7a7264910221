# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from shapely import Polygon

from torchgeo_mapsr.datasets.geo.region import region_map
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.datasets.legends.statistics import JointStatistics
from torchgeo_mapsr.datasets.measured import measure_statistics
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.evaluation import consistency
from torchgeo_mapsr.evaluation.consistency import MapSummary, composition, summarise

LEGEND = Legend.load('land-cover-4')
NLCD = Crosswalk.load('nlcd', 'land-cover-4')
SQUARE = (0, 0), (0, 1), (1, 1), (1, 0)


def write(path: Path, codes: np.ndarray, affine: Affine, crs: str) -> Path:
    profile = {'driver': 'GTiff', 'dtype': 'uint8', 'count': 1, 'nodata': 0, 'crs': crs}
    height, width = codes.shape
    with rasterio.open(
        path, 'w', height=height, width=width, transform=affine, **profile
    ) as dataset:
        dataset.write(codes.astype(np.uint8), 1)
    return path


@pytest.fixture
def rasters(tmp_path: Path) -> tuple[Path, LabelRaster]:
    """A map in UTM, and NLCD on a rotated Albers grid that covers a part of it."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 5, (8, 10)).repeat(40, 0).repeat(40, 1)
    mapped = np.where(rng.random((310, 390)) < 0.6, coarse[:310, :390], 0)
    path = write(
        tmp_path / 'map.tif', mapped, Affine(1, 0, 3.7e5, 0, -1, 4.3e6), 'EPSG:26918'
    )
    x, y = Transformer.from_crs(26918, 5070, always_xy=True).transform(
        3.7e5 + 120, 4.3e6 - 60
    )
    codes = rng.choice([11, 41, 82, 22, 0, 77, 12], (9, 8))
    affine = Affine(30, 0, x - 80, 0, -30, y + 110)
    labels = write(tmp_path / 'nlcd.tif', codes, affine, 'EPSG:5070')
    return path, LabelRaster.open(labels)[0]


def dense(path: Path, labels: LabelRaster) -> MapSummary:
    """The same counts from whole arrays, cell by cell."""
    with rasterio.open(path) as dataset:
        mapped = LEGEND.index(dataset.read(1).astype(int))
        region = region_map(GeoBox.from_rio(dataset), labels.geobox)
    truth = NLCD.index(labels.read(region.rows, region.cols)).ravel()
    cells, weights, agreeing = np.zeros(4, int), np.zeros(4), np.zeros(4)
    whole = pixels_of_a_cell(path, labels)
    for cell, known in enumerate(truth):
        inside = mapped[(region.mask_region == cell + 1) & (mapped >= 0)]
        if known < 0 or inside.size == 0:
            continue
        # what the map's edge and its holes leave of the cell
        weight = min(inside.size / whole, 1)
        cells[known] += 1
        weights[known] += weight
        agreeing[known] += weight * (np.bincount(inside, minlength=4).argmax() == known)
    pixels = np.bincount(mapped[mapped >= 0], minlength=4)
    nodata = int((mapped < 0).sum())
    return MapSummary(LEGEND, pixels, pixels / 1e4, nodata, cells, weights, agreeing)


@pytest.mark.parametrize('block', [64, 150, 1024])
def test_windows_count_what_the_whole_does(
    rasters: tuple[Path, LabelRaster], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, labels = rasters
    expected = dense(path, labels)
    assert expected.cells.sum() > 20
    assert 0 < expected.agreeing.sum() < expected.weights.sum() < expected.cells.sum()
    monkeypatch.setattr(consistency, '_BLOCK', block)
    result = summarise(path, LEGEND, [labels], NLCD)
    for name in ('pixels', 'nodata', 'cells'):
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))
    # the ratio of areas is that of the middle of the map, and of the labels
    for name in ('hectares', 'weights', 'agreeing'):
        np.testing.assert_allclose(
            getattr(result, name), getattr(expected, name), rtol=1e-3
        )


def test_report_of_it(rasters: tuple[Path, LabelRaster]) -> None:
    path, labels = rasters
    content = summarise(path, LEGEND, [labels], NLCD).to_dict()
    json.dumps(content, allow_nan=False)
    assert content['pixels'] + content['nodata_pixels'] == 310 * 390
    assert sum(c['pixels'] for c in content['classes']) == content['pixels']
    np.testing.assert_allclose(
        sum(c['share'] for c in content['classes']), 1, atol=1e-3
    )
    np.testing.assert_allclose(content['hectares'], content['pixels'] / 1e4)


def test_without_labels(rasters: tuple[Path, LabelRaster]) -> None:
    content = summarise(rasters[0], LEGEND).to_dict()
    assert content['lr_cells'] == 0
    assert content['lr_agreement'] is None


def test_masks_of_maps_count(rasters: tuple[Path, LabelRaster]) -> None:
    """What a mask takes out of a map counts as what has the code of no data does."""
    path, labels = rasters
    masked = path.with_name('masked.tif')
    with rasterio.open(path) as dataset:
        codes = dataset.read(1)
        profile = dataset.profile | {'nodata': None}
    with rasterio.open(masked, 'w', **profile) as dataset:
        dataset.write(np.where(codes == 0, 1, codes), 1)
        dataset.write_mask(codes != 0)
    one, other = (summarise(p, LEGEND, [labels], NLCD) for p in (path, masked))
    assert one.nodata > 0
    assert one.to_dict() == other.to_dict()
    one, other = (composition(p, LEGEND, [labels], NLCD.source) for p in (path, masked))
    np.testing.assert_array_equal(one.shares, other.shares)


def pixels_of_a_cell(path: Path, labels: LabelRaster) -> float:
    """Area of a cell in pixels of a map: in the map's CRS, by its corners."""
    grid = labels.geobox
    col, row = grid.width / 2, grid.height / 2
    corners = np.array([grid.pix2wld(col + i, row + j) for i, j in SQUARE])
    with rasterio.open(path) as dataset:
        to_map = Transformer.from_crs(grid.crs.proj, dataset.crs, always_xy=True)
        pixel = abs(dataset.transform.determinant)
    return Polygon(zip(*to_map.transform(*corners.T), strict=True)).area / pixel


def test_a_map_against_the_statistics_of_itself(tmp_path: Path) -> None:
    # Of cells at the edge, one row or one column of pixels is in the map.
    rng = np.random.default_rng(0)
    mapped = 1 + rng.integers(0, 4, (60, 60)).repeat(5, 0).repeat(5, 1)
    path = write(
        tmp_path / 'map.tif', mapped, Affine(1, 0, 5e5, 0, -1, 5e6), 'EPSG:32633'
    )
    affine = Affine(30, 0, 5e5 - 29, 0, -30, 5e6 + 29)
    codes = rng.choice([11, 41], (12, 12))
    labels = write(tmp_path / 'lr.tif', codes, affine, 'EPSG:32633')
    same = Crosswalk.load(LEGEND, LEGEND)
    statistics = measure_statistics(labels, path, NLCD.source, same)
    (raster,) = LabelRaster.open(labels)
    result = composition(path, LEGEND, [raster], NLCD.source)
    mean_z, rms_z = result.z_scores(statistics)
    for code in (11, 41):
        i = int(NLCD.source.index(code))
        np.testing.assert_allclose(mean_z[i], 0, atol=1e-9)
        np.testing.assert_allclose(rms_z[i], 1)


@pytest.mark.parametrize('block', [64, 1024])
def test_of_overlapping_labels_the_first_counts(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consistency, '_BLOCK', block)
    rng = np.random.default_rng(0)
    mapped = rng.integers(1, 5, (120, 120))
    affine = Affine(1, 0, 5e5, 0, -1, 5e6)
    path = write(tmp_path / 'map.tif', mapped, affine, 'EPSG:32633')
    # The first has codes in the western half, the second everywhere.
    one, two = np.full((4, 4), 11), np.full((8, 8), 41)
    one[:, 2:] = 0
    files = [
        write(tmp_path / f'{i}.tif', c, affine * Affine.scale(s), 'EPSG:32633')
        for i, (c, s) in enumerate([(one, 30), (two, 15)])
    ]
    labels = LabelRaster.open(files)
    result = composition(path, LEGEND, labels, NLCD.source)
    water, forest = (int(NLCD.source.index(code)) for code in (11, 41))
    assert result.cells[[water, forest]].tolist() == [8, 32]
    halves = mapped[:, :60], mapped[:, 60:]
    for i, half in zip((water, forest), halves, strict=True):
        expected = np.bincount(half.ravel(), minlength=5)[1:] / half.size
        np.testing.assert_allclose(result.mean[i], expected)
    assert summarise(path, LEGEND, labels, NLCD).cells.tolist() == [8, 32, 0, 0]


@pytest.mark.parametrize('block', [64, 1024])
def test_composition_and_z_scores(
    rasters: tuple[Path, LabelRaster], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle: every cell by itself."""
    path, labels = rasters
    monkeypatch.setattr(consistency, '_BLOCK', block)
    result = composition(path, LEGEND, [labels], NLCD.source)
    statistics = JointStatistics.load('malkin2019')
    mean_z, rms_z = result.z_scores(statistics)
    with rasterio.open(path) as dataset:
        mapped = LEGEND.index(dataset.read(1).astype(int))
        region = region_map(GeoBox.from_rio(dataset), labels.geobox)
    codes = labels.read(region.rows, region.cols).ravel()
    scale = pixels_of_a_cell(path, labels)
    for code in (11, 41, 82, 22):
        shares, weights = [], []
        for cell in np.flatnonzero(codes == code):
            inside = mapped[(region.mask_region == cell + 1) & (mapped >= 0)]
            if inside.size:
                shares.append(np.bincount(inside, minlength=4) / inside.size)
                weights.append(min(inside.size / scale, 1))
        i = int(NLCD.source.index(code))
        assert result.cells[i] == len(shares)
        deviation = np.maximum(statistics.std[i], 0.02)
        z = (np.array(shares) - statistics.mean[i]) / deviation
        mean = np.average(z, 0, weights)
        np.testing.assert_allclose(mean_z[i], mean, rtol=1e-4, atol=1e-4)
        rms = np.sqrt(np.average(z**2, 0, weights))
        np.testing.assert_allclose(rms_z[i], rms, rtol=1e-4)
    doubled = result + result
    np.testing.assert_allclose(doubled.mean, result.mean)
    json.dumps(result.to_dict(statistics), allow_nan=False)
    other = JointStatistics.estimate(LEGEND, LEGEND, [0], [[1, 0, 0, 0]])
    with pytest.raises(InputError, match='are for the legend'):
        result.z_scores(other)
