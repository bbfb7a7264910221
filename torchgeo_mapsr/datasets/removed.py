# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Pixels without data, and what has removed them."""

import threading

import numpy as np
from numpy.typing import NDArray

from .geo.grid import clip

#: What can remove a pixel, by its number in :meth:`Imagery.read_sources
#: <torchgeo_mapsr.datasets.imagery.Imagery.read_sources>`; 0 is a pixel
#: that has data.
SOURCES = (
    'data',
    'outside the files',
    'alpha',
    'mask',
    'not finite',
    'no-data value',
    'rim of a lossy collar',
    'transparent colour',
)
OUTSIDE, ALPHA, MASK, NOT_FINITE, NODATA, RIM, TRANSPARENT = range(1, 8)

# Pixels along a side of the blocks in which removed pixels are counted once.
BLOCK = 32


class RemovedPixels:
    """Pixels by source of no-data, each counted once.

    Args:
        shape: Height and width of the grid.
    """

    #: pixels along a side of what one array of marks stands for
    _PAGE = 128 * BLOCK

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.pixels = np.zeros(len(SOURCES), np.int64)
        self.read = self.valid = 0
        #: marks of counted blocks, one bit each, by page that has removed pixels; None
        #: where all are marked
        self._marks: dict[tuple[int, int], NDArray[np.uint8] | None] = {}

    def add(self, sources: NDArray[np.uint8], offset: tuple[int, int]) -> None:
        """Count a window.

        Args:
            sources: Number of each pixel's source of no-data, (H, W).
            offset: Row and column of the grid at which it begins.
        """
        top, left, bottom, right = clip(
            (
                -offset[0],
                -offset[1],
                self.shape[0] - offset[0],
                self.shape[1] - offset[1],
            ),
            *sources.shape,
        )
        inside = sources[top:bottom, left:right]
        removed = int(np.count_nonzero(inside))
        with _counting:
            self.read += inside.size
            self.valid += inside.size - removed
            if removed:
                self._count(inside, offset[0] + top, offset[1] + left)

    def _count(self, inside: NDArray[np.uint8], top: int, left: int) -> None:
        rows = _whole_blocks(top, inside.shape[0], self.shape[0])
        cols = _whole_blocks(left, inside.shape[1], self.shape[1])
        for row, start, stop in rows:
            band = inside[start - top : stop - top]
            if not band.any():
                continue
            for col, begin, end in cols:
                block = band[:, begin - left : end - left]
                if block.any() and self._mark(row, col):
                    self.pixels += np.bincount(block.ravel(), minlength=len(SOURCES))

    def _mark(self, row: int, col: int) -> bool:
        """Mark a block; whether it was not marked before."""
        (page_row, row), (page_col, col) = divmod(row, 128), divmod(col, 128)
        key = page_row, page_col
        marks = self._marks.setdefault(key, np.zeros((128, 16), np.uint8))
        if marks is None or marks[row, col >> 3] >> (col & 7) & 1:
            return False
        marks[row, col >> 3] |= 1 << (col & 7)
        if marks[row, col >> 3] == 255 and (marks == 255).all():
            self._marks[key] = None
        return True

    def by_name(self) -> dict[str, int]:
        """Pixels by name of their source, where there are any."""
        counts = zip(SOURCES[1:], self.pixels[1:].tolist(), strict=True)
        return {name: count for name, count in counts if count}


# One lock for all imagery: an object that holds one could not be pickled.
_counting = threading.Lock()


def _whole_blocks(start: int, length: int, size: int) -> list[tuple[int, int, int]]:
    """Blocks along an axis that a window holds whole: number, first pixel, last + 1."""
    stop = start + length
    first = -(-start // BLOCK)
    last = -(-stop // BLOCK) if stop == size else stop // BLOCK
    return [(i, i * BLOCK, min((i + 1) * BLOCK, size)) for i in range(first, last)]
