# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Shapes in longitudes and latitudes, which come round at the antimeridian."""

import numpy as np
import shapely
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from ...errors import InputError
from .grid import transformer_of
from .round_earth import turns_together

#: Longitude and latitude (WGS 84), of GeoJSON and of catalogues.
DEGREES = CRS('EPSG:4326')

# Points along a side of the lattice in a grid that is partly off the Earth.
_LATTICE = 65


def outline(geobox: GeoBox) -> shapely.Polygon:
    """The outline of a grid in longitudes and latitudes, in one piece.

    Args:
        geobox: A grid with a CRS.

    Returns:
        A polygon that begins between -180 and 180 degrees and may reach beyond; about a
        pole it reaches to it, and once round the Earth. Of a grid whose edge is partly
        off the Earth, the hull of what is on it.

    Raises:
        InputError: If the grid lies nowhere on Earth.
    """
    assert geobox.crs is not None
    edge = geobox.boundary(64)
    to_degrees = transformer_of(geobox.crs, DEGREES)
    lon, lat = to_degrees.transform(*geobox.pix2wld(*np.append(edge, edge[:1], 0).T))
    if not (np.isfinite(lon) & np.isfinite(lat)).all():
        return _hull(geobox)
    # A centimetre; longitudes do not jump by 360 degrees from point to point.
    lon, lat = np.round(np.unwrap(lon, period=360), 7), np.round(lat, 7)
    if abs(lon[-1] - lon[0]) > 180:  # once round a pole
        pole = np.copysign(90.0, lat.mean())
        lon = np.append(lon, [lon[0] + np.sign(lon[-1] - lon[0]) * 360, lon[0]])
        lat = np.append(lat, [pole, pole])
    lon = lon - 360 * np.floor((lon.min() + 180) / 360)
    return shapely.Polygon(np.stack([lon, lat], axis=1))


def _hull(geobox: GeoBox) -> shapely.Polygon:
    """Hull of the points of a lattice in a grid that are on the Earth, in degrees."""
    lattice = (np.linspace(0, size, _LATTICE) for size in geobox.shape.yx)
    row, col = map(np.ravel, np.meshgrid(*lattice, indexing='ij'))
    assert geobox.crs is not None
    x, y = geobox.pix2wld(col, row)
    points = np.stack(transformer_of(geobox.crs, DEGREES).transform(x, y), axis=1)
    points = np.round(points[np.isfinite(points).all(axis=1)], 7)
    if len(points) < 4:
        raise InputError(
            f'A grid in {geobox.crs} lies nowhere on Earth; georeference it.'
        )
    lon = points[:, 0]
    points[:, 0] += 360 * turns_together(lon, lon, 360.0)
    west, south, east, north = shapely.bounds(shapely.MultiPoint(points))
    # Points of a grid that goes round the Earth are nowhere further apart than this.
    if east - west > 360 - 4 * 360 / _LATTICE:
        west, east = -180, 180
        points = np.array([[west, south], [east, north], [west, north], [east, south]])
    points[:, 0] -= 360 * np.floor((west + 180) / 360)
    for pole in (-90.0, 90.0):
        x, y = transformer_of(DEGREES, geobox.crs).transform((west + east) / 2, pole)
        col, row = geobox.wld2pix(x, y)
        if 0 <= col <= geobox.width and 0 <= row <= geobox.height:
            beside = np.unique(points[:, 0])[[0, -1]]
            points = np.append(points, [[lon, pole] for lon in beside], axis=0)
    hull = shapely.convex_hull(shapely.MultiPoint(points))
    assert isinstance(hull, shapely.Polygon)
    return hull


def within_180(geometry: BaseGeometry) -> BaseGeometry:
    """A geometry in degrees, cut at the antimeridian (RFC 7946, 3.1.9).

    Args:
        geometry: Its longitudes go on beyond 180 or -180 degrees.

    Returns:
        The same place in longitudes from -180 to 180.
    """
    west, _, east, _ = geometry.bounds
    turns = range(int((west + 180) // 360), int(-((180 - east) // 360)) + 1)
    if list(turns) == [0]:
        return geometry
    parts = [
        translate(
            shapely.intersection(
                geometry, shapely.box(360 * n - 180, -90, 360 * n + 180, 90)
            ),
            -360 * n,
        )
        for n in turns
    ]
    # On a grid of a centimetre: translation rounds edges that are one.
    united = shapely.get_parts(shapely.union_all(parts, grid_size=1e-7))
    # What only touches the cut leaves a line there.
    kind = shapely.get_dimensions(geometry)
    return shapely.union_all(united[shapely.get_dimensions(united) == kind])


def narrowest_bounds(geometry: BaseGeometry) -> tuple[float, float, float, float]:
    """West, south, east and north of a shape in degrees, round the Earth the short way.

    Args:
        geometry: The shape; what lies on both sides of 180° may be cut there.

    Returns:
        West is between -180 and 180; east is above 180 across the antimeridian.

    >>> narrowest_bounds(shapely.union(shapely.box(-180, 1, -178, 2),
    ...                                shapely.box(177, 1, 180, 3)))
    (177.0, 1.0, 182.0, 3.0)
    """
    parts = shapely.bounds(shapely.get_parts(within_180(geometry)))
    west, south, east, north = parts.T
    turns = 360 * turns_together(west, east, 360.0)
    start = float((west + turns).min())
    back = 360 * np.floor((start + 180) / 360)
    stop = float((east + turns).max() - back)
    return float(start - back), float(south.min()), stop, float(north.max())
