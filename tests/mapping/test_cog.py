# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import resource
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from odc.geo.geobox import GeoBox
from rio_cogeo import cog_validate

from torchgeo_mapsr.datasets.geo.plan import Plan, Tile
from torchgeo_mapsr.datasets.legends.legend import Legend, LegendClass
from torchgeo_mapsr.evaluation.class_maps import NO_PERCENT
from torchgeo_mapsr.mapping.cog import Layer, map_nodata, write_cog

from ..forked import run_forked

LEGEND = Legend.load('land-cover-4')
AFFINE = Affine(0.5859374999999546, 0, 6e5 + 0.1, 0, -0.5859375000001819, 3.3e6)


def plan(shape: tuple[int, int], tile: int, affine: Affine = AFFINE) -> Plan:
    return Plan(GeoBox(shape, affine, 'EPSG:26914'), 448, tile, overlap=64)


def write(path: Path, values: np.ndarray, plan: Plan, layer: Layer) -> None:
    def load(tile: Tile) -> np.ndarray:
        return values[..., tile.rows, tile.cols]

    write_cog(path, plan.geobox, layer, plan.tiles(), load)


def categories(path: Path, folder: Path) -> list[str | None]:
    """Category names as GDAL sees them; rasterio has no function for that."""
    rasterio.shutil.copy(path, folder / 'c.vrt', driver='VRT')
    names = ElementTree.parse(folder / 'c.vrt').getroot().iter('Category')
    return [name.text for name in names]


@pytest.mark.parametrize('tile', [300, 512, 2048])
def test_class_map(tmp_path: Path, tile: int) -> None:
    values = np.random.default_rng(0).integers(0, 5, (700, 1100), np.uint8)
    path = tmp_path / 'map.tif'
    grid = plan((700, 1100), tile)
    write(path, values, grid, Layer.classes(LEGEND, 0))
    valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(path) as dataset:
        assert dataset.transform == AFFINE
        assert dataset.crs.to_epsg() == 26914
        assert dataset.shape == (700, 1100)
        assert dataset.dtypes == ('uint8',)
        assert dataset.nodata == 0
        assert dataset.colorinterp == (rasterio.enums.ColorInterp.palette,)
        colors = dataset.colormap(1)
        for item in LEGEND.classes:
            assert colors[item.code] == (*item.color, 255)
        assert colors[0][3] == 0
        assert dataset.overviews(1) == [2, 4]
        assert json.loads(dataset.tags()['CLASSES'])['2'] == 'Forest'
        assert 'land-cover-4' in dataset.descriptions[0]
        np.testing.assert_array_equal(dataset.read(1), values)
    assert categories(path, tmp_path) == ['no data', *LEGEND.class_names]
    left = {p.name for p in tmp_path.iterdir()} - {'c.vrt'}
    assert left == {'map.tif', 'map.tif.aux.xml'}


def test_names_do_not_depend_on_gdals_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torchgeo 0.8.1's command line sets, and many who read from the cloud."""
    monkeypatch.setenv('GDAL_DISABLE_READDIR_ON_OPEN', 'EMPTY_DIR')
    path = tmp_path / 'map.tif'
    values = np.ones((40, 30), np.uint8)
    write(path, values, plan((40, 30), 512), Layer.classes(LEGEND, 0))
    monkeypatch.delenv('GDAL_DISABLE_READDIR_ON_OPEN')
    assert categories(path, tmp_path) == ['no data', *LEGEND.class_names]


def test_overviews_hold_classes_only(tmp_path: Path) -> None:
    """An average of water (1) and field (3) is not forest (2)."""
    values = np.where(np.indices((1030, 1030)).sum(0) % 3 > 0, 3, 1).astype(np.uint8)
    path = tmp_path / 'map.tif'
    write(path, values, plan((1030, 1030), 512), Layer.classes(LEGEND, 0))
    with rasterio.open(path, overview_level=0) as dataset:
        assert set(np.unique(dataset.read(1))) <= {1, 3}


def test_percentages(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 101, (4, 600, 600), np.uint8)
    values[:, :300] = NO_PERCENT
    path = tmp_path / 'scores.tif'
    write(path, values, plan((600, 600), 512), Layer.scores(LEGEND))
    assert cog_validate(path, strict=True, quiet=True)[0]
    with rasterio.open(path) as dataset:
        assert dataset.nodata == NO_PERCENT
        assert dataset.descriptions == tuple(f'{n} (%)' for n in LEGEND.class_names)
        np.testing.assert_array_equal(dataset.read(), values)
    with rasterio.open(path, overview_level=0) as dataset:
        small = dataset.read()
    assert (small[:, :150] == NO_PERCENT).all()
    assert (small[:, 151:] <= 100).all()  # no data does not leak into the averages


def test_sparse_codes_and_names_that_xml_escapes(tmp_path: Path) -> None:
    legend = Legend(
        'own',
        (LegendClass(3, 'rock & ice', (1, 2, 3)), LegendClass(7, '<5 m', (4, 5, 6))),
    )
    nodata = map_nodata(legend)
    assert nodata == 0
    path = tmp_path / 'map.tif'
    write(
        path,
        np.full((20, 30), 7, np.uint8),
        plan((20, 30), 512),
        Layer.classes(legend, nodata),
    )
    names = categories(path, tmp_path)
    assert names[3] == 'rock & ice'
    assert names[7] == '<5 m'
    assert names[0] == 'no data'
    assert names[1] is None


# A map holds codes to 255, and those of corine have three digits.
@pytest.mark.parametrize('name', sorted({*Legend.names()} - {'corine'}))
def test_nodata_is_no_class(name: str) -> None:
    legend = Legend.load(name)
    code = map_nodata(legend)
    assert 0 <= code <= 255
    assert code not in legend.codes
    if legend.nodata is not None:
        assert code == legend.nodata


def test_rotated_and_geographic_grids(tmp_path: Path) -> None:
    for crs, affine in [
        ('EPSG:26914', Affine(1, 0.5, 6e5, 0.5, -1, 3e6)),
        ('EPSG:4326', Affine(1e-5, 0, 10, 0, -1e-5, 50)),
    ]:
        grid = Plan(GeoBox((30, 40), affine, crs), 448, 512, overlap=64)
        path = tmp_path / 'map.tif'
        write(path, np.ones((30, 40), np.uint8), grid, Layer.classes(LEGEND, 0))
        with rasterio.open(path) as dataset:
            assert dataset.transform.almost_equals(affine, precision=1e-12)
            assert dataset.crs == rasterio.CRS.from_string(crs)


def test_disk_full_is_an_error_not_half_a_map(tmp_path: Path) -> None:
    """A limit on file size fails GDAL's writes as a full disk does."""
    script = f"""
import resource, sys
import numpy as np
from pathlib import Path
from tests.mapping import test_cog
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
values = np.random.default_rng(0).integers(0, 5, (1500, 1500), np.uint8)
layer = test_cog.Layer.classes(test_cog.LEGEND, 0)
try:
    test_cog.write(
        Path({str(tmp_path / 'map.tif')!r}), values, test_cog.plan((1500, 1500), 512), layer
    )
except OSError as error:
    sys.exit(17)
"""
    done = run_forked(script)
    assert done.returncode == 17, done.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 200_000
