# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A STAC item beside a map: catalogues and browsers find it, and know its classes."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import rasterio
import shapely
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from ..datasets.geo.degrees import outline, within_180
from ..datasets.geo.raster import RasterFile
from ..datasets.legends.legend import Legend
from ..evaluation.class_maps import layer_path

_EXTENSIONS = tuple(
    f'https://stac-extensions.github.io/{name}/schema.json'
    for name in ('projection/v2.0.0', 'classification/v2.0.0')
)
_GEOTIFF = 'image/tiff; application=geotiff'
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
    file = RasterFile.open(path)
    geobox = file.geobox
    footprint = outline(geobox)
    return {
        'type': 'Feature',
        'stac_version': '1.1.0',
        'stac_extensions': list(_EXTENSIONS),
        'id': path.stem,
        'geometry': _rounded(footprint),
        'bbox': _bbox(footprint),
        'properties': {
            **_times(path, acquired),
            **_projection(geobox),
            'title': f'Land cover ({legend.name})',
            **(properties or {}),
        },
        'links': [],
        'assets': _assets(file, legend, folder, extra or {}),
    }


def classes_of(legend: Legend, nodata: float | None = None) -> list[dict[str, Any]]:
    """A legend as ``classification:classes``; no data is a class that says so.

    Args:
        legend: The legend.
        nodata: What the file declares as no data (default: the legend's).
    """
    classes: dict[int, dict[str, Any]] = {
        item.code: {
            'value': item.code,
            'name': _identifier(item.name),
            'title': item.name,
            'color_hint': '{:02X}{:02X}{:02X}'.format(*item.color),
        }
        for item in legend.classes
    }
    value = legend.nodata if nodata is None else nodata
    # A class's value is a whole number: NaN is none.
    if value is not None and float(value).is_integer():
        nothing = {'value': int(value), 'name': 'no_data', 'title': 'No data'}
        classes[int(value)] = {**nothing, 'nodata': True}
    return [classes[value] for value in sorted(classes)]


def _assets(
    file: RasterFile,
    legend: Legend,
    folder: Path,
    extra: Mapping[str, str | os.PathLike[str]],
) -> dict[str, Any]:
    """The map, what lies beside it, and further files."""
    path = Path(file.path)
    classes = classes_of(legend, file.nodata[0])
    meaning = {'classification:classes': classes}
    band = {'name': 'class', **_stored(file), **meaning}
    assets = {'map': _raster_asset(path, folder, 'Class map', [band], meaning)}
    for key, title, names in (
        ('confidence', 'Probability of the mapped class', ('confidence',)),
        ('scores', 'Probability of every class', legend.class_names),
    ):
        beside = layer_path(path, key)
        if beside.exists():
            stored = _stored(RasterFile.open(beside))
            bands = [{'name': name, **stored, 'unit': '%'} for name in names]
            assets[key] = _raster_asset(beside, folder, title, bands)
    for key, suffix, media, roles in (
        ('overview', '.png', 'image/png', ['overview']),
        ('report', '.json', 'application/json', ['metadata']),
        ('style', '.qml', 'application/xml', ['style']),
    ):
        beside = path.with_suffix(suffix)
        if beside.exists():
            assets[key] = {'href': _href(beside, folder), 'type': media, 'roles': roles}
    for key, value in extra.items():
        beside = Path(value)
        media = _MEDIA.get(beside.suffix.lower(), 'application/octet-stream')
        assets[key] = {'href': _href(beside, folder), 'type': media, 'roles': ['data']}
    return assets


def _raster_asset(
    path: Path,
    folder: Path,
    title: str,
    bands: list[dict[str, Any]],
    fields: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A raster as an asset of an item in a folder."""
    return {
        'href': _href(path, folder),
        'type': _media_type(path),
        'title': title,
        'roles': ['data'],
        **(fields or {}),
        'bands': bands,
    }


def _bbox(footprint: shapely.Polygon) -> list[float]:
    """West, south, east, north; west is above east across the antimeridian (RFC, 5.2)."""
    west, south, east, north = footprint.bounds
    if east - west >= 360:
        west, east = -180, 180
    box = west, south, east if east <= 180 else east - 360, north
    return [round(float(value), 7) for value in box]


def _stored(file: RasterFile) -> dict[str, Any]:
    """Data type and no-data value of a file's bands, as STAC has them."""
    nodata = file.nodata[0]
    if nodata is None:
        return {'data_type': file.dtypes[0]}
    value: float | str = nodata
    if not np.isfinite(nodata):
        value = str(nodata)  # nan, inf or -inf: JSON has no such numbers
    elif float(nodata).is_integer():
        value = int(nodata)
    return {'data_type': file.dtypes[0], 'nodata': value}


def _media_type(path: Path) -> str:
    """Media type of a raster: which GeoTIFFs are cloud-optimized, they say themselves."""
    with rasterio.open(path) as dataset:
        if dataset.driver != 'GTiff':
            return 'application/octet-stream'
        layout = dataset.tags(ns='IMAGE_STRUCTURE').get('LAYOUT')
    return _GEOTIFF + '; profile=cloud-optimized' * (layout == 'COG')


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


def _rounded(footprint: shapely.Polygon) -> dict[str, Any]:
    """GeoJSON with seven decimals: a centimetre. Straight edges have no further points."""
    shape = within_180(shapely.simplify(footprint, 1e-7))
    shape = shapely.transform(shape, lambda points: np.round(points, 7))
    mapping = shapely.geometry.mapping(shapely.orient_polygons(shape))
    content: dict[str, Any] = json.loads(json.dumps(mapping))  # tuples become lists
    return content


def _href(path: Path, folder: Path) -> str:
    """A file's address relative to the item."""
    relative = quote(os.path.relpath(path, folder).replace(os.sep, '/'))
    return relative if relative.startswith('..') else f'./{relative}'
