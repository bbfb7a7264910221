# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Batches of LR/HR samples."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad

from .._compat import Sample
from ..errors import InputError

#: Values of cells that pad a smaller LR window, by key of the sample.
MISSING = {'lr_label': -1, 'lr_pixels': 0}


def collate_pairs(samples: Iterable[Sample]) -> Sample:
    """Stack samples whose LR windows differ in size.

    ``lr_label`` is padded with -1 (no label) and ``lr_pixels`` with 0, at the right and
    at the bottom, to the largest height and width in the batch. Where samples have
    several label rasters, and not equally many, windows without labels are added. A
    cell's place in the flattened windows changes with their size, so ``mask_region`` is
    numbered anew; what it points to stays the same. Samples without LR labels are
    stacked as they are. The samples are left as they are.

    Args:
        samples: Samples of an LR/HR dataset whose images are of one size.

    Returns:
        The batch: tensors stacked along a new first axis, anything else as lists.

    Raises:
        InputError: Images differ in size, or samples in their keys.
    """
    samples = list(samples)
    if not samples:
        raise InputError('there is no sample to make a batch of')
    fitted = samples
    if all('lr_label' in sample for sample in samples):
        shapes = [windows_of(sample) for sample in samples]
        largest = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
        fitted = [fit_windows(sample, largest) for sample in samples]
    batch: Sample = {}
    for key in dict.fromkeys(key for sample in fitted for key in sample):
        if any(key not in sample for sample in fitted):
            raise InputError(
                f'only some samples have {key}; make batches of samples of one kind'
            )
        values = [sample[key] for sample in fitted]
        if not isinstance(values[0], Tensor):
            batch[key] = values
            continue
        if any(value.shape != values[0].shape for value in values):
            raise InputError(
                f'{key} differs in size, '
                f'{" and ".join(sorted({str(tuple(v.shape)) for v in values}))}; make '
                'batches of chips of one size'
            )
        batch[key] = torch.stack(values)
    return batch


def windows_of(sample: Sample, batch: bool = False) -> tuple[int, int, int]:
    """Label rasters of a sample, and height and width of their windows.

    Args:
        sample: A sample with ``lr_label``, or a batch of them.
        batch: Whether it is a batch.
    """
    *rasters, height, width = sample['lr_label'].shape[int(batch) :]
    return rasters[0] if rasters else 1, height, width


def fit_windows(
    sample: Sample, shape: tuple[int, int, int], batch: bool = False
) -> Sample:
    """Pad the LR windows of a sample, and number its cells for the larger ones.

    Args:
        sample: A sample of an LR/HR dataset, or a batch of them.
        shape: Label rasters, and height and width of their windows; none is less than
            what the sample has.
        batch: Whether it is a batch.

    Returns:
        The sample with other ``mask_region``, and with more cells that have no label.
    """
    rasters, height, width = shape
    count, h, w = windows_of(sample, batch)
    axes = sample['lr_label'].shape[: int(batch)]
    padding = (0, width - w, 0, height - h, 0, rasters - count)
    fitted = sample | {
        'mask_region': renumber(sample['mask_region'], (h, w), (height, width))
    }
    for key, value in MISSING.items():
        if key in sample:
            windows = sample[key].reshape(*axes, count, h, w)
            windows = pad(windows, padding, value=value)
            fitted[key] = windows if rasters > 1 else windows.squeeze(-3)
    if 'lr_place' in sample and rasters > 1:
        place = sample['lr_place'].reshape(*axes, count, 3)
        fitted['lr_place'] = pad(place, (0, 0, 0, rasters - count))
    if 'mask_coordinates' in sample:
        # No pixel is in a window that is not there.
        coordinates = sample['mask_coordinates']
        missing = (0, 0, 0, 0, 0, 2 * (rasters - count))
        fitted['mask_coordinates'] = pad(coordinates, missing, value=torch.nan)
    return fitted


def renumber(mask_region: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Number the cells of windows as if these were larger.

    Args:
        mask_region: 0 = outside, i + 1 = cell i, window after window and row by row.
        old: Height and width of the windows.
        new: Height and width to number them for.

    Returns:
        0 where it was 0; otherwise 1 + (window · height + row) · width + column.
    """
    # Cell i is (window · h + row) · w + column.
    cells = max(old[0] * old[1], 1)
    window = (mask_region - 1).div(cells, rounding_mode='floor')
    missing = window * (new[0] - old[0]) * new[1]
    wide = widen(mask_region, old[1], new[1])
    return torch.where(mask_region > 0, wide + missing, 0)


def widen(mask_region: Tensor, old: int, new: int) -> Tensor:
    """Number the cells of windows as if they were wider.

    Args:
        mask_region: 0 = outside, i + 1 = cell i.
        old: Width of the windows.
        new: Width to number them for.

    Returns:
        0 where it was 0; otherwise row · new + column + 1.
    """
    # Cell i = row · old + column, so the new number is i + 1 + row · (new − old).
    row = (mask_region - 1).div(max(old, 1), rounding_mode='floor')
    return torch.where(mask_region > 0, mask_region + row * (new - old), 0)
