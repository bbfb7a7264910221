# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Grids whose x goes once round the Earth: longitudes, and Web Mercator."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine

# Two grids are one if their pixels are nowhere further apart than this part of a pixel.
ALIGNED = 0.01

# A grid comes round to its own columns if once round the Earth misses them by less than
# this part of one: 43200 columns of 0.00833333° miss them by a fiftieth.
ROUND = 0.1


@lru_cache(maxsize=64)
def circumference(crs: CRS) -> float | None:
    """How far x goes once round the Earth.

    Args:
        crs: The CRS.

    Returns:
        In its units: 360 degrees, or metres; None if x does not go round: the CRS is
        neither of longitudes nor Web Mercator.
    """
    if crs.geographic:
        return 360.0 if _unit(crs) == 'degree' else None
    operation, ellipsoid = crs.proj.coordinate_operation, crs.proj.ellipsoid
    if operation is None or ellipsoid is None or _unit(crs) != 'metre':
        return None
    if operation.method_name != 'Popular Visualisation Pseudo Mercator':
        return None
    return 2 * float(np.pi) * float(ellipsoid.semi_major_metre)


def columns_round(grid: GeoBox) -> int | None:
    """Columns after which a grid comes to the same ground again, once round the Earth.

    Args:
        grid: The grid.

    Returns:
        Their number; None if it does not: x does not go round in its CRS, rows do not
        follow x, or the turn is no whole number of columns.
    """
    turn = circumference(grid.crs) if grid.crs is not None else None
    a, b, _, d, *_ = grid.affine
    if turn is None or b or d:
        return None
    columns = turn / abs(a)
    whole = round(columns)
    return whole if whole and abs(columns - whole) < ROUND else None


def _unit(crs: CRS) -> str:
    return str(crs.proj.axis_info[0].unit_name)


def shift_to_meet(low: float, high: float, reference: GeoBox) -> float:
    """How far to move a span of x, by whole turns round the Earth, to meet a grid.

    Args:
        low: Least x, in the CRS of the grid.
        high: Largest x.
        reference: The grid.

    Returns:
        In units of the CRS; 0 where nothing is gained: the span meets as much of the
        grid as it lies, or x does not go round.
    """
    west, east = span(reference)
    if west <= low and high <= east:
        return 0.0
    assert reference.crs is not None
    turn = circumference(reference.crs)
    if turn is None:
        return 0.0
    moved = turn * float(np.round((west + east - low - high) / (2 * turn)))
    # A point has some width, so that it can meet a grid.
    margin = ALIGNED * (east - west) / reference.width
    low, high = low - margin, high + margin

    def common(by: float) -> float:
        return min(high + by, east) - max(low + by, west)

    # Tiles of a mosaic that touch on the other side of the Earth do not meet.
    return moved if common(moved) > max(common(0.0), 0.0) + 1.5 * margin else 0.0


def span(grid: GeoBox) -> tuple[float, float]:
    """Least and largest x of a grid, in the units of its CRS.

    Args:
        grid: The grid; it may be rotated.
    """
    a, b, c, *_ = grid.affine
    wide, high = a * grid.width, b * grid.height
    return c + min(wide, 0) + min(high, 0), c + max(wide, 0) + max(high, 0)


def bring_together(grids: Sequence[GeoBox]) -> list[GeoBox]:
    """Move grids by whole turns round the Earth so that they span little of it.

    At the antimeridian, neighbours begin at −180° and end at 180°, or at 0° and 360°.

    Args:
        grids: Grids in any CRS; only those whose x goes round the Earth, all in one CRS,
            are moved.

    Returns:
        The grids, in their order.
    """
    crs = grids[0].crs
    if len(grids) == 1 or crs is None or any(grid.crs != crs for grid in grids):
        return list(grids)
    turn = circumference(crs)
    if turn is None:
        return list(grids)
    west = np.array([grid.extent.boundingbox.left for grid in grids])
    east = np.array([grid.extent.boundingbox.right for grid in grids])
    turns = turns_together(west, east, turn)
    if not turns.any():
        return list(grids)
    return [
        GeoBox(grid.shape, Affine.translation(turn * n, 0) * grid.affine, crs)
        for grid, n in zip(grids, turns.tolist(), strict=True)
    ]


def turns_together(
    west: NDArray[np.float64], east: NDArray[np.float64], turn: float
) -> NDArray[np.float64]:
    """Whole turns that bring spans together, so that they reach little round the Earth.

    Args:
        west: Where each begins, (n,).
        east: Where it ends, (n,), in the same units.
        turn: How far it is once round, likewise.

    Returns:
        Turns to move each by, (n,); the first stays where it is. All 0 where nothing is
        gained.
    """
    plain = float(east.max() - west.min())
    # The widest gap between them, going round, is where the row of spans is cut.
    start = west % turn
    order = np.argsort(start, kind='stable')
    stop = start + (east - west)
    reach = np.maximum.accumulate(stop[order])
    gaps = np.append(start[order][1:], start[order][0] + turn) - reach
    cut = int(np.argmax(gaps))
    if turn - gaps[cut] >= 0.99 * plain or gaps[cut] <= 0:
        return np.zeros(len(west))
    first = start[order][(cut + 1) % len(west)]
    turns: NDArray[np.float64] = np.round((start - west) / turn) + (start < first)
    return turns - turns[0]
