# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""HR imagery and LR labels of one place, each in its own grid."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from .._compat import Sample
from ..errors import InputError
from .geo.grid import crop, project, window_in
from .imagery_chips import ImageryChips
from .labels import LabelRaster, first_code
from .legends.legend import Legend
from .query import ChipQuery, chip_query
from .sources import ImagerySource, LabelSource, label_rasters


class LRHRPair(ImageryChips):
    """HR imagery with LR labels, and HR labels where there are any.

    Nothing is resampled: the image is read in its own pixels, the LR labels in their
    own cells, and ``mask_region`` says which cell holds the centre of each pixel. A
    sample has

    * ``image``: values as they are stored, (C, H, W) float32, 0 where invalid; beyond the
      imagery its mirror image
    * ``mask_valid``: 1 where the imagery has data, (H, W) int64
    * ``lr_label``: codes of the LR cells under the chip and of a few around it, (h, w)
      int64, -1 = no label; of one shape for all chips of a size
    * ``mask_region``: 0 = outside, i + 1 = cell i of the flattened ``lr_label``,
      (H, W) int64. To augmentations it is a mask like others: after flips, quarter
      turns and crops it still points to the right cells, so ``lr_label`` stays as it is
    * ``mask_coordinates``: row and column of each pixel's centre in ``lr_label``, in
      cells, (2, H, W) float32; another mask to augmentations
    * ``lr_pixels``: pixels that each whole cell has, (h, w) float32. The visible share
      of a cell is its pixels in ``mask_region`` over this, also after a crop
    * ``lr_place``: number of the label raster, row and column of its cell that is the
      first of ``lr_label``, (3,) int64. It tells cells apart that several chips show
    * ``chip``: number of the imagery, row and column of the chip, and whether chips are
      a partition, (4,) int64
    * ``mask``: codes of the HR labels, (H, W) int64, -1 = no label; if *truth* is given

    and the georeference keys of the installed torchgeo.

    A query is snapped to the imagery's pixels; its part outside the imagery is invalid.
    Where several label rasters (grids) are given, the first that has a label for a pixel
    counts. ``lr_label`` and ``lr_pixels`` are (R, h, w) then, ``lr_place`` (R, 3) and
    ``mask_coordinates`` (2 R, H, W), for R rasters.

    Args:
        imagery: Files, a torchgeo dataset of which the files are taken, or Imagery.
        labels: Files, a torchgeo dataset of which the files are taken, or rasters.
        truth: HR labels, likewise.
        transforms: Takes a sample and returns it transformed.
        bands: Bands of the imagery, from 1 (default: all but alpha).
        nodata: No-data value of the imagery (default: that of the files).
        legend: What the codes of *labels* mean, for :meth:`plot`.
        truth_legend: What the codes of *truth* mean, for :meth:`plot`.
        stack: Files of one place, two dates say, are bands of one image.

    Raises:
        InputError: The files cannot be used, do not overlap, or the labels are finer
            than the imagery.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from torchgeo_mapsr.datasets import LRHRPair, make_scene
        >>> folder = TemporaryDirectory()
        >>> scene = make_scene(folder.name, size=(96, 128))
        >>> pair = LRHRPair(scene.imagery, scene.labels, scene.truth)
        >>> sample = pair[:]
        >>> sample['image'].shape, sample['mask_region'].shape, sample['mask'].shape
        (torch.Size([4, 96, 128]), torch.Size([96, 128]), torch.Size([96, 128]))
        >>> bool(sample['mask_region'].max() <= sample['lr_label'].numel())
        True
    """

    def __init__(
        self,
        imagery: ImagerySource,
        labels: LabelSource,
        truth: LabelSource | None = None,
        transforms: Callable[[Sample], Sample] | None = None,
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
        legend: Legend | None = None,
        truth_legend: Legend | None = None,
        stack: bool = False,
    ) -> None:
        super().__init__(
            imagery, bands, nodata, transforms, legend, truth_legend, stack
        )
        times = self.index.index
        self.labels = label_rasters(labels, times)
        self.truth = label_rasters(truth, times) if truth is not None else ()
        self._lr_labels = self._check()

    def _check(self) -> tuple[LabelRaster, ...]:
        """The label rasters that the imagery meets."""
        met = self._overlapping(self.labels)
        for raster, ratio in met:
            if ratio > 1.5:
                raise InputError(
                    f'{raster.paths[0]}: has smaller pixels than '
                    f'{self.imagery.paths[0]}; use FineLabelPair for finer labels'
                )
        numbers = {raster.number for raster, _ in met}
        return tuple(raster for raster in self.labels if raster.number in numbers)

    @property
    def lr_labels(self) -> tuple[LabelRaster, ...]:
        """The LR labels that the imagery meets."""
        return self._lr_labels

    def sample(self, query: ChipQuery | GeoBox) -> Sample:
        """Read a chip, and the HR labels of its pixels where there are any.

        Args:
            query: Pixels of the imagery's grid, or beyond it.

        Returns:
            The sample that the class describes, not transformed.

        Raises:
            InputError: A file cannot be read.
        """
        query = chip_query(query)
        sample = super().sample(query)
        if self.truth:
            codes = first_code(self.truth, query.geobox)
            sample['mask'] = torch.from_numpy(codes)
        return sample

    def cells(
        self, raster: int, geobox: GeoBox
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the LR cells whose centres lie in a grid, without its imagery.

        Where several label rasters have a label, those of the first count.

        Args:
            raster: Number of the raster; not used, since there is one.
            geobox: Pixels of its grid.

        Returns:
            Raw codes, (n,), and row and column of the centres in pixels of the grid,
            (2, n).
        """
        found = [
            self._cells_of(number, geobox) for number in range(len(self._lr_labels))
        ]
        codes, centres = zip(*found, strict=True)
        return np.concatenate(codes), np.concatenate(centres, axis=1)

    def _cells_of(
        self, number: int, geobox: GeoBox
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Cells of one label raster, where none before it has a label."""
        labels = self._lr_labels[number]
        box = window_in(geobox, labels.geobox)
        if box[0] >= box[2] or box[1] >= box[3]:
            return np.zeros(0, np.int64), np.zeros((2, 0))
        codes = labels.read(slice(box[0], box[2]), slice(box[1], box[3]))
        row, col = np.indices(codes.shape) + 0.5
        centres = project(labels.geobox, geobox, row + box[0], col + box[1])
        with np.errstate(invalid='ignore'):
            within = (centres >= 0) & (centres < np.array(geobox.shape)[:, None, None])
        inside = within.all(axis=0) & (codes >= 0)
        for earlier in self._lr_labels[:number]:
            inside &= earlier.at(crop(labels.geobox, box)) < 0
        return codes[inside], centres[:, inside]
