# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from tests.data.chesapeake_pairs.data import make_rasters
from torchgeo_mapsr.datasets import measured
from torchgeo_mapsr.datasets.geo.region import region_map
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.datasets.legends.statistics import JointStatistics, class_counts
from torchgeo_mapsr.datasets.measured import measure_statistics
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError

NLCD, FOUR = Legend.load('nlcd'), Legend.load('land-cover-4')
SAME = Crosswalk.load(FOUR, FOUR)


def whole(
    truth: LabelRaster, labels: LabelRaster, walk: Crosswalk
) -> tuple[np.ndarray, ...]:
    """Cells of a raster that is read at once."""
    height, width = truth.geobox.shape
    index = walk.index(truth.read(slice(0, height), slice(0, width)))
    regions = region_map(truth.geobox, labels.geobox)
    counts = class_counts(regions.mask_region, index, len(regions.share), len(FOUR))
    codes = labels.read(regions.rows, regions.cols).ravel()
    return NLCD.index(codes), counts, regions.share


@pytest.mark.parametrize('block', [64, 100, 4096])
def test_blocks_add_up(
    made_scene: Scene, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, 'BLOCK', block)
    found = measure_statistics(made_scene.labels, made_scene.truth, NLCD, SAME, 'made')
    (truth,), (labels,) = (
        LabelRaster.open(p) for p in (made_scene.truth, made_scene.labels)
    )
    index, counts, share = whole(truth, labels, SAME)
    expected = JointStatistics.estimate(NLCD, FOUR, index, counts, share)
    # a share is an area here, and there 1 for a cell that is not cut: a pixel or two
    # of 900 differ, and with them the weights
    np.testing.assert_allclose(found.mean, expected.mean, atol=2e-3)
    np.testing.assert_allclose(found.std, expected.std, atol=2e-3)
    np.testing.assert_allclose(found.frequency, expected.frequency, atol=1e-3)
    seen = int(((index >= 0) & (counts.sum(axis=1) > 0)).sum())
    assert (found.name, found.reference) == ('made', f'measured on {seen} LR cells')


def test_rasters_in_two_zones(tmp_path: Path) -> None:
    make_rasters(tmp_path)
    walk = Crosswalk.load('chesapeake-7', FOUR)
    found = measure_statistics(tmp_path / 'nlcd', tmp_path / 'lc', NLCD, walk)
    parts = []
    for path in sorted((tmp_path / 'lc').glob('*.tif')):
        (truth,), (labels,) = (
            LabelRaster.open(p) for p in (path, tmp_path / 'nlcd' / path.name)
        )
        parts.append(whole(truth, labels, walk))
    index, counts, _ = (np.concatenate(v) for v in zip(*parts, strict=True))
    # three rows of each raster have no label: their cells count for less
    share = np.minimum(counts.sum(axis=1) / 900, 1)
    expected = JointStatistics.estimate(NLCD, FOUR, index, counts, share)
    np.testing.assert_allclose(found.mean, expected.mean, atol=5e-3)
    np.testing.assert_allclose(found.std, expected.std, atol=5e-3)


def test_nothing_in_common(made_scene: Scene, tmp_path: Path) -> None:
    far = tmp_path / 'far.tif'
    with rasterio.open(made_scene.truth) as file:
        profile, values = file.profile, file.read()
    profile['transform'] = (
        profile['transform'].translation(1e6, 5e6) * profile['transform']
    )
    with rasterio.open(far, 'w', **profile) as file:
        file.write(values)
    with pytest.raises(InputError, match='labels of the same place'):
        measure_statistics(made_scene.labels, far, NLCD, SAME)
    # codes of 1 to 4 are no NLCD classes
    with pytest.raises(InputError, match='check the two legends'):
        measure_statistics(made_scene.truth, made_scene.truth, NLCD, SAME)


def test_several_label_rasters_under_one_truth(tmp_path: Path) -> None:
    """All count; where they overlap, the first with a code at the pixel."""
    profile = {'driver': 'GTiff', 'count': 1, 'dtype': 'uint8', 'crs': 'EPSG:26918'}
    fine = np.full((120, 240), 1, np.uint8)
    fine[:, 120:] = 2
    labels = []
    for name, codes, west, pixel in (
        ('t', fine, 0, 1),
        ('a', np.full((4, 5), 11, np.uint8), 0, 30),
        ('b', np.full((4, 4), 41, np.uint8), 120 + 7, 30),
    ):
        place = {'transform': Affine(pixel, 0, 36e4 + west, 0, -pixel, 435e4)}
        size = {'height': codes.shape[0], 'width': codes.shape[1]}
        path = tmp_path / f'{name}.tif'
        with rasterio.open(path, 'w', **profile, **place, **size) as out:
            out.write(codes, 1)
        labels.append(path)
    truth, *coarse = labels
    found = measure_statistics(coarse, truth, NLCD, SAME)
    water, wood = NLCD.index([11, 41])
    # of 20 cells of water four lie over forest; of the other raster 4 columns, of
    # which the first is under 7 of 30 pixels of water's
    np.testing.assert_allclose(found.mean[water], [0.8, 0.2, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found.mean[wood], [0, 1, 0, 0], atol=1e-6)
    assert found.reference == 'measured on 36 LR cells'


def test_truth_of_two_grids_counts_once(made_scene: Scene, tmp_path: Path) -> None:
    """Where HR rasters lie over each other the first that has a code counts."""
    with rasterio.open(made_scene.truth) as file:
        values, profile = file.read(), file.profile
    place = profile['transform'] * Affine.translation(0.25, 0.25)
    options = profile | {'transform': place}
    with rasterio.open(tmp_path / 'other.tif', 'w', **options) as file:
        file.write(np.ones_like(values))
    files = [made_scene.truth, tmp_path / 'other.tif']
    once = measure_statistics(made_scene.labels, made_scene.truth, NLCD, SAME)
    twice = measure_statistics(made_scene.labels, files, NLCD, SAME)
    # the second is left with what the first has no code for: a line at its edge
    np.testing.assert_allclose(twice.mean, once.mean, atol=0.02)
    np.testing.assert_allclose(twice.frequency, once.frequency, atol=0.02)
