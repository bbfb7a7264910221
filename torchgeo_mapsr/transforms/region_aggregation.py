# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Region aggregation: HR values to one value for each LR cell."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..arguments import check_choice

Reduction = Literal['mean', 'sum']


class RegionAggregation(nn.Module):
    """Aggregate an HR map of a batch over the LR cells of its samples.

    With it an HR network is supervised by LR labels as they are, without upsampling
    them (Workman et al. 2023, section 4.3). Their equation 1 is the cross entropy of
    ``region_logits`` and ``region_label``; ``region_weight`` lets a cell that the chip
    cuts count for its visible part only:

    .. code-block:: python

       batch = RegionAggregation(reduction='sum')(batch | {'logits': model(image)})
       index = torch.from_numpy(crosswalk.index(batch['region_label']))
       loss = F.cross_entropy(batch['region_logits'].mT, index, reduction='none',
                              ignore_index=-1)
       loss = (loss * batch['region_weight']).sum() / batch['region_weight'].sum()

    The paper sums logits over 30 × 30 pixels; the mean differs from it by that factor,
    and does not make a cut cell less certain than a whole one.

    It comes after augmentations, on a collated batch: a dictionary goes in and a new one
    with these keys more comes out.

    * ``region_{key}``: the aggregate of each cell of ``lr_label``, (B, h·w, C)
    * ``region_label``: the cells' codes, (B, h·w)
    * ``region_weight``: valid pixels of the cell over the pixels of the whole cell,
      (B, h·w) in 0..1; 0 for padding and for cells without a valid pixel

    Args:
        key: Which map of the batch to aggregate, (B, C, H, W).
        reduction: *mean* or *sum* over a cell's valid pixels.

    Raises:
        InputError: *reduction* is something else.
    """

    def __init__(self, key: str = 'logits', reduction: Reduction = 'mean') -> None:
        check_choice('reduction', reduction, get_args(Reduction))
        super().__init__()
        self.key = key
        self.reduction: Reduction = reduction

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Aggregate.

        Args:
            batch: With ``mask_region`` (B, H, W), ``lr_label`` (B, h, w) and the map;
                ``mask_valid`` and ``lr_pixels`` are heeded where they are there.

        Returns:
            The batch with the keys above.
        """
        region, valid = batch['mask_region'], batch.get('mask_valid')
        label = batch['lr_label'].flatten(1)
        cells = label.shape[1]
        values = aggregate_regions(
            batch[self.key], region, cells, self.reduction, valid
        )
        height, width = region.shape[-2:]
        ones = region.new_ones((len(region), 1, height, width), dtype=torch.float32)
        pixels = aggregate_regions(ones, region, cells, 'sum', valid)[..., 0]
        if 'lr_pixels' in batch:
            full = batch['lr_pixels'].flatten(1)
        else:
            # A whole cell has about as many pixels as the fullest one.
            full = pixels.amax().expand_as(pixels) if pixels.numel() else pixels
        weight = (pixels / full.clamp(min=1)).clamp(max=1)
        return batch | {
            f'region_{self.key}': values,
            'region_label': label,
            'region_weight': weight,
        }

    def extra_repr(self) -> str:
        """Arguments, for ``print(module)``."""
        return f'key={self.key!r}, reduction={self.reduction!r}'


def aggregate_regions(
    values: Tensor,
    mask_region: Tensor,
    n: int,
    reduction: Reduction = 'mean',
    valid: Tensor | None = None,
) -> Tensor:
    """Sum or average an HR map over LR cells.

    Args:
        values: (B, C, H, W); half precision is accumulated in single.
        mask_region: 0 = outside, i + 1 = cell i, (B, H, W).
        n: Number of cells of a sample.
        reduction: *mean* or *sum* over the pixels of a cell.
        valid: Pixels that count, (B, H, W); default: all.

    Returns:
        (B, n, C); 0 for a cell without a pixel.

    Raises:
        InputError: *reduction* is something else.
    """
    check_choice('reduction', reduction, get_args(Reduction))
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    # Pixels that do not count go to cell 0, which is dropped together with their NaNs.
    # Augmentations may have made the mask floating-point, with a channel axis.
    region = mask_region.long().flatten(1)
    if valid is not None:
        region = region * (valid.flatten(1) > 0)
    batch, channels = values.shape[:2]
    sums = values.new_zeros(batch, channels, n + 1).scatter_add(
        2, region[:, None].expand(-1, channels, -1), values.flatten(2)
    )
    if reduction == 'mean':
        ones = torch.ones_like(region, dtype=values.dtype)
        count = values.new_zeros(batch, n + 1).scatter_add(1, region, ones)
        sums = sums / count.clamp(min=1)[:, None]
    return sums[..., 1:].transpose(1, 2)
