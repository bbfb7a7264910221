# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Pictures of samples."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._compat import Sample
from .legends.legend import Legend


def plot_sample(
    sample: Sample,
    legend: Legend | None = None,
    truth_legend: Legend | None = None,
    show_titles: bool = True,
    suptitle: str | None = None,
) -> Figure:
    """Plot the image, and LR labels, HR labels and prediction if there are any.

    Args:
        sample: One sample, not a batch.
        legend: Colours of the LR labels (default: one for each code that occurs).
        truth_legend: Colours of ``mask`` and ``prediction``.
        show_titles: Put a title above each panel.
        suptitle: Title of the figure.

    Returns:
        The figure.
    """
    panels: dict[str, ArrayLike] = {
        'Image': stretch(sample['image'], sample.get('mask_valid'))
    }
    if 'lr_label' in sample:
        codes = per_pixel(sample['lr_label'], sample['mask_region'])
        panels['LR labels'] = paint(codes, legend)
    for key, title in (('mask', 'HR labels'), ('prediction', 'Prediction')):
        if key in sample:
            panels[title] = paint(np.asarray(sample[key]).squeeze(), truth_legend)
    figure, axes = plt.subplots(
        1, len(panels), squeeze=False, figsize=(4 * len(panels), 4)
    )
    for axis, (title, picture) in zip(axes[0], panels.items(), strict=True):
        axis.imshow(np.asarray(picture), interpolation='nearest')
        axis.axis('off')
        if show_titles:
            axis.set_title(title)
    if suptitle is not None:
        figure.suptitle(suptitle)
    return figure


def per_pixel(lr_label: Tensor, mask_region: Tensor) -> NDArray[np.int64]:
    """Label of the LR cell that holds each pixel, (H, W); -1 outside."""
    codes = np.concatenate([[-1], np.asarray(lr_label).ravel()])
    return codes[np.asarray(mask_region).squeeze()]


def stretch(image: Tensor, valid: Tensor | None = None) -> NDArray[np.float64]:
    """First three bands, or the first as grey, between their 2nd and 98th percentile.

    Args:
        image: (C, H, W).
        valid: Pixels with data, (H, W).

    Returns:
        Red, green and blue, (H, W, 3) in 0..1; white where invalid.
    """
    bands = np.asarray(image, dtype=np.float64)[
        [0, 1, 2] if len(image) > 2 else [0] * 3
    ]
    known = np.ones(bands.shape[1:], bool)
    if valid is not None:
        known = np.asarray(valid).squeeze() > 0
    picture = np.ones((*known.shape, 3))
    if known.any():
        low, high = np.percentile(bands[:, known], (2, 98), axis=1)[..., None, None]
        scaled = (bands - low) / np.where(high > low, high - low, 1)
        picture[known] = np.clip(scaled, 0, 1).transpose(1, 2, 0)[known]
    return picture


def paint(codes: ArrayLike, legend: Legend | None) -> NDArray[np.uint8]:
    """Colours of codes, (H, W, 3); white where the legend has none."""
    codes = np.asarray(codes)
    if legend is None:
        # the golden angle in hue keeps neighbouring codes apart
        hues = (codes * 0.618034) % 1
        colors = (plt.get_cmap('hsv')(hues)[..., :3] * 255).astype(np.uint8)
        known = codes >= 0
    else:
        index = legend.index(codes)
        colors, known = legend.colors[index], index >= 0
    painted: NDArray[np.uint8] = np.where(known[..., None], colors, 255)
    return painted.astype(np.uint8)
