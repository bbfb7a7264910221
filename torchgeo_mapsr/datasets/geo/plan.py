# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Which chips make which tiles of a map, and how chips are blended.

*Chips* are what the backbone sees. They lie on one lattice over the whole raster.
*Tiles* are what is written: they partition the raster, and each needs only the chips
that touch it. Since the lattice does not know about tiles, a pixel gets the same value
whichever tile computes it, so tiles are independent and have no seams.

Neither chips nor tiles are ever listed: both are sequences that compute an item when it
is asked for. What is kept of a raster grows with its side (some 20 bytes a pixel), not
with its area.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import product
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from ...errors import InputError
from .grid import Window, crop


@dataclass(frozen=True)
class Axis:
    """Chips along one axis of a raster, spread evenly from edge to edge.

    Every chip starts at a multiple of the backbone's largest stride, so that chips see
    the same tokens where they meet, whatever their size is. (Where strides do not divide
    one another, of 14 and 16 say, that is so of the largest alone.) The last one
    therefore reaches beyond the raster by less than a stride, where it sees the mirror
    image.

    Args:
        length: Pixels of the raster along this axis.
        chip: Pixels of a chip; a shorter raster is one chip.
        overlap: Pixels that neighbouring chips share, at least.
        halo: Pixels at a chip's border that lack context and get no weight, except
            at the raster's edge, where there is no better chip.
        align: Pixels that the starts of chips are multiples of.

    Raises:
        InputError: If *halo* and *overlap* leave nothing of a chip.
    """

    length: int
    chip: int
    overlap: int
    halo: int = 0
    align: int = 1

    def __post_init__(self) -> None:
        least, most = 2 * self.halo + (self.halo > 0), self.chip - self.align
        if self.length <= self.chip or least <= self.overlap <= most:
            return
        if self.overlap < least <= most:
            raise InputError(
                f'An overlap of {self.overlap} pixels is too small for this backbone: '
                f'chips of {self.chip} pixels need {least} to {most}; give another '
                '--overlap or --chip-size (patch_size).'
            )
        overlap = max(self.overlap, least)
        raise InputError(
            f'Chips of {self.chip} pixels are too small for an overlap of {overlap} '
            f'(this backbone needs at least {least}); give a --chip-size of '
            f'{overlap + self.align} or more (patch_size of a data module).'
        )

    @property
    def size(self) -> int:
        """Pixels of each chip."""
        return min(self.chip, -(-self.length // self.align) * self.align)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First pixel of each chip, ascending."""
        # In steps of the alignment: as few chips as overlap enough.
        room = -(-(self.length - self.size) // self.align)
        if room <= 0:
            return np.zeros(1, np.int64)
        gaps = -(-room // ((self.chip - self.overlap) // self.align))
        return np.arange(gaps + 1) * room // gaps * self.align

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """Share of each chip in each of its pixels, (chips, size).

        A smooth step *s(t) = t²(3 − 2t)* over the overlap less both halos, divided by
        the sum over chips: the shares of all chips in a pixel add up to one. The 2-D
        weight of a chip is the outer product of its two axes' weights, so it adds up
        to one as well.
        """
        inner = np.arange(self.size)
        shared = self.size - int(np.diff(self.starts).max(initial=0))
        ramp = max(shared - 2 * self.halo, 1)

        def step(distance: NDArray[np.int64]) -> NDArray[np.float64]:
            t = np.clip((distance - self.halo + 0.5) / ramp, 0, 1)
            return t * t * (3 - 2 * t)

        raw = np.ones((len(self.starts), self.size))
        raw[1:] *= step(inner)
        raw[:-1] *= step(inner[::-1])
        total = np.zeros(int(self.starts[-1]) + self.size)
        for start, weight in zip(self.starts, raw, strict=True):
            total[start : start + self.size] += weight
        pixels = self.starts[:, None] + inner
        return (raw / total[pixels]).astype(np.float32)

    @cached_property
    def _support(self) -> NDArray[np.int64]:
        """First pixel and end of each chip's positive weights, (chips, 2)."""
        positive = self.weights > 0
        first = positive.argmax(1)
        last = self.size - positive[:, ::-1].argmax(1)
        ends = np.minimum(self.starts + last, self.length)
        return np.stack([self.starts + first, ends], 1)

    def touching(self, span: slice) -> NDArray[np.int64]:
        """Indices of the chips that have a weight somewhere in *span*."""
        start, stop = self.touching_range(span.start, span.stop)
        return np.arange(int(start), int(stop))

    def touching_range(self, start: Any, stop: Any) -> tuple[Any, Any]:
        """First and last + 1 chip that have a weight in spans.

        Args:
            start: First pixel of each span, a number or an array.
            stop: Last + 1 pixel of each.
        """
        first, last = self._support.T
        return np.searchsorted(last, start, 'right'), np.searchsorted(
            first, stop, 'left'
        )

    def core(self, index: int) -> slice:
        """Pixels of chip *index* that have a weight, counted from its start."""
        first, last = (self._support[index] - self.starts[index]).tolist()
        return slice(first, last)

    def span(self, index: int) -> slice:
        """Pixels of chip *index*; the last may reach beyond the raster."""
        start = int(self.starts[index])
        return slice(start, start + self.size)

    @cached_property
    def edges(self) -> NDArray[np.int64]:
        """Edges of the partition that :meth:`own` gives, (chips + 1,)."""
        middle = (self.starts[1:] + self.starts[:-1] + self.size) // 2
        return np.concatenate([[0], middle, [self.length]])

    def own(self, index: int) -> slice:
        """Pixels nearer to the middle of chip *index* than of any other chip."""
        return slice(int(self.edges[index]), int(self.edges[index + 1]))


@dataclass(frozen=True)
class ChipIndex:
    """Place of a chip on the lattice."""

    row: int
    col: int


@dataclass(frozen=True)
class Tile:
    """One output: its place on the grid of tiles, and its pixels."""

    row: int
    col: int
    rows: slice
    cols: slice

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rows.stop - self.rows.start, self.cols.stop - self.cols.start


class Lattice(Sequence[ChipIndex]):
    """All chips of a raster, row by row.

    Args:
        shape: Chips along rows and along columns.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1]

    @overload
    def __getitem__(self, index: int) -> ChipIndex: ...
    @overload
    def __getitem__(self, index: slice) -> list[ChipIndex]: ...
    def __getitem__(self, index: int | slice) -> ChipIndex | list[ChipIndex]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [ChipIndex(*divmod(number, self.shape[1])) for number in numbers]
        return ChipIndex(*divmod(numbers, self.shape[1]))


class Tiles(Sequence[Tile]):
    """Tiles of a raster in a serpentine: each has an edge in common with the next.

    Args:
        plan: Plan of the raster.
        numbers: Places of the tiles in the serpentine of all (default: all). Those of a
            run that goes on take 8 bytes a tile.
    """

    def __init__(
        self, plan: 'Plan', numbers: range | NDArray[np.int64] | None = None
    ) -> None:
        self.plan = plan
        self.grid = tuple(-(-size // plan.tile) for size in plan.geobox.shape)
        self.numbers = (
            range(self.grid[0] * self.grid[1]) if numbers is None else numbers
        )

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Tile: ...
    @overload
    def __getitem__(self, index: slice) -> 'Tiles': ...
    def __getitem__(self, index: int | slice) -> 'Tile | Tiles':
        if isinstance(index, slice):
            return Tiles(self.plan, self.numbers[index])
        row, col = (int(place) for place in self._places(self.numbers[index]))
        top, left = row * self.plan.tile, col * self.plan.tile
        height, width = self.plan.geobox.shape
        return Tile(
            row,
            col,
            slice(top, min(top + self.plan.tile, height)),
            slice(left, min(left + self.plan.tile, width)),
        )

    def _places(self, numbers: Any) -> tuple[Any, Any]:
        """Row and column of tiles by their places in the serpentine."""
        row, col = np.divmod(numbers, self.grid[1])
        return row, np.where(row % 2 == 0, col, self.grid[1] - 1 - col)

    def without(self, places: Iterable[tuple[int, int]]) -> 'Tiles':
        """Those whose row and column on the grid of tiles are not among some.

        Args:
            places: Row and column of each tile that is left out.
        """
        cols = self.grid[1]
        numbers = [
            row * cols + (col if row % 2 == 0 else cols - 1 - col)
            for row, col in places
        ]
        if not numbers:
            return self
        left: NDArray[np.int64] = np.setdiff1d(
            self.numbers, numbers, assume_unique=True
        )
        return Tiles(self.plan, left)

    @property
    def chip_count(self) -> int:
        """Chips that are scored if these tiles are made one after another.

        What a tile has in common with the one before is handed on to it.
        """
        count, step = 0, 1 << 16
        axes = self.plan.axes
        for first in range(0, len(self), step):
            some = self.numbers[max(first - 1, 0) : first + step]
            # np.asarray would go through a range number by number
            if isinstance(some, range):
                some = np.arange(some.start, some.stop, some.step)
            spans = []
            for axis, place in zip(axes, self._places(some), strict=True):
                start = place * self.plan.tile
                stop = np.minimum(start + self.plan.tile, axis.length)
                spans.append(axis.touching_range(start, stop))
            number = np.prod([stop - start for start, stop in spans], axis=0)
            common = np.prod(
                [
                    np.maximum(
                        np.minimum(stop[1:], stop[:-1])
                        - np.maximum(start[1:], start[:-1]),
                        0,
                    )
                    for start, stop in spans
                ],
                axis=0,
            )
            before = int(number[0]) if first else 0
            count += int(number.sum()) - before - int(common.sum())
        return count


@dataclass(frozen=True)
class Plan:
    """Chips and tiles of one raster.

    Args:
        geobox: Grid of the raster.
        chip: Pixels of a chip's side.
        tile: Pixels of a tile's side.
        overlap: Pixels that neighbouring chips share, at least.
        halo: The backbone's halo, see :class:`Axis`.
        align: The backbone's largest stride, see :class:`Axis`.
    """

    geobox: GeoBox
    chip: int
    tile: int
    overlap: int
    halo: int = 0
    align: int = 1

    def __reduce__(self) -> tuple[type['Plan'], tuple[Any, ...]]:
        # Cached properties are not sent: they are computed again in less time.
        return Plan, tuple(getattr(self, item.name) for item in fields(self))

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        """Chips along rows and along columns."""
        height, width = self.geobox.shape
        return (
            Axis(height, self.chip, self.overlap, self.halo, self.align),
            Axis(width, self.chip, self.overlap, self.halo, self.align),
        )

    def tiles(self) -> Tiles:
        """All tiles, in a serpentine: each has an edge in common with the next."""
        return Tiles(self)

    @property
    def chip_count(self) -> int:
        """Number of chips."""
        return len(self.lattice())

    def lattice(self) -> Lattice:
        """All chips, row by row."""
        rows, cols = self.axes
        return Lattice((len(rows.starts), len(cols.starts)))

    def chips(self, tile: Tile) -> list[ChipIndex]:
        """Chips that have a weight in *tile*, in the order of the lattice."""
        rows, cols = self.axes
        pairs = product(rows.touching(tile.rows), cols.touching(tile.cols))
        return [ChipIndex(int(row), int(col)) for row, col in pairs]

    def window(self, chip: ChipIndex) -> Window:
        """Pixels that *chip* covers."""
        rows, cols = self.axes
        return rows.span(chip.row), cols.span(chip.col)

    def core(self, chip: ChipIndex) -> Window:
        """Pixels that *chip* has a weight in, counted from its corner."""
        rows, cols = self.axes
        return rows.core(chip.row), cols.core(chip.col)

    def own(self, chip: ChipIndex) -> Window:
        """Pixels of *chip* in a partition of the raster among all chips."""
        rows, cols = self.axes
        return rows.own(chip.row), cols.own(chip.col)

    def crop(self, chip: ChipIndex) -> GeoBox:
        """Grid of *chip*."""
        rows, cols = self.window(chip)
        return crop(self.geobox, (rows.start, cols.start, rows.stop, cols.stop))

    def weights(
        self, chip: ChipIndex
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights of *chip* along rows (h,) and columns (w,)."""
        rows, cols = self.axes
        return rows.weights[chip.row], cols.weights[chip.col]


def default_overlap(chip: int, halo: int) -> int:
    """Overlap for chips of *chip* pixels: both halos and a ramp of a sixteenth."""
    return 2 * halo + max(chip // 16, 8)
