# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A STAC item beside a map: catalogues and browsers find it, and know its classes."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry

from ..datasets.geo.raster import RasterFile
from ..datasets.legends.legend import Legend
from .cog import NO_PERCENT, map_nodata

_EXTENSIONS = tuple(
    f'https://stac-extensions.github.io/{name}/schema.json'
    for name in ('projection/v2.0.0', 'classification/v2.0.0')
)
_COG = 'image/tiff; application=geotiff; profile=cloud-optimized'
_MEDIA = {
    '.gpkg': 'application/geopackage+sqlite3',
    '.fgb': 'application/vnd.flatgeobuf',
    '.parquet': 'application/vnd.apache.parquet',
    '.pmtiles': 'application/vnd.pmtiles',
}


def stac_item(
    path: str | os.PathLike[str],
    legend: Legend | str,
    acquired: datetime | tuple[datetime, datetime] | None = None,
    folder: str | os.PathLike[str] | None = None,
    extra: Mapping[str, str | os.PathLike[str]] | None = None,
    properties: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe a map and what lies beside it as a STAC 1.1 item.

    Args:
        path: The class map. ``NAME_confidence.tif``, ``NAME_scores.tif``, ``NAME.png``
            and ``NAME.json`` beside it become assets where they are there.
        legend: Legend of the map.
        acquired: When the imagery was taken, or from when to when (default: the item's
            time is that of the map's file).
        folder: Folder of the item, that addresses are relative to (default: the map's).
        extra: Further assets by their keys, polygons for instance.
        properties: Further properties of the item.

    Returns:
        The item, as JSON types.

    Raises:
        InputError: If the map cannot be read.
    """
    path, legend = Path(path), Legend.load(legend)
    folder = path.parent if folder is None else Path(folder)
    geobox = RasterFile.open(path).geobox
    assert geobox.crs is not None
    footprint = geobox.footprint('EPSG:4326', npoints=64)
    item: dict[str, Any] = {
        'type': 'Feature',
        'stac_version': '1.1.0',
        'stac_extensions': list(_EXTENSIONS),
        'id': path.stem,
        'geometry': _rounded(footprint),
        'bbox': [round(value, 7) for value in footprint.boundingbox],
        'properties': {
            **_times(path, acquired),
            **_projection(geobox),
            'title': f'Land cover ({legend.name})',
            **(properties or {}),
        },
        'links': [],
        'assets': {},
    }
    assets = item['assets']
    assets['map'] = {
        'href': _href(path, folder),
        'type': _COG,
        'title': 'Class map',
        'roles': ['data'],
        'classification:classes': classes_of(legend),
        'bands': [
            {
                'name': 'class',
                'data_type': 'uint8',
                'nodata': map_nodata(legend),
                'classification:classes': classes_of(legend),
            }
        ],
    }
    percent = {'data_type': 'uint8', 'nodata': NO_PERCENT, 'unit': '%'}
    beside = path.with_name(f'{path.stem}_confidence.tif')
    if beside.exists():
        assets['confidence'] = {
            'href': _href(beside, folder),
            'type': _COG,
            'title': 'Probability of the mapped class',
            'roles': ['data'],
            'bands': [{'name': 'confidence', **percent}],
        }
    beside = path.with_name(f'{path.stem}_scores.tif')
    if beside.exists():
        assets['scores'] = {
            'href': _href(beside, folder),
            'type': _COG,
            'title': 'Probability of every class',
            'roles': ['data'],
            'bands': [{'name': name, **percent} for name in legend.class_names],
        }
    for key, suffix, media, roles in (
        ('overview', '.png', 'image/png', ['overview']),
        ('report', '.json', 'application/json', ['metadata']),
        ('style', '.qml', 'application/xml', ['style']),
    ):
        beside = path.with_suffix(suffix)
        if beside.exists():
            assets[key] = {'href': _href(beside, folder), 'type': media, 'roles': roles}
    for key, value in (extra or {}).items():
        beside = Path(value)
        media = _MEDIA.get(beside.suffix.lower(), 'application/octet-stream')
        assets[key] = {'href': _href(beside, folder), 'type': media, 'roles': ['data']}
    return item


def classes_of(legend: Legend) -> list[dict[str, Any]]:
    """A legend as ``classification:classes``; no data is a class that says so."""
    classes = [
        {
            'value': item.code,
            'name': _identifier(item.name),
            'title': item.name,
            'color_hint': '{:02X}{:02X}{:02X}'.format(*item.color),
        }
        for item in legend.classes
    ]
    nothing = {'value': map_nodata(legend), 'name': 'no_data', 'title': 'No data'}
    return sorted([*classes, {**nothing, 'nodata': True}], key=lambda c: c['value'])


def _identifier(name: str) -> str:
    """A class's name in the characters that the extension allows."""
    text = ''.join(c if c.isascii() and c.isalnum() else ' ' for c in name.lower())
    return '_'.join(text.split()) or 'class'


def _times(
    path: Path, acquired: datetime | tuple[datetime, datetime] | None
) -> dict[str, Any]:
    """The time of an item: of its imagery, or of its file."""
    made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    if isinstance(acquired, tuple):
        start, end = acquired
        times = {
            'datetime': None,
            'start_datetime': _utc(start),
            'end_datetime': _utc(end),
        }
    else:
        times = {'datetime': _utc(acquired or made)}
    return {**times, 'created': _utc(made)}


def _utc(time: datetime) -> str:
    """RFC 3339 in UTC; a time without a zone is taken for UTC."""
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return time.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%SZ')


def _projection(geobox: GeoBox) -> dict[str, Any]:
    """The projection extension's fields."""
    crs: CRS | None = geobox.crs
    assert crs is not None
    epsg = crs.to_epsg()
    coded: dict[str, Any] = {'proj:code': f'EPSG:{epsg}' if epsg else None}
    if epsg is None:
        coded['proj:wkt2'] = crs.proj.to_wkt('WKT2_2019')
    return {
        **coded,
        'proj:shape': list(geobox.shape.yx),
        'proj:transform': [*geobox.affine[:6], 0, 0, 1],
    }


def _rounded(footprint: Geometry) -> dict[str, Any]:
    """GeoJSON with seven decimals: a centimetre. Straight edges have no further points."""
    outline = shapely.simplify(footprint.geom, 1e-7)
    outline = shapely.transform(outline, lambda points: np.round(points, 7))
    mapping: dict[str, Any] = shapely.geometry.mapping(shapely.orient_polygons(outline))
    coordinates = [[list(point) for point in ring] for ring in mapping['coordinates']]
    return {'type': mapping['type'], 'coordinates': coordinates}


def _href(path: Path, folder: Path) -> str:
    """A file's address relative to the item."""
    relative = os.path.relpath(path, folder).replace(os.sep, '/')
    return relative if relative.startswith('..') else f'./{relative}'
