# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Batches of LR/HR samples."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad

from .._compat import Sample


def collate_pairs(samples: Iterable[Sample]) -> Sample:
    """Stack samples whose LR windows differ in size, or in number.

    ``lr_label`` is padded with -1 (no label) and ``lr_pixels`` with 0, at the right and
    at the bottom, to the largest height and width in the batch, and to the largest
    number of label rasters. A cell's place in the flattened windows changes with their
    size, so ``mask_region`` is numbered anew; what it points to stays the same. The
    samples are left as they are.

    Args:
        samples: Samples of an LR/HR dataset whose images are of one size.

    Returns:
        The batch: tensors stacked along a new first axis, anything else as lists.
    """
    samples = list(samples)
    shapes = [sample['lr_label'].shape for sample in samples]
    height, width = (max(shape[axis] for shape in shapes) for axis in (-2, -1))
    rasters = max(shape[0] if len(shape) == 3 else 0 for shape in shapes)
    fitted = [_fit(sample, rasters, height, width) for sample in samples]
    batch: Sample = {}
    for key in fitted[0]:
        values = [sample[key] for sample in fitted]
        tensors = isinstance(values[0], Tensor)
        batch[key] = torch.stack(values) if tensors else values
    return batch


def _fit(sample: Sample, rasters: int, height: int, width: int) -> Sample:
    """Pad one sample's LR windows; to no number of them if *rasters* is 0."""
    label, region = sample['lr_label'], sample['mask_region']
    h, w = label.shape[-2:]
    missing = (0, width - w, 0, height - h)
    # Cell i of raster r becomes cell i + (what the windows before it have grown by).
    raster = (region - 1).div(max(h * w, 1), rounding_mode='floor').clamp(min=0)
    inside = widen(region - raster * h * w, w, width)
    fitted = sample | {
        'lr_label': pad(label, missing, value=-1),
        'mask_region': torch.where(region > 0, inside + raster * height * width, 0),
    }
    if 'lr_pixels' in sample:
        fitted['lr_pixels'] = pad(sample['lr_pixels'], missing)
    if not rasters:
        return fitted
    more = rasters - (len(label) if label.dim() == 3 else 1)
    for key, dims, value in (
        ('lr_label', 3, -1),
        ('lr_pixels', 3, 0),
        ('lr_place', 2, 0),
        ('mask_coordinates', 3, float('nan')),
    ):
        if key in fitted:
            values = fitted[key] if fitted[key].dim() == dims else fitted[key][None]
            rows = 2 * more if key == 'mask_coordinates' else more
            fitted[key] = pad(values, (0, 0) * (dims - 1) + (0, rows), value=value)
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
