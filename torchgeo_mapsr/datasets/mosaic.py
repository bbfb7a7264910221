# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""LR/HR pairs of many places as one dataset."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine

from .._compat import Sample
from ..errors import InputError
from .base import ChipDataset, ChipQuery
from .geo.grid import crop, project
from .geo.raster import PathLike, open_rasters
from .legends.legend import Legend
from .pair import LabelSource, LRHRPair, label_rasters


class LRHRPairs(ChipDataset):
    """LR/HR pairs side by side, each in the pixels of its own imagery.

    torchgeo's union of datasets would warp them to one grid. Here a query is answered
    by one tile, the one that covers most of it: the chip has the query's centre and as
    many pixels as the query has at the first tile's resolution, also where the tile is
    in another UTM zone.

    Args:
        pairs: The pairs; the first one's CRS and resolution are the dataset's.
        transforms: Takes a sample and returns it transformed.

    Raises:
        InputError: There is none, or their imagery differs in its number of bands.
    """

    def __init__(
        self,
        pairs: Iterable[LRHRPair],
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        self.pairs = tuple(pairs)
        if not self.pairs:
            raise InputError('there is no imagery')
        first = self.pairs[0].imagery
        for pair in self.pairs:
            if pair.imagery.bands != first.bands:
                raise InputError(
                    f'{pair.imagery.paths[0]}: has {pair.imagery.bands} bands and '
                    f'{first.paths[0]} has {first.bands}; choose bands that all files '
                    'have (bands)'
                )
        self._owners = [pair for pair in self.pairs for _ in pair.tiles]
        super().__init__(
            [tile for pair in self.pairs for tile in pair.tiles],
            [path for pair in self.pairs for path in pair.imagery.paths],
            transforms,
            self.pairs[0].legend,
            self.pairs[0].truth_legend,
        )

    @classmethod
    def from_files(
        cls,
        imagery: PathLike | Iterable[PathLike],
        labels: LabelSource,
        truth: LabelSource | None = None,
        transforms: Callable[[Sample], Sample] | None = None,
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
        legend: Legend | None = None,
        truth_legend: Legend | None = None,
    ) -> 'LRHRPairs':
        """Pair each imagery file with the labels there.

        Args:
            imagery: Files or folders, each file in its own grid.
            labels: LR labels of all places.
            truth: HR labels of all places.
            transforms: Takes a sample and returns it transformed.
            bands: Bands of the imagery, from 1.
            nodata: No-data value of the imagery.
            legend: What the codes of *labels* mean.
            truth_legend: What the codes of *truth* mean.

        Returns:
            One pair a file.

        Raises:
            InputError: A file cannot be used, or no labels overlap it.
        """
        lr = label_rasters(labels)
        hr = label_rasters(truth) if truth is not None else None
        return cls(
            (
                LRHRPair(
                    file.path,
                    lr,
                    hr,
                    bands=bands,
                    nodata=nodata,
                    legend=legend,
                    truth_legend=truth_legend,
                )
                for file in open_rasters(imagery)
            ),
            transforms,
        )

    def chip(self, x: slice, y: slice) -> Sample:
        """Read the chip of a box from the tile that covers most of it."""
        box = shapely.box(x.start, y.start, x.stop, y.stop)
        near = np.sort(self.index.sindex.query(box))
        covered = self.index.geometry.iloc[near].intersection(box).area.to_numpy()
        best = int(near[np.argmax(covered)]) if near.size else 0
        pair = self._owners[best]
        number = self.pairs.index(pair)
        return self._sample(
            pair, ChipQuery(number, self._window(self.tiles[best], x, y))
        )

    def at(self, query: ChipQuery) -> Sample:
        """Read the chip of some pixels of a pair's imagery."""
        return self._sample(self.pairs[query.raster], query)

    def _sample(self, pair: LRHRPair, query: ChipQuery) -> Sample:
        """Read a chip of one of the pairs."""
        return pair.sample(query)

    def lr_cells(self, tile: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the LR cells whose centres lie in a tile."""
        return self._owners[tile].cells_in(self.tiles[tile])

    def _window(self, tile: GeoBox, x: slice, y: slice) -> GeoBox:
        """The pixels of a tile around the centre of a box."""
        width = max(round((x.stop - x.start) / self.res[0]), 1)
        height = max(round((y.stop - y.start) / self.res[1]), 1)
        corner = Affine(self.res[0], 0, x.start, 0, -self.res[1], y.stop)
        asked = GeoBox((height, width), corner, self.tiles[0].crs)
        row, col = project(asked, tile, np.array(height / 2), np.array(width / 2))
        top, left = round(float(row) - height / 2), round(float(col) - width / 2)
        return crop(tile, (top, left, top + height, left + width))
