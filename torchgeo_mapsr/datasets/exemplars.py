# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Examples of what HR label maps look like, from anywhere."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils.data import Dataset

from .._compat import Sample
from ..arguments import check_range
from ..errors import InputError
from .labels import LabelRaster
from .legends.crosswalk import Crosswalk
from .legends.legend import Legend
from .sources import LabelSource, label_rasters

# Rows and columns that are read at a time when the files are looked through.
_BLOCK = 2048


class ExemplarLabels(Dataset[Sample]):
    """Chips of HR label maps that need not have anything to do with the imagery.

    The exemplars of Workman et al. 2023, section 4.4: label maps of another place show
    what shapes to expect. Their pixels should be as large as those of the imagery that
    is mapped, or the shapes have another size.

    A sample has ``mask`` (H, W) int64, the class index of each pixel. Chips with a pixel
    that has no class are left out.

    Args:
        labels: Files or folders of HR labels, or rasters, each on its own grid.
        size: Height and width of a chip, in pixels.
        legend: What their codes mean.
        target: The classes of the model.
        crosswalk: Name or file of the crosswalk from *legend* to *target*.
        stride: Pixels between chips (default: half of *size*).

    Raises:
        InputError: The labels have codes that are not in *legend*, there is no crosswalk
            to *target*, no chip is complete, or *size* or *stride* is below 1.
    """

    def __init__(
        self,
        labels: LabelSource,
        size: int,
        legend: Legend | str | Path = 'land-cover-4',
        target: Legend | str | Path = 'land-cover-4',
        crosswalk: str | Path | None = None,
        stride: int | None = None,
    ) -> None:
        check_range('size', size, 1, whole=True)
        check_range('stride', stride, 1, whole=True)
        self.crosswalk = Crosswalk.load(legend, target, crosswalk)
        self.rasters = label_rasters(labels)
        self.size = size
        step = stride or max(size // 2, 1)
        classes = len(self.crosswalk.target)
        counts = np.zeros(classes, dtype=np.int64)
        self._chips: list[tuple[int, int, int]] = []
        for number, raster in enumerate(self.rasters):
            empty = np.zeros(raster.geobox.shape, dtype=bool)
            for rows, cols in _blocks(raster):
                index = self._index(raster, rows, cols)
                counts += np.bincount(index[index >= 0], minlength=classes)
                empty[rows, cols] = index < 0
            self._chips += [
                (number, top, left)
                for top in _starts(empty.shape[0], size, step)
                for left in _starts(empty.shape[1], size, step)
                if not empty[top : top + size, left : left + size].any()
            ]
        if not self._chips:
            raise InputError(
                f'{self.rasters[0].paths[0]}: no chip of {size} × {size} pixels has a '
                f"class of '{self.crosswalk.target.name}' everywhere; give other "
                'exemplars, or make chips smaller'
            )
        #: share of each class of *target* in all labels, (C,)
        self.shares = counts / counts.sum()

    def __len__(self) -> int:
        """Number of chips."""
        return len(self._chips)

    def __getitem__(self, index: int) -> Sample:
        """Read a chip.

        Args:
            index: Which one.

        Returns:
            The sample.
        """
        number, top, left = self._chips[index]
        rows, cols = slice(top, top + self.size), slice(left, left + self.size)
        return {'mask': torch.from_numpy(self._index(self.rasters[number], rows, cols))}

    def draw(self, count: int, generator: Generator | None = None) -> Tensor:
        """Draw chips with replacement, flipped and turned at random.

        Args:
            count: Number of chips, N.
            generator: Random numbers (default: PyTorch's).

        Returns:
            Class index of each pixel, (N, size, size).
        """
        chips = []
        for which in torch.randint(len(self), (count,), generator=generator).tolist():
            turns, flip = divmod(int(torch.randint(8, (), generator=generator)), 2)
            chip = torch.rot90(self[which]['mask'], turns)
            chips.append(chip.flip(1) if flip else chip)
        return torch.stack(chips)

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the model's classes that no exemplar shows."""
        names = self.crosswalk.target.class_names
        return tuple(n for n, s in zip(names, self.shares, strict=True) if s == 0)

    def _index(
        self, raster: LabelRaster, rows: slice, cols: slice
    ) -> NDArray[np.int64]:
        """Class indices of a window, -1 = none."""
        codes = raster.read(rows, cols)
        unknown = self.crosswalk.unknown(codes)
        if unknown:
            source, target = self.crosswalk.source.name, self.crosswalk.target.name
            raise InputError(
                f'{raster.paths[0]}: holds code {min(unknown)}, which is no class of '
                f"'{source}'; give the legend of the exemplars, so that they can be "
                f"brought to the model's classes, '{target}'"
            )
        return self.crosswalk.index(codes)


def _blocks(raster: LabelRaster) -> Iterator[tuple[slice, slice]]:
    height, width = raster.geobox.shape
    for top in range(0, height, _BLOCK):
        for left in range(0, width, _BLOCK):
            yield (
                slice(top, min(top + _BLOCK, height)),
                slice(left, min(left + _BLOCK, width)),
            )


def _starts(pixels: int, size: int, step: int) -> list[int]:
    """First pixels of chips; the last one ends with the raster."""
    if pixels < size:
        return []
    return [*range(0, pixels - size, step), pixels - size]
