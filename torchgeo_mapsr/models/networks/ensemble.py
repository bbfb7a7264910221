# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Output-level ensembles: the mean of what several networks say."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import InputError


class Ensemble(nn.Module):
    """Average the class probabilities of several networks.

    Liu et al. 2025, section II-D: "a simple average of several model predictions". With
    weights w it is the mixture ``p = Σ_k w_k softmax(f_k(x)) / Σ_k w_k``, which is a
    distribution over classes again. Networks are asked one after another, so memory
    holds one network's output and the sum.

    Args:
        networks: Modules from images (B, C, H, W) to logits (B, classes, H, W).
        weights: Weight of each network, 0 or more; default: all alike.

    Raises:
        InputError: There is no network, or not one usable weight for each.
    """

    share: Tensor

    def __init__(
        self, networks: Sequence[nn.Module], weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if not networks:
            raise InputError('an ensemble has at least one network')
        shares = torch.tensor(
            [1.0] * len(networks) if weights is None else list(weights),
            dtype=torch.float32,
        )
        if len(shares) != len(networks):
            raise InputError(
                f'{len(shares)} weights for {len(networks)} networks; give one for each'
            )
        if not (shares.isfinite().all() and (shares >= 0).all() and shares.sum() > 0):
            raise InputError(
                f'weights of an ensemble are 0 or more, and not all 0: {shares.tolist()}'
            )
        self.networks = nn.ModuleList(networks)
        # Not in checkpoints: weights are given together with the networks.
        self.register_buffer('share', shares / shares.sum(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Predict.

        Args:
            image: (B, C, H, W), as the networks take it.

        Returns:
            Probabilities, (B, classes, H, W), in single precision or better.

        Raises:
            InputError: The networks have different classes.
        """
        total: Tensor | None = None
        for network, share in zip(self.networks, self.share, strict=True):
            logits = network(image)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            part = share * logits.softmax(1)
            if total is not None and total.shape != part.shape:
                raise InputError(
                    f'networks of an ensemble have the same classes, not '
                    f'{total.shape[1]} and {part.shape[1]}'
                )
            total = part if total is None else total + part
        assert total is not None
        return total
