# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Cross entropy of LR labels and aggregated HR scores."""

from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_choice
from ..transforms.region_aggregation import Reduction, aggregate_regions


class RegionCrossEntropy(nn.Module):
    """Cross entropy of HR scores that are aggregated over LR cells, and LR labels.

    Workman et al. 2023, equation 1: the scores y of the pixels x of cell i are added up,
    and the sums are the logits of the cell's label c(i),

        L = − Σᵢ wᵢ log softmax(Σₓ yₓ)_c(i) / Σᵢ wᵢ.

    The paper has wᵢ = 1. Here a cell that a chip cuts weighs by its visible share, so
    that cells count alike however chips lie, and a cell without a label or without a
    valid pixel weighs nothing. Which pixels are a cell's is what ``mask_region`` says:
    any CRS, any ratio of pixel sizes. Where cells are blocks of n × n pixels it is the
    cross entropy of n² times the n × n mean pooling.

    Args:
        reduction: *sum* over the pixels of a cell, as in the paper, or their *mean*: the
            same with scores that are larger by the number of the cell's pixels, but a cut
            cell is then no less certain than a whole one.
        weight: Weight of each class.

    Raises:
        InputError: *reduction* is something else.
    """

    weight: Tensor | None

    def __init__(
        self,
        reduction: Reduction = 'mean',
        weight: Sequence[float] | Tensor | None = None,
    ) -> None:
        check_choice('reduction', reduction, get_args(Reduction))
        super().__init__()
        self.reduction: Reduction = reduction
        if weight is not None:
            weight = torch.as_tensor(weight, dtype=torch.float32)
        self.register_buffer('weight', weight, persistent=False)

    def forward(
        self,
        logits: Tensor,
        mask_region: Tensor,
        label: Tensor,
        share: Tensor,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch.

        Args:
            logits: Scores of pixels, (B, C, H, W).
            mask_region: 0 = outside, i + 1 = cell i, (B, H, W).
            label: Class of each cell, (B, h, w), -1 = none.
            share: Visible share of each cell, (B, h, w) in 0..1.
            valid: Pixels that count, (B, H, W); default: all.

        Returns:
            The loss; zero, with a gradient of zero, where no cell has a label.
        """
        label, share = label.flatten(1), share.flatten(1)
        scores = aggregate_regions(
            logits, mask_region, label.shape[1], self.reduction, valid
        )
        # Precisions '64-true' and 'bf16-true' convert buffers; scores may be of any type.
        weight = None if self.weight is None else self.weight.to(scores.dtype)
        each = F.cross_entropy(
            scores.transpose(1, 2),
            label,
            weight=weight,
            ignore_index=-1,
            reduction='none',
        )
        importance = torch.where(label >= 0, share, 0.0)
        total = (each * importance).sum()
        if weight is not None:
            importance = importance * weight[label.clamp(min=0)]
        return total / importance.sum().clamp(min=torch.finfo(share.dtype).tiny)

    def extra_repr(self) -> str:
        """Arguments, for ``print(module)``."""
        return f'reduction={self.reduction!r}'
