# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What the LR labels weigh at prediction: today's rule, and that of version 0.1.0."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .neighbours import neighbour_weights
from .prior import evidence, reach_of
from .probe import HeldOut, one_hot

# Weight of the labels at prediction, and their smoothing in cells, see label_weight: of
# codes that are several classes, of single ones that are clean, and that are noisy.
SOFT, CLEAN, NOISY, SIGMA = 0.2, 1.2, 0.25, 0.5

# Power of the ratio of errors that the weight follows, and the most that the weight is:
# for codes that are several classes, and for single ones. Powers of 3 to 5 are alike for
# single ones (.003); a fourth power where errors may be shared would trust r too much.
SOFT_POWER, SOFT_MOST = 2, 1.2
HARD_POWER, HARD_MOST = 4, 1.8

# The least weight, where the imagery knows more than neighbours do. It hardly matters
# for cells of FINE pixels along a side or more. Smaller ones hold less beside their class,
# and are worth more: see label_weight.
LEAST_WEIGHT, FINE = 0.15, 25

# The least weight of single classes that denoising finds right. Where truth is sharp it
# costs .000 and .002 (two columns of OpenEarthMap); of seven of clean labels of coarse
# truth it gains .007 in the mean and .023 at most (.7: .003, .010 and .03). The fourth
# power of r alone is a gamble: the errors of four hundred cells give r to a tenth or a
# fifth, and its power to a factor of two.
RIGHT = 0.5

#: Standard deviations of the smoothing to choose from, in LR cells.
SIGMAS = (0.5, 1.0)

# Weight that held-out cells may ask for, at most, and the part of it that pixels get; see
# choose_weight.
TRUST = 2.0
PIXELS = 2 / 3

WEIGHTS = tuple(2.0 ** (k / 2) for k in range(-6, 7))
SHARPNESS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4)


def label_weight(
    soft: bool, rate: float | None, ratio: float, side: float = math.inf
) -> float:
    """What the labels weigh at prediction.

    Held-out cells cannot say what is right for pixels, and errors that neighbours share
    make labels look better than they are. So it is a fixed weight: SOFT for codes that
    are several classes; CLEAN for single ones, less what their errors ask for, and at
    least NOISY. It follows a power of the ratio of errors within limits: small where the
    imagery knows cells better than their neighbours do, which is where truth is sharp,
    and large where it is coarse. Labels that denoising finds right weigh RIGHT, at least,
    less what their errors ask for.

    The limit below grows as cells get smaller than FINE pixels along a side, with
    1 / side, as the share of their pixels does that lie at an outline. On two scenes of
    OpenEarthMap and one of Sentinel-2 with cells of 4 pixels that gains .04 to .08 by
    NLCD's codes (of which two were .08 below a copy of the labels), .03 to .09 where a
    fifth of single classes was drawn anew and .01 to .03 by clean ones, and loses up to
    .03 where a fifth of NLCD's codes is wrong in patches. With 8 and 14 pixels it gains
    .03 to 0, and loses .004 at most.

    Args:
        soft: Whether a code is several classes.
        rate: Rate of errors ν among the labels; None where it was not estimated.
        ratio: From :func:`error_ratio`.
        side: Pixels along the side of a cell.

    Returns:
        The weight.
    """
    least = LEAST_WEIGHT * max(1.0, FINE / side)
    if soft:
        weight, most = SOFT * ratio**SOFT_POWER, SOFT_MOST
    else:
        right = 0.0 if rate is None else 1 - 8 * rate
        weight, most = max(NOISY, CLEAN * right) * ratio**HARD_POWER, HARD_MOST
        least = max(least, RIGHT * right)
    return min(max(weight, least), most)


def error_ratio(
    held: HeldOut, label: Tensor, place: Tensor, composition: Tensor, rate: float = 0.0
) -> float:
    r"""How often the imagery is wrong about held-out cells, as against neighbours.

    .. math:: (e_\mathrm{imagery} - \nu) / (e_\mathrm{neighbours} - \nu)

    of the shares of cells whose main class is another: both err at least where the
    label itself is wrong.

    Args:
        held: What probes say of cells that they were not fitted to.
        label: Code of each cell, (n,).
        place: Place of each, (n, 3).
        composition: Shares of the classes in each code, (K, C).
        rate: Rate of errors ν among the labels.

    Returns:
        The ratio, over cells that have neighbours; 1 if there are none.
    """
    label = label[held.index]
    neighbours = neighbour_weights(place[held.index], 1.0, 2)
    around = torch.from_numpy(neighbours @ one_hot(label, len(composition)).numpy())
    beside = around.sum(1) > 0
    if not beside.any():
        return 1.0
    of_class = composition[label].argmax(1)
    wrong = [
        (p @ composition).argmax(1)[beside] != of_class[beside]
        for p in (held.log_probability.double().exp(), around)
    ]
    by_imagery, by_neighbours = (float(w.double().mean()) - rate for w in wrong)
    return max(by_imagery, 0.0) / max(by_neighbours, 1e-3)


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
