# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Scored chips on their way from a Trainer's processes to tiles."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from ..datasets.geo.plan import ChipIndex
from ..models.head.calibration import Calibration
from .progress import Stopwatch
from .sweep import ScoredChip
from .tiles import TileItem

Arrays = tuple[NDArray[np.float32], NDArray[np.bool_]]


@dataclass(frozen=True)
class SpilledScores:
    """Class probabilities of chips, in files.

    A Trainer hands each chip to one of its processes and says nothing about their
    order, while a tile is the sum of its chips in the order of the lattice: so chips
    are kept until all are there, as they are, in single precision.

    Args:
        folder: Where the files lie; all processes see it.
        work: Name of the work that they are part of.
        calibration: What makes confidences of blended probabilities.
    """

    folder: Path
    work: str
    calibration: Calibration = field(default_factory=Calibration)

    #: Chips that are scored at once: nothing is left to compute.
    threads = 1

    def path(self, image: int, chip: ChipIndex) -> Path:
        """File of a chip.

        Args:
            image: Number of the raster.
            chip: The chip.
        """
        return (
            self.folder / f'chip_{image}_{chip.row}_{chip.col}_{self.work}.safetensors'
        )

    def save(
        self,
        image: int,
        chip: ChipIndex,
        probabilities: NDArray[np.float32],
        valid: NDArray[np.bool_],
    ) -> None:
        """Keep a chip.

        Args:
            image: Number of the raster.
            chip: The chip.
            probabilities: Of each class, (C, h, w), in the chip's core.
            valid: Pixels with data, (h, w).
        """
        arrays = {'probabilities': probabilities, 'valid': valid}
        contiguous = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
        # save_file raises no OSError when the disk is full
        self.path(image, chip).write_bytes(save(contiguous))

    def read(self, item: TileItem, chip: ChipIndex, watch: Stopwatch) -> Arrays:
        """Read a chip again; see :class:`~torchgeo_mapsr.mapping.tiles.ChipScores`."""
        with watch('read'):
            arrays = load_file(self.path(item.image, chip))
            return arrays['probabilities'], arrays['valid']

    def score(self, content: Arrays, watch: Stopwatch) -> ScoredChip:
        """What was kept."""
        probabilities, valid = content
        scores = torch.from_numpy(probabilities) if valid.any() else None
        return ScoredChip(scores, valid)
