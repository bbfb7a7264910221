# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The LR labels as a smoothed prior at prediction time, and how its weight is found."""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ...datasets.chip import Chip, LabelWindow

# Share that a class without any label around keeps: labels are never certain.
LEAST = 1e-3

# How far the labels' own class frequencies are divided out: half, as in the fit, where
# classes weigh by the square root of their frequency. A class that is rarer than RAREST
# is lifted like one that is not: it would be mapped wherever one label of it is near.
LIFT = 0.5
RAREST = 0.05


@dataclass(frozen=True, eq=False)
class LabelPrior:
    """What LR labels add to the log-probabilities of the pixels near them.

    Cells are smoothed by a Gaussian on their own grid and interpolated at the pixels'
    centres. What a pixel gets does not depend on the chip that it is in. A pixel whose
    cell has no label gets nothing.

    Args:
        codes: Raw codes that say something, ascending, (K,) int64.
        composition: What a cell of each code is believed to hold, (K, C) float32, rows
            of sum one.
        frequency: Frequency of each class among the cells of the fit, (C,) float32.
        weight: Weight of the labels; 0 for none.
        sigma: Standard deviation of the smoothing, in LR cells, at most 1.
    """

    codes: Tensor
    composition: Tensor
    frequency: Tensor
    weight: float
    sigma: float = 0.5

    def with_weight(self, weight: float) -> Self:
        """The same labels under another weight.

        Args:
            weight: The weight.
        """
        return replace(self, weight=weight)

    def evidence(self, chip: Chip) -> Tensor | None:
        """What the labels of a chip say of the pixels of its core.

        Args:
            chip: The chip.

        Returns:
            (C, h, w) float32, to be added to log-probabilities at :attr:`weight`; None
            if there is nothing to add.
        """
        if self.weight <= 0 or not chip.windows:
            return None
        rows, cols = chip.core or (slice(None), slice(None))
        region = chip.region[rows, cols]
        labelled = chip.labelled[rows, cols]
        if not labelled.any():
            return None
        total = torch.zeros(len(self.frequency), *region.shape)
        first = 0
        for window in chip.windows:
            last = first + window.code.numel()
            inside = labelled & (region > first) & (region <= last)
            first = last
            if not inside.any():
                continue
            shares, support = self._shares(window, rows, cols)
            scores = evidence(shares, support, self.frequency)
            total = scores if bool(inside.all()) else torch.where(inside, scores, total)
        return total

    def _shares(
        self, window: LabelWindow, rows: slice, cols: slice
    ) -> tuple[Tensor, Tensor]:
        """Smoothed shares (C, h, w) and support (h, w) at the pixels' centres."""
        code = window.code
        index = torch.searchsorted(self.codes, code).clamp(max=len(self.codes) - 1)
        matches = self.codes[index] == code
        cells = self.composition[index].movedim(-1, 0) * matches
        smooth = _smooth(torch.cat([cells, matches[None].float()]), self.sigma)
        values = _interpolate(smooth, window.coordinates[:, rows, cols])
        return values[:-1], values[-1]


def evidence(shares: Tensor, support: Tensor, frequency: Tensor) -> Tensor:
    r"""What labels add to the log-probability of each class, at weight one.

    .. math:: t\,\left[\log(p_c / t + 0.001) - \tfrac12 \log \pi_c\right]

    with the shares p, the support t and the classes' frequencies π, of which none counts
    as less than RAREST. It is 0 without a label, whatever the class.

    Args:
        shares: (C, …), which sum to the support.
        support: (…).
        frequency: Frequency of each class among the labels, (C,).

    Returns:
        (C, …).
    """
    pi = frequency.clamp(min=RAREST).view(-1, *(1,) * support.dim())
    share = shares / support.clamp(min=1e-6)
    return support * ((share + LEAST).log() - LIFT * pi.log())


def reach_of(sigma: float) -> int:
    """How many cells the smoothing reaches.

    Args:
        sigma: Its standard deviation, in LR cells.
    """
    return math.ceil(3 * sigma)


def _smooth(cells: Tensor, sigma: float) -> Tensor:
    """Gaussian means of (K, h, w) over cells, zero beyond the window."""
    reach = reach_of(sigma)
    smooth = gaussian_filter(
        cells.double().numpy(),
        sigma=(0, sigma, sigma),
        radius=(0, reach, reach),
        mode='constant',
    )
    return torch.from_numpy(np.ascontiguousarray(smooth)).float()


def _interpolate(grid: Tensor, coordinates: Tensor) -> Tensor:
    """Bilinear values of (K, h, w) at (row, column) in cells, (K, H, W)."""
    yx = coordinates * (2 / coordinates.new_tensor(grid.shape[1:])[:, None, None])
    # Outside of the labels' CRS nothing is known: far outside of the grid.
    xy = yx.sub_(1).nan_to_num_(nan=-1e6).flip(0).permute(1, 2, 0)
    return F.grid_sample(grid[None], xy[None], mode='bilinear', align_corners=False)[0]
