# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Polygons of a class map, found tile by tile and joined across the seams.

The pieces of a tile that touch no seam are finished at once. The others wait, by the
class and the component that they belong to, until the row of tiles in which their
component ends; then their union is taken, in whole pixels, so that it is exact. Memory
is that of a row of tiles and of the polygons that are still open.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import shapes
from shapely.geometry.base import BaseGeometry
from skimage.measure import label

from ..datasets.geo.areas import PixelAreas
from ..evaluation.class_maps import NO_PERCENT


@dataclass(frozen=True)
class ClassPolygon:
    """A connected area of one class; pixels that share an edge are connected.

    Args:
        geometry: Its outline, in the map's CRS or in pixels; of several parts only in
            web tiles that the antimeridian cuts.
        code: Code of the class.
        area: Area on the ellipsoid, in square metres.
        confidence: Mean of the confidence over its pixels, in percent; NaN without.
        pixels: Number of pixels.
    """

    geometry: shapely.Polygon | shapely.MultiPolygon
    code: int
    area: float
    confidence: float
    pixels: int

    def placed(self, geobox: GeoBox) -> Self:
        """It in the CRS of a grid.

        Args:
            geobox: The grid in whose pixels it is.
        """

        def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.stack(geobox.pix2wld(*points.T), axis=1)

        return replace(self, geometry=shapely.transform(self.geometry, place))


@dataclass
class _Component:
    """Pieces of a polygon that may still grow."""

    code: int
    pieces: list[shapely.Polygon]
    sums: NDArray[np.float64]

    def add(self, other: '_Component') -> None:
        """Take the pieces of another component over."""
        self.pieces += other.pieces
        self.sums = self.sums + other.sums

    def polygon(self) -> ClassPolygon:
        """The finished polygon."""
        geometry = self.pieces[0]
        if len(self.pieces) > 1:
            geometry = _corners(shapely.union_all(self.pieces))
        pixels, area, confidence, valid = self.sums.tolist()
        mean = confidence / valid if valid else float('nan')
        return ClassPolygon(geometry, self.code, area, mean, round(pixels))


def polygons(
    read: Callable[[slice, slice], NDArray[np.integer]],
    geobox: GeoBox,
    nodata: int,
    confidence: Callable[[slice, slice], NDArray[np.uint8]] | None = None,
    tile: int = 1024,
) -> Iterator[ClassPolygon]:
    """Polygons of a class map, in whole pixels of its grid.

    Args:
        read: Gives the codes of rows and columns, (h, w).
        geobox: Grid of the map.
        nodata: Code that is no class.
        confidence: Gives the confidence of rows and columns in percent, (h, w); 255 is
            no value.
        tile: Side of what is read at once, in pixels.

    Yields:
        The polygons with coordinates (column, row), as rings of corners only. They are
        those of the whole raster, whatever the size of a tile; their order is that in
        which tiles finish them.
    """
    height, width = geobox.shape
    area_of = PixelAreas(geobox, at_its_word=False)
    above = np.zeros(width, np.int64)  # component of each pixel of the row above, or 0
    above_codes = np.full(width, nodata, np.int64)
    opened: dict[int, _Component] = {}
    count = 0
    for top in range(0, height, tile):
        rows = slice(top, min(top + tile, height))
        parent: dict[int, int] = {}
        below = np.zeros(width, np.int64)
        below_codes = np.full(width, nodata, np.int64)
        beside: NDArray[np.int64] | None = None
        beside_codes: NDArray[np.integer] | None = None
        for left in range(0, width, tile):
            cols = slice(left, min(left + tile, width))
            codes = read(rows, cols)
            labels = label(codes, background=nodata, connectivity=1).astype(np.int32)
            pieces = _pieces(
                codes,
                labels,
                area_of(rows, cols),
                None if confidence is None else confidence(rows, cols),
                (left, top),
            )
            grows = np.zeros(len(pieces) + 1, bool)
            grows[labels[0]] |= top > 0
            grows[labels[-1]] |= rows.stop < height
            grows[labels[:, 0]] |= left > 0
            grows[labels[:, -1]] |= cols.stop < width
            numbers = np.zeros(len(pieces) + 1, np.int64)
            for i, piece in enumerate(pieces, 1):
                if grows[i]:
                    count += 1
                    numbers[i] = count
                    opened[count] = piece
                else:
                    yield piece.polygon()
            _join(
                parent,
                opened,
                (above[cols], above_codes[cols]),
                (numbers[labels[0]], codes[0]),
            )
            if beside is not None and beside_codes is not None:
                _join(
                    parent,
                    opened,
                    (beside, beside_codes),
                    (numbers[labels[:, 0]], codes[:, 0]),
                )
            beside, beside_codes = numbers[labels[:, -1]], codes[:, -1]
            below[cols], below_codes[cols] = numbers[labels[-1]], codes[-1]
        alive, place = np.unique(below, return_inverse=True)
        roots = np.array([_root(parent, number) for number in alive.tolist()])
        above, above_codes = roots[place], below_codes
        keep = set(roots.tolist()) if rows.stop < height else set()
        for number in [n for n in opened if n not in keep]:
            yield opened.pop(number).polygon()


def _pieces(
    codes: NDArray[np.integer],
    labels: NDArray[np.int32],
    areas: NDArray[np.float64],
    confidence: NDArray[np.uint8] | None,
    corner: tuple[int, int],
) -> list[_Component]:
    """The pieces of a tile in the order of their labels, which begin at 1."""
    count = int(labels.max())
    if count == 0:
        return []
    flat = labels.ravel()
    length = count + 1
    sums = np.zeros((length, 4))
    sums[:, 0] = np.bincount(flat, minlength=length)
    sums[:, 1] = np.bincount(flat, areas.ravel(), minlength=length)
    if confidence is not None:
        valid = confidence.ravel() != NO_PERCENT
        values = np.where(valid, confidence.ravel(), 0)
        sums[:, 2] = np.bincount(flat, values, minlength=length)
        sums[:, 3] = np.bincount(flat, valid, minlength=length)
    code_of = np.zeros(length, np.int64)
    code_of[flat] = codes.ravel()
    outlines: list[shapely.Polygon | None] = [None] * length
    for geometry, value in shapes(labels, mask=labels > 0, connectivity=4):
        rings = [np.asarray(ring) + corner for ring in geometry['coordinates']]
        outlines[int(value)] = shapely.Polygon(rings[0], rings[1:])
    pieces = []
    for i in range(1, length):
        outline = outlines[i]
        assert outline is not None
        pieces.append(_Component(int(code_of[i]), [outline], sums[i]))
    return pieces


def _root(parent: dict[int, int], number: int) -> int:
    """The number that stands for a component."""
    while number in parent:
        number = parent[number]
    return number


def _join(
    parent: dict[int, int],
    opened: dict[int, _Component],
    one: tuple[NDArray[np.int64], NDArray[np.integer]],
    other: tuple[NDArray[np.int64], NDArray[np.integer]],
) -> None:
    """Join the components on both sides of a seam where their classes agree."""
    (numbers, codes), (others, other_codes) = one, other
    same = (codes == other_codes) & (numbers > 0) & (others > 0)
    pairs = np.unique(np.stack([numbers[same], others[same]]), axis=1)
    for first, second in pairs.T.tolist():
        first, second = _root(parent, first), _root(parent, second)
        if first != second:
            # The component with more pieces takes the other's.
            if len(opened[first].pieces) < len(opened[second].pieces):
                first, second = second, first
            opened[first].add(opened.pop(second))
            parent[second] = first


def _corners(polygon: BaseGeometry) -> shapely.Polygon:
    """Leave out the vertices at which an outline of pixels goes straight on."""

    def corners(ring: shapely.LinearRing) -> NDArray[np.float64]:
        points = shapely.get_coordinates(ring)[:-1]
        before, after = np.roll(points, 1, 0), np.roll(points, -1, 0)
        straight = ((points == before) & (points == after)).any(1)
        return points[~straight]

    assert isinstance(polygon, shapely.Polygon)
    holes = [corners(ring) for ring in polygon.interiors]
    return shapely.Polygon(corners(polygon.exterior), holes)
