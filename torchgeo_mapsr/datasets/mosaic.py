# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""LR/HR pairs of many places as one dataset."""

from collections.abc import Callable, Iterable, Sequence

import geopandas
import numpy as np
import pandas
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from torchgeo.datasets import GeoDataset

from .._compat import Sample
from ..errors import InputError
from .base import ChipDataset
from .geo.names import PathLike, list_rasters
from .imagery_chips import ImageryChips
from .legends.legend import Legend
from .pair import LRHRPair
from .query import ChipQuery, chip_query
from .sources import DatedFiles, ImagerySource, LabelSource, label_rasters


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
        InputError: There is none, or their imagery differs in the number or the order of bands.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from torchgeo.datasets import random_bbox_assignment
        >>> from torchgeo_mapsr.datasets import LRHRPairs, make_scene
        >>> folder = TemporaryDirectory()
        >>> scenes = [
        ...     make_scene(f'{folder.name}/{name}', seed=name, size=(96, 96))
        ...     for name in (1, 2)
        ... ]
        >>> pairs = LRHRPairs.from_files(
        ...     [scene.imagery for scene in scenes], [scene.labels for scene in scenes]
        ... )
        >>> train, val = random_bbox_assignment(pairs, [0.5, 0.5])
        >>> len(train), len(val), set(train.paths) & set(val.paths)
        (1, 1, set())
    """

    def __init__(
        self,
        pairs: Iterable[ImageryChips],
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        self.pairs = tuple(pairs)
        if not self.pairs:
            raise InputError('there is no imagery')
        first = self.pairs[0].imagery
        for pair in self.pairs:
            pair.imagery.check_bands(first.bands, first.descriptions, first.paths[0])
            pair.imagery.check_pixels(first.pixel_size, first.paths[0])
            if pair.transforms is not None:
                raise InputError(
                    f'{pair.imagery.paths[0]}: its pair has transforms, which would not '
                    f'be applied; give them to {type(self).__name__}'
                )
        super().__init__(
            [tile for pair in self.pairs for tile in pair.imagery.footprints],
            [path for pair in self.pairs for path in pair.imagery.images[0]],
            transforms,
            self.pairs[0].legend,
            self.pairs[0].truth_legend,
            [i for i, pair in enumerate(self.pairs) for _ in pair.imagery.images[0]],
        )
        self._take_rows()

    def _take_rows(self) -> None:
        """Take what can be sampled, and when, from the pairs' own indexes."""
        tables, sources, first = [], [], 0
        for pair in self.pairs:
            index, numbers = pair.index, pair.sources
            shapes = index.geometry
            if index.crs != self.crs:
                # Straight lines become curves: a point each 64 pixels.
                shapes = shapes.segmentize(64 * max(pair.res)).to_crs(self.crs)
            shapes = np.where(
                pair.whole, self._footprints[first + numbers], shapes.to_numpy()
            )
            times = pandas.IntervalIndex.from_arrays(
                index.index.left, index.index.right, 'both', name='datetime'
            )
            tables.append(
                geopandas.GeoDataFrame(
                    {'filepath': index['filepath'].to_numpy()},
                    index=times,
                    geometry=shapes,
                    crs=self.crs,
                )
            )
            sources.append(first + numbers)
            first += len(pair.imagery.images[0])
        self._index = pandas.concat(tables)
        self.sources = np.concatenate(sources)

    @classmethod
    def from_files(
        cls,
        imagery: GeoDataset | PathLike | Iterable[PathLike],
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
            imagery: Files or folders, each file in its own grid; or a torchgeo dataset,
                whose dates and footprints count.
            labels: LR labels of all places. Of a torchgeo dataset with several dates,
                each place has those of its own.
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
        files = DatedFiles.of(imagery)
        places: Iterable[ImagerySource]
        if files is not None:
            places = files.single()
            # Given on as they are: of labels of several dates each place takes its own.
            lr, hr = labels, truth
        else:
            places = list_rasters(imagery)  # type: ignore[arg-type]
            lr = label_rasters(labels)
            hr = label_rasters(truth) if truth is not None else None
        return cls(
            (
                LRHRPair(
                    place,
                    lr,
                    hr,
                    bands=bands,
                    nodata=nodata,
                    legend=legend,
                    truth_legend=truth_legend,
                )
                for place in places
            ),
            transforms,
        )

    def sample(self, query: ChipQuery | GeoBox) -> Sample:
        """Read a chip of one of the pairs.

        Args:
            query: Pixels of a pair's imagery, or beyond it.

        Returns:
            The pair's sample, not transformed.

        Raises:
            InputError: A file cannot be read.
        """
        query = chip_query(query)
        return self.pairs[query.raster].sample(query)

    def cells(
        self, raster: int, geobox: GeoBox
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the LR cells whose centres lie in a grid, without its imagery.

        Args:
            raster: Number of the pair.
            geobox: Pixels of its imagery's grid.

        Returns:
            Raw codes, (n,), and row and column of the centres in pixels of the grid,
            (2, n).
        """
        return self.pairs[raster].cells(raster, geobox)

    @property
    def all_bands(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of all bands of the first pair's imagery."""
        return self.pairs[0].all_bands

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands of ``image``."""
        return self.pairs[0].bands

    @property
    def rgb_bands(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the bands that are red, green and blue; none if nothing says so."""
        return self.pairs[0].rgb_bands

    @rgb_bands.setter
    def rgb_bands(self, names: Sequence[str]) -> None:
        self.pairs[0].rgb_bands = tuple(names)
