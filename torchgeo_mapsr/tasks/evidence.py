# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What the LR labels of a batch say of its pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.head.prior import SIGMAS, evidence, reach_of
from ..models.head.samples import WHOLE
from ..transforms import aggregate_regions

# Weight of cells that the chip cuts, where it has whole ones to go by.
_CUT = 1e-6


def batch_evidence(
    label: Tensor,
    mask_region: Tensor,
    share: Tensor,
    frequency: Tensor,
    sigma: float = SIGMAS[0],
) -> Tensor:
    """Evidence of the LR labels for every pixel, from what a batch carries.

    The same numbers as :func:`~torchgeo_mapsr.models.head.prior.label_shares` with the label
    rasters, but for the border: labels beyond the chip's window are not known here. No
    georeference is needed, so it holds after flips, quarter turns and crops.

    Args:
        label: Target class of each LR cell, (B, h, w) int64, -1 if none.
        mask_region: 0 = outside, i + 1 = cell i, (B, H, W).
        share: Visible share of each cell, (B, h, w).
        frequency: Frequency of each class, (C,).
        sigma: Standard deviation of the smoothing, in LR cells.

    Returns:
        (B, C, H, W), to be added to log-probabilities.
    """
    classes, (h, w) = len(frequency), label.shape[-2:]
    known = torch.arange(classes, device=label.device)[:, None, None] == label[:, None]
    hot = torch.cat([known, (label >= 0)[:, None]], dim=1).float()
    reach = reach_of(sigma)
    offset = torch.arange(-reach, reach + 1, device=label.device)
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    kernel = (kernel[:, None] * kernel).expand(classes + 1, 1, -1, -1)
    smooth = F.conv2d(hot, kernel, padding=reach, groups=classes + 1)

    at = cell_coordinates(mask_region, share)
    xy = torch.stack([2 * at[..., 1] / w - 1, 2 * at[..., 0] / h - 1], dim=-1)
    found = F.grid_sample(smooth, xy, align_corners=False).transpose(0, 1)
    return evidence(found[:-1], found[-1], frequency).transpose(0, 1)


def cell_coordinates(mask_region: Tensor, share: Tensor) -> Tensor:
    """Where each pixel lies on the grid of the LR cells.

    The mean place of a whole cell's pixels is its centre, so that an affine map fitted
    to those says where every pixel lies: over a chip the grids differ from an affine
    map by millimetres. A pixel's cell alone would say it to half a cell.

    Args:
        mask_region: 0 = outside, i + 1 = cell i, (B, H, W).
        share: Visible share of each cell, (B, h, w).

    Returns:
        (B, H, W, 2) float32 (row, column) in cells; floor gives the cell.
    """
    size, (h, w) = mask_region.shape[-2:], share.shape[-2:]
    pixels, cells = _centres(*size).to(share.device), _centres(h, w).flatten(1).T
    x = aggregate_regions(pixels.expand(len(share), -1, -1, -1), mask_region, h * w)
    # A few numbers in double precision, which not every device has.
    x, y, share = x.double().cpu(), cells.double(), share.flatten(1).double().cpu()
    weight = torch.where(share >= WHOLE, 1.0, _CUT * share)[..., None]
    total = weight.sum(1, keepdim=True).clamp(min=1e-12)
    x_mean, y_mean = ((weight * z).sum(1, keepdim=True) / total for z in (x, y))
    x, y = x - x_mean, y - y_mean
    # A chip within a row or a column of cells leaves a direction open: then zero.
    slope = torch.linalg.pinv((weight * x).mT @ x, hermitian=True) @ (weight * x).mT @ y
    x_mean, y_mean, slope = (z.to(pixels) for z in (x_mean, y_mean, slope))
    at = (pixels.flatten(1).T - x_mean) @ slope + y_mean
    return at.unflatten(1, size)


def _centres(height: int, width: int) -> Tensor:
    """Centres of the pixels of a grid, (2, height, width): row, column."""
    axes = (torch.arange(n).float() + 0.5 for n in (height, width))
    return torch.stack(torch.meshgrid(*axes, indexing='ij'))
