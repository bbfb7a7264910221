# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The map pass: chips are scored, blended and kept as tiles."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .plan import Chip, Plan, Tile
from .prefetch import prefetch
from .write import NO_PERCENT

T = TypeVar('T')

# Rows of a tile that are finished at a time.
STRIP = 128


@dataclass(frozen=True)
class ScoredChip:
    """What the model says of a chip.

    Args:
        probabilities: Of each class, (C, H, W); None if no pixel is valid.
        valid: Pixels with data, (H, W).
    """

    probabilities: Tensor | None
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class BlendedTile:
    """A finished tile.

    Args:
        classes: Class index, -1 = no data, (h, w).
        confidence: Probability of that class in percent, (h, w).
        scores: Probability of each class in percent, (C, h, w).
    """

    classes: NDArray[np.int64]
    confidence: NDArray[np.uint8]
    scores: NDArray[np.uint8]


def schedule(plan: Plan, tiles: Sequence[Tile]) -> Iterator[Chip]:
    """Chips in the order in which :func:`sweep` scores them."""
    before: set[Chip] = set()
    for tile in tiles:
        chips = plan.chips(tile)
        yield from (chip for chip in chips if chip not in before)
        before = set(chips)


def sweep(
    plan: Plan,
    tiles: Sequence[Tile],
    classes: int,
    read: Callable[[Chip], T],
    score: Callable[[T], ScoredChip],
    threads: int = 1,
) -> Iterator[tuple[Tile, BlendedTile]]:
    """Score the chips of tiles and blend them.

    Chips that the next tile needs too are handed on; others are scored again when
    another tile needs them. Memory is that of a tile, whatever the raster's size.

    Args:
        plan: Where chips and tiles are, and the weights of chips.
        tiles: Tiles to make; :meth:`Plan.tiles` orders them so that neighbours follow
            one another.
        classes: Number of classes.
        read: Gets what *score* needs; runs ahead, in another thread.
        score: Scores a chip.
        threads: Chips that are scored at once, each in a thread of its own; one is
            scored in this thread.

    Yields:
        Each tile when it is finished.
    """
    reads = prefetch(read, schedule(plan, tiles))
    scores: Iterator[ScoredChip] = map(score, reads)
    if threads > 1:
        scores = prefetch(score, reads, threads, threads)
    handed: dict[Chip, ScoredChip] = {}
    for tile, following in zip_longest(tiles, tiles[1:]):
        needed = set(plan.chips(following)) if following else set()
        kept: dict[Chip, ScoredChip] = {}
        canvas = _Canvas(tile, classes)
        for chip in plan.chips(tile):
            scored = handed.pop(chip) if chip in handed else next(scores)
            canvas.add(plan, chip, scored)
            if chip in needed:
                kept[chip] = scored
        handed = kept
        yield tile, canvas.finish()


class _Canvas:
    """Weighted sum of the chips of one tile."""

    def __init__(self, tile: Tile, classes: int) -> None:
        self.tile = tile
        self.classes = classes
        self.valid = np.zeros(tile.shape, bool)
        self.total: Tensor | None = None

    def add(self, plan: Plan, chip: Chip, scored: ScoredChip) -> None:
        """Add the part of a chip that lies in the tile."""
        (rows, from_rows), (cols, from_cols) = (
            _common(here, there)
            for here, there in zip(
                (self.tile.rows, self.tile.cols), plan.window(chip), strict=True
            )
        )
        self.valid[rows, cols] |= scored.valid[from_rows, from_cols]
        if scored.probabilities is None:
            return
        part = scored.probabilities[:, from_rows, from_cols]
        if self.total is None:
            self.total = part.new_zeros(len(part), *self.tile.shape)
        wy, wx = (torch.from_numpy(weight).to(part) for weight in plan.weights(chip))
        weight = wy[from_rows, None] * wx[from_cols]
        self.total[:, rows, cols] += part * weight

    def finish(self) -> BlendedTile:
        """Choose the most probable class of every pixel."""
        if self.total is None:
            nothing = np.full((self.classes, *self.tile.shape), NO_PERCENT, np.uint8)
            return BlendedTile(np.full(self.tile.shape, -1), nothing[0], nothing)
        found = BlendedTile(
            np.empty(self.tile.shape, np.int64),
            np.empty(self.tile.shape, np.uint8),
            np.empty((self.classes, *self.tile.shape), np.uint8),
        )
        # Some rows at a time: what lies between would be several times the canvas.
        for top in range(0, self.tile.shape[0], STRIP):
            rows = slice(top, top + STRIP)
            part, valid = self.total[:, rows], self.valid[rows]
            best, index = part.max(0)
            found.classes[rows] = np.where(valid, index.cpu().numpy(), -1)
            found.confidence[rows] = np.where(valid, _percent(best), NO_PERCENT)
            found.scores[:, rows] = np.where(valid, _percent(part), NO_PERCENT)
        return found


def _common(here: slice, there: slice) -> tuple[slice, slice]:
    """The common part of two spans, counted from the start of each."""
    start, stop = max(here.start, there.start), min(here.stop, there.stop)
    return (
        slice(start - here.start, stop - here.start),
        slice(start - there.start, stop - there.start),
    )


def _percent(probability: Tensor) -> NDArray[np.uint8]:
    return (probability * 100).round().clamp(0, 100).byte().cpu().numpy()
