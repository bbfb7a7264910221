# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How far the label of each LR cell is trusted in the fit."""

import math

import torch
from torch import Tensor

from ...errors import InputError
from .probe import hold_out

NOISE = ('none', 'sce', 'small-loss')
CLASS_WEIGHTS = ('power', 'log')

# -log ε of the reverse cross entropy (Liu et al. 2025, eq. 9) at ε = 1e-4, the default
# of SymmetricCrossEntropy.
REVERSE = 9.21

# Of the cells of a class, at least so many are kept however few agree.
KEPT = 0.5


def check_noise(noise: str, class_weight: str) -> None:
    """Refuse what there is not.

    Args:
        noise: One of NOISE.
        class_weight: One of CLASS_WEIGHTS.

    Raises:
        InputError: If it is none.
    """
    for name, value, known in (
        ('noise', noise, NOISE),
        ('class_weight', class_weight, CLASS_WEIGHTS),
    ):
        if value not in known:
            raise InputError(f'{name} must be one of {", ".join(known)}, not {value!r}')


def log_class_weights(label: Tensor, classes: int) -> Tensor:
    r"""Weight of each cell, W = 1 / log(1 + r) of its class's share r, of sum 1.

    Dong et al. 2023, eq. 3. Between 1 / r for rare classes and 1.44 for the only one,
    it balances classes nearly fully.

    Args:
        label: Class of each cell, (n,).
        classes: Number of classes.

    Returns:
        (n,) float64.
    """
    share = torch.bincount(label, minlength=classes).double() / max(len(label), 1)
    weight = 1 / share[label].log1p()
    return weight / weight.sum()


def label_trust(
    features: Tensor,
    label: Tensor,
    block: Tensor,
    classes: int,
    strength: float,
    balance: float,
    seed: int,
    noise: str,
) -> Tensor:
    r"""Trust in the label of each cell, by a probe that did not see it.

    The probe is fitted without whole blocks of cells, in turn. With the probability p
    that it gives a cell's own label,

    * ``sce``: 1 + A p. The gradient of the symmetric cross entropy CE + RCE, with
      RCE = A (1 - p), is (1 + A p) times that of CE: this is one step of solving it by
      reweighted fits, and the problem stays convex
    * ``small-loss``: 1 for the cells of greatest p and 0 for the others. Of each class
      as many are kept as the probe agrees with, and half at least

    Cells compete within their class: the mean trust of each class is 1, so that classes
    weigh as before.

    Args:
        features: Standardised features of cells, (n, D).
        label: Class of each, (n,).
        block: Block of each, (n,); of two blocks or more.
        classes: Number of classes.
        strength: L2 strength of the probe.
        balance: See :func:`~torchgeo_mapsr.models.head.probe.class_weights`.
        seed: Seed of the folds.
        noise: ``sce`` or ``small-loss``.

    Returns:
        (n,) float64.
    """
    held = hold_out(
        features, label, block, classes, balance, seed, (strength,), limit=len(label)
    )
    p = held.log_probability.gather(1, label[:, None])[:, 0].exp().double()
    if noise == 'sce':
        trust = 1 + REVERSE * p
    else:
        trust = torch.zeros_like(p)
        agree = held.log_probability.argmax(1) == label
        for c in range(classes):
            own = (label == c).nonzero()[:, 0]
            if not len(own):
                continue
            share = max(float(agree[own].double().mean()), KEPT)
            best = p[own].argsort(descending=True, stable=True)
            trust[own[best[: math.ceil(share * len(own))]]] = 1
    total = torch.zeros(classes).double().index_add(0, label, trust)
    count = torch.bincount(label, minlength=classes)
    return trust * (count / total.clamp(min=1e-12))[label]
