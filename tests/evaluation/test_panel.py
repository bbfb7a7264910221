# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.enums import ColorInterp

from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.legend import Legend, LegendClass
from torchgeo_mapsr.datasets.scene.scene import Scene, make_scene
from torchgeo_mapsr.evaluation.panel import imagery_picture, save_panel


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


def write_bands(path: Path, bands: np.ndarray, **profile: object) -> Imagery:
    """Imagery of 40 x 50 pixels with these bands."""
    count, height, width = bands.shape
    profile = {'driver': 'GTiff', 'dtype': 'uint8', 'crs': 'EPSG:32617', **profile}
    place = rasterio.transform.from_origin(5e5, 4e6, 1, 1)
    with rasterio.open(
        path, 'w', count=count, height=height, width=width, transform=place, **profile
    ) as dataset:
        dataset.write(bands)
    return Imagery(path)


def test_picture_is_of_the_channels_that_are_read(tmp_path: Path) -> None:
    """A palette's colours, and bands in the order that is asked for."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (6, 3), dtype=np.uint8)
    index = rng.integers(0, 6, (1, 40, 50), dtype=np.uint8)
    indexed = tmp_path / 'palette.tif'
    write_bands(indexed, index)
    with rasterio.open(indexed, 'r+') as dataset:
        dataset.write_colormap(1, {i: (*c, 255) for i, c in enumerate(colors.tolist())})
        dataset.colorinterp = [ColorInterp.palette]
    bands = np.moveaxis(colors[index[0]], -1, 0)
    plain = write_bands(tmp_path / 'plain.tif', bands, photometric='rgb')
    everywhere = np.ones((40, 50), bool)

    def picture(imagery: Imagery) -> np.ndarray:
        return imagery_picture(imagery, imagery.geobox, everywhere)

    expected = picture(plain)
    assert len(np.unique(expected)) > 6
    np.testing.assert_array_equal(picture(Imagery(indexed)), expected)
    turned = picture(Imagery(tmp_path / 'plain.tif', bands=[3, 1, 2]))
    np.testing.assert_array_equal(turned, expected[..., [2, 0, 1]])
    np.testing.assert_array_equal(
        picture(Imagery(indexed, bands=[3, 1, 2])), expected[..., [2, 0, 1]]
    )
    # bands of several types
    mixed = tmp_path / 'mixed.vrt'
    rasterio.shutil.copy(tmp_path / 'plain.tif', mixed, driver='VRT')
    text = mixed.read_text().replace('"Byte" band="2"', '"Float32" band="2"')
    mixed.write_text(text)
    assert Imagery(mixed).dtype == np.float32
    np.testing.assert_array_equal(picture(Imagery(mixed)), expected)
    two = picture(Imagery(indexed, bands=[2, 1]))
    np.testing.assert_array_equal(two, expected[..., [1, 1, 1]])


@pytest.mark.filterwarnings('error:Glyph')
def test_names_that_no_font_has(scene: Scene, tmp_path: Path) -> None:
    """Codes stand for them; matplotlib would draw boxes, and warn."""
    classes = Legend.load('land-cover-4').classes
    pictures = []
    for name in ('named', 'codes'):
        # of a plane where no installed font has a character
        odd = chr(0x2FFF0)
        texts = [f'{odd}{c.code}' if name == 'named' else str(c.code) for c in classes]
        legend = Legend(
            'odd',
            tuple(
                LegendClass(c.code, text, c.color)
                for c, text in zip(classes, texts, strict=True)
            ),
        )
        path = tmp_path / f'{name}.png'
        save_panel(path, scene.truth, legend, Imagery(scene.imagery))
        pictures.append(matplotlib.image.imread(path))
    np.testing.assert_array_equal(*pictures)


def test_coarse_labels_are_of_the_first_raster_with_a_code(
    scene: Scene, tmp_path: Path
) -> None:
    """One that the legend does not have is nothing, and covers the next."""
    with rasterio.open(scene.labels) as dataset:
        codes, profile = dataset.read(), dataset.profile
    unknown = tmp_path / 'unknown.tif'
    # another grid, or both were one raster
    profile['transform'] = profile['transform'] * Affine.translation(0.3, 0.3)
    with rasterio.open(unknown, 'w', **profile) as dataset:
        dataset.write(np.full_like(codes, 250))
    labels = [*LabelRaster.open(unknown), *LabelRaster.open(scene.labels)]
    crosswalk = Crosswalk.load(scene.legend, scene.target)
    paths = [tmp_path / 'covered.png', tmp_path / 'plain.png']
    for path, rasters in zip(paths, (labels, labels[1:]), strict=True):
        save_panel(
            path,
            scene.truth,
            crosswalk.target,
            Imagery(scene.imagery),
            rasters,
            crosswalk,
        )
    covered, plain = (matplotlib.image.imread(path)[..., :3] for path in paths)
    third = slice(plain.shape[1] // 3 + 20, 2 * plain.shape[1] // 3 - 20)
    forest = Legend.load('land-cover-4').classes[1].color
    assert contains(plain[:400, third], forest) > 1000
    assert contains(covered[:400, third], forest) < 1000
