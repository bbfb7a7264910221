# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Resolution alignment: imagery as a coarser sensor would see it."""

from typing import Any

import kornia.augmentation as K
import torch
from kornia.augmentation import random_generator as rg
from torch import Tensor
from torch.nn.functional import interpolate

from ..arguments import check_numbers, check_range
from ..errors import InputError


class ResolutionAlignment(K.IntensityAugmentationBase2D):
    """Shrink images by a random ratio and enlarge them again, bilinear both ways.

    Liu et al. 2025, equations 1 and 2: ``X_D = D(X, U(r1, r2))``, ``X_U = U(X_D)``,
    where the small image has ``round(r · H) × round(r · W)`` pixels. It closes the gap
    between training imagery and coarser imagery. Images keep their size, masks are left
    alone, and images that are not drawn (see *p*) are left as they are.

    Values that are not finite stay where they are, and others are means without them.

    Each image of a batch draws its own ratio. The paper names no values for r1 and r2.

    Args:
        ratio: r1 and r2, the bounds of the ratio, with 0 < r1 ≤ r2 ≤ 1.
        antialias: Low-pass when shrinking. The paper says bilinear interpolation and no
            more, which in PyTorch is without; with it, ratios below ½ skip no pixels.
        same_on_batch: Draw one ratio for the whole batch.
        p: Probability that an image is changed.
        keepdim: Return an image without batch axis as it came.

    Raises:
        InputError: *ratio* has other bounds, or *p* is no probability.
    """

    def __init__(
        self,
        ratio: tuple[float, float] = (0.25, 1.0),
        antialias: bool = False,
        same_on_batch: bool = False,
        p: float = 0.5,
        keepdim: bool = False,
    ) -> None:
        check_numbers('ratio', ratio)
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1] <= 1:
            raise InputError(f'ratio must have 0 < r1 <= r2 <= 1, not {ratio}')
        check_range('p', p, 0, 1)
        super().__init__(p=p, same_on_batch=same_on_batch, p_batch=1.0, keepdim=keepdim)
        self.flags = {'antialias': antialias}
        self._param_generator = rg.PlainUniformGenerator(
            (tuple(ratio), 'ratio', None, None)
        )

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Change the images that are drawn.

        Args:
            input: (B, C, H, W) float.
            params: ``ratio``, (B,).
            flags: ``antialias``.
            transform: Not used.

        Returns:
            (B, C, H, W).
        """
        # One by one, since the small images differ in size.
        ratios = params['ratio'].tolist()
        return torch.cat(
            [
                _aligned(image, ratio, flags['antialias'])
                for image, ratio in zip(input.split(1), ratios, strict=True)
            ]
        )


def _aligned(image: Tensor, ratio: float, antialias: bool) -> Tensor:
    """Shrink and enlarge (1, C, H, W), by the means of what has a value."""
    size = list(image.shape[-2:])
    small = [max(round(side * ratio), 1) for side in size]

    def both_ways(values: Tensor) -> Tensor:
        return _resize(_resize(values, small, antialias), size, False)

    finite = image.isfinite()
    if finite.all():
        return both_ways(image)
    total = both_ways(torch.where(finite, image, 0))
    share = both_ways(finite.to(image))
    return torch.where(finite & (share > 0), total / share, image)


def _resize(image: Tensor, size: list[int], antialias: bool) -> Tensor:
    return interpolate(
        image, size, mode='bilinear', align_corners=False, antialias=antialias
    )
