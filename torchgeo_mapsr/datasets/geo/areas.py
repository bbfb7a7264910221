# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Areas and sides of pixels on the ground."""

from typing import Any

import numpy as np
import pyproj
from numpy.typing import ArrayLike, NDArray
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer

# A projection that changes areas by less is taken at its word: what a GIS shows for UTM
# or Albers is then what is reported.
_DISTORTION = 0.01

# Areas are worked out at knots, which lie so many pixels apart, or so many metres if that
# is less, and are straight lines between: polar stereographic coordinates bend by 1e-5 of
# the area over 50 km.
_KNOTS, _METRES = 64, 50_000


#: Height of a pixel of each row, and width of its lower edge, in metres.
Sides = tuple[NDArray[np.float64], NDArray[np.float64]]


class PixelAreas:
    """Areas of a grid's pixels on its ellipsoid.

    A pixel has one area, whichever window it is asked for in.

    Args:
        geobox: A grid with a CRS.
        at_its_word: Where a projection is less than a percent off, take the area in its
            own units: a pixel of 10 m is 100 m² in UTM. So are pixels beyond the Earth,
            whose area is NaN otherwise.

    >>> from affine import Affine
    >>> grid = GeoBox((2, 2), Affine(10, 0, 5e5, 0, -10, 4e6), 'EPSG:32617')
    >>> PixelAreas(grid)(slice(0, 1), slice(0, 2)).tolist()
    [[100.0, 100.0]]
    """

    def __init__(self, geobox: GeoBox, at_its_word: bool = True) -> None:
        assert geobox.crs is not None
        crs = geobox.crs.proj
        self._geobox = geobox
        self._ellipsoid = crs.get_geod() or Geod(ellps='WGS84')
        unit = crs.axis_info[0].unit_conversion_factor  # metres or radians
        affine = geobox.affine
        self._meridians = crs.is_geographic and not crs.is_derived
        self._meridians &= affine.b == 0 and affine.d == 0
        self._at_its_word = at_its_word and not crs.is_geographic
        if crs.is_geographic:
            unit *= self._ellipsoid.a
        self._unit, self._planar = unit, abs(affine.determinant) * unit**2
        self._beyond = self._planar if at_its_word else np.nan
        apart = _METRES / max(self._planar, 1e-300) ** 0.5
        self._knots = int(np.clip(apart, 1, _KNOTS))
        self._to_degrees = degrees_of(crs)

    def __call__(self, rows: slice, cols: slice) -> NDArray[np.float64]:
        """Areas of the pixels of a window.

        Args:
            rows: Its rows.
            cols: Its columns.

        Returns:
            Square metres, (h, w), not to be written to.
        """
        shape = rows.stop - rows.start, cols.stop - cols.start
        if self._meridians:
            return np.broadcast_to(self._between_parallels(rows)[:, None], shape)
        axes = [
            self._knots
            * np.arange(s.start // self._knots, -(-s.stop // self._knots) + 1)
            for s in (rows, cols)
        ]
        knots = np.meshgrid(*axes, indexing='ij')
        values = self._squares(knots[0], knots[1], self._knots)
        if np.isfinite(values).all() and not self._distorted(values).any():
            return np.broadcast_to(self._planar, shape)
        for axis, (edges, span) in enumerate(zip(axes, (rows, cols), strict=True)):
            place = (np.arange(span.start, span.stop) + 0.5 - edges[0]) / self._knots
            first = np.minimum(place.astype(int), len(edges) - 2)
            weight = place - first
            weight = weight[:, None] if axis == 0 else weight
            low, high = values.take(first, axis), values.take(first + 1, axis)
            values = low + weight * (high - low)
        # Where the knot beside a pixel is off the Earth, the pixel itself may not be.
        row, col = np.nonzero(~np.isfinite(values))
        beyond = np.zeros(shape, bool)
        if row.size:
            middles = row + rows.start + 0.5, col + cols.start + 0.5
            values[row, col] = self._squares(*middles, 1)
            places = self._to_degrees.transform(*self._geobox.pix2wld(*middles[::-1]))
            beyond[row, col] = ~np.isfinite(places).all(0)
        values = np.where(self._distorted(values), values, self._planar)
        return np.where(beyond, self._beyond, values)

    @property
    def middle(self) -> float:
        """Square metres of the pixel in the middle of the grid."""
        row, col = (size // 2 for size in self._geobox.shape)
        return float(self(slice(row, row + 1), slice(col, col + 1))[0, 0])

    def _distorted(self, areas: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Where areas are known that the projection is not taken at its word for."""
        known = np.isfinite(areas) & (areas > 0)
        if not self._at_its_word:
            return known
        scale = np.divide(self._planar, areas, out=np.ones_like(areas), where=known)
        return np.abs(scale - 1) > _DISTORTION

    def _between_parallels(self, rows: slice) -> NDArray[np.float64]:
        """Areas of the pixels of rows between two parallels and two meridians, (h,)."""
        affine = self._geobox.affine
        radians = self._unit / self._ellipsoid.a
        edges = affine.f + affine.e * np.arange(rows.start, rows.stop + 1)
        latitude = np.clip(edges * radians, -np.pi / 2, np.pi / 2)
        height = np.abs(np.diff(self._sine(latitude)))
        return self._radius**2 * abs(affine.a) * radians * height

    def _squares(
        self, rows: NDArray[np.float64], cols: NDArray[np.float64], side: int
    ) -> NDArray[np.float64]:
        """Mean area of the pixels of squares about places; NaN off the Earth.

        On the authalic sphere, which has the ellipsoid's areas, that of a small square
        is half the cross product of its diagonals: no pole and no meridian is special.
        """
        corners = []
        for down, right in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
            place = self._geobox.pix2wld(
                cols + right * side / 2, rows + down * side / 2
            )
            lon, lat = np.radians(self._to_degrees.transform(*place))
            sine = self._sine(np.where(np.isfinite(lat), lat, np.nan))
            lon = np.where(np.isfinite(lon), lon, np.nan)
            cosine = np.sqrt(np.maximum(1 - sine**2, 0))
            corners.append(
                np.stack([cosine * np.cos(lon), cosine * np.sin(lon), sine], -1)
            )
        one, two = corners[2] - corners[0], corners[3] - corners[1]
        cross = np.linalg.norm(np.cross(one, two), axis=-1)
        area: NDArray[np.float64] = self._radius**2 * cross / 2 / side**2
        return area

    @property
    def _radius(self) -> float:
        """Radius of the authalic sphere in metres."""
        return float(self._ellipsoid.a * np.sqrt(self._q(1.0) / 2))

    def _sine(self, latitude: ArrayLike) -> NDArray[np.float64]:
        """Sine of the authalic latitude of geodetic latitudes in radians."""
        return np.clip(self._q(np.sin(latitude)) / self._q(1.0), -1, 1)

    def _q(self, sine: ArrayLike) -> NDArray[np.float64]:
        """Snyder 1987, Map projections: a working manual, eq. 3-12, of sines."""
        s, square = np.asarray(sine, np.float64), self._ellipsoid.es
        if square == 0:
            return 2 * s
        e = square**0.5
        return (1 - square) * (s / (1 - square * s**2) + np.arctanh(e * s) / e)


def pixel_sides(grid: GeoBox) -> Sides:
    """Height of a pixel of each row on the ground, and width of its lower edge.

    They are of the column in the middle.

    Args:
        grid: A grid with a CRS.

    Returns:
        Metres, both (rows,).
    """
    assert grid.crs is not None
    crs = grid.crs.proj
    geod = crs.get_geod() or Geod(ellps='WGS84')
    rows, col = np.arange(grid.height + 1), np.full(grid.height + 1, grid.width // 2)
    left, right = (
        degrees_of(crs).transform(*grid.pix2wld(col + i, rows)) for i in (0, 1)
    )
    *_, widths = geod.inv(*left, *right)
    west, north = (values[:-1] for values in left)
    *_, heights = geod.inv(west, north, *(values[1:] for values in left))
    return np.asarray(heights), np.asarray(widths)[1:]


def pixel_metres(grid: GeoBox) -> tuple[float, float]:
    """Height and width of a grid's middle pixel, in metres.

    Where a projection is less than two percent off, they are those in its own units: a
    pixel of 10 m is 10 m in UTM, as :class:`PixelAreas` has it.

    Args:
        grid: A grid with a CRS.
    """
    assert grid.crs is not None
    row, col = (size // 2 for size in grid.shape)
    heights, _ = pixel_sides(grid[row : row + 1, col : col + 1])
    high = float(heights[0])
    # the mean of its edges
    wide = PixelAreas(grid, at_its_word=False).middle / high
    a, b, _, d, e, *_ = grid.affine
    unit = grid.crs.proj.axis_info[0].unit_conversion_factor
    planar = float(np.hypot(b, e) * unit), float(np.hypot(a, d) * unit)
    off = np.abs(np.array([high, wide]) / planar - 1)
    return (high, wide) if (off > 2 * _DISTORTION).any() else planar


def degrees_of(crs: pyproj.CRS) -> Transformer:
    """From a CRS to degrees from Greenwich on its own ellipsoid.

    Its base CRS need not count in these: those of old French maps count grads from
    Paris, and areas taken of them for degrees were up to 13 % off.

    Args:
        crs: The CRS.

    Returns:
        Gives longitude and latitude of x and y.
    """
    shape: dict[str, Any] = {'ellps': 'WGS84'}
    if crs.ellipsoid is not None:
        shape = {
            'a': crs.ellipsoid.semi_major_metre,
            'b': crs.ellipsoid.semi_minor_metre,
        }
    degrees = pyproj.CRS.from_dict({'proj': 'longlat', 'no_defs': True, **shape})
    return Transformer.from_crs(crs, degrees, always_xy=True)
