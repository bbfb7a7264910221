# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The published way, done plainly: dense features, dense cosines, dense neighbours.

Written from the paper (MapSR 2026) and the constants that it is known to use: features
upsampled to every pixel, cosine similarity with one prompt a class, and propagation as
in LPOSS within windows of 112 x 112 pixels: the k = 400 strongest neighbours of every
pixel by cos^γ exp(-d²/σ), γ = 3, symmetrised, S = D^-1/2 A D^-1/2, and
(I - αS) Y = Y0 by ten iterations of conjugate gradients, α = 0.95. Distances are in
sides of the window, and σ = 0.01 is their variance. AnyUp's weights are not here:
upsampling is bilinear, as it is in this package by default. Seeds are similarities
stretched to 0..1.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.sparse.linalg import cg
from torch import Tensor

from .package import Tokens


@dataclass(frozen=True)
class Published:
    """Constants of the published propagation.

    Args:
        window: Side of a window in pixels.
        neighbours: k.
        gamma: Exponent of the cosine.
        sigma: Of the distance, in squared sides of a window.
        alpha: Strength.
        iterations: Of conjugate gradients.
    """

    window: int = 112
    neighbours: int = 400
    gamma: float = 3.0
    sigma: float = 0.01
    alpha: float = 0.95
    iterations: int = 10

    def propagate(self, features: Tensor, scores: Tensor) -> Tensor:
        """Spread scores among the pixels of each window.

        Returns:
            (H, W, C).
        """
        low, high = scores.amin((0, 1)), scores.amax((0, 1))
        seeds = (scores - low) / (high - low).clamp(min=1e-12)
        result = torch.empty_like(scores)
        for rows, cols in _windows(scores.shape[:2], self.window):
            system = self.system(features[rows, cols])
            some = seeds[rows, cols].flatten(0, 1).numpy()
            solved = np.stack(
                [cg(system, y, rtol=0, maxiter=self.iterations)[0] for y in some.T], 1
            )
            result[rows, cols] = torch.from_numpy(solved).view_as(result[rows, cols])
        return result

    def system(self, features: Tensor) -> csr_array:
        """I - αS of the pixels of a window, of features (h, w, D)."""
        height, width = features.shape[:2]
        unit = F.normalize(features.flatten(0, 1), dim=1)
        axes = torch.arange(height) / self.window, torch.arange(width) / self.window
        places = torch.cartesian_prod(*axes).to(unit)
        near = torch.exp(-torch.cdist(places, places).square() / self.sigma)
        affinity = (unit @ unit.T).clamp(min=0) ** self.gamma * near
        affinity.fill_diagonal_(0)
        n = len(unit)
        strongest, index = affinity.topk(min(self.neighbours, n - 1), dim=1)
        start = np.arange(n + 1) * strongest.shape[1]
        a = csr_array(
            (strongest.flatten().numpy(), index.flatten().numpy(), start), (n, n)
        )
        a = (a + a.T) / 2
        scale = diags_array(1 / np.sqrt(np.maximum(a.sum(1), 1e-12)))
        return csr_array(eye_array(n) - self.alpha * (scale @ a @ scale))


def upsampled(tokens: Tokens) -> Tensor:
    """Features of every pixel of the first image, (H, W, D)."""
    height, width = tokens.size
    levels = [
        F.interpolate(level[:1], scale_factor=stride, mode='bilinear')[
            ..., :height, :width
        ]
        for level, stride in zip(tokens.levels, tokens.strides, strict=True)
    ]
    return torch.cat(levels, dim=1)[0].permute(1, 2, 0).contiguous()


def matched(features: Tensor, prompts: Tensor) -> Tensor:
    """Cosines of features (H, W, D) with prompts (C, D), (H, W, C)."""
    return F.normalize(features, dim=2) @ F.normalize(prompts, dim=1).T


@torch.inference_mode()
def published_map(
    tokens: Tokens, prompts: Tensor, how: Published | None
) -> NDArray[np.int64]:
    """Class of every pixel.

    Returns:
        (H, W).
    """
    present = ~prompts.isnan().any(1)
    features = upsampled(tokens)
    scores = matched(features, prompts[present])
    if how is not None:
        scores = how.propagate(features, scores)
    return present.nonzero()[:, 0][scores.argmax(2)].numpy()


def _windows(size: torch.Size, side: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, size[0], side):
        for col in range(0, size[1], side):
            yield slice(row, row + side), slice(col, col + side)
