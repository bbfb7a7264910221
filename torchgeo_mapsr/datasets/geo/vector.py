# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Vector files: points, footprints and areas of interest."""

import os
from typing import TYPE_CHECKING

from shapely.errors import ShapelyError

from ...errors import InputError

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

# Suffixes of vector files, after which the name of a layer may stand.
SUFFIXES = (
    '.gpkg',
    '.geojson',
    '.json',
    '.parquet',
    '.geoparquet',
    '.shp',
    '.fgb',
    '.kml',
    '.gml',
    '.zip',
)

# Those that pyogrio writes.
WRITTEN = '.gpkg', '.geojson', '.fgb', '.pmtiles', '.shp'


def check_vector_name(path: str | os.PathLike[str]) -> None:
    """Refuse names that pyogrio takes for addresses: it would use another file.

    Args:
        path: A vector file that is to be read or written.

    Raises:
        InputError: If there is a ``;`` or a ``!`` in it.
    """
    name = os.fspath(path)
    if name.lower().endswith((*SUFFIXES, *WRITTEN)) and any(
        mark in name for mark in ';!'
    ):
        raise InputError(
            f'{name}: has a ; or ! in its name, which what reads and writes vector files '
            '(pyogrio) takes for a part of an address; rename it.'
        )


def split_layer(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """A file and the layer that is named after a colon, if any.

    Args:
        path: A vector file, ``file.gpkg`` or ``file.gpkg:layer``.
    """
    name = os.fspath(path)
    file, colon, layer = name.rpartition(':')
    if colon and file.lower().endswith(SUFFIXES) and not os.path.exists(name):
        return file, layer
    return name, None


def layers_of(path: str | os.PathLike[str]) -> dict[str, str]:
    """Kind of geometry of each layer that has any, by the layers' names.

    Args:
        path: A file; GeoParquet has no layers.

    Raises:
        InputError: If it cannot be read.
    """
    # It brings geopandas, see read_vector.
    import pyogrio

    name = os.fspath(path)
    if _is_parquet(name):
        return {}
    if os.path.exists(name):  # else it may be pyogrio's name for a member, a.zip!b.shp
        check_vector_name(name)
    try:
        layers = pyogrio.list_layers(name)
    except (RuntimeError, OSError, ValueError) as error:
        raise _unreadable(name, error) from None
    return {str(layer): str(kind) for layer, kind in layers if kind is not None}


def read_vector(
    path: str | os.PathLike[str], layer: str | None = None
) -> 'GeoDataFrame':
    """Read a layer of geometries.

    GeoParquet is read by geopandas itself: GDAL's driver is not in every build.

    Args:
        path: A GeoPackage, GeoJSON, GeoParquet, shapefile, FlatGeobuf or what else GDAL
            reads.
        layer: Name of the layer (default: the first with geometries).

    Returns:
        Its rows, in the CRS of the file.

    Raises:
        InputError: If it cannot be read, or lacks geometries or a CRS.
    """
    # With pandas it takes a second to import, which a map without an area needs not.
    import geopandas

    name = os.fspath(path)
    layer = layer or next(iter(layers_of(name)), None)
    try:
        if _is_parquet(name):
            frame = geopandas.read_parquet(name)
        else:
            frame = geopandas.read_file(name, layer=layer, engine='pyogrio')
    except (RuntimeError, OSError, ValueError, ImportError, ShapelyError) as error:
        raise _unreadable(name, error) from None
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise InputError(f'{name}: holds no geometries.')
    if frame.crs is None:
        raise InputError(
            f'{name}: has no coordinate reference system; assign one, '
            'for example with ogr2ogr -a_srs'
        )
    return frame


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(('.parquet', '.geoparquet'))


def _unreadable(name: str, error: Exception) -> InputError:
    reason = ' '.join(str(error).split())
    return InputError(f'{name}: cannot be read ({reason})')
