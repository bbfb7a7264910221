# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Statistics matching: counted labels against what LR classes let expect."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..arguments import POSITIVE, check_choice, check_range
from .label_counting import LabelCounts

Criterion = Literal['compromise', 'kl_printed', 'kl']

#: Least variance of a count. Without it the logarithm has no bound: a network that is
#: sure of every pixel would win any loss. 1e-6 is (0.1 %)², about a pixel of a 30 m cell.
LEAST_VARIANCE = 1e-6

#: Least standard deviation of a table's shares. Tables are rounded to 0.01, and one
#: estimated from few cells may say 0.
LEAST_STD = 0.01


class StatisticsMatchingLoss(nn.Module):
    """Mismatch of label counts and joint statistics (Malkin et al. 2019, section 2).

    With p_net = N(μ, σ²) from :func:`~torchgeo_mapsr.losses.label_counts` and
    p_coarse = N(η, ρ²) of a cell's LR class, for each HR class,

    * ``compromise``: eq. 7, − max_c (log p_net(c) + log p_coarse(c)) up to a constant.
      The maximum is at c = (ρ²μ + σ²η) / (σ² + ρ²) (eq. 6), where it leaves

          ½ (μ − η)² / (σ² + ρ²) + ½ log 2πσ²

    * ``kl_printed``: footnote 3, with ρ² alone below the line. The paper calls it
      KL(p_net ‖ p_coarse) and finds it close to eq. 7 where cells have many pixels
    * ``kl``: that divergence of two Gaussians as it is,

          log(ρ / σ) + ((μ − η)² + σ²) / 2ρ² − ½

      whose logarithm has the other sign. It is here for comparison: it asks for σ = ρ,
      that is, for pixels as unsure as possible

    The log-variance term rewards a network that is sure of its pixels. The paper finds
    that without it (*variance_weight* 0) training ends in nearly uniform predictions or
    a single class.

    A cell's loss is the sum over the HR classes; the result is the mean over the cells
    that have a label and a pixel, by weight (the paper adds up, which makes the step
    grow with the number of cells).

    Args:
        mean: η of each LR class, (L, C).
        std: ρ of each LR class, (L, C).
        criterion: One of the above.
        variance_weight: Weight of the log-variance term.
        least_variance: Added to σ².
        least_std: Floor of ρ.

    Raises:
        InputError: *criterion* is none of these, *variance_weight* or *least_variance*
            is below 0, or *least_std* is not above 0.
    """

    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        criterion: Criterion = 'compromise',
        variance_weight: float = 1.0,
        least_variance: float = LEAST_VARIANCE,
        least_std: float = LEAST_STD,
    ) -> None:
        super().__init__()
        check_choice('criterion', criterion, get_args(Criterion))
        check_range('variance_weight', variance_weight, 0)
        check_range('least_variance', least_variance, 0)
        check_range('least_std', least_std, POSITIVE)
        self.criterion: Criterion = criterion
        self.variance_weight = variance_weight
        self.least_variance = least_variance
        # They come from a file, so that checkpoints need not hold them.
        self.register_buffer('mean', mean, persistent=False)
        variance = std.clamp(min=least_std) ** 2
        self.register_buffer('variance', variance, persistent=False)

    def forward(
        self, counts: LabelCounts, label: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss.

        Args:
            counts: Counts of B · n cells.
            label: LR class of each, a row of the table, -1 if it has none, (B, n).
            weight: Weight of each, such as its visible share, (B, n); default: 1.

        Returns:
            The loss; 0, with a gradient of zeros, if no cell has a label and a pixel.
        """
        eta = rows_of(self.mean, label, counts)
        rho2 = rows_of(self.variance, label, counts, unlabelled=1)
        sigma2 = counts.variance + self.least_variance
        squares = (counts.mean - eta) ** 2
        log_variance = self.variance_weight * torch.log(2 * math.pi * sigma2)
        if self.criterion == 'compromise':
            terms = squares / (sigma2 + rho2) + log_variance
        elif self.criterion == 'kl_printed':
            terms = squares / rho2 + log_variance
        else:
            log_rho = self.variance_weight * torch.log(2 * math.pi * rho2)
            terms = log_rho - log_variance + (squares + sigma2) / rho2 - 1
        return mean_over_cells(terms.sum(-1) / 2, counts, label, weight)

    def extra_repr(self) -> str:
        """Arguments, for ``print(module)``."""
        return f'criterion={self.criterion!r}, variance_weight={self.variance_weight}'


def mean_over_cells(
    loss: Tensor, counts: LabelCounts, label: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Average a loss over the cells that have a label and a pixel.

    Args:
        loss: Loss of each cell, (B, n).
        counts: Its counts.
        label: Its LR class, -1 if it has none, (B, n).
        weight: Its weight, (B, n); default: 1.

    Returns:
        The mean; 0 if there is no such cell.
    """
    share = torch.ones_like(loss) if weight is None else weight.to(loss)
    share = torch.where((label >= 0) & (counts.pixels > 0), share, 0)
    return (loss * share).sum() / share.sum().clamp(min=torch.finfo(loss.dtype).tiny)


def rows_of(
    table: Tensor, label: Tensor, counts: LabelCounts, unlabelled: float = 0
) -> Tensor:
    """Look up the rows of a table.

    Args:
        table: A row for each LR class, (L, C).
        label: LR classes, -1 for none, (B, n).
        counts: What they are compared with.
        unlabelled: What stands for -1. The first row must not: one without statistics is
            NaN, and 0 times its gradient would be NaN too.

    Returns:
        (B, n, C), in the precision of the counts.
    """
    rows = table.to(counts.mean.dtype)[label.clamp(min=0)]
    return torch.where(label[..., None] >= 0, rows, unlabelled)
