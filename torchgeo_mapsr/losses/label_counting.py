# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Label counting: what a network expects to find in a set of pixels."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..transforms import aggregate_regions


class LabelCounts(NamedTuple):
    """Gaussian approximation of how often each class occurs in sets of pixels.

    Args:
        mean: Expected share μ of each class, (B, n, C); 0 for a set without a pixel.
        variance: Variance σ² of the share, (B, n, C).
        pixels: Pixels in each set, (B, n).
    """

    mean: Tensor
    variance: Tensor
    pixels: Tensor


def label_counts(
    probabilities: Tensor, region: Tensor, n: int, valid: Tensor | None = None
) -> LabelCounts:
    """Count labels over disjoint sets of pixels.

    If each pixel's label were drawn from the network's prediction, independently of the
    others, the share of class l in a set B would have (Malkin et al. 2019, eq. 3 and 4)

        μ_l = 1/|B| Σ p_l        σ_l² = 1/|B|² Σ p_l (1 − p_l)

    and be about Gaussian where B is large. The sets are whatever *region* says: LR
    cells (``mask_region``), blocks (:func:`block_regions`) or superpixels. Boxes may
    overlap: :func:`box_counts`.

    Args:
        probabilities: P, (B, C, H, W), summing to 1 over C. Half precision is
            accumulated in single; make p of logits in single as well
            (``logits.float().softmax(1)``): gradients of p exceed a half's range.
        region: 0 = outside, i + 1 = set i, (B, H, W) int64.
        n: Number of sets of a sample.
        valid: Pixels that count, (B, H, W); default: all.

    Returns:
        Counts of the sets.
    """
    p = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    both = torch.cat([p, p * (1 - p)], 1)
    mean, variance = aggregate_regions(both, region, n, 'mean', valid).chunk(2, -1)
    pixels = aggregate_regions(torch.ones_like(p[:, :1]), region, n, 'sum', valid)
    return LabelCounts(mean, variance / pixels.clamp(min=1), pixels[..., 0])


def box_counts(
    probabilities: Tensor, boxes: Tensor, valid: Tensor | None = None
) -> LabelCounts:
    """Count labels over boxes, which may overlap.

    A box's indicator is an outer product of one of rows and one of columns, so the sums
    are products with these: no mask of the image's size is made for a box.

    Args:
        probabilities: As in :func:`label_counts`, (B, C, H, W).
        boxes: Left, top, right and bottom edge in pixels, (B, n, 4), as torchvision has
            them: a pixel belongs to a box if its centre does. A box that is empty, such
            as padding of zeros, has no pixel.
        valid: Pixels that count, (B, H, W); default: all.

    Returns:
        Counts of the boxes.
    """
    p = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    left, top, right, bottom = boxes.to(p).unbind(-1)
    height, width = p.shape[-2:]
    rows = _between(top, bottom, height)
    columns = _between(left, right, width)
    counted = torch.ones_like(p[:, :1])
    if valid is not None:
        counted = (valid > 0).to(p)[:, None]
    # Pixels that do not count may be NaN, and 0 · NaN is NaN.
    p = torch.where(counted > 0, p, 0)
    every = torch.cat([p, p * (1 - p), counted], 1)
    # In half precision (bfloat16) 10 000 pixels would be 9984.
    with torch.autocast(p.device.type, enabled=False):
        sums = torch.einsum('bny,bcyx,bnx->bnc', rows, every, columns)
    shares, variance, pixels = sums.tensor_split((p.shape[1], -1), dim=-1)
    size = pixels.clamp(min=1)
    return LabelCounts(shares / size, variance / size**2, pixels[..., 0])


def block_regions(height: int, width: int, rows: int, columns: int) -> Tensor:
    """A grid of blocks, as a region map.

    Args:
        height: Height of the image.
        width: Width of the image.
        rows: Rows of blocks.
        columns: Blocks in a row.

    Returns:
        I + 1 where a pixel lies in block i, row by row, (H, W) int64. Where the blocks
        do not divide the image, their sizes differ by one pixel.
    """
    row = torch.arange(height) * rows // height
    column = torch.arange(width) * columns // width
    return row[:, None] * columns + column + 1


def _between(low: Tensor, high: Tensor, size: int) -> Tensor:
    """1 where a pixel's centre lies between two edges, (B, n, size)."""
    centre = torch.arange(size, device=low.device, dtype=low.dtype) + 0.5
    inside = (centre >= low[..., None]) & (centre < high[..., None])
    return inside.to(low)
