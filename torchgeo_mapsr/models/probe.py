# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The linear probe: multinomial logistic regression on the features of LR cells."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

# Bias of a class that no cell has: it is never predicted.
ABSENT = -1e4

# L2 strengths that are tried, for features of unit variance divided by sqrt(D).
STRENGTHS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)

# Cells that choosing a strength looks at; more change the choice no more.
MAX_HELD_OUT = 6000


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Class scores W x + b.

    Args:
        weight: (C, D).
        bias: (C,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Scores of feature vectors.

        Args:
            features: (…, D).

        Returns:
            (…, C) logits.
        """
        return features @ self.weight.T + self.bias

    def unscale(self, mean: Tensor, scale: Tensor) -> 'LinearProbe':
        """The same scores, of features that are not standardised.

        W ((x - m) / s) + b = (W / s) x + (b - (W / s) m).

        Args:
            mean: m, (D,).
            scale: s, (D,).

        Returns:
            A probe for x.
        """
        weight = self.weight / scale
        return LinearProbe(weight, self.bias - weight @ mean)


def class_weights(label: Tensor, classes: int, balance: float) -> Tensor:
    """Weight of each cell, (number of cells of its class) ** -balance, of sum 1.

    Args:
        label: Class of each cell, (n,).
        classes: Number of classes.
        balance: 0 for equal weights of cells, 1 for equal weights of classes.

    Returns:
        (n,) float64.
    """
    count = torch.bincount(label, minlength=classes).clamp(min=1)
    weight = count.double()[label] ** -balance
    return weight / weight.sum()


def fit_probe(
    features: Tensor,
    label: Tensor,
    classes: int,
    strength: float,
    weight: Tensor | None = None,
    iterations: int = 200,
    width: int | None = None,
) -> LinearProbe:
    r"""Solve the convex problem, by L-BFGS in double precision.

    .. math::
        \min_{W, b} -\sum_i w_i \log \mathrm{softmax}(W x_i + b)_{y_i}
        + \tfrac{\lambda D}{2} \|W\|^2

    The features of a cell are the mean of those of its pixels, and the probe is
    linear: W (R F) = R (U (F W^T)), the mean of the pixels' scores (Workman et al.
    2023, §4.3). The penalty grows with D, so that a strength means the same for any
    number of features.

    Args:
        features: Standardised features of cells, (n, D).
        label: Class of each, (n,).
        classes: Number of classes, C. One without a cell is never predicted.
        strength: λ.
        weight: Weight of each cell, of sum 1; equal ones by default.
        iterations: At most.
        width: D in the penalty, if *features* are coordinates in a subspace.

    Returns:
        The probe.
    """
    x, basis = span(features)
    count, dimensions = features.shape
    w = torch.full((count,), 1 / count).double() if weight is None else weight.double()
    target = torch.nn.functional.one_hot(label, classes).double()
    penalty = strength * (dimensions if width is None else width)

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        theta = torch.from_numpy(flat).view(classes, -1)
        log_p = (x @ theta[:, :-1].T + theta[:, -1]).log_softmax(1)
        loss = -(w[:, None] * target * log_p).sum()
        loss = loss + penalty / 2 * (theta[:, :-1] ** 2).sum()
        residual = (log_p.exp() - target) * w[:, None]
        slope = residual.T @ x + penalty * theta[:, :-1]
        gradient = torch.cat([slope, residual.sum(0)[:, None]], dim=1)
        return loss.item(), gradient.numpy().ravel()

    found = minimize(
        objective,
        np.zeros(classes * (x.shape[1] + 1)),
        jac=True,
        method='L-BFGS-B',
        options={'maxiter': iterations},
    )
    theta = torch.from_numpy(found.x).view(classes, -1)
    solution = theta[:, :-1] if basis is None else theta[:, :-1] @ basis
    present = torch.bincount(label, minlength=classes) > 0
    bias = torch.where(present, theta[:, -1], ABSENT)
    return LinearProbe(solution.to(features), bias.to(features))


def span(features: Tensor) -> tuple[Tensor, Tensor | None]:
    """Coordinates of cells in the span of their features, where that is smaller.

    The penalised solution is a combination of the cells' features: it need not be
    looked for elsewhere.

    Args:
        features: (n, D).

    Returns:
        Coordinates (n, min(n, D)) in double precision, and an orthonormal basis (n, D)
        if n < D, or else None.
    """
    x = features.double()
    if x.shape[1] <= x.shape[0]:
        return x, None
    u, s, basis = torch.linalg.svd(x, full_matrices=False)
    return u * s, basis


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a probe says of cells that it was not fitted to.

    Args:
        index: The cells, (m,), of all that were given.
        log_probability: (m, C).
        strength: The L2 strength that was best.
        loss: Its weighted negative log-likelihood.
        losses: That of each strength that was tried.
    """

    index: Tensor
    log_probability: Tensor
    strength: float
    loss: float
    losses: dict[float, float]


def hold_out(
    features: Tensor,
    label: Tensor,
    block: Tensor,
    classes: int,
    balance: float,
    seed: int,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
) -> HeldOut:
    """Choose the L2 strength by cross-validation over blocks of LR cells.

    Neighbouring cells resemble each other, so that whole blocks are held out. Classes
    weigh in the choice as they do in the fit.

    Args:
        features: Standardised features of cells, (n, D).
        label: Class of each, (n,).
        block: Block of each, (n,).
        classes: Number of classes.
        balance: See :func:`class_weights`.
        seed: Seed of the folds.
        strengths: Strengths to choose from.
        folds: Parts that are held out in turn; fewer if there are fewer blocks.

    Returns:
        The best strength, and what its probes said of the cells they did not see.
    """
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(len(label))
    if len(index) > MAX_HELD_OUT:
        index = torch.randperm(len(index), generator=generator)[:MAX_HELD_OUT]
        index = index.sort().values
    features, label, block = features[index], label[index], block[index]
    blocks, place = block.unique(return_inverse=True)
    folds = min(folds, len(blocks))
    if folds < 2:
        raise ValueError('Cross-validation needs cells of two blocks')
    fold = (torch.randperm(len(blocks), generator=generator) % folds)[place]
    weight = class_weights(label, classes, balance)
    said = torch.zeros(len(strengths), len(label), classes)
    for k in range(folds):
        seen = fold != k
        x, basis = span(features[seen])
        unseen = features[~seen].double()
        unseen = unseen if basis is None else unseen @ basis.T
        for i, strength in enumerate(strengths):
            probe = fit_probe(
                x,
                label[seen],
                classes,
                strength,
                class_weights(label[seen], classes, balance),
                width=features.shape[1],
            )
            # A class that only the held-out cells have costs much, but not all.
            logits = probe(unseen).clamp(min=-30)
            said[i, ~seen] = logits.log_softmax(1).float()
    truth = said.gather(2, label.expand(len(strengths), -1)[..., None])[..., 0]
    losses = -(truth.double() * weight).sum(1)
    best = int(losses.argmin())
    return HeldOut(
        index,
        said[best],
        strengths[best],
        losses[best].item(),
        {s: round(v, 6) for s, v in zip(strengths, losses.tolist(), strict=True)},
    )
