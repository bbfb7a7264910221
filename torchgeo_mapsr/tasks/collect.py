# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a fit looks at, collected batch by batch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .._compat import Sample
from ..datasets.legends.crosswalk import Crosswalk
from ..errors import InputError
from ..models.head.samples import CellSamples, PixelSamples
from ..models.tokens.tokens import Tokens
from .cells import BatchCells


@dataclass(frozen=True, eq=False)
class Collected:
    """Cells and pixels of some batches.

    Args:
        cells: The cells.
        pixels: Pixels of them.
        codes: Number of cells of each raw code.
    """

    cells: CellSamples
    pixels: PixelSamples
    codes: Counter[int]

    @classmethod
    def merge(cls, parts: Sequence['Collected']) -> 'Collected':
        """Put parts together; of a cell in several the fullest view is kept.

        Args:
            parts: One or more.
        """
        cells = CellSamples(
            *(
                torch.cat([getattr(part.cells, name) for part in parts])
                for name in ('features', 'label', 'share', 'place')
            )
        )
        # Rasters may have any numbers; what follows wants small ones.
        cells.place[:, 0] = cells.place[:, 0].unique(return_inverse=True)[1]
        # Full views first, so that the first of each place is the one to keep.
        order = cells.share.argsort(descending=True, stable=True).numpy()
        first = np.unique(cells.place.numpy()[order], axis=0, return_index=True)[1]
        kept = torch.from_numpy(np.sort(order[first]))
        pixels = PixelSamples(
            torch.cat([part.pixels.features for part in parts]),
            torch.cat([part.pixels.label for part in parts]),
        )
        return cls(cells[kept], pixels, sum((part.codes for part in parts), Counter()))

    def unknown(self, crosswalk: Crosswalk) -> dict[int, int]:
        """Cells of each code that the legend of the labels does not have.

        Args:
            crosswalk: The crosswalk that they came through.
        """
        strange = crosswalk.unknown(np.array([*self.codes], dtype=np.int64))
        return {code: self.codes[code] for code in sorted(strange)}


class Collector:
    """Collects cells and pixels, batch by batch.

    Cells are told apart by ``lr_place`` (number of the raster, first row, first column
    of the window) where a batch has it; otherwise each chip counts as a raster of its
    own, and a cell that several chips show counts several times.

    Args:
        pixels: Pixels to draw from a batch, at most.
        seed: Seed of the draw.
        rank: Number of this process.
        world: Number of processes.
    """

    def __init__(self, pixels: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self._pixels = pixels
        self._generator = torch.Generator().manual_seed(seed * world + rank)
        self._chips, self._world = rank, world
        self._parts: list[Collected] = []

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._parts)

    def add(
        self, batch: Sample, cells: BatchCells, features: Tensor, tokens: Tokens
    ) -> None:
        """Add a batch.

        Args:
            batch: The batch.
            cells: Its cells.
            features: Their features, (B, h w, D).
            tokens: Its tokens.
        """
        seen = (cells.share > 0).flatten(1)
        known = CellSamples(
            features[seen].float().cpu(),
            cells.label.flatten(1)[seen].cpu(),
            cells.share.flatten(1)[seen].float().cpu(),
            self._place(batch, cells)[seen.cpu()],
        )
        label = cells.of_pixels(cells.label, -1)
        at = (label >= 0).nonzero()
        chosen = torch.randperm(len(at), generator=self._generator)[: self._pixels]
        image, row, col = at[chosen.to(at.device)].unbind(1)
        pixels = PixelSamples(
            tokens.gather(image, row, col).float().cpu(), label[image, row, col].cpu()
        )
        codes = Counter(cells.codes.flatten(1)[seen].tolist())
        self._parts.append(Collected(known, pixels, codes))

    def collected(self) -> Collected:
        """Everything that all processes have collected.

        Returns:
            The same in every process.

        Raises:
            InputError: If there is nothing.
        """
        parts = [self._parts]
        if self._world > 1:
            parts = [[] for _ in range(self._world)]
            torch.distributed.all_gather_object(parts, self._parts)
        everything = [part for rank in parts for part in rank]
        if not everything:
            raise InputError('No batch of the training data was seen: nothing to fit')
        return Collected.merge(everything)

    def _place(self, batch: Sample, cells: BatchCells) -> Tensor:
        """Raster, row and column of each cell, (B, h w, 3) on the CPU."""
        (height, width), size = cells.label.shape[-2:], len(cells.label)
        cell = torch.arange(height * width)
        row, col = cell.div(width, rounding_mode='floor'), cell % width
        own = torch.stack([torch.zeros_like(cell), row, col], dim=1)
        if 'lr_place' in batch:
            first = batch['lr_place'].cpu().long()
        else:
            first = torch.zeros(size, 3, dtype=torch.long)
            first[:, 0] = self._chips + self._world * torch.arange(size)
            self._chips += self._world * size
        return first[:, None] + own
