# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Styles beside a map: what a GIS shows without a click.

A palette TIFF has 256 colours whatever its legend, and QGIS lists all of them: the
classes, the colour of no data and 250 blacks. A ``.qml`` of the same name, which QGIS
loads with the layer, lists the classes alone. An ``.sld`` says the same to GeoServer
and others, and the ``.aux.xml`` has the class names and a raster attribute table for
everything that reads through GDAL. Each of the three stands by itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ..atomic import write_text
from ..datasets.legends.legend import Legend

Color = tuple[int, int, int]

#: Colours of a confidence of 0 to 100 percent: dark where a map is doubtful, readable in
#: grey and by people who see red and green alike.
CONFIDENCE_RAMP: tuple[tuple[int, Color], ...] = (
    (0, (48, 18, 59)),
    (40, (122, 28, 109)),
    (60, (189, 55, 84)),
    (80, (243, 120, 25)),
    (100, (252, 255, 164)),
)

# The oldest long-term release whose styles look like this; newer ones read it.
_QGIS = '3.16'

# GDAL's numbers for the type and the use of a column of an attribute table.
_INTEGER, _STRING = 0, 2
_COLUMNS = (
    ('Value', _INTEGER, 5),
    ('Class', _STRING, 2),
    ('Red', _INTEGER, 6),
    ('Green', _INTEGER, 7),
    ('Blue', _INTEGER, 8),
    ('Alpha', _INTEGER, 9),
)


def class_qml(legend: Legend) -> str:
    """QGIS style of a class map: exactly the classes, with their names.

    Args:
        legend: Legend of the map; no data has no entry and is transparent.

    Returns:
        Text of a ``.qml`` file.
    """
    root, renderer = _raster('paletted')
    palette = SubElement(renderer, 'colorPalette')
    for item in legend.classes:
        SubElement(
            palette,
            'paletteEntry',
            value=str(item.code),
            color=_hexadecimal(item.color),
            label=item.name,
            alpha='255',
        )
    return _text(root)


def class_sld(legend: Legend) -> str:
    """Styled layer descriptor of a class map, for GeoServer and others.

    Args:
        legend: Legend of the map.

    Returns:
        Text of an ``.sld`` file (SLD 1.0.0).
    """
    entries = [(c.code, c.color, c.name) for c in legend.classes]
    return _sld(legend.name, 'values', entries)


def confidence_qml() -> str:
    """QGIS style of a confidence raster, 0 to 100 percent.

    Returns:
        Text of a ``.qml`` file.
    """
    root, renderer = _raster('singlebandpseudocolor')
    low, high = CONFIDENCE_RAMP[0][0], CONFIDENCE_RAMP[-1][0]
    renderer.set('classificationMin', str(low))
    renderer.set('classificationMax', str(high))
    shader = SubElement(SubElement(renderer, 'rastershader'), 'colorrampshader')
    shader.set('colorRampType', 'INTERPOLATED')
    shader.set('classificationMode', '1')
    shader.set('clip', '0')
    for value, color in CONFIDENCE_RAMP:
        SubElement(
            shader,
            'item',
            value=str(value),
            color=_hexadecimal(color),
            label=f'{value} %',
            alpha='255',
        )
    return _text(root)


def confidence_sld() -> str:
    """Styled layer descriptor of a confidence raster, 0 to 100 percent.

    Returns:
        Text of an ``.sld`` file.
    """
    entries = [(value, color, f'{value} %') for value, color in CONFIDENCE_RAMP]
    return _sld('confidence', 'ramp', entries)


def polygon_qml(legend: Legend, field: str = 'class') -> str:
    """QGIS style of a map's polygons: a colour for each class, thin outlines.

    Args:
        legend: Legend of the map.
        field: Column that holds the class codes.

    Returns:
        Text of a ``.qml`` file.
    """
    root = Element('qgis', version=_QGIS, styleCategories='Symbology')
    renderer = SubElement(root, 'renderer-v2', type='categorizedSymbol', attr=field)
    categories = SubElement(renderer, 'categories')
    symbols = SubElement(renderer, 'symbols')
    for i, item in enumerate(legend.classes):
        SubElement(
            categories,
            'category',
            value=str(item.code),
            symbol=str(i),
            label=item.name,
            render='true',
        )
        symbol = SubElement(symbols, 'symbol', type='fill', name=str(i), alpha='1')
        layer = SubElement(symbol, 'layer', {'class': 'SimpleFill', 'enabled': '1'})
        red, green, blue = item.color
        for key, value in (
            ('color', f'{red},{green},{blue},255'),
            ('outline_color', '60,60,60,255'),
            ('outline_width', '0.1'),
            ('outline_width_unit', 'MM'),
            ('style', 'solid'),
        ):
            SubElement(layer, 'prop', k=key, v=value)
    return _text(root)


def sidecar_of(path: Path) -> Path:
    """GDAL's sidecar of a raster.

    Args:
        path: The raster.
    """
    return path.with_name(f'{path.name}.aux.xml')


def drop_sidecars(path: Path) -> None:
    """Remove what GDAL keeps beside a raster that is about to be replaced.

    Statistics, overviews and a mask would be taken for those of the new one.

    Args:
        path: The raster.
    """
    for suffix in ('.aux.xml', '.ovr', '.msk'):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def sidecar_xml(
    names: Mapping[int, str], colors: Mapping[int, Color] | None = None
) -> str:
    """GDAL's sidecar of a class map: category names and a raster attribute table.

    Args:
        names: Name by value, no data included.
        colors: Red, green and blue by value; values without one get no row in the
            attribute table, which would then not be made of classes.

    Returns:
        Text of an ``.aux.xml`` file.
    """
    root = Element('PAMDataset')
    band = SubElement(root, 'PAMRasterBand', band='1')
    categories = SubElement(band, 'CategoryNames')
    # GDAL counts categories from 0; unused ones are empty.
    for code in range(max(names) + 1):
        SubElement(categories, 'Category').text = names.get(code, '')
    if colors:
        table = SubElement(band, 'GDALRasterAttributeTable', tableType='thematic')
        for index, (name, kind, usage) in enumerate(_COLUMNS):
            column = SubElement(table, 'FieldDefn', index=str(index))
            SubElement(column, 'Name').text = name
            SubElement(column, 'Type').text = str(kind)
            SubElement(column, 'Usage').text = str(usage)
        for index, code in enumerate(sorted(colors)):
            row = SubElement(table, 'Row', index=str(index))
            for value in (code, names.get(code, ''), *colors[code], 255):
                SubElement(row, 'F').text = str(value)
    return tostring(root, encoding='unicode') + '\n'


def style_paths(raster: Path) -> tuple[Path, Path]:
    """The ``.qml`` and the ``.sld`` of a raster: same folder, same stem."""
    return raster.with_suffix('.qml'), raster.with_suffix('.sld')


def write_class_styles(
    raster: Path, legend: Legend, qml: Path | None = None, sld: Path | None = None
) -> tuple[Path, Path]:
    """Write the styles of a class map.

    Args:
        raster: The map; it need not be there.
        legend: Its legend.
        qml: Where to write the QGIS style (default: beside the map).
        sld: Where to write the styled layer descriptor (default: beside the map).

    Returns:
        The two files.
    """
    beside = style_paths(raster)
    qml, sld = qml or beside[0], sld or beside[1]
    write_text(qml, class_qml(legend))
    write_text(sld, class_sld(legend))
    return qml, sld


def write_confidence_styles(
    raster: Path, qml: Path | None = None, sld: Path | None = None
) -> tuple[Path, Path]:
    """Write the styles of a confidence raster.

    Args:
        raster: The raster; it need not be there.
        qml: Where to write the QGIS style (default: beside the raster).
        sld: Where to write the styled layer descriptor (default: beside the raster).

    Returns:
        The two files.
    """
    beside = style_paths(raster)
    qml, sld = qml or beside[0], sld or beside[1]
    write_text(qml, confidence_qml())
    write_text(sld, confidence_sld())
    return qml, sld


def _raster(kind: str) -> tuple[Element, Element]:
    """The frame of a raster's QGIS style, and its renderer."""
    root = Element('qgis', version=_QGIS, styleCategories='Symbology')
    pipe = SubElement(root, 'pipe')
    renderer = SubElement(
        pipe,
        'rasterrenderer',
        type=kind,
        band='1',
        opacity='1',
        alphaBand='-1',
        nodataColor='',
    )
    SubElement(renderer, 'rasterTransparency')
    SubElement(pipe, 'brightnesscontrast', brightness='0', contrast='0', gamma='1')
    SubElement(pipe, 'huesaturation', saturation='0', grayscaleMode='0')
    SubElement(pipe, 'rasterresampler', maxOversampling='2')
    SubElement(root, 'blendMode').text = '0'
    return root, renderer


def _sld(name: str, kind: str, entries: Iterable[tuple[int, Color, str]]) -> str:
    """A styled layer descriptor with one colour map."""
    root = Element(
        'StyledLayerDescriptor',
        {
            'version': '1.0.0',
            'xmlns': 'http://www.opengis.net/sld',
            'xmlns:ogc': 'http://www.opengis.net/ogc',
        },
    )
    layer = SubElement(root, 'NamedLayer')
    SubElement(layer, 'Name').text = name
    style = SubElement(layer, 'UserStyle')
    SubElement(style, 'Title').text = name
    rule = SubElement(SubElement(style, 'FeatureTypeStyle'), 'Rule')
    colors = SubElement(
        SubElement(rule, 'RasterSymbolizer'), 'ColorMap', {'type': kind}
    )
    for value, color, label in entries:
        SubElement(
            colors,
            'ColorMapEntry',
            color=_hexadecimal(color),
            quantity=str(value),
            label=label,
            opacity='1',
        )
    return _text(root)


def _hexadecimal(color: Sequence[int]) -> str:
    return '#' + ''.join(f'{channel:02x}' for channel in color)


def _text(root: Element) -> str:
    indent(root, ' ')
    return "<?xml version='1.0' encoding='UTF-8'?>\n" + (
        tostring(root, encoding='unicode') + '\n'
    )
