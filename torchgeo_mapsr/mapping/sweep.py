# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Chips are scored one after another and blended into tiles."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.geo.grid import common
from ..datasets.geo.plan import ChipIndex, Plan, Tile
from ..evaluation.class_maps import NO_PERCENT
from ..evaluation.reweighting import reweighted
from ..models.head.calibration import Calibration
from ..process import give_back, pipeline
from .progress import Stopwatch

T = TypeVar('T')

# Rows of a tile that are finished at a time.
STRIP = 128

#: No data among class indices: of the 256 codes that a map can have, one is no class.
NO_CLASS = 255


@dataclass(frozen=True)
class ScoredChip:
    """What the model says of a chip's core (:meth:`Plan.core`).

    Args:
        probabilities: Of each class, (C, h, w); None if no pixel of the chip is valid.
        valid: Pixels with data, (h, w).
    """

    probabilities: Tensor | None
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class BlendedTile:
    """A finished tile.

    Args:
        classes: Class index, NO_CLASS = no data, (h, w).
        confidence: Probability of that class in percent, (h, w).
        scores: Probability of each class in percent, (C, h, w), if it is asked for.
    """

    classes: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    scores: NDArray[np.uint8] | None


def schedule(plan: Plan, tiles: Sequence[Tile]) -> Iterator[ChipIndex]:
    """Chips in the order in which :func:`sweep` scores them."""
    before: set[ChipIndex] = set()
    for tile in tiles:
        chips = plan.chips(tile)
        yield from (chip for chip in chips if chip not in before)
        before = set(chips)


def sweep(
    plan: Plan,
    tiles: Sequence[Tile],
    classes: int,
    read: Callable[[ChipIndex], T],
    score: Callable[[T], ScoredChip],
    threads: int = 1,
    every: bool = False,
    watch: Stopwatch | None = None,
    calibration: Calibration | None = None,
    weights: Sequence[float] = (),
) -> Iterator[tuple[Tile, BlendedTile]]:
    """Score the chips of tiles and blend them.

    Chips that the next tile needs too are handed on; others are scored again when
    another tile needs them. Memory is that of a row of a tile's chips, and of the
    tile's percentages, whatever the raster's size.

    Args:
        plan: Where chips and tiles are, and the weights of chips.
        tiles: Tiles to make; :meth:`Plan.tiles` orders them so that neighbours follow
            one another.
        classes: Number of classes.
        read: Gets what *score* needs; runs ahead, in another thread.
        score: Scores a chip.
        threads: Chips that are scored at once, each in a thread of its own; one is
            scored in this thread.
        every: Whether tiles get the probability of every class.
        watch: Counts the time of blending.
        calibration: Makes confidences and scores of blended probabilities; no class
            depends on it. None to leave them as they are.
        weights: Weight of each class when the best is taken of the scores, which are
            whole percentages then; no weights by default.

    Yields:
        Each tile when it is finished.
    """
    chips = schedule(plan, tiles)
    canvas = partial(
        _Canvas,
        plan,
        classes=classes,
        every=every,
        calibration=calibration or Calibration(),
        weights=weights,
    )
    blend = partial(_blend, plan, tiles, canvas, watch or Stopwatch())
    with closing(pipeline(read, score, chips, threads)) as scores:
        yield from blend(scores)


def _blend(
    plan: Plan,
    tiles: Sequence[Tile],
    canvas_of: 'Callable[[Tile], _Canvas]',
    watch: Stopwatch,
    scores: Iterator[ScoredChip],
) -> Iterator[tuple[Tile, BlendedTile]]:
    """Put scored chips together, which come as :func:`schedule` says."""
    handed: dict[ChipIndex, ScoredChip] = {}
    for tile, following in zip_longest(tiles, tiles[1:]):
        needed = set(plan.chips(following)) if following else set()
        recent: dict[ChipIndex, ScoredChip] = {}
        canvas = canvas_of(tile)
        for chip in plan.chips(tile):
            scored = handed.pop(chip) if chip in handed else next(scores)
            with watch('blend'):
                canvas.add(chip, scored)
            if chip in needed:
                recent[chip] = scored
        with watch('blend'):
            handed, made = recent, canvas.finish()
        del canvas  # so that it is not held beside the next
        yield tile, made
        del made


class _Canvas:
    """Weighted sum of the chips of one tile, from top to bottom.

    Rows above a chip are finished, since chips come in the order of the lattice: only
    those that its row of chips has a weight in are held as sums.
    """

    def __init__(
        self,
        plan: Plan,
        tile: Tile,
        classes: int,
        every: bool,
        calibration: Calibration,
        weights: Sequence[float],
    ) -> None:
        self.plan, self.tile, self.classes = plan, tile, classes
        self.calibration, self.weights = calibration, weights
        height, width = tile.shape
        self.blended = BlendedTile(
            np.full(tile.shape, NO_CLASS, np.uint8),
            np.full(tile.shape, NO_PERCENT, np.uint8),
            np.full((classes, *tile.shape), NO_PERCENT, np.uint8) if every else None,
        )
        # First row that is not finished, and rows from there on that chips add to.
        self.top = 0
        self.depth = min(height, plan.chip)
        self.valid = np.zeros((self.depth, width), bool)
        self.total: Tensor | None = None

    def add(self, chip: ChipIndex, scored: ScoredChip) -> None:
        """Add the part of a chip's core that lies in the tile."""
        core, start = self.plan.core(chip), self.plan.window(chip)
        (rows, from_rows), (cols, from_cols) = (
            common(target, slice(whole.start + part.start, whole.start + part.stop))
            for target, whole, part in zip(
                (self.tile.rows, self.tile.cols), start, core, strict=True
            )
        )
        if rows.start > self.top:
            self._finish(rows.start)
        rows = slice(rows.start - self.top, rows.stop - self.top)
        self.valid[rows, cols] |= scored.valid[from_rows, from_cols]
        if scored.probabilities is None:
            return
        part = scored.probabilities[:, from_rows, from_cols]
        if self.total is None:
            shape = self.depth, self.tile.shape[1]
            self.total = part.new_zeros(self.classes, *shape)
        wy, wx = (
            torch.from_numpy(weight[inside]).to(part)
            for weight, inside in zip(self.plan.weights(chip), core, strict=True)
        )
        weight = wy[from_rows, None] * wx[from_cols]
        self.total[:, rows, cols].addcmul_(part, weight)

    def finish(self) -> BlendedTile:
        """The tile, of which every chip was added."""
        self._finish(self.tile.shape[0])
        self.total = None
        give_back()
        return self.blended

    def _finish(self, bottom: int) -> None:
        """Choose the most probable class of the pixels above a row."""
        rows = bottom - self.top
        if self.total is not None:
            # Some rows at a time: temporary arrays are several times as large as the scores.
            for first in range(0, rows, STRIP):
                self._choose(slice(first, min(first + STRIP, rows)), self.total)
            left = self.total[:, rows:].clone()
            self.total[:, : left.shape[1]] = left
            self.total[:, left.shape[1] :] = 0
        self.valid = np.roll(self.valid, -rows, 0)
        self.valid[self.depth - rows :] = False
        self.top = bottom

    def _choose(self, rows: slice, total: Tensor) -> None:
        """Finish rows, counted from the first that is not."""
        part, valid = total[:, rows], self.valid[rows]
        best = part.amax(0)
        # The first of the best. (An argmax takes a CPU three times as long.)
        rank = torch.arange(len(part), 0, -1, dtype=torch.uint8, device=part.device)
        index = len(part) - ((part == best).byte() * rank[:, None, None]).amax(0)
        to = slice(self.top + rows.start, self.top + rows.stop)
        classes = np.where(valid, index.cpu().numpy(), NO_CLASS)
        if not self.calibration.is_identity:
            # After the choice: no class depends on it.
            part = self.calibration.apply(part)
            best = part.gather(0, index[None].long())[0]
        confidence = _percent(best)
        if self.weights or self.blended.scores is not None:
            scores = np.where(valid, _percent(part), NO_PERCENT)
            if self.weights:
                mapped = np.where(valid, classes.astype(np.int64), -1)
                mapped = reweighted(scores, mapped, self.weights)
                classes = np.where(valid, mapped, NO_CLASS)
                confidence = score_of(scores, mapped)
            if self.blended.scores is not None:
                self.blended.scores[:, to] = scores
        self.blended.classes[to] = classes
        self.blended.confidence[to] = np.where(valid, confidence, NO_PERCENT)


def score_of(scores: NDArray[np.uint8], index: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The score of the class of each pixel.

    Args:
        scores: Percentages, (C, H, W).
        index: Class index, (H, W); -1 = no data.

    Returns:
        (H, W); NO_PERCENT where there is no class.
    """
    one = np.take_along_axis(scores, np.maximum(index, 0)[None], 0)[0]
    return np.where(index < 0, np.uint8(NO_PERCENT), one)


def _percent(probability: Tensor) -> NDArray[np.uint8]:
    return (probability * 100).round().clamp(0, 100).byte().cpu().numpy()
