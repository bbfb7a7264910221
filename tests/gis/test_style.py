# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from odc.geo.geobox import GeoBox

from torchgeo_mapsr.datasets.geo.plan import Plan
from torchgeo_mapsr.datasets.legends.legend import Legend, LegendClass
from torchgeo_mapsr.mapping.cog import Layer, map_nodata, write_cog
from torchgeo_mapsr.mapping.style import (
    class_qml,
    class_sld,
    confidence_qml,
    confidence_sld,
    write_class_styles,
    write_confidence_styles,
)

from .conftest import Layers

ODD = Legend(
    'odd',
    (
        LegendClass(3, 'rock & ice', (1, 2, 3)),
        LegendClass(7, '<5 m "low"', (4, 5, 6)),
        LegendClass(200, 'Fjällbjörk', (250, 128, 0)),
    ),
)
LEGENDS = [*map(Legend.load, ('land-cover-4', 'nlcd', 'worldcover')), ODD]


def hexadecimal(color: tuple[int, int, int]) -> str:
    return '#{:02x}{:02x}{:02x}'.format(*color)


@pytest.mark.parametrize('legend', LEGENDS, ids=lambda legend: legend.name)
def test_qml_and_sld_hold_exactly_the_classes(legend: Legend) -> None:
    expected = [(str(c.code), c.name, hexadecimal(c.color)) for c in legend.classes]
    entries = ElementTree.fromstring(class_qml(legend).encode()).iter('paletteEntry')
    assert [
        (e.attrib['value'], e.attrib['label'], e.attrib['color']) for e in entries
    ] == expected
    space = '{http://www.opengis.net/sld}'
    entries = ElementTree.fromstring(class_sld(legend).encode()).iter(
        f'{space}ColorMapEntry'
    )
    assert [
        (e.attrib['quantity'], e.attrib['label'], e.attrib['color']) for e in entries
    ] == expected


def test_confidence_rises_from_0_to_100() -> None:
    for text, tag, key in (
        (confidence_qml(), 'item', 'value'),
        (confidence_sld(), '{http://www.opengis.net/sld}ColorMapEntry', 'quantity'),
    ):
        values = [
            int(e.attrib[key]) for e in ElementTree.fromstring(text.encode()).iter(tag)
        ]
        assert values == sorted(values)
        assert (values[0], values[-1]) == (0, 100)


def write_map(folder: Path, legend: Legend) -> Path:
    """A map of stripes, a class each, and one without data."""
    nodata = map_nodata(legend)
    codes = [nodata, *legend.codes.tolist()]
    values = np.repeat(np.array(codes, np.uint8), 20)[:, None].repeat(90, 1)
    box = GeoBox(values.shape, Affine(1, 0, 6e5, 0, -1, 3e6), 'EPSG:26914')
    plan = Plan(box, 448, 512, overlap=64)
    path = folder / 'map.tif'
    write_cog(
        path,
        box,
        Layer.classes(legend, nodata),
        plan.tiles(),
        lambda tile: values[tile.rows, tile.cols],
    )
    write_class_styles(path, legend)
    return path


@pytest.mark.parametrize('legend', LEGENDS, ids=lambda legend: legend.name)
def test_gdal_reads_the_attribute_table(tmp_path: Path, legend: Legend) -> None:
    """GDAL writes what it has understood of the sidecar into a VRT."""
    path = write_map(tmp_path, legend)
    rasterio.shutil.copy(path, tmp_path / 'c.vrt', driver='VRT')
    root = ElementTree.parse(tmp_path / 'c.vrt').getroot()
    table = root.find('.//GDALRasterAttributeTable')
    assert table is not None
    assert table.attrib['tableType'] == 'thematic'
    columns = [field.findtext('Name') for field in table.iter('FieldDefn')]
    rows = [
        dict(zip(columns, (f.text for f in row.iter('F')), strict=True))
        for row in table.iter('Row')
    ]
    assert [(r['Value'], r['Class']) for r in rows] == [
        (str(c.code), c.name) for c in legend.classes
    ]
    assert [(r['Red'], r['Green'], r['Blue']) for r in rows] == [
        tuple(map(str, c.color)) for c in legend.classes
    ]


@pytest.mark.parametrize('travelled', [True, False])
@pytest.mark.parametrize('legend', LEGENDS, ids=lambda legend: legend.name)
def test_qgis_shows_the_classes_and_nothing_else(
    tmp_path: Path, legend: Legend, travelled: bool, qgis_layers: Layers
) -> None:
    """Without the .aux.xml too; without the .qml QGIS lists 256 colours."""
    path = write_map(tmp_path, legend)
    if not travelled:
        path.with_name('map.tif.aux.xml').unlink()
    picture = tmp_path / 'picture.png'
    (layer,) = qgis_layers(path, picture=picture)
    assert layer['valid']
    assert layer['type'] == 'paletted'
    entries = [(c.name, hexadecimal(c.color)) for c in legend.classes]
    # QGIS writes the layer's band above the entries
    assert [tuple(e) for e in layer['entries'] if e[0] in legend.class_names] == entries
    assert len(layer['entries']) - len(entries) <= 1
    with rasterio.open(picture) as image:
        pixels = image.read((1, 2, 3)).reshape(3, -1).T
    drawn = {tuple(color) for color in np.unique(pixels, axis=0).tolist()}
    # no data is the paper's white
    assert drawn == {(255, 255, 255), *(c.color for c in legend.classes)}

    path.with_suffix('.qml').unlink()
    (bare,) = qgis_layers(path)
    assert len(bare['entries']) > 200


def test_qgis_draws_confidence_from_dark_to_light(
    tmp_path: Path, qgis_layers: Layers
) -> None:
    values = np.tile(np.arange(101, dtype=np.uint8), (101, 1))
    box = GeoBox(values.shape, Affine(1, 0, 6e5, 0, -1, 3e6), 'EPSG:26914')
    path = tmp_path / 'map_confidence.tif'
    plan = Plan(box, 448, 512, overlap=64)
    write_cog(
        path,
        box,
        Layer.confidence(),
        plan.tiles(),
        lambda tile: values[tile.rows, tile.cols],
    )
    write_confidence_styles(path)
    picture = tmp_path / 'picture.png'
    (layer,) = qgis_layers(path, picture=picture)
    assert layer['type'] == 'singlebandpseudocolor'
    with rasterio.open(picture) as image:
        grey = image.read((1, 2, 3)).astype(int).sum(0)
    middle = grey[400, 8:792:8]
    assert (np.diff(middle) >= -12).all()
    assert middle[-1] - middle[0] > 350
