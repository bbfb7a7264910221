# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Flips and quarter turns of batches, with all their masks."""

import torch
from torch import Tensor, nn

from .._compat import Sample


class FlipsAndTurns(nn.Module):
    """Lay each sample of a batch down in another way: what data modules augment by.

    Each of the eight ways to lay a square down is as likely as another; samples that are
    no squares are turned by half turns only. Pixels move as a whole, whatever their
    type, so ``mask_region`` goes on to point to the right cells.

    Kornia's ``RandomRotation90`` computes where pixels come from in the image's type and
    interpolates there: in bfloat16, which has no odd numbers above 256, half of the
    pixels of a chip of 448 were no longer those of their labels, and a pixel of NaN
    became four.
    """

    def forward(self, batch: Sample) -> Sample:
        """Flip and turn.

        Args:
            batch: Keys that begin with ``image`` or ``mask`` are maps, (B, …, H, W); the
                rest stays as it is.

        Returns:
            The batch.
        """
        ways = torch.randint(8, (len(batch['image']),)).tolist()
        return {
            key: _laid(value, ways) if key.startswith(('image', 'mask')) else value
            for key, value in batch.items()
        }


def _laid(maps: Tensor, ways: list[int]) -> Tensor:
    """Maps (B, …, H, W), each laid down in one of eight ways."""
    square = maps.shape[-2] == maps.shape[-1]
    laid = []
    for one, way in zip(maps, ways, strict=True):
        turns, flip = divmod(way, 2)
        turned = torch.rot90(one, turns if square else turns // 2 * 2, (-2, -1))
        laid.append(turned.flip(-1) if flip else turned)
    return torch.stack(laid)
