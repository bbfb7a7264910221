# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Cross entropy that is balanced by sample and by class."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..arguments import POSITIVE, check_choice, check_range

# The least share that a class is taken to have: 1 / log(1 + r) and log P(y) have no
# bound. A class of one pixel in ten thousand weighs a thousand times one of a tenth.
LEAST = 1e-4

# -log P is taken to be at least this where it divides: at 1, eq. 2 divides by zero.
CERTAIN = 1e-6

Sampling = Literal['likelihood', 'detached', 'none']


def sample_weight(
    log_probability: Tensor, log_prior: Tensor, certain: float = CERTAIN
) -> Tensor:
    r"""The weight of a labelled sample, Dong et al. 2023, eq. 2.

    .. math::
        s(x, y) = \frac{\log P(y|x; \theta) - \log P(y; \theta)}{\log P(y|x; \theta)}

    It is below 1 everywhere, 0 where the network says of a pixel what it says of all,
    and below 0 where it is surer than that. Its product with log P(y|x), which is what
    the loss asks for, is log P(y|x) - log P(y) and bounded; the weight itself has no
    bound as P(y|x) goes to 1, so that the denominator is kept away from 0.

    Args:
        log_probability: Log P(y|x) of the label, of any shape.
        log_prior: Log P(y) of the label, of the same shape.
        certain: Least -log P(y|x) to divide by.

    Returns:
        S, of the same shape.
    """
    return 1 - log_prior / log_probability.clamp(max=-certain)


def class_weight(share: Tensor, least: float = LEAST) -> Tensor:
    r"""The weight of a class, Dong et al. 2023, eq. 3.

    .. math:: W_k = \frac{1}{\log(1 + r_k)}

    Args:
        share: R, the share of each class, (C,).
        least: Least share that a class is taken to have.

    Returns:
        (C,) W; it does not know of gradients.
    """
    return 1 / share.detach().clamp(min=least).log1p()


class ClassBalancedCrossEntropy(nn.Module):
    r"""Class-balanced cross entropy on labelled pixels, Dong et al. 2023, eq. 5.

    .. math::
        \mathcal L_{cbce} = -\frac1n \sum_{k=1}^{K} W_k
        \sum_{i=1}^{n_k} s(x_{ik}, y_{ik}) \log p_{ik}

    with eq. 2 and 3 for s and W and the class prior of the whole data set for their
    P(y) and r. The paper's sum is the mean over the n labelled pixels here, so that the
    loss does not grow with the batch, and has the sign of a loss.

    How s takes part, the paper leaves open, and it matters:

    * ``'likelihood'``: as in the fourth line of eq. 2, s log P(y|x) = log P(y|x) -
      log P(y), with a gradient through both. P(x|y) is made most likely; there is
      nothing to divide by.
    * ``'detached'``: s is a number, as weights are. Where P(y|x) > P(y) it is below 0:
      the sample would be unlearned until the network says of it what it says of all.
      So it is cut at 0: those pixels are left out.
    * ``'none'``: s = 1, the weighted cross entropy of eq. 3.

    Args:
        sampling: How s takes part.
        weighting: Whether classes weigh by W; equally otherwise.
        least: Least share that a class is taken to have.
        ignore_index: Label of pixels that do not count.

    Raises:
        InputError: *sampling* is something else, or *least* is no share above 0.
    """

    def __init__(
        self,
        sampling: Sampling = 'likelihood',
        weighting: bool = True,
        least: float = LEAST,
        ignore_index: int = -1,
    ) -> None:
        check_choice('sampling', sampling, get_args(Sampling))
        check_range('least', least, POSITIVE, 1)
        super().__init__()
        self.sampling, self.weighting = sampling, weighting
        self.least, self.ignore_index = least, ignore_index

    def forward(self, logits: Tensor, label: Tensor, prior: Tensor) -> Tensor:
        """Compute the loss, in float32 whatever the logits are.

        Args:
            logits: (B, C, H, W).
            label: Class of each pixel, (B, H, W) int64.
            prior: P(y), the share of each class, (C,), as
                :class:`~torchgeo_mapsr.losses.ClassPrior` gives it.

        Returns:
            The loss tensor; 0 (with a gradient of 0) where no pixel is labelled.
        """
        with torch.autocast(logits.device.type, enabled=False):
            labelled = label != self.ignore_index
            y = torch.where(labelled, label, 0)
            log_p = logits.float().log_softmax(1).gather(1, y[:, None])[:, 0]
            log_prior = prior.float().clamp(min=self.least).log()[y]
            if self.sampling == 'likelihood':
                each = log_p - log_prior
            elif self.sampling == 'detached':
                s = sample_weight(log_p, log_prior).detach().clamp(min=0)
                each = s * log_p
            else:
                each = log_p
            if self.weighting:
                each = class_weight(prior.float(), self.least)[y] * each
            total = torch.where(labelled, each, 0).sum()
            return -total / labelled.sum().clamp(min=1)
