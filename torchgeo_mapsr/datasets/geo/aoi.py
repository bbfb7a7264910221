# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The area of interest: polygons in any CRS, and which pixels of a grid lie in them."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError
from rasterio.features import rasterize
from rasterio.transform import Affine
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from ...errors import InputError
from .degrees import DEGREES, narrowest_bounds, within_180
from .grid import Box, clip, crop, pixel_offset, project, transformer_of
from .region import lr_coordinates
from .round_earth import circumference, span
from .vector import layers_of, read_vector, split_layer

# What shapely calls a polygon among its types.
_POLYGON = 3


# Straight edges become curves in another CRS. Of 1 km (or a hundredth of a degree) the
# curve of a parallel at 60° is 3 cm off its chord.
_SEGMENT = 1000.0
_SEGMENT_DEGREES = 0.01

# An outline is torn where a segment becomes so long: round a pole and at the edge of a
# projection's world. A kilometre is nowhere else a hundred.
_TORN = 100e3
_TORN_DEGREES = 90.0

# Half of the width of the strip that is cut out along the antimeridian, in metres: more
# than segments of a kilometre are off the curves that they stand for.
_STRIP = 1.0
_METRES_A_DEGREE = 111e3

# Points along a side of the lattice in which a large area is looked for in a grid.
_LATTICE = 129


@dataclass(frozen=True)
class AreaOfInterest:
    """Polygons on the ground: several, with holes, in any CRS.

    Args:
        geometry: A polygon or several, valid and not empty.
        crs: Their CRS.
        source: Where they come from, for messages.

    >>> area = AreaOfInterest.from_bbox((-76.61, 39.28, -76.60, 39.29))
    >>> round(area.hectares)
    96
    >>> grid = GeoBox.from_bbox((360000, 4348000, 364000, 4352000), 'EPSG:26918', resolution=10)
    >>> on_grid = area.on(grid)
    >>> on_grid.geobox.shape
    Shape2d(x=89, y=112)
    >>> bool(on_grid.mask(grid).sum() == on_grid.mask(on_grid.geobox).sum())
    True
    """

    geometry: BaseGeometry = field(repr=False)
    crs: CRS
    source: str = 'area of interest'

    def __post_init__(self) -> None:
        if self.geometry.is_empty or self.geometry.area == 0:
            raise InputError(f'{self.source}: holds no polygon with an area.')

    @classmethod
    def open(cls, source: str | os.PathLike[str]) -> 'AreaOfInterest':
        """Read polygons from a file.

        Args:
            source: A GeoPackage, GeoJSON, GeoParquet, shapefile, FlatGeobuf or what
                else GDAL reads; ``file.gpkg:name`` names one of several layers.

        Returns:
            The union of all polygons of the layer.

        Raises:
            InputError: If there is no such file or layer, or it does not hold polygons
                with a CRS.
        """
        path, layer = split_layer(source)
        if not Path(path).exists() and not path.startswith(('/vsi', 'http')):
            raise InputError(f'{path}: there is no such file of an area of interest.')
        frame = read_vector(path, layer or _only_layer(path))
        shapes = frame.geometry[~(frame.geometry.isna() | frame.geometry.is_empty)]
        kinds = sorted(set(shapes.geom_type) - {'Polygon', 'MultiPolygon'})
        if kinds:
            raise InputError(
                f'{source}: holds {", ".join(kinds)}; an area of interest is polygons.'
            )
        geometry = _polygonal(_repaired(shapes.to_numpy()))
        return cls(geometry, CRS(frame.crs), os.fspath(source))

    @classmethod
    def from_bbox(
        cls, bounds: Sequence[float], crs: str = 'EPSG:4326'
    ) -> 'AreaOfInterest':
        """A rectangle.

        Args:
            bounds: West, south, east and north.
            crs: What they are counted in; degrees by default.

        Returns:
            The area; its edges follow the CRS's axes.

        Raises:
            InputError: If the bounds are in another order, or are no degrees where they
                should be.
        """
        text = ' '.join(f'{value:g}' for value in bounds)
        if len(bounds) != 4 or not np.isfinite(bounds).all():
            raise InputError(
                f'A bounding box is west, south, east and north, not {text}.'
            )
        west, south, east, north = bounds
        try:
            reference = CRS(crs)
        except (CRSError, ValueError):
            raise InputError(f'{crs} is not a coordinate reference system.') from None
        if not (west < east and south < north):
            across = f' (across 180°: {west:g} {south:g} {east + 360:g} {north:g})'
            raise InputError(
                f'The bounding box {text} is empty: give west, south, east and north'
                + across * (reference.geographic and west > 0 > east and south < north)
                + '.'
            )
        if reference.geographic and (
            max(abs(south), abs(north)) > 90 or max(abs(west), abs(east)) > 360
        ):
            raise InputError(
                f'The bounding box {text} is not in degrees; name its CRS, '
                'for example EPSG:26918.'
            )
        return cls(shapely.box(west, south, east, north), reference, f'bbox {text}')

    @cached_property
    def geometry_in_degrees(self) -> BaseGeometry:
        """The polygons in longitude and latitude (WGS 84), cut at the antimeridian.

        Raises:
            InputError: If a part of them has no place there.
        """
        if self.crs == DEGREES:
            return within_180(self.geometry)
        projected = self._projected(DEGREES, self.geometry)
        if _is_torn(projected, DEGREES):
            projected = _snapped(self._projected(DEGREES, self._without_180()))
        if not np.isfinite(shapely.get_coordinates(projected)).all():
            raise InputError(f'{self.source}: has no place in {DEGREES}.')
        return within_180(_repaired(projected))

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north, in degrees (WGS 84).

        East is above 180 across the antimeridian.
        """
        return narrowest_bounds(self.geometry_in_degrees)

    @cached_property
    def hectares(self) -> float:
        """Area on the ellipsoid."""
        equal_area = transformer_of(DEGREES, CRS('+proj=cea +ellps=WGS84'))

        def flat(points: NDArray[np.float64]) -> NDArray[np.float64]:
            # not by longitudes: 180° would become −180°
            width, height = equal_area.transform(np.ones(len(points)), points[:, 1])
            return np.stack([points[:, 0] * width, height], axis=1)

        outline = shapely.segmentize(self.geometry_in_degrees, _SEGMENT_DEGREES)
        return float(shapely.transform(outline, flat).area / 1e4)

    def fingerprint(self) -> str:
        """Digest of the polygons and their CRS; the file's name and columns do not matter."""
        digest = hashlib.sha256(shapely.to_wkb(shapely.normalize(self.geometry)))
        digest.update(str(self.crs).encode())
        return digest.hexdigest()

    def on(self, geobox: GeoBox) -> 'AreaOnGrid':
        """The area on a pixel grid.

        Args:
            geobox: The grid, in any CRS.

        Raises:
            InputError: If the area holds no pixel of the grid.
        """
        return AreaOnGrid.of(self, geobox)

    def _without_180(self) -> BaseGeometry:
        """The area without a narrow strip along the antimeridian, from pole to pole.

        No outline of it goes round a pole, or from 180 to -180 degrees.
        """
        geometry, segment, strip = self.geometry, _SEGMENT, _STRIP
        if self.crs.geographic:
            segment, strip = _SEGMENT_DEGREES, _STRIP / _METRES_A_DEGREE
            if circumference(self.crs) is not None:
                geometry = within_180(geometry)
        west, south, east, north = geometry.bounds
        lat = np.linspace(-90, 90, round(180 / _SEGMENT_DEGREES) + 1)
        to_area = transformer_of(DEGREES, self.crs)
        # In cylindrical projections the antimeridian is both the left and the right edge.
        for lon in (-180.0, 180.0):
            x, y = to_area.transform(np.full(len(lat), lon), lat)
            near = (x > west - 10 * segment) & (x < east + 10 * segment)
            near &= (y > south - 10 * segment) & (y < north + 10 * segment)
            points = np.stack([x, y], axis=1)[near]
            # Where a CRS is not defined, or begins anew, the line is not one.
            steps = np.linalg.norm(np.diff(points, axis=0), axis=1) < 10 * segment
            pairs = np.stack([points[:-1], points[1:]], axis=1)[steps]
            line = shapely.line_merge(shapely.MultiLineString(list(pairs)))
            geometry = geometry.difference(line.buffer(strip))
        return geometry

    def _projected(
        self, crs: CRS, geometry: BaseGeometry, about: float | None = None
    ) -> BaseGeometry:
        """A part of the area in another CRS, as its outline gets there; about some x."""
        transformer = transformer_of(self.crs, crs)

        # Coordinates in metres jump by a turn at the antimeridian; longitudes of an area
        # in degrees go on beyond 180.
        turn = None if about is None or self.crs.geographic else circumference(crs)

        def moved(points: NDArray[np.float64]) -> NDArray[np.float64]:
            x, y = transformer.transform(*points.T)
            if turn is not None:
                with np.errstate(invalid='ignore'):
                    x = x + turn * np.round((about - x) / turn)
            return np.stack([x, y], axis=1)

        return shapely.transform(self._segments(geometry), moved)

    def _segments(self, geometry: BaseGeometry) -> BaseGeometry:
        """The same outlines with so many vertices that segments stay straight."""
        length = _SEGMENT_DEGREES if self.crs.geographic else _SEGMENT
        return shapely.segmentize(geometry, length)


@dataclass(frozen=True)
class AreaOnGrid:
    """An area of interest on a pixel grid.

    A pixel belongs to the area if its centre does. The polygons are kept in pixels of
    one grid, and windows of it are told apart by whole pixels: a pixel's answer does not
    depend on the window that it is asked with.

    Args:
        geometry: Polygons in pixels of *grid*: (column, row).
        grid: The grid.
        geobox: The smallest crop of the grid that holds the area.
    """

    geometry: BaseGeometry = field(repr=False)
    grid: GeoBox
    geobox: GeoBox

    @classmethod
    def of(cls, area: AreaOfInterest, grid: GeoBox) -> 'AreaOnGrid':
        """Bring an area on a grid; see :meth:`AreaOfInterest.on`."""
        assert grid.crs is not None

        def pixels(points: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.stack(grid.wld2pix(*points.T), axis=1)

        part = _near(area, grid)
        geometry: BaseGeometry = shapely.Polygon()
        if not part.is_empty:
            west, east = span(grid)
            middle = (west + east) / 2
            shape = part
            if grid.crs != area.crs:
                projected = area._projected(grid.crs, part, middle)
                if _is_torn(projected, grid.crs):
                    return _TornArea.of(area, grid)
                shape = _repaired(projected)
            geometry = shapely.transform(_turned(shape, grid.crs, west, east), pixels)
            # Pixels along a line would be burnt, whose centres lie beside it.
            geometry = _polygonal(geometry)
        shapely.prepare(geometry)
        box: Box = (0, 0, 0, 0)
        if not geometry.is_empty:
            left, top, right, bottom = geometry.bounds
            # Centres are half a pixel in.
            box = clip(
                (
                    int(np.ceil(top - 0.5)),
                    int(np.ceil(left - 0.5)),
                    int(np.floor(bottom - 0.5)) + 1,
                    int(np.floor(right - 0.5)) + 1,
                ),
                *grid.shape,
            )
        _check_holds(area, box)
        return cls(geometry, grid, crop(grid, box))

    def mask(self, geobox: GeoBox) -> NDArray[np.bool_]:
        """Which pixels of a window lie in the area.

        Args:
            geobox: Pixels of the grid, or beyond it.

        Returns:
            (H, W).

        Raises:
            ValueError: If *geobox* has other pixels than the grid.
        """
        row, col = self._offset(geobox)
        inside: NDArray[np.bool_] = np.zeros(geobox.shape, bool)
        if self.touches(geobox):
            inside = rasterize(
                [(self.geometry, 1)],
                geobox.shape,
                transform=Affine.translation(col, row),
                dtype='uint8',
            ).astype(bool)
        return inside

    def touches(self, geobox: GeoBox) -> bool:
        """Whether a window may hold pixels of the area: if not, it need not be read.

        Args:
            geobox: Pixels of the grid, or beyond it.

        Raises:
            ValueError: If *geobox* has other pixels than the grid.
        """
        row, col = self._offset(geobox)
        window = shapely.box(col, row, col + geobox.width, row + geobox.height)
        return bool(self.geometry.intersects(window))

    def _offset(self, geobox: GeoBox) -> tuple[int, int]:
        offset = pixel_offset(geobox, self.grid)
        if offset is None:
            raise ValueError(f'{geobox} is not a crop of {self.grid}')
        return offset


@dataclass(frozen=True)
class _TornArea(AreaOnGrid):
    """An area whose outline the grid's CRS tears apart: across 180°, or round a pole.

    The centres of pixels are projected instead, to the polygons.

    Args:
        geometry: Polygons in their own CRS.
        grid: The grid.
        geobox: A crop of the grid that holds the area.
        frame: A grid in the area's CRS whose pixels are one unit wide.
    """

    frame: GeoBox

    @classmethod
    def of(cls, area: AreaOfInterest, grid: GeoBox) -> '_TornArea':
        """Bring an area on a grid; see :meth:`AreaOfInterest.on`."""
        west, south, east, north = area.geometry.bounds
        size = max(round(north - south), 1), max(round(east - west), 1)
        frame = GeoBox(size, Affine(1, 0, west, 0, -1, north), area.crs)
        whole = cls(area.geometry, grid, grid, frame)
        edges: list[NDArray[np.float64]] = [_vertices(area, grid)]
        # What is larger than a cell of the lattice holds one of its points.
        step = [max(size / (_LATTICE - 1), 1) for size in grid.shape.yx]
        lattice = (np.linspace(0.5, size - 0.5, _LATTICE) for size in grid.shape.yx)
        row, col = np.meshgrid(*lattice, indexing='ij')
        inside = whole._inside(project(grid, frame, row, col))
        hits = np.stack([row[inside], col[inside]])
        edges += [hits - np.array(step)[:, None], hits + np.array(step)[:, None]]
        points = np.concatenate(edges, axis=1)
        box: Box = (0, 0, 0, 0)
        if points.size:
            low = np.floor(points.min(axis=1) - 1).astype(int).tolist()
            high = np.ceil(points.max(axis=1) + 1).astype(int).tolist()
            if high[1] - low[1] > grid.width / 2:  # both edges: all between
                low[1], high[1] = 0, grid.width
            box = clip((low[0], low[1], high[0], high[1]), *grid.shape)
        _check_holds(area, box)
        return cls(area.geometry, grid, crop(grid, box), frame)

    def mask(self, geobox: GeoBox) -> NDArray[np.bool_]:
        """Which pixels of a window lie in the area; see :class:`AreaOnGrid`."""
        self._offset(geobox)
        if not self.touches(geobox):
            return np.zeros(geobox.shape, bool)
        return self._inside(lr_coordinates(geobox, self.frame))

    def touches(self, geobox: GeoBox) -> bool:
        """Whether a window may hold pixels of the area; see :class:`AreaOnGrid`."""
        self._offset(geobox)
        part = np.linspace(0, 1, 9)
        row, col = np.meshgrid(
            *(part * size for size in geobox.shape.yx), indexing='ij'
        )
        place = project(geobox, self.frame, row, col)
        if not np.isfinite(place).all():
            return True
        # Between the points it may lie further out; see labelled_chips.
        room = sum(np.abs(np.diff(place, 2, axis=i)).max(axis=(1, 2)) for i in (1, 2))
        top, left = place.min(axis=(1, 2)) - room
        bottom, right = place.max(axis=(1, 2)) + room
        west, north = self.frame.affine.c, self.frame.affine.f
        window = shapely.box(west + left, north - bottom, west + right, north - top)
        assert self.frame.crs is not None
        turn = circumference(self.frame.crs)
        if turn is None:
            return bool(self.geometry.intersects(window))
        return bool(right - left > turn / 2) or any(
            self.geometry.intersects(translate(window, turn * n)) for n in (-1, 0, 1)
        )

    def _inside(self, place: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points lie in the area, of rows and columns of the frame."""
        x, y = self.frame.pix2wld(place[1], place[0])
        assert self.frame.crs is not None
        turn = circumference(self.frame.crs)
        west, south, east, north = self.geometry.bounds
        with np.errstate(invalid='ignore'):
            if turn is not None:
                x = west + (x - west) % turn
            near = (x >= west) & (x <= east) & (y >= south) & (y <= north)
        shapely.prepare(self.geometry)
        inside: NDArray[np.bool_] = np.zeros(x.shape, bool)
        inside[near] = shapely.contains_xy(self.geometry, x[near], y[near])
        return inside


def _is_torn(geometry: BaseGeometry, crs: CRS) -> bool:
    """Whether a CRS has torn outlines apart that were brought into it."""
    rings = shapely.get_rings(shapely.get_parts(geometry))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    with np.errstate(invalid='ignore'):
        steps = np.abs(np.diff(points, axis=0))[ring[1:] == ring[:-1]]
    longest = _TORN_DEGREES if crs.geographic else _TORN
    return not bool((steps < longest).all())  # what is not finite is torn too


def _snapped(geometry: BaseGeometry) -> BaseGeometry:
    """Bring what is beside the strip along the antimeridian to it, in degrees."""

    def snapped(points: NDArray[np.float64]) -> NDArray[np.float64]:
        lon, lat = points.T
        strip = 3 * _STRIP / _METRES_A_DEGREE
        # Near a pole it is many degrees wide, and no metre long.
        wide = strip / np.maximum(np.cos(np.radians(lat)), 0.01)
        lon = np.where(np.abs(lon) > 180 - wide, np.copysign(180.0, lon), lon)
        lat = np.where(np.abs(lat) > 90 - strip, np.copysign(90.0, lat), lat)
        return np.stack([lon, lat], axis=1)

    return shapely.transform(geometry, snapped)


def _vertices(area: AreaOfInterest, grid: GeoBox) -> NDArray[np.float64]:
    """Row and column of an area's vertices in a grid, and of poles in it, (2, n)."""
    assert grid.crs is not None
    transformer = transformer_of(area.crs, grid.crs)
    x, y = transformer.transform(
        *shapely.get_coordinates(area._segments(area.geometry)).T
    )
    if grid.crs.geographic:
        poles = np.array([-90.0, 90.0])
        at = transformer_of(grid.crs, area.crs).transform(np.zeros(2), poles)
        held = poles[shapely.contains_xy(area.geometry, *at)]
        # A pole is a row of the grid.
        west, east = span(grid)
        x = np.concatenate([x, np.full(len(held), west), np.full(len(held), east)])
        y = np.concatenate([y, held, held])
    turn = circumference(grid.crs)
    with np.errstate(invalid='ignore'):
        if turn is not None:
            west, east = span(grid)
            beyond = (x < west) | (x > east)
            x = np.where(beyond, west + (x - west) % turn, x)
        col, row = grid.wld2pix(x, y)
        inside = (row >= 0) & (row <= grid.height) & (col >= 0) & (col <= grid.width)
    return np.stack([row[inside], col[inside]])


def _check_holds(area: AreaOfInterest, box: Box) -> None:
    if box[0] >= box[2] or box[1] >= box[3]:
        raise InputError(
            f'{area.source}: lies outside the imagery, or between its pixels; '
            'check its place and its CRS.'
        )


def _polygonal(geometry: Any) -> BaseGeometry:
    """The polygons of some geometries: repaired ones may have lines and points too."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.union_all(parts[shapely.get_type_id(parts) == _POLYGON])


def _near(area: AreaOfInterest, grid: GeoBox) -> BaseGeometry:
    """The part of an area about a grid: a CRS need not have a place for all of it."""
    assert grid.crs is not None
    if grid.crs == area.crs:
        return area.geometry
    edge = grid.pad(max(grid.shape) // 10 + 2).boundary(64).T.astype(float)
    pad = max(grid.shape) // 10 + 2
    transformer = transformer_of(grid.crs, area.crs)
    x, y = transformer.transform(*grid.pix2wld(edge[0] - pad, edge[1] - pad))
    finite = np.isfinite(x).all() and np.isfinite(y).all()
    # About a pole or the antimeridian an outline has no box in degrees.
    if not finite or (area.crs.geographic and x.max() - x.min() > 180):
        return area.geometry
    west, _, east, _ = area.geometry.bounds
    box = shapely.box(x.min(), y.min(), x.max(), y.max())
    return shapely.intersection(area.geometry, _turned(box, area.crs, west, east))


def _turned(geometry: BaseGeometry, crs: CRS, west: float, east: float) -> BaseGeometry:
    """A geometry wherever whole turns round the Earth bring it between two x."""
    turn = circumference(crs)
    if turn is None:
        return geometry
    low, _, high, _ = geometry.bounds
    first, stop = np.floor((west - high) / turn) + 1, np.ceil((east - low) / turn)
    turns = np.arange(first, stop)
    if not turns.any():  # as it lies, or nowhere
        return geometry
    return shapely.union_all([translate(geometry, turn * n) for n in turns])


def _repaired(geometry: Any) -> Any:
    """Valid polygons of the same ground: where parts of one overlap it is theirs, too."""
    return shapely.make_valid(geometry, method='structure', keep_collapsed=False)


def _only_layer(path: str) -> str | None:
    """The one layer of polygons in a file; None if its format has no layers."""
    kinds = layers_of(path)
    layers = [n for n, kind in kinds.items() if 'Polygon' in kind or kind == 'Unknown']
    if not kinds:
        return None
    if not layers:
        raise InputError(f'{path}: holds no polygons.')
    if len(layers) > 1:
        raise InputError(
            f'{path}: has several layers ({", ".join(layers)}); '
            f'name one, as {path}:{layers[0]}'
        )
    return layers[0]
