# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Which LR cell holds which HR pixel."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy.ndimage import map_coordinates

from .grid import project
from .round_earth import columns_round

# Largest error of an interpolated coordinate, in metres on the ground.
TOLERANCE = 1e-3

# Added before a coordinate is floored, in LR pixels (< 1 µm on a 30 m grid): where an
# HR pixel's centre lies on a cell's edge, rounding must not choose the cell.
TIE = 1e-8


@dataclass(frozen=True)
class RegionMap:
    """The LR cells of one HR chip.

    Args:
        mask_region: Which cell holds each pixel's centre, (H, W) int64: 0 = outside,
            i + 1 = cell i of the flattened LR window.
        window: First row, first column, height and width of the LR window, in cells of
            the LR grid. It may reach beyond the label raster.
        share: Visible share of each cell, (h·w,) float64 in 0..1. It is 1 when no pixel
            of the cell lies outside the chip; otherwise the cell's pixels in the chip
            over the pixels that a whole cell has; 0 for a cell without a pixel.
        coordinates: Row and column of each pixel's centre in the LR grid, (2, H, W)
            float64, not finite where the LR CRS is not defined.
    """

    mask_region: NDArray[np.int64]
    window: tuple[int, int, int, int]
    share: NDArray[np.float64]
    coordinates: NDArray[np.float64]

    @property
    def rows(self) -> slice:
        """Rows of the LR window, in the LR grid."""
        return slice(self.window[0], self.window[0] + self.window[2])

    @property
    def cols(self) -> slice:
        """Columns of the LR window, in the LR grid."""
        return slice(self.window[1], self.window[1] + self.window[3])


def region_map(
    hr: GeoBox, lr: GeoBox, shares: bool = True, whole: GeoBox | None = None
) -> RegionMap:
    """Find the LR cell of every pixel of a chip.

    A cell is cut by the chip's edge if it holds a pixel of the ring that is one pixel
    wide around the chip. That needs neither the inverse projection nor a tolerance, and
    holds for grids that are rotated against each other.

    Args:
        hr: Grid of the chip.
        lr: Grid of the labels, in any CRS.
        shares: Whether visible shares are wanted; they are 0 without.
        whole: What the chip is a crop of: where the labels go round the Earth, a cell
            has one column in all crops of it.

    Returns:
        The cells, in a window snapped outward to whole cells.
    """
    ringed = lr_coordinates(hr.pad(1) if shares else hr, lr, whole)
    finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(ringed))
    cells = _cells(ringed, finite)
    inner = (slice(1, -1), slice(1, -1)) if shares else (slice(None), slice(None))
    inside = finite[inner]
    if not inside.any():
        empty = np.zeros(hr.shape, np.int64)
        return RegionMap(empty, (0, 0, 0, 0), np.zeros(0), ringed[:, *inner])

    turn = columns_round(lr)
    if turn is not None and np.ptp(cells[1][finite]) >= turn:
        # A chip round a pole, or round the Earth, meets columns twice: one number each.
        first = int(cells[1, *inner][inside].min())
        ringed[1] -= turn * ((cells[1] - first) // turn)
        cells = _cells(ringed, finite)
    row, col = cells[:, *inner]
    all_inside = bool(inside.all())
    within = (row, col) if all_inside else (row[inside], col[inside])
    (top, bottom), (left, right) = (
        (int(span.min()), int(span.max())) for span in within
    )
    height, width = bottom - top + 1, right - left + 1
    mask_region = (row - top) * width + (col - left) + 1
    if not all_inside:
        mask_region = np.where(inside, mask_region, 0)

    if not shares:
        window = top, left, height, width
        return RegionMap(mask_region, window, np.zeros(height * width), ringed)
    visible = np.bincount(mask_region.ravel(), minlength=height * width + 1)[1:]
    ring = np.ones(finite.shape, bool)
    ring[inner] = False
    row, col = cells[:, ring & finite]
    near = (row >= top) & (row < top + height) & (col >= left) & (col < left + width)
    cut = np.zeros(height * width, bool)
    cut[(row[near] - top) * width + col[near] - left] = True
    share = np.where(cut, np.minimum(visible / _cell_pixels(ringed), 1), visible > 0)
    return RegionMap(mask_region, (top, left, height, width), share, ringed[:, *inner])


def _cells(
    coordinates: NDArray[np.float64], finite: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Row and column of the cell that holds each point; 0 where it is not finite."""
    place = coordinates if finite.all() else np.where(finite, coordinates, 0)
    return np.floor(place + TIE).astype(np.int64)


def lr_coordinates(
    hr: GeoBox, lr: GeoBox, whole: GeoBox | None = None
) -> NDArray[np.float64]:
    """Project the centres of HR pixels into the LR grid.

    Between different CRSs only the knots of a control grid are projected, and the rest
    is bilinear between them. The grid is refined until its exact points and their
    interpolation from every second one differ by less than :data:`TOLERANCE`; the finer
    of the two is used. All points of the finer grid are compared, not only the middles
    of the coarser one: between conformal projections the errors along x and y cancel
    there.

    Args:
        hr: Grid of the chip.
        lr: Grid of the labels, in any CRS.
        whole: What the chip is a crop of, see :func:`region_map`.

    Returns:
        (row, col) in units of LR pixels, (2, H, W); their floor is the cell.
        Not finite where the LR CRS is not defined.
    """
    height, width = hr.shape
    every = np.arange(height, dtype=float), np.arange(width, dtype=float)
    if hr.crs == lr.crs:
        return _centres(hr, lr, *every, whole)

    tolerance = TOLERANCE / _metres(lr)
    knots = 3
    fine = _centres(hr, lr, *_knots(hr, knots), whole)
    while True:
        coarse, knots = fine, 2 * knots - 1
        if knots >= max(height, width):
            return _centres(hr, lr, *every, whole)
        fine = _centres(hr, lr, *_knots(hr, knots), whole)
        if not np.isfinite(fine).all():
            return _centres(hr, lr, *every, whole)
        halves = np.linspace(0, coarse.shape[1] - 1, knots)
        error = np.abs(_bilinear(coarse, halves, halves) - fine).max()
        if error <= tolerance:
            scale = [(knots - 1) / max(size - 1, 1) for size in (height, width)]
            return _bilinear(fine, every[0] * scale[0], every[1] * scale[1])


def _knots(hr: GeoBox, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Evenly spaced rows and columns from the first pixel to the last."""
    height, width = hr.shape
    return np.linspace(0, height - 1, count), np.linspace(0, width - 1, count)


def _centres(
    hr: GeoBox,
    lr: GeoBox,
    rows: NDArray[np.float64],
    cols: NDArray[np.float64],
    whole: GeoBox | None = None,
) -> NDArray[np.float64]:
    """Exact LR coordinates of the centres of pixels, (2, len(rows), len(cols))."""
    row, col = np.meshgrid(rows + 0.5, cols + 0.5, indexing='ij')
    return project(hr, lr, row, col, whole)


def _bilinear(
    grid: NDArray[np.float64], rows: NDArray[np.float64], cols: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate (2, n, m) at fractional rows and columns, n and m above one."""
    # By hand: threads of a BLAS would wait busily for the next product.
    for axis, positions in ((1, rows), (2, cols)):
        first = np.clip(np.floor(positions).astype(np.int64), 0, grid.shape[axis] - 2)
        beyond = (positions - first)[:, None] if axis == 1 else positions - first
        lower, grid = grid.take(first, axis), grid.take(first + 1, axis)
        grid -= lower
        grid *= beyond
        grid += lower
    return grid


def _metres(grid: GeoBox) -> float:
    """Metres of one pixel's longer side."""
    a, b, _, d, e, *_ = grid.affine
    assert grid.crs is not None
    axes = grid.crs.proj.axis_info
    unit = axes[0].unit_conversion_factor if axes else 1.0
    if grid.crs.geographic:
        unit *= 6378137.0  # radians at the equator
    return float(max(np.hypot(a, d), np.hypot(b, e)) * unit)


def _cell_pixels(coordinates: NDArray[np.float64]) -> float:
    """Pixels of a whole cell, from the area of the pixel in the chip's middle."""
    i, j = (size // 2 for size in coordinates.shape[1:])
    right = coordinates[:, i, j] - coordinates[:, i, j - 1]
    down = coordinates[:, i, j] - coordinates[:, i - 1, j]
    area = abs(right[0] * down[1] - right[1] * down[0])
    return float(1 / area) if area > 0 else 1.0


def cell_diameter(hr: GeoBox, lr: GeoBox) -> int:
    """Upper bound of an LR cell's diameter in HR pixels.

    Args:
        hr: HR grid; what is found holds in its middle. Where that is off the Earth, it
            is the length of the grid.
        lr: LR grid.
    """
    row, col = (size // 2 for size in hr.shape)
    pixel = hr[row : row + 1, col : col + 1].pad(1)
    corners = lr_coordinates(pixel, lr)
    side = min(
        math.hypot(*(corners[:, 1, 2] - corners[:, 1, 1])),
        math.hypot(*(corners[:, 2, 1] - corners[:, 1, 1])),
    )
    if not side > 0:  # the middle is off the Earth
        return max(hr.shape)
    return math.ceil(1.5 / side) + 2


def bilinear_mean(
    values: NDArray[np.float32],
    valid: NDArray[np.bool_],
    place: NDArray[np.float64],
    points: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values between valid pixels, each the mean of several points.

    Args:
        values: (B, h, w), 0 where there is none.
        valid: Pixels with a value, (h, w).
        place: Row and column of each point in these, (2, H points, W points); 0 is the
            centre of the first pixel.
        points: Points along a side of a pixel of the result.

    Returns:
        (B, H, W), 0 where there is none; and where half of the pixel has values, (H, W).
    """
    height, width = (size // points for size in place.shape[1:])

    def sample(band: NDArray[np.float32]) -> NDArray[np.float32]:
        drawn = map_coordinates(band, place, order=1, mode='grid-constant')
        mean: NDArray[np.float32] = drawn.reshape(height, points, width, points).mean(
            axis=(1, 3)
        )
        return mean

    weight = sample(valid.astype(np.float32))
    # half of the pixel, with room for rounding where the grids are half a pixel off
    defined = weight > 0.49
    image = np.zeros((len(values), height, width), np.float32)
    for i, band in enumerate(values):
        np.divide(sample(band), weight, out=image[i], where=defined)
    return image, defined
