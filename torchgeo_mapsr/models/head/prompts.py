# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Class prompts: what the frozen features of each class look like."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from torch import Tensor

from ..tokens.tokens import Tokens
from .probe import ABSENT, LinearProbe

# Fewest pixels that a class needs for a prompt; 3 or 30 changed none of twelve columns.
FEWEST = 10

# Pixels whose deviations from their prompt are copied at once.
_PART = 1024

# Shrinkage of the within-class covariance towards a multiple of the identity. On twelve
# columns of real scenes .03 lost .002 in the mean, and .3 gained .004, from -.007 to .018.
SHRINKAGE = 0.1


def confident(
    confidence: Tensor, label: Tensor, keep: Tensor, quantile: float
) -> Tensor:
    """Of the pixels that are kept, the most confident of each class.

    Args:
        confidence: Of the class of each pixel, (N,).
        label: Class of each, (N,).
        keep: Pixels to choose from, (N,) bool.
        quantile: Only those at or above this quantile of their class.

    Returns:
        (N,) bool.
    """
    if quantile <= 0:
        return keep
    for c in label[keep].unique():
        members = keep & (label == c)
        # numpy: torch.quantile refuses more than 16 million values.
        least = float(np.quantile(confidence[members].numpy(), quantile))
        keep = keep & (~members | (confidence >= least))
    return keep


def cluster(
    features: Tensor,
    label: Tensor,
    classes: int,
    k: int,
    seed: int,
    weight: Tensor | None = None,
) -> Tensor:
    """Means of each class, or of k clusters of it.

    Args:
        features: Features of the pixels of all classes, (m, D).
        label: Class of each, (m,).
        classes: Number of classes, C.
        k: Prompts a class (k-means; MapSR has one).
        seed: Seed of k-means.
        weight: How far each pixel counts in its class's mean, (m,); all alike by
            default. Clusters are of all alike.

    Returns:
        (C, k, D); NaN for a class whose pixels weigh less than FEWEST.
    """
    prompts = torch.full((classes, k, features.shape[1]), torch.nan)
    weight = torch.ones(len(label)) if weight is None else weight
    weight = weight.to(features)
    for c in range(classes):
        members = label == c
        w = torch.where(members, weight, 0)
        if w.sum() < max(FEWEST, k):
            continue
        # Of all pixels: those of the class alone would be copied.
        prompts[c] = (w @ features) / w.sum()
        if k > 1:
            rng = np.random.default_rng(seed)
            with warnings.catch_warnings():
                # Of fewer than k different pixels: prompts that are equal do no harm.
                warnings.simplefilter('ignore')
                data = features[members].double().numpy()
                centres, _ = kmeans2(data, k, minit='++', seed=rng)
            prompts[c] = torch.from_numpy(centres).to(prompts)
    return prompts


def within_class_discriminant(
    features: Tensor,
    label: Tensor,
    prompts: Tensor,
    shrinkage: float = SHRINKAGE,
    weight: Tensor | None = None,
) -> LinearProbe:
    r"""Prompts under a shared within-class covariance (linear discriminant analysis).

    .. math:: w = \Sigma^{-1} m, \quad b = -\tfrac12 m^\top \Sigma^{-1} m

    for every prompt m: the logarithm of a Gaussian of covariance Σ around it, less what
    all prompts share. Linear in the features, so that it stays in token space and needs
    no norms.

    Args:
        features: Standardised features of the pixels, (m, D).
        label: Class of each, (m,).
        prompts: From :func:`cluster` of the same features, (C, k, D).
        shrinkage: Part of Σ that is replaced by its mean variance times the identity.
        weight: How far each pixel counts, (m,); all alike by default.

    Returns:
        Scores of the C * k prompts, class by class.
    """
    classes, k, dimensions = prompts.shape
    present = ~prompts.isnan().any(2)
    weight = torch.ones(len(label)) if weight is None else weight
    weight = weight.to(features)
    covariance = torch.zeros(dimensions, dimensions, dtype=torch.float64)
    total = 0.0
    for c in present[:, 0].nonzero()[:, 0].tolist():
        members, centres = (label == c).nonzero()[:, 0], prompts[c].to(features)
        # Some at a time: what lies between are three more copies of the features.
        for some in members.split(_PART):
            residual = features[some]
            nearest = torch.cdist(residual, centres).argmin(1) if k > 1 else 0
            residual -= centres[nearest]
            # Deviations have zero mean: single precision is enough, at half the time.
            covariance += (residual.T * weight[some]) @ residual
        total += float(weight[members].sum())
    covariance /= max(total, 1e-12)
    spread = covariance.diagonal().mean().clamp(min=1e-12)
    covariance *= 1 - shrinkage
    covariance.diagonal().add_(shrinkage * spread)
    m = prompts.nan_to_num().view(classes * k, dimensions).double()
    coefficients = torch.linalg.solve(covariance, m.T).T
    bias = -(coefficients * m).sum(1) / 2
    bias = torch.where(present.view(-1), bias, ABSENT)
    return LinearProbe(coefficients.to(features), bias.to(features))


@dataclass(frozen=True, eq=False)
class CosinePrompts:
    """Prompts that are matched by cosine similarity, the published form of MapSR.

    Args:
        prompts: Mean of the unit features of each class or cluster, (C, k, D); NaN
            where there is none.
        centre: Point that similarity is seen from, (D,): zero, or the mean of all
            pixels' features, which tells classes with like features better apart.
        centred: Whether the centre is another point than zero (default: as it says).
    """

    prompts: Tensor
    centre: Tensor

    centred: bool | None = None

    def __post_init__(self) -> None:
        # Asked once: torch.export cannot follow a question about a tensor's values.
        if self.centred is None:
            object.__setattr__(self, 'centred', bool(self.centre.any()))

    def match(self, features: Tensor) -> Tensor:
        """Similarity of feature vectors to their most similar prompt of each class.

        Args:
            features: (n, D).

        Returns:
            (n, C) in -1..1; -1 for a class without a prompt.
        """
        classes, k, _ = self.prompts.shape
        unit = F.normalize(features - self.centre, dim=1)
        cosine = unit @ self._directions().T
        return self._best(cosine.view(-1, classes, k), 2)

    def match_tokens(self, tokens: Tokens) -> Tensor:
        """Similarity of every pixel's features, found in token space.

        cos((U F)(x) - c, p) = U ((F - c) p / |p|) / |U (F - c)|, as U 1 = 1: a
        product with C k prompts a token, and the norms that
        :meth:`Tokens.norms` finds without the HR features.

        Args:
            tokens: Tokens of a batch.

        Returns:
            (B, C, H, W).
        """
        classes, k, dimensions = self.prompts.shape
        if self.centred:
            ones = torch.ones(dimensions).to(self.centre)
            tokens = tokens.affine(ones, -self.centre)
        product = tokens.project(self._directions())
        cosine = product / tokens.norms().clamp(min=1e-12)[:, None]
        b, _, h, w = cosine.shape
        return self._best(cosine.view(b, classes, k, h, w), 2)

    def _directions(self) -> Tensor:
        """Unit prompts, (C k, D); zero where there is none."""
        return F.normalize(self.prompts.flatten(0, 1).nan_to_num(), dim=1)

    def _best(self, cosine: Tensor, axis: int) -> Tensor:
        """The best prompt of each class, and -1 where a class has none."""
        present = ~self.prompts[:, 0, 0].isnan()
        best = cosine.amax(axis)
        shape = (1, -1, *(1,) * (best.dim() - 2))
        return torch.where(present.view(shape), best, -1.0)
