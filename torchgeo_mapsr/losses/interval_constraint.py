# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Interval constraints: counted labels within bounds, and nothing more."""

import torch
from torch import Tensor, nn

from .label_counting import LabelCounts
from .statistics_matching import mean_over_cells, rows_of


class IntervalConstraintLoss(nn.Module):
    """Euclidean distance of expected shares to the intervals of the cells' LR classes.

    The share of an HR class in a cell is to lie in (η − ρ, η + ρ); inside there is no
    penalty (Malkin et al. 2019, appendix C):

        ‖max(|μ − η| − ρ, 0)‖₂

    It is here for comparison. The paper measures it 16 points of mean IoU below
    :class:`~torchgeo_mapsr.losses.StatisticsMatchingLoss` (Table 5): bounds are satisfied
    long before pixels are sure of anything. With a radius of 0 it is the L2 criterion.

    Args:
        mean: Middle η of each interval, (L, C).
        radius: Half its length ρ, (L, C): a table's standard deviations, or half the
            difference of the bounds of a description.
    """

    mean: Tensor
    radius: Tensor

    def __init__(self, mean: Tensor, radius: Tensor) -> None:
        super().__init__()
        self.register_buffer('mean', mean, persistent=False)
        self.register_buffer('radius', radius, persistent=False)

    def forward(
        self, counts: LabelCounts, label: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss.

        Args:
            counts: Counts of B · n cells.
            label: LR class of each, a row of the table, -1 if it has none, (B, n).
            weight: Weight of each, such as its visible share, (B, n); default: 1.

        Returns:
            The loss; 0 if no cell has a label and a pixel.
        """
        middle, radius = (rows_of(t, label, counts) for t in (self.mean, self.radius))
        excess = (counts.mean - middle).abs() - radius
        # At 0 PyTorch's gradient of the norm is 0, not NaN.
        distance = torch.linalg.vector_norm(excess.clamp(min=0), dim=-1)
        return mean_over_cells(distance, counts, label, weight)
