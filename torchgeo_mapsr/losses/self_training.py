# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Self-training: pseudo-labels, how far to trust them, and the losses on both domains."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfTrainingLoss(nn.Module):
    """Cross entropy on labelled source and pseudo-labelled target images.

    Liu et al. 2025, equation 8, ``L = L_S + L_T``: :func:`weighted_cross_entropy` of the
    source (equation 3, weights of 1) and of the target (equation 6, weights λ).

    Args:
        reduction: *mean* divides each term by its labelled pixels, so that losses do
            not grow with the chip; *sum* is what the equations print.
        class_weights: Weight of each class in both terms, (C,).
    """

    class_weights: Tensor | None

    def __init__(
        self,
        reduction: Literal['mean', 'sum'] = 'mean',
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.reduction: Literal['mean', 'sum'] = reduction
        self.register_buffer('class_weights', class_weights, persistent=False)

    def forward(
        self,
        source_logits: Tensor,
        source_label: Tensor,
        target_logits: Tensor,
        pseudo_label: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Compute both terms.

        Args:
            source_logits: (B, C, H, W).
            source_label: Class index, (B, H, W), −1 = none.
            target_logits: (B', C, H, W).
            pseudo_label: Class index, (B', H, W), −1 = none.
            weight: λ of each target image, (B',), or of each pixel, (B', H, W).

        Returns:
            L_S and L_T; equation 8 is their sum.
        """
        choices = self.reduction, self.class_weights
        source = weighted_cross_entropy(source_logits, source_label, None, *choices)
        target = weighted_cross_entropy(target_logits, pseudo_label, weight, *choices)
        return source, target


def weighted_cross_entropy(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    reduction: Literal['mean', 'sum'] = 'mean',
    class_weights: Tensor | None = None,
) -> Tensor:
    """Cross entropy with a weight for each image or pixel.

    Liu et al. 2025, equation 6: ``−Σ_i Σ_j Σ_c λ^i Y^{i,j,c} log f(X)^{i,j,c}``; without
    weights it is equation 3. The mean is over labelled pixels and not over weights: an
    image that is trusted half counts half, also where all are.

    Args:
        logits: (B, C, H, W); half precision is computed in single.
        label: Class index, (B, H, W), −1 = none.
        weight: (B,) or (B, H, W); default: 1.
        reduction: *mean* over the pixels with a label, or *sum*.
        class_weights: Weight of each class, (C,). The mean is then over pixels weighted
            by these, as PyTorch's is.

    Returns:
        The loss; 0, with a gradient of 0, where no pixel has a label.
    """
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if class_weights is not None:
        # Precisions '64-true' and 'bf16-true' convert it, as other buffers.
        class_weights = class_weights.to(scores)
    loss = F.cross_entropy(
        scores, label, class_weights, ignore_index=-1, reduction='none'
    )
    if weight is not None:
        loss = loss * (weight[:, None, None] if weight.dim() == 1 else weight)
    total = loss.sum()
    if reduction == 'sum':
        return total
    labelled = label[label >= 0]
    if class_weights is None:
        return total / max(labelled.numel(), 1)
    return total / class_weights[labelled].sum().clamp(min=1e-6)


@torch.no_grad()
def pseudo_labels(
    logits: Tensor, threshold: float = 0.968, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What the teacher says of target images, and how far to trust it.

    Liu et al. 2025. Equation 5: ``Ŷ = argmax f(X)``, of every pixel: none is thrown away
    for being unsure. Equation 7: ``λ^i = 1/(H·W) Σ_j [max_c f(X)^{i,j,c} ≥ τ₀]``, the
    share of the image's pixels that are sure. Pixels without data are in neither.

    Args:
        logits: Of the teacher, (B, C, H, W); half precision is computed in single.
        threshold: τ₀.
        valid: Pixels with data, (B, H, W).

    Returns:
        Class index, (B, H, W), −1 where not valid; and λ, (B,) float.
    """
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    confidence, label = scores.softmax(1).max(1)
    confident = (confidence >= threshold).to(confidence.dtype)
    if valid is None:
        return label, confident.mean((1, 2))
    valid = valid > 0
    pixels = valid.sum((1, 2)).clamp(min=1)
    return torch.where(valid, label, -1), (confident * valid).sum((1, 2)) / pixels


def agreement(*labels: Tensor) -> Tensor:
    """Keep what several labellings agree on: selection without a threshold.

    Liu et al. 2025, section II-C, train on "threshold-free" selected pseudo-labels and
    give no formula. No score enters here either: a pixel keeps its class where all that
    have an opinion share it.

    Args:
        labels: Class index, (B, H, W), −1 = no opinion.

    Returns:
        Class index, (B, H, W), −1 where they differ or nobody knows.
    """
    most = torch.stack(labels).amax(0)
    same = [(label == most) | (label < 0) for label in labels]
    return torch.where(torch.stack(same).all(0), most, -1)
