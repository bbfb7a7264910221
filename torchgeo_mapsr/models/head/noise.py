# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How far the label of each LR cell is trusted in the fit."""

import math
from dataclasses import dataclass

import torch
from scipy import sparse
from torch import Tensor

from .probe import MAX_FITTED, CellSpace, class_factors, class_weights, one_hot

# -log ε of the reverse cross entropy (Liu et al. 2025, eq. 9) at ε = 1e-4, the default
# of SymmetricCrossEntropy.
REVERSE = 9.21

# Of the cells of a class, at least so many are kept however few agree: denoising took all
# seven cells of a lake away with one seed of three, and .77 of its IoU.
KEPT = 0.5

# Rounds of denoising: the second sees labels that the first has mended, a third changed
# no map.
ROUNDS = 2

#: Cells that denoising needs. Of fewer it makes a gamble: with 83 to 105 it lost .005 of
#: mIoU in the mean of 47 parts of DeepGlobe (-.093 to .062), with 157 to 185 it gained
#: .006 on 35 (-.067 to .125), and with 125 and 154 .003 on two Sentinel-2 scenes.
FEWEST_CELLS = 200

# Trust in the mended labels grows with the rate of errors ν as min(1, GAIN ν): clean
# labels had ν of .00 to .03, noisy ones of .06 to .17, and clean ones are to be kept. 5
# lost .003 on four noisy columns.
GAIN = 10.0


def label_trust(
    log_probability: Tensor, label: Tensor, classes: int, noise: str
) -> Tensor:
    r"""Trust in the label of each cell, by a probe that was not fitted to it.

    With the probability p that the probe gives to the label,

    * ``sce``: 1 + A p. The gradient of the symmetric cross entropy CE + RCE, with
      RCE = A (1 - p), is (1 + A p) times that of CE: this is one step of solving it by
      reweighted fits, and the problem stays convex
    * ``small-loss``: 1 for the cells of greatest p and 0 for the others. Of each class
      as many are kept as the probe agrees with, and half at least

    Cells compete within their class: the mean trust of each class is 1, so that classes
    weigh as before.

    Args:
        log_probability: Of the classes of each cell, held out, (n, C).
        label: Class of each cell, (n,).
        classes: Number of classes.
        noise: ``sce`` or ``small-loss``.

    Returns:
        (n,) float64.
    """
    p = log_probability.gather(1, label[:, None])[:, 0].exp().double()
    if noise == 'sce':
        trust = 1 + REVERSE * p
    else:
        trust = torch.zeros_like(p)
        agree = log_probability.argmax(1) == label
        for c in label.unique().tolist():
            members = (label == c).nonzero()[:, 0]
            share = max(float(agree[members].double().mean()), KEPT)
            best = p[members].argsort(descending=True, stable=True)
            trust[members[best[: math.ceil(share * len(members))]]] = 1
    total = torch.zeros(classes).double().index_add(0, label, trust)
    count = torch.bincount(label, minlength=classes)
    return trust * (count / total.clamp(min=1e-12))[label]


@dataclass(frozen=True, eq=False)
class DenoisedLabels:
    """What cells are believed to be, by their label, the imagery and their neighbours.

    Args:
        belief: Probability of each class of each cell, Y, (n, C) float64.
        rate: Share of the labels that seem wrong, ν.
        trust: Part of Y that does not come from the cell's own label, α; less for the
            cells of a class that would vanish.
        theta: The probes of all folds, near which one of all cells is.
    """

    belief: Tensor
    rate: float
    trust: float
    theta: Tensor

    def weights(self, balance: float, kind: str = 'power') -> Tensor:
        """Weight of each cell, Σ_c Y_ic v_c with v_c by n_c = Σ_i Y_ic, of sum 1.

        Args:
            balance: See :func:`~torchgeo_mapsr.models.head.probe.class_factors`.
            kind: Likewise.

        Returns:
            (n,) float64.
        """
        return class_weights(self.belief, self.belief.shape[1], balance, kind)


def denoise(
    space: CellSpace,
    label: Tensor,
    classes: int,
    fold: Tensor,
    neighbours: sparse.csr_array,
    l2: float,
    balance: float,
    start: Tensor | None = None,
    kind: str = 'power',
) -> DenoisedLabels:
    r"""Estimate which labels are wrong, and what those cells are.

    In each round, with Y the present belief (the labels at first):

    1. A probe on soft targets Y, held out by blocks: log q_i(c), from which what cells
       of the classes weigh is taken out again, and their frequency π is left. It is the
       mean of q over draws of the blocks.
    2. With what the neighbours are, n: b_ic = log q_i(c) + ½ log(n_ic / π_c). Half,
       since neighbours repeat each other.
    3. A noise matrix T[c, l] = P(label l | class c) by expectation maximisation:
       r_ic ∝ exp(b_ic) T[c, l_i] and T[c, l] ∝ Σ_i r_ic [l_i = l].
    4. ν = 1 - mean r_i,l_i is the rate of errors, and Y = α r + (1 - α) one-hot(l) with
       α = min(1, 10 ν), but less for the cells of a label that would keep less than half
       of itself: no class vanishes.

    Args:
        space: The cells.
        label: Class of each, (n,).
        classes: Number of classes, C.
        fold: Part that each is held out with, (n,), or of several draws, (d, n).
        neighbours: Weights of each cell's neighbours, (n, n), see
            :func:`~torchgeo_mapsr.models.head.neighbours.neighbour_weights`.
        l2: L2 strength.
        balance: See :func:`~torchgeo_mapsr.models.head.probe.class_factors`.
        start: Probes to begin with, from
            :class:`~torchgeo_mapsr.models.head.probe.HeldOut`.
        kind: How classes weigh, ``power`` or ``log``.

    Returns:
        The belief Y, ν and α.
    """
    hard = one_hot(label, classes)
    frequency = hard.mean(0)
    present = frequency > 0
    pi = frequency.clamp(min=1e-6)
    factors = class_factors(hard.sum(0), balance, kind)
    folds = fold.view(-1, len(label))
    y, rate, trust = hard, 0.0, 0.0
    for _ in range(ROUNDS):
        weight = class_weights(y, classes, balance, kind)
        q = torch.zeros_like(hard)
        for parts in folds:
            held = space.hold_out(y, classes, parts, weight, (l2,), start, MAX_FITTED)
            start = held.theta
            of_draw = held.log_probability.double() - factors.log()
            q += of_draw.masked_fill(~present, -torch.inf).softmax(1) / len(folds)
        log_q = q.log()
        around = torch.from_numpy(neighbours @ y.numpy())
        support = torch.from_numpy(neighbours.sum(1))[:, None]
        around = torch.where(support > 0, around / support.clamp(min=1e-12), pi)
        # A tenth of the frequency: neighbours never rule a class out.
        belief = log_q + 0.5 * ((0.9 * around + 0.1 * pi) / pi + 1e-3).log()
        # It starts from labels that are mostly right and else drawn by frequency. Half a
        # cell that is right keeps classes of a few cells from being explained away.
        matrix = 0.7 * torch.eye(classes).double() + 0.3 * pi
        for _ in range(3):
            r = (belief + matrix[:, label].T.log()).softmax(1)
            joint = r.T @ hard + 0.5 * torch.eye(classes) + 0.01
            matrix = joint / joint.sum(1, keepdim=True)
        rate = float(1 - r.gather(1, label[:, None]).mean())
        trust = min(1.0, GAIN * rate)
        kept = (hard * r).sum(0) / hard.sum(0).clamp(min=1)
        most = (1 - KEPT) / (1 - kept).clamp(min=1e-12)
        part = most.clamp(max=trust)[label, None]
        y = part * r + (1 - part) * hard
    assert start is not None
    return DenoisedLabels(y, rate, trust, start)
