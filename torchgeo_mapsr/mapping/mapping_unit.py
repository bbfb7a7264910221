# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A minimum mapping unit: patches below it go to what surrounds them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import label

from ..atomic import replacing
from ..datasets.geo.areas import Sides

#: Gives the class indices of a window, (h, w); -1 = no data.
ReadWindow = Callable[[slice, slice], NDArray[np.int64]]

# Areas and lengths are whole numbers, so that sums do not depend on the order of tiles: the
# area of the middle pixel and the longest side have so many units. Sums over 10^11 pixels
# are exact.
_UNITS = 1 << 16

# Pixels whose sides on the ground differ by less count as squares: the distortion of a map
# projection should not decide between edges of equally many pixels.
_SQUARE = 0.01


@dataclass(frozen=True, eq=False)
class MappingUnit:
    """What becomes of every patch of a map, whichever tiles it is read by.

    A patch is a set of pixels of one class that touch by their edges. Patches smaller
    than the unit are dissolved in rounds: each that touches a patch that stays, or one
    that was dissolved in an earlier round, gets the class that it shares the longest
    edge with, on the ground, among those (the lower index on a tie). So every patch of
    the result is as large as the unit, but for islands without data around that are
    small altogether, which stay as they are.

    :meth:`scan` reads the map once, window by window, and joins patches across
    windows; :meth:`apply` then gives the result of any of these windows, in any order.
    The result is that of the whole raster, whatever the windows. Both are deterministic,
    and what the scan has found can be saved: work that was interrupted goes on from it.

    Args:
        size: Height and width of a window, but for the last of a row or a column.
        across: Windows from left to right.
        offsets: Patches in the windows before each one, row by row, (n + 1,).
        classes: New class index of each patch of each window, (offsets[-1],).
    """

    size: int
    across: int
    offsets: NDArray[np.int64]
    classes: NDArray[np.int16]

    @classmethod
    def scan(
        cls,
        read: ReadWindow,
        shape: tuple[int, int],
        areas: Callable[[slice, slice], NDArray[np.float64]],
        minimum: float,
        size: int = 2048,
        tick: Callable[[], None] = lambda: None,
        sides: Sides | None = None,
    ) -> 'MappingUnit':
        """Find the patches of a map, and what becomes of the small ones.

        Args:
            read: Reads a window of class indices.
            shape: Height and width of the map.
            areas: Gives the square metres of the pixels of a window, (h, w).
            minimum: Least area of a patch in square metres.
            size: Height and width of a window.
            tick: Called after each window, from left to right and from top to bottom.
            sides: Height of a pixel of each row, and width of its lower edge, both
                (height,), as :func:`~torchgeo_mapsr.datasets.geo.areas.pixel_sides`
                gives them; squares by default.
        """
        height, width = shape
        upright, level = _lengths(sides, height)
        row, col = height // 2, width // 2
        units = _UNITS / areas(slice(row, row + 1), slice(col, col + 1)).item()
        least = round(minimum * units)
        offsets = [0]
        classes: list[NDArray[np.int64]] = []
        sizes: list[NDArray[np.float64]] = []
        joins: list[NDArray[np.int64]] = []
        borders: list[NDArray[np.int64]] = []
        above = np.zeros(width, np.int64), np.full(width, -1)
        for row in range(0, height, size):
            rows = slice(row, min(row + size, height))
            left = None
            below = np.zeros(width, np.int64), np.full(width, -1)
            for col in range(0, width, size):
                cols = slice(col, min(col + size, width))
                index = read(rows, cols)
                patch, kinds = _patches(index)
                count = len(kinds)
                weight = np.round(areas(rows, cols) * units)
                area = np.bincount(
                    patch.ravel(), weight.ravel(), minlength=count + 1
                ).astype(float)[1:]  # fmt: skip
                # Numbers over all windows, from 1; 0 is no data.
                number = np.where(patch > 0, patch + offsets[-1], 0)
                # Edges are measured where one of the two patches is small so far, or
                # touches the window's border.
                open_ended = np.zeros(count + 1, bool)
                for edge in (patch[0], patch[-1], patch[:, 0], patch[:, -1]):
                    open_ended[edge] = True
                maybe_small = np.concatenate([[False], area < least]) | open_ended
                for one, other, side in (
                    (number[:, :-1], number[:, 1:], upright[rows]),
                    (number[:-1], number[1:], level[rows][:-1]),
                ):
                    differ = (one != other) & (one > 0) & (other > 0)
                    pairs = np.stack([one[differ], other[differ]], 1)
                    length = side[np.nonzero(differ)[0]]
                    local = np.where(pairs > 0, pairs - offsets[-1], 0)
                    used = maybe_small[local].any(1)
                    borders.append(_measured(pairs[used], length[used]))
                over = above[0][cols], above[1][cols]
                # In the first row this is level[-1], which nothing reads: no patch is above.
                side = np.broadcast_to(level[row - 1], cols.stop - cols.start)
                seams = [(over, (number[0], index[0]), side)]
                if left is not None:
                    seams.append((left, (number[:, 0], index[:, 0]), upright[rows]))
                for (one, kind), (other, its), side in seams:
                    both = (one > 0) & (other > 0)
                    pairs = np.stack([one, other], 1)
                    joins.append(np.unique(pairs[both & (kind == its)], axis=0))
                    differ = both & (kind != its)
                    borders.append(_measured(pairs[differ], side[differ]))
                below[0][cols], below[1][cols] = number[-1], index[-1]
                left = number[:, -1], index[:, -1]
                offsets.append(offsets[-1] + count)
                classes.append(kinds)
                sizes.append(area)
                tick()
            above = below
        result = _dissolve(
            np.concatenate(classes),
            np.concatenate(sizes),
            np.concatenate(joins),
            np.concatenate(borders),
            least,
        )
        across = -(-width // size)
        return cls(size, across, np.array(offsets), result.astype(np.int16))

    def apply(
        self, rows: slice, cols: slice, index: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The result of a window.

        Args:
            rows: Rows of the window.
            cols: Its columns.
            index: Its class indices, as the scan has read them, (h, w).

        Returns:
            Class indices, (h, w); -1 = no data, where it was before.

        Raises:
            ValueError: The window is none that was scanned, or holds other patches.
        """
        (row, top), (col, left) = (divmod(x.start, self.size) for x in (rows, cols))
        number = row * self.across + col
        patch, kinds = _patches(index)
        first, last = self.offsets[number : number + 2]
        if top or left or len(kinds) != last - first:
            raise ValueError(f'rows {rows}, columns {cols} are not what was scanned')
        table = np.concatenate([[-1], self.classes[first:last]]).astype(np.int64)
        return table[patch]

    def save(self, path: str | Path) -> None:
        """Write what the scan has found; nothing half written bears the name.

        Args:
            path: .safetensors file to write.
        """
        arrays = {name: np.asarray(value) for name, value in vars(self).items()}
        with replacing(Path(path)) as part:
            part.write_bytes(save(arrays))  # save_file raises no OSError

    @classmethod
    def load(cls, path: str | Path) -> 'MappingUnit':
        """Read what :meth:`save` wrote.

        Args:
            path: The file.
        """
        arrays = load_file(path)
        size, across = (int(arrays.pop(name)) for name in ('size', 'across'))
        return cls(size, across, **arrays)


def _lengths(
    sides: Sides | None, height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sides of pixels in whole units, whose sums are exact in any order."""
    ones = np.ones(height, np.int64), np.ones(height, np.int64)
    if sides is None:
        return ones
    finite = [np.where(np.isfinite(side), side, 0) for side in sides]
    if (np.abs(finite[0] - finite[1]) <= _SQUARE * np.maximum(*finite)).all():
        return ones
    unit = np.max(finite) / _UNITS
    upright, level = (np.round(side / unit).astype(np.int64) for side in finite)
    return upright, level


def _patches(index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of each pixel's patch in a window, 0 = no data, and each patch's class."""
    patch, count = label(index, background=-1, return_num=True, connectivity=1)
    kinds = np.zeros(count + 1, np.int64)
    kinds[patch] = index
    return patch.astype(np.int64), kinds[1:]


def _measured(
    pairs: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Distinct pairs and the length of what each occurs with, (n, 3)."""
    if not len(pairs):
        return np.zeros((0, 3), np.int64)
    distinct, place = np.unique(pairs, axis=0, return_inverse=True)
    total = np.bincount(place.ravel(), lengths, minlength=len(distinct))
    return np.column_stack([distinct, total.astype(np.int64)])


def _dissolve(
    classes: NDArray[np.int64],
    sizes: NDArray[np.float64],
    joins: NDArray[np.int64],
    borders: NDArray[np.int64],
    least: float,
) -> NDArray[np.int64]:
    """New class of each piece of a patch.

    Args:
        classes: Class of each piece, (n,).
        sizes: Its size, (n,).
        joins: Numbers, from 1, of pieces that are one patch, (m, 2).
        borders: Numbers of pieces that touch, and the length of their border, (k, 3).
        least: Least size of a patch.
    """
    n = len(classes)
    ones = np.ones(len(joins), bool)
    graph = coo_array((ones, (joins[:, 0] - 1, joins[:, 1] - 1)), shape=(n, n))
    patches, of = connected_components(graph, directed=False)
    size = np.bincount(of, sizes, minlength=patches)
    kind = np.zeros(patches, np.int64)
    kind[of] = classes
    settled = size >= least
    one, other = of[borders[:, 0] - 1], of[borders[:, 1] - 1]
    start = np.concatenate([one, other])
    end = np.concatenate([other, one])
    length = np.tile(borders[:, 2], 2)
    small = ~settled[start]
    start, end, length = start[small], end[small], length[small]
    span = int(kind.max(initial=0)) + 1
    while True:
        use = ~settled[start] & settled[end]
        if not use.any():
            return kind[of]
        key, place = np.unique(start[use] * span + kind[end[use]], return_inverse=True)
        total = np.bincount(place, length[use])
        patch, new = np.divmod(key, span)
        # By patch, then by length, then by class: the first of each patch is its best.
        order = np.lexsort((new, -total, patch))
        best = order[np.unique(patch[order], return_index=True)[1]]
        kind[patch[best]] = new[best]
        settled[patch[best]] = True
