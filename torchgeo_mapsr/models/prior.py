# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The LR labels as a smoothed prior at prediction time."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ..datasets.crosswalk import Crosswalk
from ..datasets.labels import LabelRaster
from ..datasets.region import lr_coordinates
from .probe import class_weights
from .samples import CellSamples

# Standard deviation of the smoothing, in LR cells, and the cells that it reaches.
SIGMA = 0.5
REACH = 2

# Share that a class without any label around keeps: labels are never certain.
LEAST = 1e-3

# How far the labels' own class frequencies are divided out: half, as in the fit, where
# classes weigh by the square root of their frequency.
LIFT = 0.5

# A cell of which less is visible says too little about its neighbours.
NEIGHBOUR_SHARE = 0.3

# Weight that held-out cells may ask for, at most; see choose_weight.
TRUST = 2.0

WEIGHTS = tuple(2.0 ** (k / 2) for k in range(-6, 7))
SHARPNESS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4)


def label_shares(
    hr: GeoBox, labels: Sequence[LabelRaster], crosswalk: Crosswalk
) -> tuple[Tensor, Tensor]:
    """Smoothed shares of the classes among the LR labels around every pixel.

    One-hot labels are smoothed by a Gaussian on their own grid and interpolated at the
    pixels' centres. What a pixel gets does not depend on the chip that it is in.

    Args:
        hr: Grid of the chip.
        labels: LR labels; where several have one, the first counts, and the others
            for what support it leaves open.
        crosswalk: From their codes to C target classes.

    Returns:
        Shares (C, H, W), which sum to the support (H, W) in 0..1: 0 where no label is
        near.
    """
    classes = len(crosswalk.target)
    shares = torch.zeros(classes, *hr.shape)
    support = torch.zeros(*hr.shape)
    for raster in labels:
        at = lr_coordinates(hr, raster.geobox)
        if not np.isfinite(at).any():
            continue
        low = [int(np.floor(np.nanmin(axis[np.isfinite(axis)]))) for axis in at]
        high = [int(np.floor(np.nanmax(axis[np.isfinite(axis)]))) for axis in at]
        rows, cols = (
            slice(first - REACH - 1, last + REACH + 2)
            for first, last in zip(low, high, strict=True)
        )
        index = crosswalk.index(raster.read(rows, cols))
        if (index < 0).all():
            continue
        grid = _smooth(index, classes)
        start = np.array([rows.start, cols.start])[:, None, None]
        found = _interpolate(grid, at - start)
        # The support fades out over the edge of a raster, and the next one fades in.
        free = 1 - support
        shares = shares + free * found[:-1]
        support = support + free * found[-1]
    return shares, support


def evidence(shares: Tensor, support: Tensor, frequency: Tensor) -> Tensor:
    r"""What the labels add to the log-probability of each class, at weight one.

    .. math:: t\,\left[\log(p_c / t + 0.001) - \tfrac12 \log \pi_c\right]

    with the shares p, the support t and the classes' frequencies π. It is 0 without a
    label, whatever the class.

    Args:
        shares: (C, …), which sum to the support.
        support: (…).
        frequency: Frequency of each class among the labels, (C,).

    Returns:
        (C, …).
    """
    pi = frequency.clamp(min=LEAST).view(-1, *(1,) * support.dim())
    share = shares / support.clamp(min=1e-6)
    return support * ((share + LEAST).log() - LIFT * pi.log())


def neighbour_shares(cells: CellSamples, classes: int) -> tuple[Tensor, Tensor]:
    """Shares of the classes among the labels around each cell, without its own.

    Args:
        cells: The cells; labelled ones are each other's neighbours.
        classes: Number of classes, C.

    Returns:
        Shares (C, n), which sum to the support (n,): the part of the smoothing's weight
        that falls on labelled neighbours.
    """
    known = (cells.label >= 0) & (cells.share >= NEIGHBOUR_SHARE)
    place = cells.place.numpy()
    offset = np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1].reshape(2, -1).T
    weight = np.exp(-(offset**2).sum(1) / (2 * SIGMA**2))
    centre = (offset == 0).all(1)
    offset, weight = offset[~centre], weight[~centre] / weight[~centre].sum()

    # Cells are found by a number that orders them by raster, row and column.
    low = place[:, 1:].min(0) - REACH
    span = place[:, 1:].max(0) + REACH + 1 - low

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


def choose_weight(
    log_probability: Tensor,
    shares: Tensor,
    support: Tensor,
    label: Tensor,
    frequency: Tensor,
    balance: float,
) -> float:
    """Choose the weight of the labels at prediction from held-out cells.

    A held-out cell is predicted from the imagery and from the labels around it, and
    the weight is found that makes its own label most likely (at the best common
    temperature, which no decision depends on). Two things about pixels cannot be read
    off cells, and no HR label may be asked, so they are rules of ours, which kept
    all development scenes but one above their own LR labels. Neighbours say less of a pixel in
    a cell than of the cell: the weight found is cut to TRUST and divided by three. And
    the better the neighbours predict cells than the imagery does, the more the map
    needs them: it is multiplied by the squared ratio of their error rates, within 1
    and 4.

    Args:
        log_probability: Of the classes of held-out cells, (n, C).
        shares: From :func:`neighbour_shares`, (C, n).
        support: Likewise, (n,).
        label: Own class of each, (n,).
        frequency: Frequency of each class, (C,).
        balance: See :func:`class_weights`.

    Returns:
        The weight; 0 if labels help in no way.
    """
    seen = support > 0
    if not seen.any():
        return 0.0
    log_p, label = log_probability[seen].double(), label[seen]
    added = evidence(shares[:, seen], support[seen], frequency).T.double()
    weight = class_weights(label, len(frequency), balance)

    def loss(strength: float) -> float:
        scores = log_p + strength * added
        each = (
            F.cross_entropy(t * scores, label, reduction='none') @ weight
            for t in SHARPNESS
        )
        return min(float(value) for value in each)

    best = min((0.0, *WEIGHTS), key=loss)
    by_imagery = (log_p.argmax(1) != label).double().mean()
    by_labels = (shares[:, seen].argmax(0) != label).double().mean()
    ratio = float(by_imagery / by_labels.clamp(min=1e-3))
    return min(best, TRUST) * min(max(ratio, 1.0), 2.0) ** 2 / 3


def _smooth(index: NDArray[np.int64], classes: int) -> Tensor:
    """Smoothed one-hot labels, and their sum as the last channel, (C + 1, h, w)."""
    hot = np.stack([*(index == c for c in range(classes)), index >= 0]).astype(float)
    return torch.from_numpy(
        gaussian_filter(
            hot, sigma=(0, SIGMA, SIGMA), radius=(0, REACH, REACH), mode='constant'
        )
    )


def _interpolate(grid: Tensor, at: NDArray[np.float64]) -> Tensor:
    """Bilinear values of (K, h, w) at (row, col) in cells, (K, H, W)."""
    h, w = grid.shape[1:]
    # Outside of the labels' CRS nothing is known: far outside of the grid.
    at = np.where(np.isfinite(at), at, -1e6)
    xy = np.stack([2 * at[1] / w - 1, 2 * at[0] / h - 1], axis=-1)
    sampled = F.grid_sample(
        grid[None], torch.from_numpy(xy)[None], mode='bilinear', align_corners=False
    )
    return sampled[0].float()
