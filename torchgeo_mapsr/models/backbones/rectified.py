# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Linear scores of random convolutional features, a few rows at a time.

What :class:`~torchgeo_mapsr.models.backbones.rcf.RCF` gives and a weight matrix takes, without
the features between the two.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets.geo.grid import Window
from .local import local_mean, mirrored

# Responses below this do not count.
THRESHOLD = 0.5

# Pixels whose features are held at once on a CPU: a megabyte or two, which its cache
# holds. Measured for 448 x 448 x 4: 0.11 s with 3584, 0.13 s with 28672.
PIXELS = 4096


def wave_scores(
    image: Tensor, frequency: Tensor, phase: Tensor, weight: Tensor
) -> Tensor:
    """Scores of bands x and waves cos(w^T x + b).

    Args:
        image: Standardised bands, (B, C, H, W).
        frequency: (F, C).
        phase: (F,).
        weight: (K, C + F).

    Returns:
        (B, K, H, W).
    """
    batch, bands, height, width = image.shape
    of_bands, of_waves = weight.split([bands, len(phase)], dim=1)
    scores = image.new_empty(batch, len(weight), height * width)
    for pixels, out in zip(image.flatten(2), scores, strict=True):
        step = _pixels(image)
        for some, part in zip(pixels.split(step, 1), out.split(step, 1), strict=True):
            waves = torch.addmm(phase[:, None], frequency, some).cos_()
            torch.mm(of_waves, waves, out=part)
            part.addmm_(of_bands, some)
    return scores.view(batch, len(weight), height, width)


def texture_scores(
    image: Tensor, kernels: Tensor, bias: Tensor, weight: Tensor, window: Window
) -> Tensor:
    """Scores of local means of bands and of rectified responses.

    With the threshold t and s = sign(z) max(|z| - t, 0) (``softshrink``), the two
    rectified responses are max(z - t, 0) = (|s| + s) / 2 and max(-z - t, 0) =
    (|s| - s) / 2. So their weights a and b become (a - b) / 2 for s and (a + b) / 2
    for |s|.

    Args:
        image: Standardised bands on the grid of the level, (B, C, h, w).
        kernels: (F, C, k, k).
        bias: (F,).
        weight: (K, C + 2 F), of the bands, of max(z - t, 0) and of max(-z - t, 0).
        window: Rows and columns that are wanted; they may reach beyond the grid.

    Returns:
        (B, K, h, w) of what is wanted of the grid.
    """
    batch, bands = image.shape[:2]
    of_bands, above, below = weight.split([bands, len(bias), len(bias)], dim=1)
    odd, even = (above - below) / 2, (above + below) / 2
    padded = mirrored(image, kernels.shape[-1] // 2)
    # Means look one token further. At the grid's border they mirror; where there is
    # more of the grid, what they mirror is cut off.
    (top, bottom), (left, right) = (
        (max(span.start - 1, 0), min(span.stop + 1, size))
        for span, size in zip(window, image.shape[-2:], strict=True)
    )
    beyond = kernels.shape[-1] - 1
    padded = padded[..., left : right + beyond]
    image = image[..., left:right]
    width = right - left
    scores = image.new_empty(batch, len(weight), bottom - top, width)
    step = max(_pixels(image) // width, 1)
    for b in range(batch):
        for first in range(top, bottom, step):
            last = min(first + step, bottom)
            strip = padded[b, :, first : last + beyond]
            response = F.conv2d(strip[None], kernels, bias)[0].to(image)
            shrunk = F.softshrink(response, THRESHOLD).flatten(1)
            # The bands' own means are one more linear part.
            some = torch.mm(of_bands, image[b, :, first:last].flatten(1))
            some.addmm_(odd, shrunk).addmm_(even, shrunk.abs_())
            scores[b, :, first - top : last - top] = some.unflatten(1, (-1, width))
    means = torch.empty_like(scores)
    local_mean(scores, means)
    means = means[..., window[0].start - top :, window[1].start - left :]
    shape = [span.stop - span.start for span in window]
    return means[..., : shape[0], : shape[1]]


def _pixels(image: Tensor) -> int:
    """Pixels at once: a GPU takes all, whose calls cost more than its memory."""
    height, width = image.shape[-2:]
    return PIXELS if image.device.type == 'cpu' else height * width
