# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How much ground a pixel covers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Geod, Proj, Transformer

# A projection that changes areas by less is taken at its word: what a GIS shows for UTM
# or Albers is then what is reported.
_DISTORTION = 0.01


def row_areas(geobox: GeoBox) -> NDArray[np.float64]:
    """Area of the pixels of each row.

    In a projected CRS it is the pixel's area in the CRS's units, divided by the
    projection's areal scale where that is off by more than a percent (Web Mercator); in
    a geographic CRS, the geodesic area of the middle pixel of the row.

    Args:
        geobox: A grid with a CRS.

    Returns:
        Square metres, (rows,).
    """
    assert geobox.crs is not None
    height, width = geobox.shape
    crs = geobox.crs.proj
    a, b, c, d, e, f = geobox.affine[:6]

    def place(cols: NDArray[Any], rows: NDArray[Any]) -> tuple[Any, Any]:
        return a * cols + b * rows + c, d * cols + e * rows + f

    middle = np.full(height, width // 2)
    if crs.is_geographic:
        geod = crs.get_geod() or Geod(ellps='WGS84')
        rows, cols = np.arange(height), middle
        corners = [
            (cols, rows),
            (cols + 1, rows),
            (cols + 1, rows + 1),
            (cols, rows + 1),
        ]
        lon, lat = np.swapaxes([place(*corner) for corner in corners], 0, 1)
        pixels = zip(lon.T, lat.T, strict=True)
        return np.array([abs(geod.polygon_area_perimeter(*p)[0]) for p in pixels])
    unit = crs.axis_info[0].unit_conversion_factor
    planar = abs(geobox.affine.determinant) * unit**2
    to_degrees = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    lon, lat = to_degrees.transform(*place(middle + 0.5, np.arange(height) + 0.5))
    scale = np.asarray(Proj(crs).get_factors(lon, lat).areal_scale)
    distorted = np.isfinite(scale) & (np.abs(scale - 1) > _DISTORTION)
    return planar / np.where(distorted, scale, 1)
