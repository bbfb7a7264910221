# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import rasterio

from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.scene.scene import Scene, make_scene
from torchgeo_mapsr.evaluation.panel import save_panel


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp('scene'), size=(200, 300))


def contains(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    """Pixels of a colour."""
    return int((np.abs(picture - np.array(color) / 255) < 0.02).all(-1).sum())


def test_panel_shows_the_map(scene: Scene, tmp_path: Path) -> None:
    crosswalk = Crosswalk.load(scene.legend, scene.target)
    with rasterio.open(scene.truth) as dataset:
        codes, profile = dataset.read(1), dataset.profile
    percent = tmp_path / 'confidence.tif'
    with rasterio.open(percent, 'w', **{**profile, 'nodata': 255}) as dataset:
        dataset.write(np.full((1, *codes.shape), 77, np.uint8))
    labels = LabelRaster.open(scene.labels)
    paths = [tmp_path / 'panel.png', tmp_path / 'bare.png']
    imagery = Imagery(scene.imagery)
    save_panel(
        paths[0], scene.truth, crosswalk.target, imagery, labels, crosswalk, percent
    )
    save_panel(paths[1], scene.truth, crosswalk.target, imagery)
    full, bare = (matplotlib.image.imread(path)[..., :3] for path in paths)
    assert full.shape[0] == bare.shape[0]
    assert full.shape[1] > 1.9 * bare.shape[1]  # four pictures and a scale, and two
    for item in crosswalk.target.classes:
        share = (codes == item.code).mean()
        if share > 0.02:
            assert contains(bare, item.color) > 100
            # labels and map
            assert contains(full, item.color) > contains(bare, item.color)


def test_one_band_and_no_data(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, size=(60, 60))
    with rasterio.open(scene.imagery) as dataset:
        profile = {
            **dataset.profile,
            'count': 1,
            'nodata': 0,
            'photometric': 'minisblack',
        }
        band = dataset.read([1])
    band[:, :30] = 0
    with rasterio.open(tmp_path / 'one.tif', 'w', **profile) as dataset:
        dataset.write(band)
    legend = Crosswalk.load('land-cover-4', 'land-cover-4').target
    path = tmp_path / 'panel.png'
    save_panel(path, scene.truth, legend, Imagery(tmp_path / 'one.tif'))
    picture = matplotlib.image.imread(path)[..., :3]
    height, width = picture.shape[:2]
    left = picture[height // 5 : height // 2, width // 10 : width // 3]
    np.testing.assert_allclose(left, left[..., :1].repeat(3, -1), atol=0.02)  # grey
    assert left.std() > 0.05
