# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What datasets of chips in their own pixels have in common."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import geopandas
import numpy as np
import pandas
from matplotlib.figure import Figure
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS
from torchgeo.datasets import GeoDataset

from .._compat import Sample
from ..errors import InputError
from .geo.grid import Window, project
from .legends.legend import Legend
from .plot import plot_sample


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


class ChipDataset(GeoDataset):
    """A torchgeo dataset that never resamples: chips are whole pixels of its tiles.

    Args:
        tiles: Grids to sample from; the first one's CRS and resolution are the dataset's.
        paths: File of each tile.
        transforms: Takes a sample and returns it transformed.
        legend: What the codes of ``lr_label`` mean, for :meth:`plot`.
        truth_legend: What the codes of ``mask`` and ``prediction`` mean.
    """

    def __init__(
        self,
        tiles: Sequence[GeoBox],
        paths: Sequence[str],
        transforms: Callable[[Sample], Sample] | None = None,
        legend: Legend | None = None,
        truth_legend: Legend | None = None,
    ) -> None:
        self.tiles = tuple(tiles)
        self.paths = list(paths)
        self.transforms = transforms
        self.legend, self.truth_legend = legend, truth_legend
        grid = self.tiles[0]
        assert grid.crs is not None
        self._res = (grid.affine.a, -grid.affine.e)
        times = [(pandas.Timestamp.min, pandas.Timestamp.max)] * len(self.tiles)
        self.index = geopandas.GeoDataFrame(
            {'filepath': self.paths},
            index=pandas.IntervalIndex.from_tuples(times, 'both', name='datetime'),
            geometry=[tile.footprint(grid.crs).geom for tile in self.tiles],
            crs=grid.crs.proj,
        )

    @abstractmethod
    def chip(self, x: slice, y: slice) -> Sample:
        """Read the chip of a box in the CRS of the dataset, not transformed."""

    @abstractmethod
    def lr_cells(self, tile: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the LR cells whose centres lie in a tile, without its imagery.

        Args:
            tile: Index of the tile.

        Returns:
            Raw codes of those that have one, (n,), and row and column of their centres
            in pixels of the tile, (2, n).
        """

    @abstractmethod
    def at(self, query: ChipQuery) -> Sample:
        """Read the chip of some pixels, not transformed."""

    def __getitem__(self, query: Any) -> Sample:
        """Retrieve the chip of a spatiotemporal slice, or of some pixels.

        Args:
            query: [xmin:xmax, ymin:ymax, tmin:tmax] in the CRS of the dataset; what is
                left out is the whole range. Or a :class:`ChipQuery`.

        Returns:
            The sample.

        Raises:
            IndexError: *query* does not meet the imagery.
            InputError: *query* asks for another resolution.
        """
        if isinstance(query, ChipQuery):
            return self._transformed(self.at(query))
        x, y, t = self._disambiguate_slice(query)
        if not np.allclose((x.step, y.step), self.res):
            raise InputError(
                f'chips are read in their own pixels of {self.res}, '
                f'not in steps of {(x.step, y.step)}'
            )
        hits = self.index[self.index.index.overlaps(pandas.Interval(t.start, t.stop))]
        if hits.cx[x.start : x.stop, y.start : y.stop].empty:
            raise IndexError(f'query: {query} not found in bounds: {self.bounds}')
        return self._transformed(self.chip(x, y))

    def _transformed(self, sample: Sample) -> Sample:
        return sample if self.transforms is None else self.transforms(sample)

    def query(self, geobox: GeoBox) -> tuple[slice, slice]:
        """Find the query that gives a chip.

        Args:
            geobox: Pixels of one of the tiles, or beyond it.

        Returns:
            xmin:xmax and ymin:ymax in the CRS of the dataset; of a tile in another CRS,
            a box around the chip's centre that has as many pixels.
        """
        grid, (height, width) = self.tiles[0], geobox.shape
        place = project(geobox, grid, np.array(height / 2), np.array(width / 2))
        x, y = grid.pix2wld(place[1], place[0])
        half = width * self.res[0] / 2, height * self.res[1] / 2
        return slice(x - half[0], x + half[0]), slice(y - half[1], y + half[1])

    @property
    def crs(self) -> CRS:
        """CRS of the first tile."""
        return self.index.crs

    @crs.setter
    def crs(self, new_crs: CRS) -> None:
        # torchgeo's & and | set it; here it would have to warp
        if new_crs != self.crs:
            raise InputError('chips keep the CRS of their imagery; put them first')

    @property
    def res(self) -> tuple[float, float]:
        """Width and height of a pixel of the first tile."""
        return self._res

    @res.setter
    def res(self, new_res: float | tuple[float, float]) -> None:
        res = new_res if isinstance(new_res, tuple) else (new_res, new_res)
        if res != self.res:
            raise InputError('chips keep the pixels of their imagery; put them first')

    def plot(
        self, sample: Sample, show_titles: bool = True, suptitle: str | None = None
    ) -> Figure:
        """Plot the image and the labels of a sample side by side.

        Args:
            sample: One sample, with ``prediction`` (codes as those of ``mask``) if
                there is one.
            show_titles: Put a title above each panel.
            suptitle: Title of the figure.

        Returns:
            The figure.
        """
        return plot_sample(
            sample, self.legend, self.truth_legend, show_titles, suptitle
        )
