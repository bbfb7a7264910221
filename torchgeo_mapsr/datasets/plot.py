# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Pictures of samples."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._compat import Sample
from ..errors import InputError
from .errors import RGBBandsMissingError
from .legends.legend import Legend


def plot_sample(
    sample: Sample,
    legend: Legend | None = None,
    truth_legend: Legend | None = None,
    show_titles: bool = True,
    suptitle: str | None = None,
    rgb: Sequence[int] | None = None,
) -> Figure:
    """Plot the image, and LR labels, HR labels and prediction if there are any.

    Args:
        sample: One sample, not a batch.
        legend: Colours of the LR labels (default: one for each code that occurs).
        truth_legend: Colours of ``mask`` and ``prediction``.
        show_titles: Put a title above each panel.
        suptitle: Title of the figure.
        rgb: Bands that are red, green and blue (default: the first three).

    Returns:
        The figure.

    Raises:
        InputError: *sample* is a batch.
    """
    check_single(sample)
    # NumPy has no bfloat16.
    half = [k for k, v in sample.items() if getattr(v, 'dtype', None) == torch.bfloat16]
    sample = {**sample, **{key: sample[key].float() for key in half}}
    panels: dict[str, ArrayLike] = {
        'Image': stretch(sample['image'], sample.get('mask_valid'), rgb)
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


def check_single(sample: Sample) -> None:
    """Make sure that a sample is one.

    Raises:
        InputError: It is a batch.
    """
    if sample['image'].ndim > 3:
        raise InputError(
            f'this is a batch of {len(sample["image"])}, and one sample is plotted: '
            'plot(unbind_samples(batch)[0]), with unbind_samples of torchgeo.datasets'
        )


def per_pixel(lr_label: Tensor, mask_region: Tensor) -> NDArray[np.int64]:
    """Label of the LR cell that holds each pixel, (H, W); -1 outside.

    Args:
        lr_label: Codes of the cells, (h, w), or (R, h, w) of several rasters.
        mask_region: 0 = outside, i + 1 = cell i of the flattened *lr_label*, (H, W).
    """
    codes = np.concatenate([[-1], np.asarray(lr_label).ravel()])
    return codes[np.asarray(mask_region).squeeze()]


def stretch(
    image: Tensor, valid: Tensor | None = None, rgb: Sequence[int] | None = None
) -> NDArray[np.float64]:
    """Three bands, or the first as grey, between their 2nd and 98th percentile.

    Args:
        image: (C, H, W).
        valid: Pixels with data, (H, W).
        rgb: Bands that are red, green and blue (default: the first three).

    Returns:
        Red, green and blue, (H, W, 3) in 0..1; white where invalid.
    """
    first = [0, 1, 2] if len(image) > 2 else [0] * 3
    bands = np.asarray(image, dtype=np.float64)[first if rgb is None else list(rgb)]
    data = np.ones(bands.shape[1:], bool)
    if valid is not None:
        data = np.asarray(valid).squeeze() > 0
    picture = np.ones((*data.shape, 3))
    if data.any():
        low, high = np.percentile(bands[:, data], (2, 98), axis=1)[..., None, None]
        scaled = (bands - low) / np.where(high > low, high - low, 1)
        picture[data] = np.clip(scaled, 0, 1).transpose(1, 2, 0)[data]
    return picture


def paint(codes: ArrayLike, legend: Legend | None) -> NDArray[np.uint8]:
    """Colours of codes, (H, W, 3); white where the legend has none."""
    codes = np.asarray(codes)
    if legend is None:
        # The golden angle in hue keeps neighbouring codes apart.
        hues = (codes * 0.618034) % 1
        colors = (plt.get_cmap('hsv')(hues)[..., :3] * 255).astype(np.uint8)
        labelled = codes >= 0
    else:
        index = legend.index(codes)
        colors, labelled = legend.colors[index], index >= 0
    painted: NDArray[np.uint8] = np.where(labelled[..., None], colors, 255)
    return painted.astype(np.uint8)


def rgb_of(bands: Sequence[str], rgb: Sequence[str]) -> tuple[int, ...] | None:
    """Where the bands that are red, green and blue stand in an image.

    Args:
        bands: Names of the image's bands.
        rgb: Names of the three.

    Returns:
        Their indexes; None if nothing says which they are.

    Raises:
        RGBBandsMissingError: One of the three is not in the image.
    """
    if not rgb:
        return None
    missing = [name for name in rgb if name not in bands]
    if missing:
        raise RGBBandsMissingError(
            f'the image has no band {", ".join(missing)} to plot in colours; read it '
            f'(bands), or set rgb_bands to some of {", ".join(bands)}'
        )
    return tuple(bands.index(name) for name in rgb)
