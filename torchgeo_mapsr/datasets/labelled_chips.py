# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The chips of a fit: those over labels, in an order that is spread evenly."""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .geo.grid import pixel_ratio, project
from .geo.plan import ChipIndex, Plan
from .geo.round_earth import columns_round
from .labels import LabelRaster

_GOLDEN = (5**0.5 - 1) / 2

# Cells along the side of a block of neighbouring chips that are looked at together:
# of such a block, a half of its area is whole cells.
_BLOCK = 3

# Chips along the side of the rectangles of a lattice that are looked at one by one.
_LOOKED_AT = 32

# Numbers that are compared at once.
_CHUNK = 1 << 20


class LabelledChips(Collection[tuple[int, ChipIndex]]):
    """Chips that lie over labels, in an order whose every beginning is spread evenly.

    Where a cell is nearly as large as the part of the raster that one chip has for
    itself, or larger, no single chip holds a whole cell: then blocks of neighbouring
    chips follow one another. Blocks are ordered by the multiples of the golden ratio
    modulo one.

    Chips are not listed: those over labels are kept as runs along each row of the
    lattice, which are found from the outlines of the labels.

    Args:
        plans: Plan of each raster.
        labels: LR labels of each raster.
        seed: Where the order starts.

    Raises:
        InputError: If there is none.
    """

    def __init__(
        self, plans: Sequence[Plan], labels: Sequence[Sequence[LabelRaster]], seed: int
    ) -> None:
        self._covers = [
            _Cover(plan, rasters) for plan, rasters in zip(plans, labels, strict=True)
        ]
        blocks = [len(cover.blocks) for cover in self._covers]
        self._ends = np.cumsum(blocks)
        if not sum(blocks):
            raise InputError(
                'The imagery and the labels do not overlap; check their places and CRSs.'
            )
        self._start = np.random.default_rng(seed).random()

    def __len__(self) -> int:
        return sum(len(cover.chips) for cover in self._covers)

    def __iter__(self) -> Iterator[tuple[int, ChipIndex]]:
        """Yield number of the raster, and chip."""
        for number in golden_order(int(self._ends[-1]), self._start):
            raster = int(np.searchsorted(self._ends, number, 'right'))
            first = int(self._ends[raster - 1]) if raster else 0
            for chip in self._covers[raster].block(number - first):
                yield raster, chip

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple):
            return False
        raster, chip = item
        cover = self._covers[raster]
        return cover.line(chip.row, chip.col) in cover.chips


def golden_order(count: int, start: float) -> Iterator[int]:
    """Numbers from 0, ordered by *(start + φ·i) mod 1* with φ = (√5 − 1) / 2.

    Of so many points on a circle, each is followed by the one that is *a* numbers
    further, *b* numbers back, or both, where *a* and *b* are the numbers of the points
    next to that of 0 on either side, which are Fibonacci's (V. T. Sós, On the theory of
    diophantine approximations, 1957). So nothing is sorted.

    Args:
        count: How many numbers.
        start: Where the order starts, 0..1.
    """
    after, before = 1, 1
    fibonacci = (1, 2)
    while fibonacci[0] < count:
        if fibonacci[0] * _GOLDEN % 1 < 0.5:
            after = fibonacci[0]
        else:
            before = fibonacci[0]
        fibonacci = fibonacci[1], sum(fibonacci)
    least, number = 1.0, 0
    for first in range(0, count, _CHUNK):
        numbers = np.arange(first, min(first + _CHUNK, count))
        values = (start + _GOLDEN * numbers) % 1
        best = int(values.argmin())
        if values[best] < least:
            least, number = float(values[best]), first + best
    for _ in range(count):
        yield number
        if number < count - after:
            number += after
        elif number >= before:
            number -= before
        else:
            number += after - before


class _Runs:
    """Numbers in ascending order as runs: first and last + 1 of each."""

    def __init__(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        order = np.argsort(starts, kind='stable')
        starts, stops = starts[order], np.maximum.accumulate(stops[order])
        new = np.ones(len(starts), bool)
        new[1:] = starts[1:] > stops[:-1]
        last = np.ones(len(starts), bool)
        last[:-1] = new[1:]
        self.starts, self.stops = starts[new], stops[last]
        self.ends = np.cumsum(self.stops - self.starts)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int) -> int:
        run = int(np.searchsorted(self.ends, index, 'right'))
        return int(self.stops[run] - (self.ends[run] - index))

    def __contains__(self, number: int) -> bool:
        run = int(np.searchsorted(self.starts, number, 'right')) - 1
        return run >= 0 and number < self.stops[run]

    def between(self, start: int, stop: int) -> Iterator[int]:
        """Yield the numbers from *start* to before *stop*."""
        run = int(np.searchsorted(self.stops, start, 'right'))
        while run < len(self.starts) and self.starts[run] < stop:
            first = max(int(self.starts[run]), start)
            yield from range(first, min(int(self.stops[run]), stop))
            run += 1


class _Cover:
    """The chips of one lattice that lie over labels, and the blocks that they make.

    Rows of the lattice are put on one line, one after another and a place apart.

    Args:
        plan: The plan.
        rasters: LR labels.
    """

    def __init__(self, plan: Plan, rasters: Sequence[LabelRaster]) -> None:
        self.side = _block_side(plan, rasters)
        self.shape = plan.lattice().shape
        row, start, stop = (np.concatenate(part) for part in _runs(plan, rasters))
        self.chips = _Runs(self.line(row, start), self.line(row, stop))
        blocks = row // self.side, start // self.side, -(-stop // self.side)
        self.blocks = _Runs(
            self.line(blocks[0], blocks[1]), self.line(blocks[0], blocks[2])
        )

    def line(self, row: Any, col: Any) -> Any:
        """Place on the line."""
        return row * (self.shape[1] + 1) + col

    def block(self, index: int) -> Iterator[ChipIndex]:
        """Yield the chips of a block, row by row."""
        row, col = divmod(self.blocks[index], self.shape[1] + 1)
        left, right = col * self.side, min((col + 1) * self.side, self.shape[1])
        for line in range(row * self.side, min((row + 1) * self.side, self.shape[0])):
            for place in self.chips.between(
                self.line(line, left), self.line(line, right)
            ):
                yield ChipIndex(line, place - self.line(line, 0))


def _runs(
    plan: Plan, rasters: Sequence[LabelRaster]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Runs of chips whose own pixels may lie over labels: row, first and last + 1 column.

    Rectangles of the lattice are projected into the labels' grids: one that lies beside
    all labels or within some is done with, others are cut into four. Only chips of small
    rectangles on the outline of the labels are looked at one by one.
    """
    row: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    start, stop = row.copy(), row.copy()
    todo = np.array([[0, 0, *plan.lattice().shape]])
    while len(todo):
        small = np.prod(todo[:, 2:] - todo[:, :2], axis=1) <= _LOOKED_AT**2
        for top, left, bottom, right in todo[small].tolist():
            rows, cols = np.indices((bottom - top, right - left)).reshape(2, -1)
            over = np.zeros(len(rows), bool)
            for raster in rasters:
                over |= _over(plan, rows + top, cols + left, raster)
            signs = over.reshape(bottom - top, -1).astype(np.int8)
            edge = np.diff(signs, axis=1, prepend=0, append=0)
            index, first = np.nonzero(edge == 1)
            row.append(index + top)
            start.append(first + left)
            stop.append(np.nonzero(edge == -1)[1] + left)
        todo = todo[~small]
        beside, within = _places(plan, todo, rasters)
        for top, left, bottom, right in todo[within].tolist():
            row.append(np.arange(top, bottom))
            start.append(np.full(bottom - top, left))
            stop.append(np.full(bottom - top, right))
        todo = _quarters(todo[~(beside | within)])
    return row, start, stop


def _quarters(rectangles: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut rectangles into four, or two if they are a row or a column."""
    top, left, bottom, right = rectangles.T
    row, col = (top + bottom + 1) // 2, (left + right + 1) // 2
    parts = np.concatenate(
        [
            np.stack(part, 1)
            for part in (
                (top, left, row, col),
                (top, col, row, right),
                (row, left, bottom, col),
                (row, col, bottom, right),
            )
        ]
    )
    return parts[(parts[:, 2:] > parts[:, :2]).all(1)]


def _places(
    plan: Plan, rectangles: NDArray[np.int64], rasters: Sequence[LabelRaster]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rectangles of a lattice lie beside all label rasters, or within one of them.

    A rectangle is projected at 9 x 9 points. Between these it may leave their bounding
    box: by an eighth of their second differences where these are constant; eight times
    as much is allowed for.
    """
    beside = np.ones(len(rectangles), bool)
    within = np.zeros(len(rectangles), bool)
    if not len(rectangles):
        return beside, within
    rows, cols = (axis.edges.astype(float) for axis in plan.axes)
    part = np.linspace(0, 1, 9)
    top, left, bottom, right = rectangles.T
    row = rows[top, None] + (rows[bottom] - rows[top])[:, None] * part
    col = cols[left, None] + (cols[right] - cols[left])[:, None] * part
    row, col = np.broadcast_arrays(row[:, :, None], col[:, None, :])
    for raster in rasters:
        place = project(plan.geobox, raster.geobox, row, col)
        finite: NDArray[np.bool_] = np.logical_and.reduce(
            np.isfinite(place), axis=(0, 2, 3)
        )
        place = np.where(finite[:, None, None], place, 0)
        room = sum(
            np.abs(np.diff(place, 2, axis=axis)).max(axis=(2, 3)) for axis in (2, 3)
        )
        low = place.min(axis=(2, 3)) - room
        high = place.max(axis=(2, 3)) + room
        height, width = raster.geobox.shape
        rows = (high[0] > 0) & (low[0] < height)
        within_rows = (low[0] > 0) & (high[0] < height)
        for turned in _turns(raster):
            left, right = low[1] - turned, high[1] - turned
            beside &= finite & ~(rows & (right > 0) & (left < width))
            within |= finite & within_rows & (left > 0) & (right < width)
    return beside, within


def _turns(raster: LabelRaster) -> tuple[int, ...]:
    """Columns by which a label raster is moved to where else it lies, going round."""
    turn = columns_round(raster.geobox)
    return (0,) if turn is None else (0, -turn, turn)


def _block_side(plan: Plan, rasters: Sequence[LabelRaster]) -> int:
    """Chips along the side of a block that holds whole cells."""
    step = min(
        (int(np.diff(axis.starts).min()) for axis in plan.axes if len(axis.starts) > 1),
        default=0,
    )
    if not step:
        return 1
    cell = max(
        (pixel_ratio(plan.geobox, raster.geobox) ** -0.5 for raster in rasters),
        default=0.0,
    )
    return max(1, math.ceil(_BLOCK * cell / step)) if math.isfinite(cell) else 1


def _over(
    plan: Plan, rows: NDArray[np.int64], cols: NDArray[np.int64], raster: LabelRaster
) -> NDArray[np.bool_]:
    """Which chips' own pixels may lie over a label raster, by their bounding boxes.

    Chips are projected, not the labels: those of a continent have no outline in the
    UTM zone of a chip.
    """
    edges = [axis.edges.astype(float) for axis in plan.axes]
    part = np.array([0, 0.5, 1])
    row, col = (
        edge[coordinates, None]
        + (edge[coordinates + 1] - edge[coordinates])[:, None] * along
        for edge, coordinates, along in zip(
            edges, (rows, cols), (part.repeat(3), np.tile(part, 3)), strict=True
        )
    )
    points = project(plan.geobox, raster.geobox, row, col)
    # Some points of a chip at the edge of the Earth have no place on it.
    finite = np.isfinite(points).all(axis=0)
    low = np.where(finite, points, np.inf).min(2)
    high = np.where(finite, points, -np.inf).max(2)
    height, width = raster.geobox.shape
    over = np.zeros(len(rows), bool)
    for turned in _turns(raster):
        over |= (high[1] > turned) & (low[1] < turned + width)
    return over & (high[0] > 0) & (low[0] < height)
