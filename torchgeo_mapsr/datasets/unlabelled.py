# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Imagery without labels, and imagery of many places as one dataset."""

from collections.abc import Callable, Iterable, Sequence

from .._compat import Sample
from .imagery_chips import ImageryChips
from .mosaic import LRHRPairs
from .sources import ImagerySource


class UnlabelledImagery(ImageryChips):
    """Imagery to learn from without labels.

    A sample has ``image``, (C, H, W) float32 values as they are stored, ``mask_valid``,
    (H, W) int64, and the georeference keys of the installed torchgeo.

    Args:
        imagery: Files, a torchgeo dataset of which the files are taken, or Imagery.
        transforms: Takes a sample and returns it transformed.
        bands: Bands of the imagery, from 1 (default: all but alpha).
        nodata: No-data value of the imagery (default: that of the files).
    """

    def __init__(
        self,
        imagery: ImagerySource,
        transforms: Callable[[Sample], Sample] | None = None,
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
    ) -> None:
        super().__init__(imagery, bands, nodata, transforms)


class ManyImagery(LRHRPairs):
    """Imagery of many places as one dataset, as LR/HR pairs are put side by side.

    Args:
        places: The places, with finer labels or none; the first one's CRS and
            resolution are the dataset's.
        transforms: Takes a sample and returns it transformed.
    """

    def __init__(
        self,
        places: Iterable[ImageryChips],
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        super().__init__(places, transforms)
