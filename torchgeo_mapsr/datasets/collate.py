# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Batches of LR/HR samples."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad

from .._compat import Sample


def collate_pairs(samples: Iterable[Sample]) -> Sample:
    """Stack samples whose LR windows differ in size.

    ``lr_label`` is padded with -1 (no label) and ``lr_pixels`` with 0, at the right and
    at the bottom, to the largest height and width in the batch. A cell's place in the
    flattened window changes with the window's width, so ``mask_region`` is numbered
    anew; what it points to stays the same. The samples are left as they are.

    Args:
        samples: Samples of an LR/HR dataset whose images are of one size.

    Returns:
        The batch: tensors stacked along a new first axis, anything else as lists.
    """
    samples = list(samples)
    height = max(sample['lr_label'].shape[-2] for sample in samples)
    width = max(sample['lr_label'].shape[-1] for sample in samples)
    fitted = [_fit(sample, height, width) for sample in samples]
    batch: Sample = {}
    for key in fitted[0]:
        values = [sample[key] for sample in fitted]
        tensors = isinstance(values[0], Tensor)
        batch[key] = torch.stack(values) if tensors else values
    return batch


def _fit(sample: Sample, height: int, width: int) -> Sample:
    """Pad one sample's LR window."""
    h, w = sample['lr_label'].shape[-2:]
    missing = (0, width - w, 0, height - h)
    fitted = sample | {
        'lr_label': pad(sample['lr_label'], missing, value=-1),
        'mask_region': widen(sample['mask_region'], w, width),
    }
    if 'lr_pixels' in sample:
        fitted['lr_pixels'] = pad(sample['lr_pixels'], missing)
    return fitted


def widen(mask_region: Tensor, old: int, new: int) -> Tensor:
    """Number the cells of a window as if it were wider.

    Args:
        mask_region: 0 = outside, i + 1 = cell i.
        old: Width of the window.
        new: Width to number it for.

    Returns:
        0 where it was 0; otherwise row · new + column + 1.
    """
    # cell i = row · old + column, so the new number is i + 1 + row · (new − old)
    row = (mask_region - 1).div(max(old, 1), rounding_mode='floor')
    return torch.where(mask_region > 0, mask_region + row * (new - old), 0)
