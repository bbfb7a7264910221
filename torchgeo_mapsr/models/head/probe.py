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
            mean: M, (D,).
            scale: S, (D,).

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
    iterations: int = 500,
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

    Returns:
        The probe.
    """
    count, dimensions = features.shape
    x, basis = span(features)
    if weight is None:
        weight = torch.full((count,), 1 / count)
    theta = _solve(x, label, classes, strength * dimensions, weight, iterations)
    probe = _probe(theta, label)
    return LinearProbe((probe.weight @ basis).to(features), probe.bias.to(features))


def span(features: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of cells along the principal axes of their features.

    The penalised solution is a combination of the cells' features: it need not be
    looked for elsewhere. And along these axes the problem is nearly diagonal.

    Args:
        features: (n, D).

    Returns:
        Coordinates (n, k) in double precision and an orthonormal basis (k, D), with k
        the lesser of n and D.
    """
    x = features.double()
    if x.shape[0] < x.shape[1]:
        u, s, basis = torch.linalg.svd(x, full_matrices=False)
        return u * s, basis
    _, vectors = torch.linalg.eigh(x.T @ x)
    return x @ vectors, vectors.T.contiguous()


def _solve(
    x: Tensor,
    label: Tensor,
    classes: int,
    penalty: float,
    weight: Tensor,
    iterations: int = 500,
    start: Tensor | None = None,
) -> Tensor:
    """Weights and, in the last column, biases of the least penalised loss.

    The unknowns are scaled by the root of (an upper bound of) the curvature along each
    axis, which is what makes L-BFGS take tens of steps and not hundreds.

    Args:
        x: Coordinates along principal axes, (n, k) float64.
        label: Class of each, (n,).
        classes: Number of classes.
        penalty: Factor of half the squared length of the weights.
        weight: Weight of each cell, of sum 1.
        iterations: At most.
        start: Where to begin, (C, k + 1).

    Returns:
        (C, k + 1) float64.
    """
    x = torch.nn.functional.pad(x, (0, 1), value=1.0)
    w = weight.double()
    target = torch.nn.functional.one_hot(label, classes).double()
    ridge = torch.full((x.shape[1],), penalty).double()
    ridge[-1] = 0
    scale = (ridge + (w @ x**2) / 4).clamp(min=1e-12).rsqrt()

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        theta = torch.from_numpy(flat).view(classes, -1) * scale
        log_p = (x @ theta.T).log_softmax(1)
        loss = -(w[:, None] * target * log_p).sum() + (ridge * theta**2).sum() / 2
        residual = (log_p.exp() - target) * w[:, None]
        gradient = (residual.T @ x + ridge * theta) * scale
        return loss.item(), gradient.numpy().ravel()

    first = torch.zeros(classes, x.shape[1]).double() if start is None else start
    found = minimize(
        objective,
        (first / scale).numpy().ravel(),
        jac=True,
        method='L-BFGS-B',
        options={'maxiter': iterations},
    )
    return torch.from_numpy(found.x).view(classes, -1) * scale


def _probe(theta: Tensor, label: Tensor) -> LinearProbe:
    """A probe of solved weights; a class without a cell is never predicted."""
    present = torch.bincount(label, minlength=len(theta)) > 0
    return LinearProbe(theta[:, :-1], torch.where(present, theta[:, -1], ABSENT))


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
    limit: int = MAX_HELD_OUT,
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
        limit: Cells to look at, at most.

    Returns:
        The best strength, and what its probes said of the cells they did not see.

    Raises:
        ValueError: If all cells are of one block.
    """
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(len(label))
    if len(index) > limit:
        index = torch.randperm(len(index), generator=generator)[:limit]
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
        unseen = features[~seen].double() @ basis.T
        share = class_weights(label[seen], classes, balance)
        theta = None
        # From strong to weak: each solution is where the next search begins.
        for i in sorted(range(len(strengths)), key=lambda i: -strengths[i]):
            penalty = strengths[i] * features.shape[1]
            theta = _solve(x, label[seen], classes, penalty, share, start=theta)
            probe = _probe(theta, label[seen])
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
