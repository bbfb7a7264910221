# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a fit looks at: features of LR cells, and of some of their pixels."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

# Share of a cell that must be visible for its features to stand for its label.
WHOLE = 0.999

# Side, in cells, of the blocks that cross-validation holds out.
BLOCK = 3


@dataclass(frozen=True, eq=False)
class CellSamples:
    """LR cells seen by the backbone.

    Args:
        features: Mean HR features R F of each cell, (n, D) float32.
        label: Target class of each, (n,) int64; -1 if it has none.
        share: Visible share of each, (n,) in 0..1.
        place: Raster, row and column of each, (n, 3) int64, every cell once.
    """

    features: Tensor
    label: Tensor
    share: Tensor
    place: Tensor

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.label)

    def __getitem__(self, index: Tensor) -> Self:
        """Some of the cells, by a mask or by indices."""
        return type(self)(
            self.features[index],
            self.label[index],
            self.share[index],
            self.place[index],
        )

    @property
    def usable(self) -> Tensor:
        """Cells that are whole and labelled, (n,) bool."""
        return (self.label >= 0) & (self.share >= WHOLE)

    @property
    def block(self) -> Tensor:
        """Number of the block of BLOCK x BLOCK cells that each lies in, (n,)."""
        corner = self.place.clone()
        corner[:, 1:] = corner[:, 1:].div(BLOCK, rounding_mode='floor')
        return torch.unique(corner, dim=0, return_inverse=True)[1]


@dataclass(frozen=True, eq=False)
class PixelSamples:
    """Pixels drawn at random from LR cells.

    Args:
        features: HR features, rows of U F, (N, D) float32.
        label: Target class of the cell that each lies in, (N,) int64; -1 if none.
    """

    features: Tensor
    label: Tensor

    def __len__(self) -> int:
        """Number of pixels."""
        return len(self.label)
