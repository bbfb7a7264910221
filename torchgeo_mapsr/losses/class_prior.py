# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The class prior of a data set, estimated while a network is trained on it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..arguments import check_numbers, check_range
from ..errors import InputError
from .distributed import sum_over_processes


class ClassPrior(nn.Module):
    r"""The online estimate of the class prior of Dong et al. 2023, eq. 4.

    .. math::
        \tilde P(Y) \leftarrow \mu \tilde P(Y) + (1 - \mu) P(Y; B_t, \theta_t)

    with the mean P(Y; B_t, θ_t) of the predicted probabilities over all pixels of a
    batch, labelled or not. In a distributed run the batch is that of all processes, so
    that they keep one estimate.

    The estimate is a buffer: checkpoints keep it. It starts from the class shares of
    the labelled data, which :meth:`start` takes over from the first batch's labels
    where they are not given.

    Args:
        classes: Number of classes, C.
        momentum: μ, in 0..1. The paper prints μ = B / N (batch size over the number of
            samples), 0.0002 there: then the estimate is that of the last batch. The
            average over an epoch, which its text speaks of, is μ = 1 - B / N.
        shares: Class shares of the labelled data, if they are known, of C numbers.

    Raises:
        InputError: If *shares* are not C shares, or *momentum* is not in 0..1.
    """

    share: Tensor
    started: Tensor

    def __init__(
        self, classes: int, momentum: float, shares: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        check_range('classes', classes, 1, whole=True)
        check_range('momentum', momentum, 0, 1)
        self.momentum = momentum
        first = torch.full((classes,), 1 / classes)
        check_numbers('shares', shares, 0)
        if shares is not None:
            first = torch.tensor([float(share) for share in shares])
            if len(first) != classes or (first < 0).any() or not first.sum() > 0:
                raise InputError(
                    f'The class shares must be {classes} numbers from 0 to 1, one for '
                    f'each class, not {tuple(shares)}'
                )
            first = first / first.sum()
        self.register_buffer('share', first)
        self.register_buffer('started', torch.tensor(shares is not None))

    @torch.no_grad()
    def start(self, label: Tensor) -> None:
        """Take over the class shares of labels, unless there are some already.

        Args:
            label: Class of each pixel, of any shape; -1 if it has none.
        """
        if self.started:
            return
        classes = len(self.share)
        count = torch.bincount(label[label >= 0].flatten(), minlength=classes)
        count = sum_over_processes(count.to(self.share))
        if count.sum() > 0:
            self.share.copy_(count / count.sum())
            self.started.fill_(True)

    def forward(self, probabilities: Tensor, valid: Tensor | None = None) -> Tensor:
        """The prior, after a step of eq. 4 with this batch in training mode.

        Args:
            probabilities: Predicted, (B, C, H, W), of rows that sum to 1.
            valid: Pixels that count, (B, H, W) bool; all by default.

        Returns:
            (C,) float32, of sum 1. Its value is the new estimate. Its gradient is that
            of P(Y; B_t, θ_t): of the expectation that both estimate, the batch's is the
            only part that depends on the network as it is now.
        """
        p = probabilities.float()
        if valid is None:
            valid = torch.ones_like(p[:, 0], dtype=torch.bool)
        sums = torch.where(valid[:, None], p, 0).sum((0, 2, 3))
        sums = sum_over_processes(torch.cat([sums, valid.sum()[None].to(sums)]))
        total = sums[-1].detach()
        batch = sums[:-1] / total.clamp(min=1)
        if self.training and total > 0:
            mixed = self.momentum * self.share + (1 - self.momentum) * batch.detach()
            self.share.copy_(mixed / mixed.sum())
        return self.share.clone() + (batch - batch.detach())
