# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Imagery with labels that are finer than its pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from .._compat import Sample
from ..errors import InputError
from .geo.grid import box_in, coverage, crop
from .geo.region import TIE, lr_coordinates
from .geo.round_earth import columns_round
from .imagery_chips import ImageryChips
from .labels import LabelRaster
from .legends.crosswalk import Crosswalk
from .query import ChipQuery, chip_query
from .sources import ImagerySource, LabelSource, label_rasters

# Label pixels that are looked at at once: their places take 16 bytes each.
CHUNK = 1 << 20


class FineLabelPair(ImageryChips):
    """Imagery, and labels of smaller pixels: 4 m labels on 10 m Sentinel-2, say.

    The other direction of :class:`~torchgeo_mapsr.datasets.LRHRPair`: there a label's
    cell holds many pixels, here a pixel holds many labels. Nothing is resampled: the
    labels stay in their own grid and CRS, and each votes for the image pixel that holds
    its centre. A sample has

    * ``image``: values as they are stored, (C, H, W) float32, 0 where invalid
    * ``mask_valid``: 1 where the imagery has data, (H, W) int64
    * ``mask``: code of the most frequent class of each pixel's labels, (H, W) int64,
      -1 = none; of classes with as many votes, the one that its legend has first
    * ``mask_share``: share of each class among the votes, (classes, H, W) float32, of
      sum 1, or 0 where there is no ``mask``; if *shares*. To augmentations it is a mask

    and the georeference keys of the installed torchgeo.

    Votes are counted in classes of the crosswalk's target, so that two codes which are
    one class there are not beaten by a third. What has no class there (no data,
    unlabelled, unknown codes) has no vote; where more than 1 - *least* of the labels in
    a pixel have none, the pixel has no label.

    Args:
        imagery: Files, a torchgeo dataset of which the files are taken, or Imagery.
        labels: Files, a torchgeo dataset of which the files are taken, or rasters;
            where several grids have labels for a pixel, the first counts.
        crosswalk: From the codes of *labels* to the classes of the sample.
        shares: Add ``mask_share``.
        least: Share of the labels in a pixel that must have a class, 0..1.
        transforms: Takes a sample and returns it transformed.
        bands: Bands of the imagery, from 1 (default: all but alpha).
        nodata: No-data value of the imagery (default: that of the files).

    Raises:
        InputError: The files cannot be used, do not overlap, or the labels are coarser
            than the imagery.
    """

    def __init__(
        self,
        imagery: ImagerySource,
        labels: LabelSource,
        crosswalk: Crosswalk,
        shares: bool = False,
        least: float = 0.5,
        transforms: Callable[[Sample], Sample] | None = None,
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
    ) -> None:
        super().__init__(
            imagery, bands, nodata, transforms, truth_legend=crosswalk.target
        )
        self.labels = label_rasters(labels, self.index.index)
        self.crosswalk, self.shares, self.least = crosswalk, shares, least
        if not 0 <= least <= 1:
            raise InputError(f'least must be from 0 to 1, not {least}')
        for raster, ratio in self._overlapping(self.labels):
            if ratio < 1 / 1.5:
                raise InputError(
                    f'{raster.paths[0]}: has larger pixels than '
                    f'{self.imagery.paths[0]}; use LRHRPair for coarser labels'
                )

    def sample(self, query: ChipQuery | GeoBox) -> Sample:
        """Read a chip and count the labels in its pixels.

        Args:
            query: Pixels of the imagery's grid, or beyond it.

        Returns:
            What :class:`~torchgeo_mapsr.datasets.imagery_chips.ImageryChips` has, with
            ``mask`` (H, W), and ``mask_share`` (classes, H, W) if there are *shares*;
            not transformed.

        Raises:
            InputError: A file cannot be read.
        """
        query = chip_query(query)
        votes = self._votes(query.geobox)
        reliable = (votes.count > 0).any(0) & (votes.voted >= self.least * votes.labels)
        codes = self.crosswalk.target.codes[votes.count.argmax(0)]
        sample = super().sample(query)
        sample['mask'] = torch.from_numpy(np.where(reliable, codes, -1))
        if self.shares:
            share = votes.count / np.maximum(votes.voted, 1)
            share = np.where(reliable, share, 0).astype(np.float32)
            sample['mask_share'] = torch.from_numpy(share)
        return sample

    def _votes(self, geobox: GeoBox) -> 'Votes':
        """Votes of each pixel, from the first raster that has any."""
        votes = count_votes(geobox, self.labels[0], self.crosswalk)
        for raster in self.labels[1:]:
            if (votes.voted == 0).any() and coverage(geobox, raster.geobox) > 0:
                votes = votes.where_none(count_votes(geobox, raster, self.crosswalk))
        return votes


@dataclass(frozen=True, eq=False)
class Votes:
    """What the labels in each pixel of a grid say.

    Args:
        count: Labels of each class, (classes, H, W) int32.
        labels: Labels whose centre lies in the pixel, with a class or without,
            (H, W) int32.
    """

    count: NDArray[np.int32]
    labels: NDArray[np.int32]

    @property
    def voted(self) -> NDArray[np.int64]:
        """Labels that have a class, (H, W)."""
        voted: NDArray[np.int64] = self.count.sum(0)
        return voted

    def where_none(self, other: 'Votes') -> 'Votes':
        """The same, with the votes of another where there are none.

        Args:
            other: Votes in the same pixels.
        """
        none = self.voted == 0
        return Votes(
            np.where(none, other.count, self.count),
            np.where(none, other.labels, self.labels),
        )


def count_votes(geobox: GeoBox, labels: LabelRaster, crosswalk: Crosswalk) -> Votes:
    """Count the labels of each class in the pixels of a grid.

    The roles of :func:`~torchgeo_mapsr.datasets.region_map` are exchanged: the centres
    of the labels are projected into the imagery's grid. A centre on an edge belongs to
    the pixel at its right or below. Label rows are read some at a time, so that memory
    does not grow with their number.

    Args:
        geobox: Grid of the chip.
        labels: Labels, in any CRS.
        crosswalk: From their codes to classes.

    Returns:
        The votes, (classes, H, W).
    """
    classes, (height, width) = len(crosswalk.target), geobox.shape
    count = np.zeros((classes, height, width), np.int32)
    total = np.zeros((height, width), np.int32)
    top, left, bottom, right = box_in(geobox, labels.geobox)
    turn = columns_round(labels.geobox)
    if turn is not None:  # round a pole a box would hold some columns twice
        right = min(right, left + turn)
    rows = max(CHUNK // max(right - left, 1), 1)
    for start in range(top, bottom, rows):
        stop = min(start + rows, bottom)
        window = crop(labels.geobox, (start, left, stop, right))
        coordinates = lr_coordinates(window, geobox)
        finite = np.isfinite(coordinates).all(0)
        row, col = np.floor(np.where(finite, coordinates, -1) + TIE).astype(np.int64)
        inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
        if not inside.any():
            continue
        row, col = row[inside], col[inside]
        index = crosswalk.index(labels.read(slice(start, stop), slice(left, right)))
        # only the rows of the chip that these labels are in
        first, last = int(row.min()), int(row.max()) + 1
        size = (last - first) * width
        pixel = (row - first) * width + col
        total[first:last] += np.bincount(pixel, minlength=size).reshape(-1, width)
        index = index[inside]
        voted = index >= 0
        counts = np.bincount(
            index[voted] * size + pixel[voted], minlength=classes * size
        )
        count[:, first:last] += counts.reshape(classes, -1, width)
    return Votes(count, total)
