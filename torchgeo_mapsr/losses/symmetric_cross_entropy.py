# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Symmetric cross entropy: robust to wrong labels."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from ..arguments import check_choice, check_range
from ..errors import InputError


class SymmetricCrossEntropy(nn.Module):
    """Cross entropy both ways: of the label by the prediction, and the reverse.

    Liu et al. 2025, equation 11, ``L = L_ce + L_sce`` (after Wang et al. 2019), with

    * equation 10, ``L_ce = −Σ Y^{i,j,c} log f(X)^{i,j,c}``
    * equation 9, ``L_sce = −Σ f(X)^{i,j,c} log(Y^{i,j,c} + ε)``, where the prediction
      takes the label's part

    For a label y the sum over classes in equation 9 has two values only, so it is
    ``−p_y log(1 + ε) − (1 − p_y) log ε``: linear in p_y, bounded by −log ε. A label that
    the network is sure to be wrong pulls no harder than others, as it would in
    equation 10. ε says how much the term weighs. The paper gives no number; 1e-4 makes
    it up to 9.2 a pixel.

    Args:
        epsilon: ε, between 0 and 1.
        ce_weight: Weight of equation 10 (the paper: 1).
        sce_weight: Weight of equation 9 (the paper: 1).
        ignore_index: Label of pixels that do not count.
        reduction: *mean* over the pixels that count, or *sum* as the equations print.
        class_weights: Weight of each class, by its label, (C,). The mean is then over
            pixels weighted by these, as PyTorch's is.

    Raises:
        InputError: *epsilon* or a weight is out of its range, or *reduction* is
            something else.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        epsilon: float = 1e-4,
        ce_weight: float = 1.0,
        sce_weight: float = 1.0,
        ignore_index: int = -1,
        reduction: Literal['mean', 'sum'] = 'mean',
        class_weights: Tensor | None = None,
    ) -> None:
        check_range('epsilon', epsilon)
        if not 0 < epsilon < 1:
            raise InputError(f'epsilon is between 0 and 1, not {epsilon}')
        check_range('ce_weight', ce_weight, 0)
        check_range('sce_weight', sce_weight, 0)
        check_choice('reduction', reduction, ('mean', 'sum'))
        super().__init__()
        self.epsilon = epsilon
        self.ce_weight, self.sce_weight = ce_weight, sce_weight
        self.ignore_index = ignore_index
        self.reduction: Literal['mean', 'sum'] = reduction
        self.register_buffer('class_weights', class_weights, persistent=False)

    def forward(
        self, logits: Tensor, label: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss.

        Args:
            logits: (B, C, H, W) or (N, C); half precision is computed in single.
            label: Class index, (B, H, W) or (N).
            weight: Of each pixel, of the shape of *label*.

        Returns:
            The loss; 0, with a gradient of 0, where no pixel counts.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        counts = label != self.ignore_index
        index = torch.where(counts, label, 0)
        log_p = log_softmax(logits, 1).gather(1, index[:, None])[:, 0]
        # 1 − p would lose all digits where p is nearly 1.
        other = -torch.expm1(log_p)
        reverse = -(1 - other) * math.log1p(self.epsilon)
        reverse = reverse - other * math.log(self.epsilon)
        loss = self.ce_weight * -log_p + self.sce_weight * reverse
        importance = counts.to(loss)
        if self.class_weights is not None:
            importance = importance * self.class_weights.to(loss)[index]
        if weight is not None:
            loss = loss * weight
        total = torch.where(importance > 0, loss * importance, 0).sum()
        if self.reduction == 'sum':
            return total
        return total / importance.sum().clamp(min=torch.finfo(total.dtype).tiny)
