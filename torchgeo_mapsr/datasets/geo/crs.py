# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Coordinate reference systems of files, as pyproj knows them."""

import os
from functools import lru_cache

import numpy as np
import rasterio
from odc.geo.crs import CRS
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.errors import CRSError, RasterioError

from ...errors import InputError

# Two CRSs are one if their coordinates of a point are at most so far apart, in metres.
SAME_POINT = 0.01


def check_proj() -> None:
    """Find out whether PROJ reads another program's data.

    Raises:
        InputError: It cannot use those that the environment names.
    """
    _try_proj(os.environ.get('PROJ_LIB', ''), os.environ.get('PROJ_DATA', ''))


@lru_cache(maxsize=8)
def _try_proj(library: str, data: str) -> None:
    if not library and not data:
        return
    try:
        with rasterio.Env():
            # needs the data: rasterio knows EPSG:4326 without them
            rasterio.crs.CRS.from_epsg(32618).to_wkt()
    except (CRSError, RasterioError) as error:
        name, value = ('PROJ_DATA', data) if data else ('PROJ_LIB', library)
        raise InputError(
            f'{name} is {value}, where the data of another PROJ lie or none; unset it '
            f'(unset {name}) and run again'
        ) from error


def crs_of(name: str, crs: rasterio.crs.CRS) -> CRS:
    """The CRS as pyproj knows it; WKT 1, rasterio's default, would lose parts of it.

    Args:
        name: The file, for the message.
        crs: What rasterio has read.

    Raises:
        InputError: It has no place on Earth, as that of a drawing.
    """
    try:
        converted = _converted(crs.to_wkt(version='WKT2_2019'))
    except (CRSError, ProjError, ValueError):
        converted = None
    if converted is None:
        raise InputError(
            f'{name}: has a coordinate reference system that is not tied to the Earth or '
            'cannot be read; assign its real one, for example with gdal_edit -a_srs '
            'EPSG:2154'
        )
    return converted


@lru_cache(maxsize=64)
def _converted(wkt: str) -> CRS | None:
    """The CRS of a text; None if nothing can be projected to or from it."""
    crs = CRS(wkt)
    epsg = rasterio.crs.CRS.from_wkt(wkt).to_epsg()
    # One CRS has many spellings. But what only looks like that of a code may have another
    # datum, or a shift of its own: places in other CRSs would be metres off.
    named = wkt.endswith(f'ID["EPSG",{epsg}]]')
    if epsg and (named or _same_places(crs, CRS(f'EPSG:{epsg}'))):
        crs = CRS(f'EPSG:{epsg}')
    return crs if crs.proj.is_projected or crs.proj.is_geographic else None


def _same_places(crs: CRS, other: CRS) -> bool:
    """Whether two CRSs of one kind have the same coordinates in the middle of an area."""
    area = other.proj.area_of_use
    if area is None:
        return False
    turn = 360 if area.west > area.east else 0
    lon, lat = (area.west + area.east + turn) / 2, (area.south + area.north) / 2
    one, two = (
        np.array(
            Transformer.from_crs('EPSG:4326', each.proj, always_xy=True).transform(
                (lon + 180) % 360 - 180, lat
            )
        )
        for each in (crs, other)
    )
    side = 1.0 if other.proj.is_projected else 111e3  # metres of a unit, about
    return bool(np.abs(one - two).max() * side < SAME_POINT)
