# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The LR labels as a smoothed prior at prediction time."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .label_prior import evidence, reach_of
from .probe import class_weights
from .samples import CellSamples

# Standard deviations of the smoothing to choose from, in LR cells.
SIGMAS = (0.5, 1.0)

# Share that a class without any label around keeps: labels are never certain.
LEAST = 1e-3

# How far the labels' own class frequencies are divided out: half, as in the fit, where
# classes weigh by the square root of their frequency. A class that is rarer than RAREST
# is lifted like one that is not: it would be mapped wherever one label of it is near.
LIFT = 0.5
RAREST = 0.05

# A cell of which less is visible says too little about its neighbours.
NEIGHBOUR_SHARE = 0.3

# Weight that held-out cells may ask for, at most, and the part of it that pixels get; see
# choose_weight.
TRUST = 2.0
PIXELS = 2 / 3

WEIGHTS = tuple(2.0 ** (k / 2) for k in range(-6, 7))
SHARPNESS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4)


def neighbour_shares(
    cells: CellSamples, classes: int, sigma: float = SIGMAS[0]
) -> tuple[Tensor, Tensor]:
    """Shares of the classes among the labels around each cell, without its own.

    Args:
        cells: The cells; labelled ones are each other's neighbours.
        classes: Number of classes, C.
        sigma: Standard deviation of the Gaussian, in LR cells.

    Returns:
        Shares (C, n), which sum to the support (n,): the part of the smoothing's weight
        that falls on labelled neighbours.
    """
    known = (cells.label >= 0) & (cells.share >= NEIGHBOUR_SHARE)
    place, reach = cells.place.numpy(), reach_of(sigma)
    offset = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    weight = np.exp(-(offset**2).sum(1) / (2 * sigma**2))
    centre = (offset == 0).all(1)
    offset, weight = offset[~centre], weight[~centre] / weight[~centre].sum()

    # Cells are found by a number that orders them by raster, row and column.
    low = place[:, 1:].min(0) - reach
    span = place[:, 1:].max(0) + reach + 1 - low

    def number(at: NDArray[np.int64]) -> NDArray[np.int64]:
        row, col = at[:, 1] - low[0], at[:, 2] - low[1]
        return (at[:, 0] * span[0] + row) * span[1] + col

    order = np.argsort(number(place))
    numbers, label = number(place)[order], cells.label.numpy()
    shares = np.zeros((classes, len(cells)))
    for step, part in zip(offset, weight, strict=True):
        wanted = number(place + np.array([0, *step]))
        where = np.searchsorted(numbers, wanted).clip(max=len(numbers) - 1)
        found = order[where]
        hit = (numbers[where] == wanted) & known.numpy()[found]
        shares[label[found[hit]], np.flatnonzero(hit)] += part
    result = torch.from_numpy(shares).float()
    return result, result.sum(0)


def choose_prior(
    log_probability: Tensor,
    cells: CellSamples,
    own: Tensor,
    frequency: Tensor,
    balance: float,
) -> tuple[float, float]:
    """Choose how the labels are smoothed, and what they weigh, from held-out cells.

    The smoothing is the one with which neighbours and imagery predict the cells' own
    labels best: noisy labels over large areas of one class ask for a wider one.

    Args:
        log_probability: Of the classes of held-out cells, (n, C).
        cells: All cells, which are each other's neighbours.
        own: Which of them were held out, (n,).
        frequency: Frequency of each class, (C,).
        balance: See :func:`class_weights`.

    Returns:
        The weight, and the standard deviation in LR cells.
    """
    found = []
    for sigma in SIGMAS:
        shares, support = neighbour_shares(cells, len(frequency), sigma)
        said = shares[:, own], support[own], cells.label[own]
        weight, loss = choose_weight(log_probability, *said, frequency, balance)
        found.append((loss, sigma, weight))
    _, sigma, weight = min(found)
    return weight, sigma


def choose_weight(
    log_probability: Tensor,
    shares: Tensor,
    support: Tensor,
    label: Tensor,
    frequency: Tensor,
    balance: float,
) -> tuple[float, float]:
    """Choose the weight of the labels at prediction from held-out cells.

    A held-out cell is predicted from the imagery and from the labels around it, and
    the weight is found that makes its own label most likely (at the best common
    temperature, which no decision depends on). Two things about pixels cannot be read
    off cells, and no HR label may be asked, so they are rules of ours, which kept
    all development scenes above their own LR labels. Neighbours say less of a pixel in
    a cell than of the cell: the weight found is cut to TRUST, and pixels get two thirds
    of it. And the better the neighbours predict cells than the imagery does, the more
    the map needs them: it is multiplied by the squared ratio of their error rates,
    within 1 and 4.

    Args:
        log_probability: Of the classes of held-out cells, (n, C).
        shares: From :func:`neighbour_shares`, (C, n).
        support: Likewise, (n,).
        label: Own class of each, (n,).
        frequency: Frequency of each class, (C,).
        balance: See :func:`class_weights`.

    Returns:
        The weight, 0 if labels help in no way; and the loss of what was found, the
        weighted negative log-likelihood of the cells' labels.
    """
    log_p, seen = log_probability.double(), support > 0
    added = evidence(shares, support, frequency).T.double()
    weight = class_weights(label, len(frequency), balance)

    def loss(strength: float) -> float:
        scores = log_p + strength * added
        each = (
            F.cross_entropy(t * scores, label, reduction='none') @ weight
            for t in SHARPNESS
        )
        return min(float(value) for value in each)

    losses = {strength: loss(strength) for strength in (0.0, *WEIGHTS)}
    best = min(losses, key=losses.__getitem__)
    if not seen.any():
        return 0.0, losses[best]
    by_imagery = (log_p[seen].argmax(1) != label[seen]).double().mean()
    by_labels = (shares[:, seen].argmax(0) != label[seen]).double().mean()
    ratio = float(by_imagery / by_labels.clamp(min=1e-3))
    found = min(best, TRUST) * min(max(ratio, 1.0), 2.0) ** 2 * PIXELS
    return found, losses[best]
