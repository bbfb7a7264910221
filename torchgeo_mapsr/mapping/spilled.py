# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Scored chips on their way from a Trainer's processes to tiles."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..datasets.geo.plan import Chip, Plan
from ..datasets.imagery import Imagery
from .sweep import ScoredChip
from .timing import Stopwatch


@dataclass(frozen=True)
class SpilledChips:
    """Class probabilities of the chips of one raster, in files.

    A Trainer hands each chip to one of its processes and says nothing about their
    order, while a tile is the sum of its chips in the order of the lattice: so chips
    are kept until all are there, as they are, in single precision.

    Args:
        folder: Where the files lie; all processes see it.
        work: Name of the work that they are part of.
        raster: Number of the raster.
        watch: Counts the time.
    """

    folder: Path
    work: str
    raster: int
    watch: Stopwatch

    def path(self, chip: Chip) -> Path:
        """File of a chip."""
        return self.folder / f'chip_{self.raster}_{chip.row}_{chip.col}_{self.work}.npz'

    def save(
        self, chip: Chip, probabilities: NDArray[np.float32], valid: NDArray[np.bool_]
    ) -> None:
        """Keep a chip.

        Args:
            chip: The chip.
            probabilities: Of each class, (C, h, w), in the chip's core.
            valid: Pixels with data, (h, w).
        """
        with self.watch('write'):
            np.savez(self.path(chip), probabilities=probabilities, valid=valid)

    @property
    def threads(self) -> int:
        """Chips that are best scored at once: they are scored already."""
        return 1

    def reader(
        self, imagery: Imagery, plan: Plan
    ) -> Callable[[Chip], tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """A function that reads chips again."""

        def read(chip: Chip) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
            with self.watch('read'), np.load(self.path(chip)) as arrays:
                return arrays['probabilities'], arrays['valid']

        return read

    def score(self, chip: tuple[NDArray[np.float32], NDArray[np.bool_]]) -> ScoredChip:
        """What was kept."""
        probabilities, valid = chip
        known = torch.from_numpy(probabilities) if valid.any() else None
        return ScoredChip(known, valid)
