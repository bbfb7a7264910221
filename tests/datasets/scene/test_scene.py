# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.enums import ColorInterp

from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.datasets.legends.statistics import JointStatistics
from torchgeo_mapsr.datasets.scene import scene as module
from torchgeo_mapsr.datasets.scene.scene import Scene, make_scene
from torchgeo_mapsr.errors import InputError

NLCD, FOUR = Legend.load('nlcd'), Legend.load('land-cover-4')


def read(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    arrays = []
    for path in (scene.imagery, scene.labels, scene.truth):
        with rasterio.open(path) as file:
            arrays.append(file.read())
    image, labels, truth = arrays
    return image, labels[0], truth[0]


def cells(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column of every pixel's LR cell, by pyproj; HR counts of every cell."""
    with rasterio.open(scene.truth) as hr, rasterio.open(scene.labels) as lr:
        index = FOUR.index(hr.read(1))
        j, i = np.meshgrid(np.arange(hr.width) + 0.5, np.arange(hr.height) + 0.5)
        x = hr.transform.c + hr.transform.a * j
        y = hr.transform.f + hr.transform.e * i
        x, y = Transformer.from_crs(hr.crs, lr.crs, always_xy=True).transform(x, y)
        row = np.floor((y - lr.transform.f) / lr.transform.e).astype(int)
        column = np.floor((x - lr.transform.c) / lr.transform.a).astype(int)
        counts = np.zeros((*lr.shape, 4), dtype=int)
    np.add.at(counts, (row, column, index), 1)
    return row, column, counts


def test_the_same_arguments_make_the_same_scene(
    made_scene: Scene, tmp_path: Path
) -> None:
    again = read(make_scene(tmp_path / 'again', seed=0, size=(384, 448)))
    for one, other in zip(read(made_scene), again, strict=True):
        np.testing.assert_array_equal(one, other)
    other_seed = read(make_scene(tmp_path / 'other', seed=1, size=(384, 448)))
    assert (read(made_scene)[2] != other_seed[2]).mean() > 0.3


def test_a_scene_does_not_depend_on_the_blocks_it_is_drawn_in(
    made_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, 'BLOCK', 150)
    blocks = read(make_scene(tmp_path, seed=0, size=(384, 448)))
    image, labels, truth = read(made_scene)
    np.testing.assert_array_equal(blocks[1], labels)
    # sums in another order may round a place on an edge to the other side
    assert (blocks[2] != truth).mean() < 1e-4
    assert (np.abs(blocks[0].astype(int) - image) > 1).mean() < 1e-3


def test_scenes_of_one_seed_are_windows_of_one_landscape(
    made_scene: Scene, tmp_path: Path
) -> None:
    easting, northing = module.ORIGIN
    origin = (easting + 100, northing - 60)
    moved = read(make_scene(tmp_path, seed=0, size=(384, 448), origin=origin))
    _, _, truth = read(made_scene)
    assert (moved[2][:-60, :-100] != truth[60:, 100:]).mean() < 1e-4


def test_files_are_what_they_say(made_scene: Scene) -> None:
    with rasterio.open(made_scene.imagery) as file:
        assert (file.count, file.shape) == (4, (384, 448))
        assert file.dtypes == ('uint8',) * 4
        assert file.crs.to_epsg() == 26918
        assert tuple(file.transform)[:6] == (1, 0, 325000, 0, -1, 4210000)
        # near infrared must not be taken for transparency
        assert ColorInterp.alpha not in file.colorinterp
        assert file.descriptions[3] == 'near infrared'
        assert (file.dataset_mask() == 255).all()
        image_grid = file.transform
    with rasterio.open(made_scene.truth) as file:
        assert file.transform == image_grid
        assert file.nodata == 0
        assert file.colormap(1)[2][:3] == FOUR.classes[1].color
    with rasterio.open(made_scene.labels) as file:
        assert file.crs.to_epsg() == 5070
        assert file.nodata == 0
        assert file.res == (30, 30)
        assert file.transform.c % 30 == 0
        assert file.transform.f % 30 == 0
        assert file.colormap(1)[11][:3] == NLCD.classes[0].color


def test_large_files_are_tiled(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, size=(513, 600))
    with rasterio.open(scene.imagery) as file:
        assert file.profile['tiled']
        assert file.block_shapes[0] == (512, 512)


def test_the_grids_are_turned_against_each_other(made_scene: Scene) -> None:
    with (
        rasterio.open(made_scene.imagery) as hr,
        rasterio.open(made_scene.labels) as lr,
    ):
        to_lr = Transformer.from_crs(hr.crs, lr.crs, always_xy=True)
        x, y = hr.transform.c, hr.transform.f
    (x0, x1), (y0, y1) = to_lr.transform([x, x + 448], [y, y])
    angle = np.degrees(np.arctan2(y1 - y0, x1 - x0))
    assert abs(angle) == pytest.approx(12.7, abs=0.2)


@pytest.mark.parametrize('seed', range(4))
def test_all_four_classes_are_there(seed: int, tmp_path: Path) -> None:
    _, labels, truth = read(make_scene(tmp_path, seed=seed, size=(256, 256)))
    shares = np.bincount(truth.ravel(), minlength=5) / truth.size
    assert shares[0] == 0
    assert (shares[1:] > 0.02).all()
    assert len(np.unique(labels[labels > 0])) >= 5


def test_colors_tell_classes_apart_only_in_part(made_scene: Scene) -> None:
    image, _, truth = read(made_scene)
    red, infrared = image[0].astype(float), image[3].astype(float)
    index = (infrared - red) / (infrared + red)
    by_class = [index[truth == code] for code in range(1, 5)]
    # plants reflect infrared
    plants, rest = min(map(np.median, by_class[1:3])), np.median(by_class[3])
    assert plants > rest + 0.05
    # but there are field and impervious pixels on the wrong side of any line
    low, high = np.quantile(by_class[2], 0.05), np.quantile(by_class[3], 0.95)
    assert low < high


def test_every_seen_cell_is_labelled_and_no_other(made_scene: Scene) -> None:
    _, labels, _ = read(made_scene)
    _, _, counts = cells(made_scene)
    np.testing.assert_array_equal(labels > 0, counts.sum(axis=-1) > 0)
    # the raster ends where the imagery ends
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        assert edge.any()


def test_land_cover_labels_are_the_majority(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, size=(300, 320), labels='land-cover-4')
    _, labels, _ = read(scene)
    _, _, counts = cells(scene)
    ordered = np.sort(counts, axis=-1)
    # a pixel on a cell's edge may count for either: leave near ties out
    clear = ordered[..., -1] > ordered[..., -2] + 4
    assert clear.sum() > 100
    np.testing.assert_array_equal(labels[clear], counts.argmax(axis=-1)[clear] + 1)
    assert scene.legend == 'land-cover-4'


def test_nlcd_labels_follow_bayes_rule(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, seed=3, size=(1024, 1024), resolution=3.0)
    _, labels, _ = read(scene)
    _, _, counts = cells(scene)
    seen = labels > 0
    portion = counts[seen] / counts[seen].sum(axis=-1, keepdims=True)
    chance = JointStatistics.load('malkin2019').posterior(portion)
    index = NLCD.index(labels[seen])
    expected = chance.mean(axis=0)
    drawn = np.bincount(index, minlength=len(NLCD)) / len(index)
    np.testing.assert_allclose(drawn, expected, atol=0.02)
    # calibrated cell by cell too: where a class has chance p, it is drawn p of the time
    for low, high in ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8)):
        within = (chance >= low) & (chance < high)
        hit = (index[:, None] == np.arange(len(NLCD)))[within]
        assert hit.mean() == pytest.approx(chance[within].mean(), abs=0.05)
    # neighbours are labelled alike more often than far cells with the same content
    forest = chance[:, NLCD.index(41)] > 0.4
    alike = np.zeros(labels.shape, dtype=bool)
    alike[seen] = forest
    pair = alike[:, 1:] & alike[:, :-1]
    near = (labels[:, 1:] == labels[:, :-1])[pair].mean()
    pair = alike[:, 20:] & alike[:, :-20]
    far = (labels[:, 20:] == labels[:, :-20])[pair].mean()
    assert near > far + 0.05


def test_noise_changes_the_share_that_it_says(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        'size': (512, 512),
        'resolution': 6.0,
        'labels': 'land-cover-4',
    }
    _, clean, _ = read(make_scene(tmp_path / 'clean', **arguments))
    seen = clean > 0
    frequency = np.bincount(clean[seen], minlength=5)[1:] / seen.sum()
    # drawn from all labels of the scene, a label may come out as it was
    change = 1 - (frequency**2).sum()
    for noise in (0.2, 0.6, 1.0):
        folder = tmp_path / str(noise)
        _, noisy, _ = read(make_scene(folder, noise=noise, **arguments))
        np.testing.assert_array_equal(noisy > 0, seen)
        changed = (noisy != clean)[seen].mean()
        assert changed == pytest.approx(noise * change, abs=0.05)


@pytest.mark.parametrize(
    'arguments',
    [
        {'labels': 'worldcover'},
        {'size': (0, 10)},
        {'noise': 1.5},
        {'resolution': 0.0},
        {'resolution': 50.0},
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        make_scene(tmp_path / 'scene', **arguments)
    assert not (tmp_path / 'scene').exists()
