# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The verb on a map, as QGIS and geopandas then see it."""

import json
from pathlib import Path

import geopandas
import numpy as np
import pystac
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from torchgeo_mapsr.datasets.geo.plan import Plan
from torchgeo_mapsr.datasets.legends.legend import Legend, LegendClass
from torchgeo_mapsr.evaluation.class_maps import map_legend
from torchgeo_mapsr.main import main
from torchgeo_mapsr.mapping.cog import Layer, write_cog

from .conftest import Layers

LEGEND = Legend(
    'survey',
    (
        LegendClass(2, 'Moor & heath', (120, 80, 140)),
        LegendClass(9, 'Lake', (0, 90, 200)),
    ),
    nodata=255,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A lake of 40 × 40 m, a pond of 2 × 2 m, and their confidence."""
    values = np.full((100, 100), 2, np.uint8)
    values[30:70, 30:70] = 9
    values[5:7, 5:7] = 9
    values[:, 95:] = 255
    box = GeoBox((100, 100), Affine(1, 0, 6e5, 0, -1, 5.9e6), 'EPSG:32631')
    plan = Plan(box, 448, 512, overlap=64)
    confidence = np.where(values == 255, 255, np.where(values == 9, 90, 60))
    for name, layer, array in (
        ('map', Layer.classes(LEGEND, 255), values),
        ('map_confidence', Layer.confidence(), confidence.astype(np.uint8)),
    ):
        write_cog(
            tmp_path / f'{name}.tif',
            box,
            layer,
            plan.tiles(),
            lambda tile, a=array: a[tile.rows, tile.cols],
        )
    return tmp_path / 'map.tif'


def test_a_map_knows_its_legend(path: Path) -> None:
    found = map_legend(path)
    assert (found.name, found.classes) == ('survey', LEGEND.classes)


def test_everything_at_once(path: Path, qgis_layers: Layers) -> None:
    polygons = path.with_name('map_polygons.gpkg')
    args = ['export', str(path), '--polygons', str(polygons), '--min-area', '10']
    figures = path.with_name('written.json')
    assert main([*args, '--style', '--stac-item', '--json', str(figures)]) == 0
    content = json.loads(figures.read_text())
    assert content['polygons'] == 2
    assert {Path(name).suffix for name in content['files']} == {
        '.gpkg', '.qml', '.sld', '.json'
    }  # fmt: skip
    assert all(Path(name).exists() for name in content['files'])
    frame = geopandas.read_file(polygons, layer='map_polygons')
    rows = sorted(zip(frame['name'], frame.confidence, strict=True))
    assert rows == [('Lake', 90), ('Moor & heath', 60)]
    assert frame.hectares.sum() == pytest.approx(0.95, rel=0.01)
    item = pystac.Item.from_file(str(path.with_suffix('.stac.json')))
    assert 'polygons' in item.assets
    raster, vector = qgis_layers(path, polygons)
    assert [e[0] for e in raster['entries'] if e[0] in LEGEND.class_names] == [
        'Moor & heath',
        'Lake',
    ]
    assert vector['type'] == 'categorizedSymbol'
    assert vector['entries'] == [['Moor & heath', '#78508c'], ['Lake', '#005ac8']]


def test_nothing_is_overwritten(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.with_suffix('.sld').write_text('mine')
    assert main(['export', str(path), '--style']) == 2
    assert 'map.sld exists' in capsys.readouterr().err
    assert not path.with_suffix('.qml').exists()
    assert main(['export', str(path), '--style', '--overwrite']) == 0
    assert 'ColorMap' in path.with_suffix('.sld').read_text()


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ([], 'Say what to write'),
        (['--polygons', 'map.shp'], 'give one of these suffixes'),
        (['--polygons', 'a.gpkg', '--min-area', '-1'], 'must not be negative'),
        (['--style', '--legend', 'nlcdd'], 'nlcdd'),
    ],
)
def test_mistakes_are_one_line(
    path: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['export', str(path), *args]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_web_tiles_hold_the_polygons(path: Path) -> None:
    """PMTiles begin with their name, and say what they hold in JSON."""
    tiles = path.with_name('map.pmtiles')
    assert main(['export', str(path), '--polygons', str(tiles)]) == 0
    assert tiles.read_bytes()[:7] == b'PMTiles'
    frame = geopandas.read_file(tiles)
    assert set(frame['name']) == {'Lake', 'Moor & heath'}
    assert json.loads(frame.to_json())['features']
