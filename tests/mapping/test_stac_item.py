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
import rasterio.shutil
import shapely
from affine import Affine
from pyproj import Geod, Transformer
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


def write(path: Path, crs: str, affine: Affine, **profile: object) -> Path:
    settings = {'driver': 'GTiff', 'count': 1, 'height': 40, 'width': 50}
    settings |= {'dtype': 'uint8', 'crs': crs, 'transform': affine, **profile}
    with rasterio.open(path, 'w', **settings) as dataset:
        dataset.write(np.ones((1, 40, 50), str(settings['dtype'])))
    return path


@pytest.mark.parametrize(
    ('dtype', 'nodata', 'want'),
    [
        ('int16', -32768, -32768),
        ('float32', float('nan'), 'nan'),
        ('float32', 0.5, 0.5),
        ('uint8', None, None),
    ],
)
def test_facts_are_those_of_the_file(
    tmp_path: Path, dtype: str, nodata: float | None, want: object
) -> None:
    path = write(tmp_path / 'm.tif', 'EPSG:26914', AFFINE, dtype=dtype, nodata=nodata)
    item = stac_item(path, 'worldcover')
    asset = item['assets']['map']
    assert asset['type'] == 'image/tiff; application=geotiff'
    (band,) = asset['bands']
    assert (band['data_type'], band.get('nodata')) == (dtype, want)
    nothing = [c['value'] for c in asset['classification:classes'] if c.get('nodata')]
    default = Legend.load('worldcover').nodata
    assert nothing == {-32768: [-32768], None: [default]}.get(want, [])
    json.dumps(item, allow_nan=False)
    copy = tmp_path / 'cog.tif'
    rasterio.shutil.copy(path, copy, driver='COG')
    cog = 'image/tiff; application=geotiff; profile=cloud-optimized'
    assert stac_item(copy, 'worldcover')['assets']['map']['type'] == cog


@pytest.mark.parametrize(
    ('crs', 'affine', 'parts'),
    [
        ('EPSG:32760', Affine(50, 0, 817700, 0, -50, 8096700), 2),  # across 180°
        ('EPSG:32701', Affine(50, 0, 180000, 0, -50, 8096700), 2),
        (
            'EPSG:3832',
            Affine(50, 0, 3338500, 0, -50, -1900000),
            2,
        ),  # 150° in the middle
        ('EPSG:4326', Affine(0.01, 0, 179.9, 0, -0.01, -17), 2),
        ('EPSG:4326', Affine(0.01, 0, -180.2, 0, -0.01, -17), 2),
        ('EPSG:4326', Affine(0.01, 0, 262, 0, -0.01, 30), 1),  # 0° to 360°
        ('EPSG:4326', Affine(0.01, 0, 180, 0, -0.01, 30), 1),
        ('EPSG:4326', Affine(0.01, 0, 179.5, 0, -0.01, 30), 1),
        ('EPSG:32760', Affine(50, 0, 700000, 0, -50, 8096700), 1),
    ],
)
def test_footprint_at_the_antimeridian(
    tmp_path: Path, crs: str, affine: Affine, parts: int
) -> None:
    """The area is that of the pixels, and every pixel's centre lies in it."""
    item = stac_item(write(tmp_path / 'm.tif', crs, affine), 'land-cover-4')
    outline = shapely.geometry.shape(item['geometry'])
    assert outline.is_valid
    assert len(shapely.get_parts(outline)) == parts
    col, row = np.meshgrid(np.arange(50) + 0.5, np.arange(40) + 0.5)
    x, y = (v.ravel() for v in affine * (col, row))
    to_degrees = Transformer.from_crs(crs, 'EPSG:4326', always_xy=True)
    lon, lat = to_degrees.transform(x, y)
    lon = (np.asarray(lon) + 180) % 360 - 180
    assert shapely.contains_xy(outline, lon, lat).all()
    west, south, east, north = item['bbox']
    assert (west > east) == (parts == 2)
    assert -180 <= min(west, east) <= max(west, east) <= 180
    assert ((lon >= west) | (lon <= east)).all()
    assert ((lat >= south) & (lat <= north)).all()
    geod = Geod(ellps='WGS84')
    area = abs(geod.geometry_area_perimeter(shapely.segmentize(outline, 0.01))[0])
    pixel = abs(affine.determinant)
    if crs == 'EPSG:4326':
        south_edge, north_edge = affine.f - 0.4, affine.f
        ring = shapely.segmentize(shapely.box(0, south_edge, 0.5, north_edge), 0.01)
        pixel = abs(geod.geometry_area_perimeter(ring)[0]) / 2000
    elif crs == 'EPSG:3832':
        pixel *= np.cos(np.radians(lat.mean())) ** 2
    assert area == pytest.approx(2000 * pixel, rel=1e-2)


@pytest.mark.parametrize(
    ('crs', 'pole'), [('EPSG:3031', -90), ('EPSG:3413', 90), ('EPSG:3995', 90)]
)
def test_footprint_at_a_pole(tmp_path: Path, crs: str, pole: float) -> None:
    affine = Affine(4000, 0, -1.1e5, 0, -4000, 7e4)
    item = stac_item(write(tmp_path / 'm.tif', crs, affine), 'land-cover-4')
    outline = shapely.geometry.shape(item['geometry'])
    col, row = np.meshgrid(np.arange(50) + 0.5, np.arange(40) + 0.5)
    to_degrees = Transformer.from_crs(crs, 'EPSG:4326', always_xy=True)
    lon, lat = to_degrees.transform(*(v.ravel() for v in affine * (col, row)))
    assert outline.is_valid
    # some lie on its edges, at 180° and at the pole
    assert shapely.intersects_xy(outline, lon, lat).all()
    assert item['bbox'][::2] == [-180, 180]
    assert pole in item['bbox'][1::2]
    assert outline.area < 360 * 3


def test_the_whole_world(tmp_path: Path) -> None:
    for west in (-180, 0):
        path = write(tmp_path / 'm.tif', 'EPSG:4326', Affine(7.2, 0, west, 0, -4.5, 90))
        item = stac_item(path, 'land-cover-4')
        assert item['bbox'] == [-180, -90, 180, 90]
        assert shapely.geometry.shape(item['geometry']).area == pytest.approx(64800)


def test_addresses_are_quoted(tmp_path: Path) -> None:
    """A browser would end a path at # and ?."""
    path = tmp_path / 'a #1 50%.tif'
    profile = {'driver': 'GTiff', 'count': 1, 'height': 9, 'width': 9, 'dtype': 'uint8'}
    with rasterio.open(path, 'w', crs='EPSG:26914', transform=AFFINE, **profile) as out:
        out.write(np.ones((1, 9, 9), np.uint8))
    assets = stac_item(path, Legend.load('land-cover-4'))['assets'].values()
    (href,) = (asset['href'] for asset in assets)
    assert href == './a%20%231%2050%25.tif'
