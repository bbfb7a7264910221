# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from scipy import ndimage
from sklearn import metrics
from torchmetrics.functional.classification import multiclass_jaccard_index

from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.evaluation import accuracy
from torchgeo_mapsr.evaluation.accuracy import compare
from torchgeo_mapsr.evaluation.confusion import Confusion, confusion

LAND_COVER = Crosswalk.load('land-cover-4', 'land-cover-4')
LEGEND = LAND_COVER.target


def write(
    path: Path,
    codes: np.ndarray,
    transform: Affine,
    crs: str | None = 'EPSG:26917',
    nodata: int | None = 0,
) -> Path:
    profile = {
        'driver': 'GTiff',
        'dtype': 'uint8',
        'count': 1,
        'height': codes.shape[0],
        'width': codes.shape[1],
        'crs': crs,
        'transform': transform,
        'nodata': nodata,
    }
    with rasterio.open(path, 'w', **profile) as dataset:
        dataset.write(codes.astype(np.uint8), 1)
    return path


def grid(size: float, x: float = 5e5, y: float = 4e6) -> Affine:
    return Affine(size, 0, x, 0, -size, y)


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (90, 70))  # codes 0..2: field and impervious are absent
    mapped = np.where(
        rng.random(truth.shape) < 0.7, truth, rng.integers(0, 5, (90, 70))
    )
    return truth, mapped


def test_figures_are_those_of_sklearn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, mapped = (LEGEND.index(codes) for codes in pair)
    result = confusion(truth, mapped, LEGEND)
    both = (truth >= 0) & (mapped >= 0)
    y, p, labels = truth[both], mapped[both], range(4)
    np.testing.assert_array_equal(
        result.matrix, metrics.confusion_matrix(y, p, labels=labels)
    )
    iou = metrics.jaccard_score(y, p, labels=labels, average=None)
    np.testing.assert_allclose(result.iou, iou)
    np.testing.assert_allclose(result.miou, iou[:2].mean())  # absent classes: left out
    np.testing.assert_allclose(
        result.fwiou, metrics.jaccard_score(y, p, average='weighted')
    )
    np.testing.assert_allclose(result.accuracy, metrics.accuracy_score(y, p))
    f1 = metrics.f1_score(y, p, labels=labels, average=None)
    np.testing.assert_allclose(result.f1, f1)
    np.testing.assert_allclose(result.macro_f1, f1[:2].mean())
    np.testing.assert_allclose(
        result.precision, metrics.precision_score(y, p, labels=labels, average=None)
    )
    assert result.unmapped == ((truth >= 0) & (mapped < 0)).sum()
    json.dumps(result.to_dict(), allow_nan=False)


def test_figures_are_those_of_torchmetrics() -> None:
    rng = np.random.default_rng(1)
    truth, mapped = rng.integers(0, 4, (2, 5000))
    result = confusion(truth, mapped, LEGEND)
    for average, value in (('macro', result.miou), ('weighted', result.fwiou)):
        expected = multiclass_jaccard_index(
            torch.from_numpy(mapped), torch.from_numpy(truth), 4, average=average
        )
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_files_are_pooled(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, mapped = (LEGEND.index(codes) for codes in pair)
    whole = confusion(truth, mapped, LEGEND)
    parts = [
        confusion(truth[rows], mapped[rows], LEGEND) for rows in np.split(np.r_[:90], 3)
    ]
    pooled = parts[0] + parts[1] + parts[2]
    np.testing.assert_array_equal(pooled.matrix, whole.matrix)
    assert pooled.unmapped == whole.unmapped
    assert pooled.miou == whole.miou
    assert pooled.miou != np.mean([part.miou for part in parts])


def test_nothing_is_undefined_not_zero() -> None:
    empty = Confusion(LEGEND, np.zeros((4, 4), np.int64))
    assert np.isnan(empty.miou)
    assert np.isnan(empty.accuracy)
    assert empty.to_dict()['miou'] is None


def test_compare_on_one_grid(
    pair: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, mapped = pair
    a = write(tmp_path / 'map.tif', mapped, grid(1))
    b = write(tmp_path / 'truth.tif', truth, grid(1))
    expected = confusion(LEGEND.index(truth), LEGEND.index(mapped), LEGEND)
    for block in (2048, 32):
        monkeypatch.setattr(accuracy, '_BLOCK', block)
        result = compare(a, b, LAND_COVER, LAND_COVER)
        np.testing.assert_array_equal(result.matrix, expected.matrix)
        assert result.unmapped == expected.unmapped


def test_other_grid_and_crs_is_looked_up_at_pixel_centres(tmp_path: Path) -> None:
    """The oracle: every pixel centre projected by pyproj."""
    from pyproj import Transformer

    rng = np.random.default_rng(2)
    truth = rng.integers(1, 5, (120, 120))
    a = write(tmp_path / 'truth.tif', truth, grid(1))
    x, y = Transformer.from_crs(26917, 5070, always_xy=True).transform(
        5e5 + 60, 4e6 - 60
    )
    coarse = rng.integers(1, 5, (14, 14))
    affine = Affine(7, 0, x - 49, 0, -7, y + 49)
    b = write(tmp_path / 'lr.tif', coarse, affine, 'EPSG:5070')
    cols, rows = np.meshgrid(np.arange(120) + 0.5, np.arange(120) + 0.5)
    x, y = Transformer.from_crs(26917, 5070, always_xy=True).transform(
        5e5 + cols, 4e6 - rows
    )
    col = np.floor((x - affine.c) / 7).astype(int)
    row = np.floor((affine.f - y) / 7).astype(int)
    inside = (row >= 0) & (row < 14) & (col >= 0) & (col < 14)
    copy = np.where(inside, coarse[row.clip(0, 13), col.clip(0, 13)], 0)
    expected = confusion(LEGEND.index(truth), LEGEND.index(copy), LEGEND)
    # the coarse raster as the map: still compared at the truth's pixels
    result = compare(b, a, LAND_COVER, LAND_COVER)
    np.testing.assert_array_equal(result.matrix, expected.matrix)
    assert result.unmapped == expected.unmapped == (~inside).sum()
    assert result.unmapped > 0
    # and the other way round
    swapped = compare(a, b, LAND_COVER, LAND_COVER)
    np.testing.assert_array_equal(swapped.matrix, expected.matrix.T)


def test_crosswalk_and_unknown_codes_of_the_truth(tmp_path: Path) -> None:
    truth = np.array([[1, 2, 3, 4], [5, 6, 15, 9]])
    mapped = np.array([[1, 2, 3, 4], [4, 3, 4, 4]])
    a = write(tmp_path / 'map.tif', mapped, grid(1))
    b = write(tmp_path / 'truth.tif', truth, grid(1), nodata=None)
    chesapeake = Crosswalk.load('chesapeake-7', 'land-cover-4')
    result = compare(a, b, LAND_COVER, chesapeake)
    assert result.unknown == {9: 1}
    assert result.matrix.sum() == 6
    assert np.trace(result.matrix) == 5


def test_kappa_and_mean_recall_are_those_of_sklearn(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    truth, mapped = (LEGEND.index(codes) for codes in pair)
    result = confusion(truth, mapped, LEGEND)
    both = (truth >= 0) & (mapped >= 0)
    y, p = truth[both], mapped[both]
    np.testing.assert_allclose(result.kappa, metrics.cohen_kappa_score(y, p))
    recall = metrics.recall_score(y, p, labels=[0, 1], average='macro')
    np.testing.assert_allclose(result.mean_recall, recall)
    content = result.to_dict()
    assert [c['in_truth'] for c in content['classes']] == [True, True, False, False]


def disc(width: int) -> np.ndarray:
    """Offsets that are at most so far away."""
    row, col = np.indices((2 * width + 1,) * 2) - width
    return row**2 + col**2 <= width**2


@pytest.mark.parametrize('block', [2048, 40])
def test_boundary_iou_is_cheng_by_erosion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """The oracle: masks less their erosion by a disc, on the whole raster."""
    monkeypatch.setattr(accuracy, '_BLOCK', block)
    rng = np.random.default_rng(3)
    smooth = ndimage.gaussian_filter(rng.normal(size=(2, 90, 110)), (0, 6, 6))
    truth, mapped = 1 + (smooth > 0) + 2 * (np.roll(smooth, 9, 1) > 0.01)
    mapped = np.where(rng.random(truth.shape) < 0.1, mapped, truth)
    a = write(tmp_path / 'map.tif', mapped, grid(2))
    b = write(tmp_path / 'truth.tif', truth, grid(2))
    result = accuracy.assess(a, b, LAND_COVER, LAND_COVER, boundary_width=6).total
    for c in range(4):
        rings = []
        for codes in (truth, mapped):
            mask = codes == c + 1
            inner = ndimage.binary_erosion(mask, disc(3), border_value=1)
            rings.append(mask & ~inner)
        expected = (rings[0] & rings[1]).sum() / (rings[0] | rings[1]).sum()
        np.testing.assert_allclose(result.boundary_iou[c], expected)
    assert result.mean_boundary_iou < result.miou
    assert result.to_dict()['boundary_width_metres'] == 6
    with pytest.raises(InputError, match='less than a pixel'):
        accuracy.assess(a, b, LAND_COVER, LAND_COVER, boundary_width=1)


def test_groups_are_parts_of_the_whole(
    pair: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    truth, mapped = pair
    a = write(tmp_path / 'map.tif', mapped, grid(1))
    b = write(tmp_path / 'truth.tif', truth, grid(1))
    halves = (('left', 'right'), lambda box: np.indices(box.shape)[1] // 35)
    result = accuracy.assess(
        a, b, LAND_COVER, LAND_COVER, groups={'half': halves}, boundary_width=2
    )
    parts = result.groups['half']
    for i, name in enumerate(('left', 'right')):
        cols = slice(35 * i, 35 * i + 35)
        index = (LEGEND.index(codes[:, cols]) for codes in (truth, mapped))
        np.testing.assert_array_equal(
            parts[name].matrix, confusion(*index, LEGEND).matrix
        )
    total = parts['left'] + parts['right']
    np.testing.assert_array_equal(total.matrix, result.total.matrix)
    np.testing.assert_array_equal(total.boundary, result.total.boundary)
    twice = result + result
    np.testing.assert_array_equal(
        twice.groups['half']['left'].matrix, 2 * parts['left'].matrix
    )


def test_matrix_as_csv_and_png(tmp_path: Path) -> None:
    result = Confusion(LEGEND, np.diag([4, 3, 2, 0]))
    result.save_csv(tmp_path / 'm.csv')
    result.save_png(tmp_path / 'm.png')
    rows = [line.split(',') for line in (tmp_path / 'm.csv').read_text().splitlines()]
    assert rows[0][1:] == list(LEGEND.class_names)
    assert np.array_equal(np.array(rows[1:])[:, 1:].astype(int), result.matrix)
    assert (tmp_path / 'm.png').read_bytes()[:4] == b'\x89PNG'


def test_bad_input(tmp_path: Path) -> None:
    ones = np.ones((8, 8))
    a = write(tmp_path / 'map.tif', ones, grid(1))
    far = write(tmp_path / 'far.tif', ones, grid(1, x=6e5))
    bare = write(tmp_path / 'bare.tif', ones, grid(1), crs=None)
    nlcd = write(tmp_path / 'nlcd.tif', ones * 41, grid(1))
    broken = tmp_path / 'broken.tif'
    broken.write_bytes(a.read_bytes()[:100])
    for one, two, message in [
        (a, far, 'no pixels in common'),
        (a, bare, 'coordinate reference'),
        (nlcd, a, r'codes \[41\].*--legend'),
        (a, nlcd, r'nlcd.*none of its codes .41.*--truth-legend'),
        (a, broken, 'cannot be read'),
        (tmp_path / 'none.tif', a, 'cannot be read'),
    ]:
        with pytest.raises(InputError, match=message):
            compare(one, two, LAND_COVER, LAND_COVER)


def test_counts_of_two_legends_do_not_add_up() -> None:
    legends = [
        Legend.load({'classes': [{'code': 1, 'name': n}, {'code': 2, 'name': 'b'}]})
        for n in 'ax'
    ]
    one, other = (Confusion(legend, np.eye(2, dtype=int)) for legend in legends)
    with pytest.raises(InputError, match='do not add up'):
        one + other
    assert np.isnan(Confusion(legends[0], np.zeros((2, 2), int)).fwiou)
