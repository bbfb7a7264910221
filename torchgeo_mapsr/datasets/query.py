# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What asks a dataset of chips for one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from odc.geo.geobox import GeoBox

from .geo.grid import Window


@dataclass(frozen=True)
class ChipQuery:
    """A chip by its pixels: datasets of chips take it where they take a slice.

    No coordinate is rounded, and where rasters overlap it says which is meant.

    Args:
        raster: Number of the raster in the dataset.
        geobox: Pixels of its grid, or beyond it.
        own: Rows and columns of the raster that the chip has in a partition of it;
            cells are those of these pixels then. None where chips are no partition.
        core: Rows and columns of the chip that a map needs; all if None.
    """

    raster: int
    geobox: GeoBox
    own: Window | None = None
    core: Window | None = None


class ChipSlice(tuple[slice, slice, slice]):
    """A spatiotemporal slice that knows the pixels that it stands for.

    torchgeo's datasets take it as the slice that it is. Of one of this package it gives
    the very chip: where two rasters show one place, a slice alone cannot say which is
    meant, nor how large a pixel is.

    Args:
        slices: [xmin:xmax, ymin:ymax, tmin:tmax] in the CRS of the dataset.
        chip: The chip.
    """

    chip: ChipQuery

    def __new__(cls, slices: Sequence[slice], chip: ChipQuery) -> Self:
        """Make one."""
        made = super().__new__(cls, slices)
        made.chip = chip
        return made

    def __getnewargs__(self) -> tuple[tuple[slice, ...], ChipQuery]:  # type: ignore[override]
        """What pickle makes it of: queries are sent to a loader's processes."""
        return tuple(self), self.chip


def chip_query(query: ChipQuery | GeoBox) -> ChipQuery:
    """The query for a chip of a dataset of one raster.

    Args:
        query: It, or the pixels alone.
    """
    return query if isinstance(query, ChipQuery) else ChipQuery(0, query)
