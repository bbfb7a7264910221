# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Chips of one size out of samples of any."""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from .._compat import Sample
from ..arguments import check_range
from ..datasets.base import OUTSIDE

# What masks hold beyond the sample, where it is not -1.
_PADDING = OUTSIDE | {'mask_coordinates': torch.nan}


class RandomChip(nn.Module):
    """Cut a chip at a random place; pad samples that are smaller.

    Kornia's ``RandomCrop(pad_if_needed=True)`` pads masks with 0, which may be the code
    of a class. Here images are padded with 0, ``mask_valid``, ``mask_region`` and
    ``mask_share`` with 0 (no data, no cell, no class), ``mask_coordinates`` with NaN and
    other masks with -1 (no label), at the right and at the bottom. It works on samples,
    before they are collated.

    Args:
        size: Height and width in pixels.

    Raises:
        InputError: *size* is below 1.
    """

    def __init__(self, size: int) -> None:
        check_range('size', size, 1, whole=True)
        super().__init__()
        self.size = size

    def forward(self, sample: Sample) -> Sample:
        """Cut.

        Args:
            sample: With ``image`` (C, H, W) and masks (H, W).

        Returns:
            The chip. ``chip`` says where it lies in its raster, and that chips are no
            partition where something was cut off; other keys that begin neither with
            ``image`` nor ``mask`` are as they were.
        """
        height, width = sample['image'].shape[-2:]
        top, left = (
            int(torch.randint(max(side - self.size, 0) + 1, ()))
            for side in (height, width)
        )
        missing = (0, max(self.size - width, 0), 0, max(self.size - height, 0))

        def cut(key: str, value: Any) -> Any:
            if not key.startswith(('image', 'mask')):
                return value
            part = value[..., top : top + self.size, left : left + self.size]
            none = -1 if key.startswith('mask') else 0
            return pad(part, missing, value=_PADDING.get(key, none))

        chip = {key: cut(key, value) for key, value in sample.items()}
        if 'chip' in sample:
            # A fit counts chips of one place once, so each needs its own place.
            raster, row, col, partition = sample['chip'].tolist()
            whole = height <= self.size and width <= self.size
            place = raster, row + top, col + left, partition * whole
            chip['chip'] = sample['chip'].new_tensor(place)
        return chip

    def extra_repr(self) -> str:
        """Arguments, for ``print(module)``."""
        return f'size={self.size}'
