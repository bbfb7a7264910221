# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Images with a label for every pixel, as ready-made chips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import rasterio
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchgeo.datasets import NonGeoDataset

from .._compat import Sample
from ..errors import InputError
from .geo.opened import gdal_environment
from .legends.legend import Legend
from .plot import check_single, paint, stretch

# Panel of each key of a sample, in this order.
_TITLES = {
    'image': 'Image',
    'image_optical': 'Optical image',
    'mask': 'Labels',
    'prediction': 'Prediction',
}


@dataclass(frozen=True)
class ChipFiles:
    """The files of a chip.

    Args:
        image: The image.
        mask: Codes of its pixels; None if there are no labels.
        optical: An optical image of the same pixels, where *image* is not one.
    """

    image: Path
    mask: Path | None = None
    optical: Path | None = None


class ImageChips(NonGeoDataset):
    """Chips of images and, where there are any, labels of their pixels.

    A sample has

    * ``image``: values as they are stored, (C, H, W) float32, 0 without data
    * ``mask_valid``: 1 where the image has data, (H, W) int64
    * ``mask``: codes of the labels, (H, W) int64, -1 = no label; where a chip of the
      dataset has labels
    * ``image_optical``: an optical image of the same pixels, (C', H, W) float32; where
      there is one
    * ``filename``: name of the image's file

    Chips may differ in size.

    Args:
        chips: Files of each chip.
        legend: What the codes mean; its no-data code becomes -1.
        transforms: Takes a sample and returns it transformed.

    Raises:
        InputError: Some chips have an optical image and others have none.
    """

    def __init__(
        self,
        chips: Sequence[ChipFiles],
        legend: Legend,
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        self.chips = tuple(chips)
        lacking = next(
            (chip.image for chip in self.chips if chip.optical is None), None
        )
        if lacking is not None and any(chip.optical for chip in self.chips):
            raise InputError(f'{lacking}: has no optical image, and others have one')
        self._has_labels = any(chip.mask is not None for chip in self.chips)
        self.legend = legend
        self.transforms = transforms

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of ``mask``."""
        return self.legend.class_names

    def __len__(self) -> int:
        """Return the number of chips.

        Returns:
            Length of the dataset.
        """
        return len(self.chips)

    def __getitem__(self, index: int) -> Sample:
        """Read a chip.

        Args:
            index: Its number.

        Returns:
            The sample.

        Raises:
            InputError: Its files cannot be read, or are of different sizes.
        """
        files = self.chips[index]
        image, valid = _read_image(files.image)
        sample: Sample = {'image': image, 'mask_valid': valid.long()}
        if files.optical is not None:
            sample['image_optical'], _ = _read_image(files.optical)
        if files.mask is not None:
            mask = _read(files.mask)[0][0].long()
            none = self.legend.nodata
            sample['mask'] = (
                mask if none is None else torch.where(mask == none, -1, mask)
            )
        elif self._has_labels:  # batches have the same keys
            sample['mask'] = torch.full(image.shape[-2:], -1)
        for key, value in sample.items():
            if value.shape[-2:] != image.shape[-2:]:
                raise InputError(
                    f'{files.image}: its {key} is of another size, '
                    f'{tuple(value.shape[-2:])} and not {tuple(image.shape[-2:])}'
                )
        sample['filename'] = files.image.name
        return sample if self.transforms is None else self.transforms(sample)

    def plot(
        self, sample: Sample, show_titles: bool = True, suptitle: str | None = None
    ) -> Figure:
        """Plot what a sample has of images, labels and prediction, side by side.

        Args:
            sample: One sample, with ``prediction`` (codes as those of ``mask``) if
                there is one.
            show_titles: Put a title above each panel.
            suptitle: Title of the figure.

        Returns:
            The figure.

        Raises:
            InputError: *sample* is a batch.
        """
        check_single(sample)
        keys = [key for key in _TITLES if key in sample]
        figure, axes = plt.subplots(
            1, len(keys), squeeze=False, figsize=(4 * len(keys), 4)
        )
        for axis, key in zip(axes[0], keys, strict=True):
            if key.startswith('image'):
                picture = stretch(sample[key], sample.get('mask_valid'))
                axis.imshow(picture, interpolation='nearest')
            else:
                codes = np.asarray(sample[key]).squeeze()
                axis.imshow(paint(codes, self.legend), interpolation='nearest')
            axis.axis('off')
            if show_titles:
                axis.set_title(_TITLES[key])
        if suptitle is not None:
            figure.suptitle(suptitle)
        return figure


def _read_image(path: Path) -> tuple[Tensor, Tensor]:
    """As :func:`_read`, with 0 where a file has no data: it may hold −3.4e38 or NaN."""
    values, valid = _read(path)
    valid &= torch.isfinite(values).all(dim=0)
    return torch.where(valid, values, 0), valid


def _read(path: Path) -> tuple[Tensor, Tensor]:
    """Values (C, H, W) float32 and valid pixels (H, W) bool of a file."""
    try:
        with gdal_environment(str(path)), rasterio.open(path) as file:
            # rasterio reads bands of one type together, and no others
            bands = [file.read(i, out_dtype='float32') for i in file.indexes]
            values, valid = np.stack(bands), file.dataset_mask() > 0
    except rasterio.errors.RasterioIOError as error:
        raise InputError(f'{path}: cannot be read; {error}') from error
    return torch.from_numpy(values), torch.from_numpy(valid)
