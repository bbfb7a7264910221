# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Chips in the pixels of imagery."""

from abc import abstractmethod
from collections.abc import Callable

from odc.geo.geobox import GeoBox

from .._compat import Sample
from ..errors import InputError
from .base import ChipDataset, ChipQuery
from .chip import Chip, read_chip
from .imagery import Imagery
from .labels import LabelRaster
from .legends.legend import Legend


class ImageryChips(ChipDataset):
    """A dataset whose chips are whole pixels of one imagery.

    A query is snapped to the imagery's pixels; its part outside is invalid.

    Args:
        imagery: The imagery, north-up.
        transforms: Takes a sample and returns it transformed.
        legend: What the codes of ``lr_label`` mean, for :meth:`plot`.
        truth_legend: What the codes of ``mask`` mean, for :meth:`plot`.

    Raises:
        InputError: The imagery is not north-up.
    """

    def __init__(
        self,
        imagery: Imagery,
        transforms: Callable[[Sample], Sample] | None = None,
        legend: Legend | None = None,
        truth_legend: Legend | None = None,
    ) -> None:
        self.imagery = imagery
        affine = imagery.geobox.affine
        if affine.b or affine.d or affine.a < 0 or affine.e > 0:
            raise InputError(
                f'{imagery.paths[0]}: is rotated or not north-up; '
                'warp it first (gdalwarp)'
            )
        super().__init__(
            imagery.footprints, imagery.paths, transforms, legend, truth_legend
        )

    @property
    def lr_labels(self) -> tuple[LabelRaster, ...]:
        """LR labels, where there are any."""
        return ()

    def read(self, query: ChipQuery) -> Chip:
        """Read image and LR labels of a chip.

        Args:
            query: The chip.
        """
        return read_chip(
            self.imagery,
            query.geobox,
            self.lr_labels,
            query.own,
            query.core,
            query.raster,
        )

    @abstractmethod
    def sample(self, query: ChipQuery) -> Sample:
        """Read a chip: pixels of the imagery's grid, or beyond it."""

    def chip(self, x: slice, y: slice) -> Sample:
        """Read the chip that is nearest to a box."""
        return self.sample(ChipQuery(0, self.snap(x, y)))

    def at(self, query: ChipQuery) -> Sample:
        """Read the chip of some pixels."""
        return self.sample(query)

    def snap(self, x: slice, y: slice) -> GeoBox:
        """Find the pixels that are nearest to a query.

        Args:
            x: From west to east, in the imagery's CRS.
            y: From south to north.
        """
        left, top = ~self.imagery.geobox.affine * (x.start, y.stop)
        width = max(round((x.stop - x.start) / self.res[0]), 1)
        height = max(round((y.stop - y.start) / self.res[1]), 1)
        corner = self.imagery.geobox.translate_pix(round(left), round(top))
        return GeoBox((height, width), corner.affine, corner.crs)
