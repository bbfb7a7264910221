# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a fit learns from: cells with a label, and pixels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...datasets.legends.crosswalk import Crosswalk
from .cells import CellTable

# Pixels that features are standardised by: their deviations are known to a percent.
MOMENT_PIXELS = 10_000


@dataclass(frozen=True, eq=False)
class Labelled:
    """What a fit learns from: cells with a label, and pixels of them and of others.

    Args:
        table: Everything that was seen.
        label: Index of the label of each cell of the table, (N,); -1 if it has none.
        composition: Shares of the classes in what each label stands for, (K, C) double.
        mean: Mean of the features over pixels, (D,).
        scale: Their standard deviation, (D,).
        used: Cells with a label of which enough was seen, as indices, (n,).
    """

    table: CellTable
    label: Tensor
    composition: Tensor
    mean: Tensor
    scale: Tensor
    used: Tensor

    @classmethod
    def of(cls, table: CellTable, crosswalk: Crosswalk, codes: bool) -> 'Labelled':
        """Find the labels, and what standardises the features.

        Features are scaled by the standard deviation of pixels, not of region means:
        fine channels average out over a cell, and would come back as noise.
        """
        if codes:
            seen = table.code[table.seen].unique().numpy()
            matrix = crosswalk.matrix(seen)
            occurs = matrix.sum(1) > 0
            composition = torch.from_numpy(matrix[occurs])
            label = _index_of(table.code, torch.from_numpy(seen[occurs]))
        else:
            composition = torch.eye(len(crosswalk.target)).double()
            label = torch.from_numpy(crosswalk.index(table.code.numpy()))
        scale, mean = _moments(table.pixels)
        # A constant feature's deviation is rounding, whatever the units of the others.
        scale = torch.where(scale > 1e-6 * mean.abs(), scale, 1.0)
        mean, scale = mean.float(), scale.float()
        used = (table.seen & (label >= 0)).nonzero()[:, 0]
        return cls(table, label, composition, mean, scale, used)

    @property
    def features(self) -> Tensor:
        """Standardised features of the cells used, (n, D); made anew each time."""
        return self.table.features[self.used].sub_(self.mean).div_(self.scale)

    @property
    def cell_label(self) -> Tensor:
        """Label of each cell used, (n,)."""
        return self.label[self.used]

    @property
    def pixel_label(self) -> Tensor:
        """Label of the cell of each pixel, (N,); -1 if none."""
        return self.label[self.table.owner]

    def cell_of(self, pixels: Tensor) -> Tensor:
        """Which of the cells used each of some pixels lies in, (m,); -1 if in none.

        Args:
            pixels: Which, (m,).
        """
        row = torch.full((len(self.table),), -1)
        row[self.used] = torch.arange(len(self.used))
        return row[self.table.owner[pixels]]

    @property
    def place(self) -> Tensor:
        """Place of each cell used, (n, 3)."""
        return self.table.place[self.used]

    @property
    def block(self) -> Tensor:
        """Block of each cell used, (n,)."""
        return self.table.block[self.used]

    def standard(self, rows: Tensor, features: int | None = None) -> Tensor:
        """Standardised features of some pixels.

        Args:
            rows: Which, (m,).
            features: Leading features that are wanted; all by default.
        """
        part = slice(features)
        chosen = self.table.pixels[rows, part]
        return chosen.sub_(self.mean[part]).div_(self.scale[part])


def _index_of(values: Tensor, keys: Tensor) -> Tensor:
    """Place of values among ascending keys; -1 if it is none of them."""
    if not len(keys):
        return torch.full_like(values, -1, dtype=torch.int64)
    index = torch.searchsorted(keys, values).clamp(max=len(keys) - 1)
    return torch.where(keys[index] == values, index, -1)


def _moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of features, (D,) float64, of evenly spread rows."""
    some = pixels[:: max(len(pixels) // MOMENT_PIXELS, 1)]
    # From the first pixel: squares of large values would swallow small deviations.
    first = some[0]
    total = torch.zeros(pixels.shape[1]).double()
    square = torch.zeros_like(total)
    for part in some.split(512):
        shifted = part - first
        total += shifted.sum(0)
        square += shifted.square_().sum(0)
    n = len(some)
    mean = total / n
    variance = (square / n - mean.square()).clamp(min=0) * (n / max(n - 1, 1))
    return variance.sqrt(), mean + first
