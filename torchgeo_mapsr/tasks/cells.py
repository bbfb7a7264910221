# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The LR cells of a batch."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .._compat import Sample
from ..datasets.legends.crosswalk import Crosswalk
from ..errors import InputError


@dataclass(frozen=True, eq=False)
class BatchCells:
    """The LR cells of a batch.

    Args:
        region: 0 = outside, i + 1 = cell i of the sample, (B, H, W) int64.
        valid: Pixels with data, (B, H, W) bool.
        codes: Raw codes, (B, h, w) int64.
        label: Target classes, (B, h, w) int64, -1 if none.
        share: Visible share of each cell, (B, h, w) in 0..1.
    """

    region: Tensor
    valid: Tensor
    codes: Tensor
    label: Tensor
    share: Tensor

    @classmethod
    def of(cls, batch: Sample, crosswalk: Crosswalk) -> Self:
        """Look at a batch.

        Args:
            batch: With ``mask_region``, ``lr_label`` and ``lr_pixels``, as a collated
                batch of :class:`~torchgeo_mapsr.datasets.LRHRPair` has them.
            crosswalk: From its codes to classes.

        Raises:
            InputError: If the batch has no LR labels, or their sizes were lost.
        """
        missing = [
            k for k in ('mask_region', 'lr_label', 'lr_pixels') if k not in batch
        ]
        if missing:
            raise InputError(
                f'The batch has no {", ".join(missing)}: use LRHRPair or another '
                'dataset of pairs, with collate_pairs'
            )
        # Augmentations may give masks a channel axis, and another type.
        height, width = batch['mask_region'].shape[-2:]
        region = batch['mask_region'].reshape(-1, height, width).long()
        valid = valid_pixels(batch, 'mask_region')
        # In single precision, whatever the trainer uses: bfloat16 counts only up to 256.
        codes, whole = batch['lr_label'], batch['lr_pixels'].float()
        if whole.isinf().any():
            raise InputError(
                "LR cells of more than 65504 pixels have no size in precision='16-true': "
                "give the trainer '16-mixed' or 'bf16-true'"
            )
        label = torch.from_numpy(crosswalk.index(codes.cpu().numpy())).to(codes.device)
        region_index = torch.where(valid, region, 0).flatten(1)
        count = whole.new_zeros(len(region_index), whole[0].numel() + 1)
        count = count.scatter_add(
            1, region_index, torch.ones_like(region_index, dtype=count.dtype)
        )
        share = count[:, 1:].view_as(whole) / whole.clamp(min=1)
        return cls(region, valid, codes, label, share.clamp(max=1))

    def of_pixels(self, values: Tensor, outside: int) -> Tensor:
        """The value of the cell that each pixel lies in, (B, H, W).

        Args:
            values: One for each cell, (B, h, w).
            outside: Value of pixels outside of all cells, and without data.
        """
        flat = F.pad(values.flatten(1), (1, 0), value=outside)
        gathered = flat.gather(1, self.region.flatten(1)).view_as(self.region)
        return torch.where(self.valid, gathered, outside)


def valid_pixels(batch: Sample, key: str = 'image') -> Tensor:
    """Pixels with data, (B, H, W) bool.

    Args:
        batch: A batch; without ``mask_valid`` all of its pixels have data.
        key: What else has the size and the device, (B, …, H, W).
    """
    image: Tensor = batch[key]
    height, width = image.shape[-2:]
    if 'mask_valid' not in batch:
        shape = len(image), height, width
        return torch.ones(shape, dtype=torch.bool, device=image.device)
    # Augmentations may give masks a channel axis, and another type.
    valid: Tensor = batch['mask_valid'].reshape(-1, height, width) > 0
    return valid
