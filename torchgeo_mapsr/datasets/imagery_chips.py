# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Chips of one imagery."""

from collections.abc import Callable, Sequence
from typing import Any

import geopandas
import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from .._compat import Sample, georeference
from ..errors import InputError
from .base import ChipDataset
from .chip import Chip, read_chip
from .geo.grid import coverage, pixel_ratio
from .imagery import Imagery
from .labels import LabelRaster
from .legends.legend import Legend
from .query import ChipQuery, chip_query
from .sources import DatedFiles, ImagerySource, open_imagery


class ImageryChips(ChipDataset):
    """A dataset whose chips are whole pixels of one imagery.

    A query is snapped to the imagery's pixels; its part outside is invalid.

    Args:
        imagery: Files, a torchgeo dataset, or Imagery, north-up. Of a torchgeo dataset
            the files, dates and footprints of its index are taken, and its ``bands``;
            what would resample or change its values (``crs``, ``res``, ``transforms``)
            is refused.
        bands: Bands of the imagery, from 1 (default: all but alpha).
        nodata: No-data value of the imagery (default: that of the files).
        transforms: Takes a sample and returns it transformed.
        legend: What the codes of ``lr_label`` mean, for :meth:`plot`.
        truth_legend: What the codes of ``mask`` mean, for :meth:`plot`.
        stack: Files of one place, two dates say, are bands of one image.

    Raises:
        InputError: The files cannot be used, or are not north-up; or a torchgeo dataset
            asks for what is not done here.
    """

    def __init__(
        self,
        imagery: ImagerySource,
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
        transforms: Callable[[Sample], Sample] | None = None,
        legend: Legend | None = None,
        truth_legend: Legend | None = None,
        stack: bool = False,
    ) -> None:
        files = DatedFiles.of(imagery)
        if files is not None:
            if not stack:
                files.check_one_date()
            bands = files.bands if bands is None else bands
            imagery = files
        self.imagery: Imagery = open_imagery(imagery, bands, nodata, stack)
        self._names = files.names if files is not None else None
        self._rgb: tuple[str, ...] | None = files.rgb if files is not None else None
        affine = self.imagery.geobox.affine
        if affine.b or affine.d or affine.a < 0 or affine.e > 0:
            raise InputError(
                f'{self.imagery.paths[0]}: is rotated or not north-up; '
                'warp it first (gdalwarp)'
            )
        super().__init__(
            self.imagery.footprints,
            self.imagery.images[0],
            transforms,
            legend,
            truth_legend,
        )
        if files is not None:
            self.index = self._part_of(files.index.to_crs(self.crs), stack)

    def _part_of(self, index: geopandas.GeoDataFrame, stack: bool) -> Any:
        """What an index has of the imagery; of a stack the places of its first date."""
        if not stack:
            return index
        index = index[index['filepath'].isin(self.imagery.images[0])]
        # Two dates in one image have no date.
        always = self.index.index[[0] * len(index)]
        return index.set_index(always)

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

    def sample(self, query: ChipQuery | GeoBox) -> Sample:
        """Read a chip.

        Args:
            query: Pixels of the imagery's grid, or beyond it.

        Returns:
            ``image`` (C, H, W) and ``mask_valid`` (H, W), what there is of LR labels,
            and the georeference; not transformed.

        Raises:
            InputError: A file cannot be read.
        """
        query = chip_query(query)
        sample = self.read(query).sample()
        return sample | georeference(query.geobox, self.bounds[2])

    def cells(
        self, raster: int, geobox: GeoBox
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the LR cells whose centres lie in a grid: here there are none.

        Args:
            raster: Number of the raster.
            geobox: Pixels of its grid.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f'{type(self).__name__} has no LR cells; sample its chips with ChipSampler '
            'or PatchSampler'
        )

    def _overlapping(
        self, labels: Sequence[LabelRaster]
    ) -> list[tuple[LabelRaster, float]]:
        """Find the label rasters that the imagery overlaps.

        Args:
            labels: The label rasters.

        Returns:
            Each of them with the area of a pixel of the imagery in its cells, once for
            each tile of the imagery that it overlaps.

        Raises:
            InputError: There is none.
        """
        found = [
            (raster, pixel_ratio(tile, raster.geobox))
            for raster in labels
            for tile in self.imagery.footprints
            if coverage(tile, raster.geobox) > 0
        ]
        if not found:
            raise InputError(
                f'{labels[0].paths[0]}: does not overlap {self.imagery.paths[0]}; give '
                'labels of the same place'
            )
        return found

    @property
    def all_bands(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of all bands of the imagery: their descriptions, or numbers from 1."""
        names = self.imagery.all_bands
        if self._names is None or len(self._names) != len(names):
            return names
        return self._names

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands of ``image``."""
        return tuple(self.all_bands[i] for i in self.imagery.band_indexes)

    @property
    def rgb_bands(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the bands that are red, green and blue; none if nothing says so.

        Set it to plot others.
        """
        return self.imagery.rgb_bands if self._rgb is None else self._rgb

    @rgb_bands.setter
    def rgb_bands(self, names: Sequence[str]) -> None:
        self._rgb = tuple(names)
