# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.projection import ProjectionExtension
from rasterio.warp import transform

from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.mapping.stac_item import classes_of, stac_item

AFFINE = Affine(1.5, 0, 6e5, 0, -1.5, 3.3e6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a job leaves: a map, confidence, scores, and more."""
    for name, count in (('map', 1), ('map_confidence', 1), ('map_scores', 4)):
        with rasterio.open(
            tmp_path / f'{name}.tif',
            'w',
            driver='GTiff',
            count=count,
            height=300,
            width=400,
            dtype='uint8',
            crs='EPSG:26914',
            transform=AFFINE,
        ) as dataset:
            dataset.write(np.ones((count, 300, 400), np.uint8))
    for name in ('map.png', 'map.json', 'map.qml', 'map_polygons.gpkg'):
        (tmp_path / name).touch()
    return tmp_path


def test_pystac_reads_the_item(folder: Path) -> None:
    legend = Legend.load('land-cover-4')
    year = (datetime(2021, 1, 1), datetime(2021, 12, 31, tzinfo=UTC))
    content = stac_item(
        folder / 'map.tif',
        legend,
        year,
        extra={'polygons': folder / 'map_polygons.gpkg'},
    )
    path = folder / 'map.stac.json'
    path.write_text(json.dumps(content))
    item = pystac.Item.from_file(str(path))
    assert item.common_metadata.start_datetime == datetime(2021, 1, 1, tzinfo=UTC)
    assert item.datetime is None
    assert set(item.assets) == {
        'map',
        'confidence',
        'scores',
        'overview',
        'report',
        'style',
        'polygons',
    }
    for asset in item.assets.values():
        assert Path(str(asset.get_absolute_href())).exists()
    classes = ClassificationExtension.ext(item.assets['map']).classes
    assert classes is not None
    titles = {c.value: c.to_dict()['title'] for c in classes if not c.nodata}
    assert titles == {c.code: c.name for c in legend.classes}
    assert [c.value for c in classes if c.nodata] == [0]
    colors = {c.value: c.color_hint for c in classes}
    assert [bytes.fromhex(str(colors[c.code])) for c in legend.classes] == [
        bytes(c.color) for c in legend.classes
    ]
    projection = ProjectionExtension.ext(item)
    assert projection.epsg == 26914
    assert projection.shape == [300, 400]
    assert projection.transform is not None
    assert Affine(*projection.transform[:6]) == AFFINE


def test_footprint_is_where_the_map_lies(folder: Path) -> None:
    """Corners by rasterio's own transformation."""
    item = stac_item(folder / 'map.tif', 'land-cover-4')
    corners = [AFFINE * place for place in ((0, 0), (400, 0), (400, 300), (0, 300))]
    lon, lat = transform('EPSG:26914', 'EPSG:4326', *zip(*corners, strict=True))
    outline = shapely.geometry.shape(item['geometry'])
    want = shapely.Polygon(list(zip(lon, lat, strict=True)))
    assert outline.symmetric_difference(want).area < 1e-4 * want.area
    np.testing.assert_allclose(
        item['bbox'], (min(lon), min(lat), max(lon), max(lat)), atol=1e-6
    )
    made = datetime.fromtimestamp((folder / 'map.tif').stat().st_mtime, UTC)
    assert item['properties']['datetime'] == made.strftime('%Y-%m-%dT%H:%M:%SZ')
    assert json.loads(json.dumps(item)) == item


@pytest.mark.parametrize('name', Legend.names())
def test_names_are_as_the_extension_wants_them(name: str) -> None:
    classes = classes_of(Legend.load(name))
    assert all(re.fullmatch('[0-9A-Za-z_-]+', c['name']) for c in classes)
    assert all(
        re.fullmatch('[0-9A-F]{6}', c.get('color_hint', '000000')) for c in classes
    )
    values = [c['value'] for c in classes]
    assert values == sorted(set(values))
