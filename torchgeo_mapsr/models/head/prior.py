# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The LR labels as a smoothed prior at prediction time, and how its weight is found."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ...datasets.chip import Chip, LabelWindow
from .probe import one_hot

# Share that a class without any label around keeps: labels are never certain.
LEAST = 1e-3

# How far the labels' own class frequencies are divided out: half, as in the fit, where
# classes weigh by the square root of their frequency. A class that is rarer than RAREST
# is lifted like one that is not: it would be mapped wherever one label of it is near.
LIFT = 0.5
RAREST = 0.05

#: Standard deviations of the smoothing to choose from, in LR cells.
SIGMAS = (0.5, 1.0)

# Weight that held-out cells may ask for, at most, and the part of it that pixels get; see
# choose_weight.
TRUST = 2.0
PIXELS = 2 / 3

WEIGHTS = tuple(2.0 ** (k / 2) for k in range(-6, 7))
SHARPNESS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4)


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


def neighbour_weights(place: Tensor, sigma: float, reach: int) -> sparse.csr_array:
    """Gaussian weights of each cell's neighbours, without the cell itself.

    Args:
        place: Raster, row and column of each cell, (n, 3) int64.
        sigma: Standard deviation, in cells.
        reach: Cells to each side that are looked at.

    Returns:
        (n, n): row i has the weights of the neighbours of cell i. All that there may be
        sum to one, so that a row's sum is the support.
    """
    places = place.numpy()
    offset = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    weight = np.exp(-(offset**2).sum(1) / (2 * sigma**2))
    centre = (offset == 0).all(1)
    offset, weight = offset[~centre], weight[~centre] / weight[~centre].sum()

    rows, cols, values = [], [], []
    for (down, right), part in zip(offset.tolist(), weight.tolist(), strict=True):
        index = row_of(places, places + np.array([0, down, right]))
        hit = np.flatnonzero(index >= 0)
        rows.append(hit)
        cols.append(index[hit])
        values.append(np.full(len(hit), part))
    shape = len(places), len(places)
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))
    return sparse.csr_array(entries, shape=shape)


def row_of(places: NDArray[np.int64], queries: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find cells by their places.

    Args:
        places: Raster, row and column of each cell, (n, 3).
        queries: Those to find, (m, 3).

    Returns:
        Row of each in *places*, (m,); -1 where there is none.
    """
    # By a number that orders them by raster, row and column; margins keep a neighbour
    # beyond an edge from being one of the next line.
    low = np.minimum(places.min(0), queries.min(0))
    span = np.maximum(places.max(0), queries.max(0)) - low + 1

    def number(of: NDArray[np.int64]) -> NDArray[np.int64]:
        raster, row, col = (of - low).T
        result: NDArray[np.int64] = (raster * span[1] + row) * span[2] + col
        return result

    keys = number(places)
    order = np.argsort(keys)
    index = np.searchsorted(keys[order], number(queries)).clip(max=len(order) - 1)
    return np.where(keys[order[index]] == number(queries), order[index], -1)


def choose_prior(
    log_probability: Tensor,
    label: Tensor,
    place: Tensor,
    held: Tensor,
    frequency: Tensor,
    weight: Tensor,
    sigmas: Sequence[float] = SIGMAS,
) -> tuple[float, float]:
    """Choose how the labels are smoothed, and what they weigh, from held-out cells.

    The smoothing is the one with which neighbours and imagery predict the cells' own
    labels best.

    Args:
        log_probability: Of the classes of held-out cells, (m, C).
        label: Class of each cell that is a neighbour, (n,).
        place: Raster, row and column of each of these, (n, 3).
        held: Which of them were held out, (m,).
        frequency: Frequency of each class, (C,).
        weight: Weight of each held-out cell in the choice, (m,).
        sigmas: Standard deviations to choose from, in LR cells.

    Returns:
        The weight, and the standard deviation in LR cells.
    """
    hard = one_hot(label, len(frequency)).numpy()
    best = []
    for sigma in sigmas:
        neighbours = neighbour_weights(place, sigma, reach_of(sigma))
        shares = torch.from_numpy((neighbours[held.numpy()] @ hard).T).float()
        support = shares.sum(0)
        weighed, loss = choose_weight(
            log_probability, shares, support, label[held], frequency, weight
        )
        best.append((loss, sigma, weighed))
    _, sigma, weighed = min(best)
    return weighed, sigma


def choose_weight(
    log_probability: Tensor,
    shares: Tensor,
    support: Tensor,
    label: Tensor,
    frequency: Tensor,
    weight: Tensor,
) -> tuple[float, float]:
    """The weight of the labels at prediction by the rule of version 0.1.0.

    A held-out cell is predicted from the imagery and from the labels around it, and
    the weight is found that makes its own label most likely, at the best common
    temperature. It is cut to TRUST, pixels get two thirds of it, and it is multiplied
    by the squared ratio of the error rates of imagery and neighbours, within 1 and 4.

    The errors of real maps are alike over neighbours, which then predict each other
    well and prove nothing: this is why the rule is no longer the default.

    Args:
        log_probability: Of the classes of held-out cells, (m, C).
        shares: Shares of the classes among their neighbours, (C, m).
        support: What these sum to, (m,).
        label: Class of each held-out cell, (m,).
        frequency: Frequency of each class, (C,).
        weight: Weight of each held-out cell in the choice, (m,), of sum 1.

    Returns:
        The weight, 0 if labels help in no way; and the loss of what was chosen, the
        weighted negative log-likelihood of the cells' labels.
    """
    log_p, supported = log_probability.double(), support > 0
    added = evidence(shares, support, frequency).T.double()

    def loss(strength: float) -> float:
        scores = log_p + strength * added
        each = (
            F.cross_entropy(t * scores, label, reduction='none') @ weight
            for t in SHARPNESS
        )
        return min(float(value) for value in each)

    losses = {strength: loss(strength) for strength in (0.0, *WEIGHTS)}
    best = min(losses, key=losses.__getitem__)
    if not supported.any():
        return 0.0, losses[best]
    by_imagery = (log_p[supported].argmax(1) != label[supported]).double().mean()
    by_labels = (shares[:, supported].argmax(0) != label[supported]).double().mean()
    ratio = float(by_imagery / by_labels.clamp(min=1e-3))
    chosen = min(best, TRUST) * min(max(ratio, 1.0), 2.0) ** 2 * PIXELS
    return chosen, losses[best]
