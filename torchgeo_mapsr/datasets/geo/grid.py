# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Where one pixel grid lies in another, and its blocks."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.transform import Affine

from ...errors import InputError
from .round_earth import ALIGNED, circumference, columns_round, shift_to_meet, span

#: Top, left, bottom and right edge, in pixels of a grid; may reach beyond it.
Box = tuple[int, int, int, int]

#: Rows and columns of an image.
Window = tuple[slice, slice]

# Boxes that share this much of their union are one.
SAME_BOX = 0.9

# Points along a side of the lattice in a grid whose outline is partly off the Earth.
_LATTICE = 33


def project(
    grid: GeoBox,
    reference: GeoBox,
    row: NDArray[np.float64],
    col: NDArray[np.float64],
    whole: GeoBox | None = None,
) -> NDArray[np.float64]:
    """Project points from the pixels of one grid to those of another, exactly.

    Where x goes round the Earth, points are moved by whole turns to where the reference
    is: rasters begin at −180° or at 0°, and some reach beyond 180°. Those of one call
    are moved together, so that a chip across the antimeridian stays in one piece.

    Args:
        grid: Grid that the points are given in.
        reference: Grid to project them to, in any CRS.
        row: Rows, of any shape; 0 is the upper edge of the first.
        col: Columns, of the same shape.
        whole: What the grid is a crop of: crops of one are moved alike, so that a cell
            has one column in all of them, where the reference comes round to its own
            columns (:func:`columns_round`).

    Returns:
        (row, col), (2, ...); not finite where the reference's CRS is not defined.
    """
    x, y = grid.pix2wld(col, row)
    if whole is None or columns_round(reference) is None:
        whole = grid
    if grid.crs != reference.crs:
        assert grid.crs is not None
        assert reference.crs is not None
        transformer = transformer_of(grid.crs, reference.crs)
        x, y = transformer.transform(x, y)
        turn = circumference(reference.crs)
        if turn is not None:
            # One grid's longitudes must not jump by 360° at the antimeridian.
            middle, _ = reference.pix2wld(reference.width / 2, reference.height / 2)
            for part in dict.fromkeys((whole, grid)):
                centre, _ = transformer.transform(
                    *part.pix2wld(part.width / 2, part.height / 2)
                )
                if np.isfinite(centre):
                    middle = centre + turn * np.round((middle - centre) / turn)
            centre = middle
            with np.errstate(invalid='ignore'):
                x = x + turn * np.round((centre - x) / turn)
    elif whole is not grid:
        x = x + shift_to_meet(*span(whole), reference)
    elif np.size(x):
        x = x + shift_to_meet(float(np.min(x)), float(np.max(x)), reference)
    with np.errstate(invalid='ignore'):
        col, row = reference.wld2pix(x, y)
    return np.stack([row, col])


@lru_cache(maxsize=64)
def transformer_of(source: CRS, target: CRS) -> Transformer:
    """Transformer between two CRSs, x before y.

    Raises:
        InputError: There is none: one of them is of another planet, say.
    """
    try:
        return Transformer.from_crs(source.proj, target.proj, always_xy=True)
    except ProjError as error:
        reason = ' '.join(str(error).split())
        raise InputError(
            f'nothing can be projected from {source} to {target} ({reason}); assign the '
            'right coordinate reference system, for example with gdal_edit -a_srs'
        ) from None


def pixel_offset(grid: GeoBox, reference: GeoBox) -> tuple[int, int] | None:
    """Row and column of a grid's first pixel in a reference grid.

    Grids that whole turns round the Earth bring together are one too: longitudes from
    0° to 360°, and from −180° to 180°.

    Returns:
        None if the grids are not one: another CRS, or pixels that lie elsewhere.
    """
    if grid.crs != reference.crs:
        return None
    # As plain numbers: affine's own products take ten times as long.
    affine, turns = grid.affine, shift_to_meet(*span(grid), reference)
    if turns:
        affine = Affine.translation(turns, 0) * affine
    a, b, c, d, e, f = tuple(~reference.affine * affine)[:6]
    col, row = round(c), round(f)
    height, width = grid.shape
    apart = [
        max(abs(x * a + y * b + c - x - col), abs(x * d + y * e + f - y - row))
        for x, y in ((0, 0), (width, 0), (0, height), (width, height))
    ]
    return (row, col) if max(apart) < ALIGNED else None


def _outline(grid: GeoBox, reference: GeoBox) -> NDArray[np.float64]:
    """Edge of a grid in pixels of another, (2, N); straight lines may have become curves."""
    col, row = grid.boundary(64).T.astype(float)
    return project(grid, reference, row, col)


def _extent(
    grid: GeoBox, reference: GeoBox
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Least and largest row and column of a reference that lie under a grid.

    Returns:
        They, (2,) each, and whether the whole outline has a place in the reference's
        CRS. Where it has not, they are those of what has one; NaN if nothing has.
    """
    points = _outline(grid, reference)
    finite = np.isfinite(points).all(axis=0)
    if not finite.all():
        # Of an image of the whole Earth all the outline may lie in the sky.
        lattice = [np.linspace(0, size, _LATTICE) for size in grid.shape.yx]
        row, col = np.meshgrid(*lattice, indexing='ij')
        inner = project(grid, reference, row, col)
        points = np.concatenate([points, inner.reshape(2, -1)], axis=1)
        points = points[:, np.isfinite(points).all(axis=0)]
        if not points.size:
            return np.full(2, np.nan), np.full(2, np.nan), False
    low, high = points.min(axis=1), points.max(axis=1)
    for pole in _poles(grid, reference):
        low[0], high[0] = min(low[0], pole), max(high[0], pole)
        turn = 360 / abs(reference.affine.a)
        middle = (low[1] + high[1]) / 2
        low[1] = min(low[1], middle - turn / 2)
        high[1] = max(high[1], middle + turn / 2)
    return low, high, bool(finite.all())


def _poles(grid: GeoBox, reference: GeoBox) -> list[float]:
    """Rows of a reference in degrees that are poles within a grid of another CRS.

    Such a grid lies under all longitudes, and further north or south than its outline.
    """
    assert grid.crs is not None
    assert reference.crs is not None
    if grid.crs == reference.crs or columns_round(reference) is None:
        return []
    if not reference.crs.geographic:
        return []
    rows = []
    for latitude in (-90.0, 90.0):
        x, y = transformer_of(reference.crs, grid.crs).transform(0.0, latitude)
        if not np.isfinite([x, y]).all():
            continue
        col, row = grid.wld2pix(x, y)
        # What is a line or a corner in the grid's CRS is on its outline.
        if 0 < col < grid.width and 0 < row < grid.height:
            rows.append(float(reference.wld2pix(0.0, latitude)[1]))
    return rows


def box_in(grid: GeoBox, reference: GeoBox) -> Box:
    """Pixels of a reference grid that a grid covers, whole ones.

    Raises:
        InputError: The grid has no place in the reference's CRS.
    """
    offset = pixel_offset(grid, reference)
    if offset is not None:
        return (*offset, offset[0] + grid.height, offset[1] + grid.width)
    low, high, whole = _extent(grid, reference)
    if not whole:
        raise InputError(
            f'rasters in {grid.crs} and {reference.crs} have no common grid'
        )
    top, left = np.floor(low).astype(int).tolist()
    bottom, right = np.ceil(high).astype(int).tolist()
    return top, left, bottom, right


def window_in(grid: GeoBox, reference: GeoBox) -> Box:
    """Pixels of a reference grid that may lie under a grid; empty if there are none.

    Unlike those of :func:`box_in` they lie in the reference, but for columns that it
    comes round to, and the grid may be partly off the Earth.
    """
    offset = pixel_offset(grid, reference)
    height, width = reference.shape
    if offset is not None:
        box = (*offset, offset[0] + grid.height, offset[1] + grid.width)
    else:
        low, high, whole = _extent(grid, reference)
        if not np.isfinite(low).all():
            return 0, 0, 0, 0
        # Between the points of a lattice the edge of the Earth may lie further out.
        pad = 0.0 if whole else (high - low) / 8
        ends = np.floor(low - pad).tolist(), np.ceil(high + pad).tolist()
        box = int(ends[0][0]), int(ends[0][1]), int(ends[1][0]), int(ends[1][1])
    turn = columns_round(reference)
    top, left, bottom, right = clip(box, height, width)
    if turn is not None and top < bottom and (left > box[1] or right < box[3]):
        left, right = box[1], min(box[3], box[1] + turn)
        if not _common_columns(left, right, reference):
            right = left
    return top, left, bottom, right


def _common_columns(left: float, right: float, reference: GeoBox) -> float:
    """How many columns of a span a grid has, those that it comes round to too."""
    turn, width = columns_round(reference), reference.width
    if turn is None:
        return max(min(right, width) - max(left, 0), 0)
    first, last = np.floor((left - width) / turn) + 1, np.ceil(right / turn)
    starts = np.arange(first, last) * turn
    shared = np.minimum(right, starts + width) - np.maximum(left, starts)
    return min(float(np.maximum(shared, 0).sum()), right - left)


def coverage(grid: GeoBox, reference: GeoBox) -> float:
    """Share of a grid that a reference grid covers, 0..1, by their bounding boxes.

    The grid is projected, not the reference: a label raster of a continent has no
    outline in the UTM zone of a chip.
    """
    low, high, _ = _extent(grid, reference)
    if not np.isfinite(low).all() or not (high > low).all():
        return 0.0
    rows = max(min(high[0], reference.height) - max(low[0], 0), 0)
    cols = _common_columns(low[1], high[1], reference)
    return float(rows * cols / np.prod(high - low))


def pixel_ratio(grid: GeoBox, reference: GeoBox) -> float:
    """Area of a grid's pixel in pixels of a reference grid, the mean over the grid."""
    row, col = _outline(grid, reference)
    if not np.isfinite([row, col]).all() or _poles(grid, reference):
        return _middle_ratio(grid, reference)
    row, col = row - row[0], col - col[0]
    area = np.abs(np.sum(col * np.roll(row, -1) - row * np.roll(col, -1))) / 2
    return float(area / (grid.width * grid.height))


def _middle_ratio(grid: GeoBox, reference: GeoBox) -> float:
    """Area of a grid's pixel in pixels of a reference grid, the median of a lattice.

    For grids whose outline encloses no area in the reference's CRS.
    """
    edge = (np.arange(_LATTICE) + 0.5) / _LATTICE
    row, col = np.meshgrid(edge * grid.height, edge * grid.width, indexing='ij')
    steps = np.array([[0, 0, 0.5, -0.5], [0.5, -0.5, 0, 0]])
    east, west, south, north = (
        project(grid, reference, row + down, col + right) for down, right in steps.T
    )
    across, along = east - west, south - north
    area = np.abs(across[1] * along[0] - across[0] * along[1])
    area = area[np.isfinite(area)]
    return float(np.median(area)) if area.size else float('nan')


def crop(grid: GeoBox, box: Box) -> GeoBox:
    """The pixels of a grid that a box names."""
    top, left, bottom, right = box
    affine = grid.affine * Affine.translation(left, top)
    return GeoBox((bottom - top, right - left), affine, grid.crs)


def starts(pixels: int, size: int, stride: int) -> list[int]:
    """Where chips begin along an axis; the last is moved back into the grid.

    Args:
        pixels: Length of the axis.
        size: Length of a chip.
        stride: From one chip to the next.
    """
    last = max(pixels - size, 0)
    return [*range(0, last, stride), last]


def clip(box: Box, height: int, width: int) -> Box:
    """The part of a box that lies in a grid of this size; empty if there is none."""
    top, bottom = (min(max(edge, 0), height) for edge in box[::2])
    left, right = (min(max(edge, 0), width) for edge in box[1::2])
    return top, left, bottom, right


def hull(boxes: Sequence[Box]) -> Box:
    """Smallest box that holds all boxes."""
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return min(tops), min(lefts), max(bottoms), max(rights)


def same_place(boxes: Sequence[Box]) -> list[tuple[int, int]]:
    """Pairs of boxes that are one place, each with the first of its place.

    Args:
        boxes: Boxes in one grid.

    Returns:
        Numbers of the first one and of another.

    >>> same_place([(0, 0, 10, 10), (0, 10, 10, 20), (0, 0, 10, 10)])
    [(0, 2)]
    """
    edges = np.array(boxes, float)
    shapes = shapely.box(edges[:, 0], edges[:, 1], edges[:, 2], edges[:, 3])
    middles = shapely.STRtree(shapely.centroid(shapes))
    one, two = middles.query(shapes)
    one, two = one[one < two], two[one < two]
    shared = shapely.area(shapely.intersection(shapes[one], shapes[two]))
    either = shapely.area(shapes[one]) + shapely.area(shapes[two]) - shared
    same = shared >= SAME_BOX * either
    pairs: dict[int, int] = {}
    for i, j in sorted(zip(one[same].tolist(), two[same].tolist(), strict=True)):
        pairs.setdefault(j, i)
    return [(i, j) for j, i in pairs.items()]


def common(first: slice, second: slice) -> tuple[slice, slice]:
    """The common part of two spans, counted from the start of each.

    Args:
        first: First pixel and end along one axis.
        second: The same of another.

    Returns:
        The part in both; empty if they have none in common.
    """
    start = max(first.start, second.start)
    stop = max(min(first.stop, second.stop), start)
    return (
        slice(start - first.start, stop - first.start),
        slice(start - second.start, stop - second.start),
    )


def blocks_of(grid: GeoBox, size: int) -> Iterator[Window]:
    """Rows and columns of the square blocks that a grid is read in.

    Args:
        grid: The grid.
        size: Height and width of a block, in pixels.
    """
    height, width = grid.shape
    for row in range(0, height, size):
        for col in range(0, width, size):
            yield (
                slice(row, min(row + size, height)),
                slice(col, min(col + size, width)),
            )


def sample_windows(
    geobox: GeoBox, places: Sequence[int] = (0, 1, 2)
) -> Iterator[tuple[slice, slice]]:
    """Windows of 64 × 64 pixels for a look at a raster, or smaller where it is.

    Args:
        geobox: Its grid.
        places: Where they lie, along both axes: 0 begins with the first pixel, 1 lies in
            the middle, and 2 ends with the last.
    """
    for i in places:
        for j in places:
            top, left = (
                max(size - 64, 0) * k // 2
                for size, k in zip(geobox.shape, (i, j), strict=True)
            )
            yield (
                slice(top, min(top + 64, geobox.height)),
                slice(left, min(left + 64, geobox.width)),
            )
