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
import shapely
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS
from rasterio.transform import Affine
from shapely.geometry.base import BaseGeometry
from torchgeo.datasets import GeoDataset, IntersectionDataset, UnionDataset

from .._compat import Sample
from ..errors import InputError
from .geo.grid import box_in, clip, crop, project
from .legends.legend import Legend
from .plot import plot_sample, rgb_of
from .query import ChipQuery, ChipSlice

#: What a pixel outside of the index holds, by key of the sample.
OUTSIDE: dict[str, int] = {
    'image': 0,
    'mask_valid': 0,
    'mask_region': 0,
    'mask': -1,
    'mask_share': 0,
}

# Rows of an index above which those near a chip are looked up in its spatial index.
MANY_ROWS = 16


@dataclass(frozen=True)
class Tile:
    """What one row of an index lets a sampler draw from.

    Args:
        grid: The pixels of the row's raster that its geometry spans.
        geometry: The row's geometry, in the CRS of the dataset.
        time: First and last time.
        raster: Number of the raster in the dataset.
        full: Whether the geometry holds all pixels of the grid.
    """

    grid: GeoBox
    geometry: BaseGeometry
    time: slice
    raster: int = 0
    full: bool = True


# What to do where & or | would have to resample.
_ELSEWHERE = (
    'put them first, or pair several places with LRHRPairs([a, b]) in place of a | b'
)


class ChipDataset(GeoDataset):
    """A torchgeo dataset that never resamples: chips are whole pixels of its rasters.

    :attr:`index` alone says what there is to sample: torchgeo's splits replace it and
    nothing else. A query is answered from the rows that it meets, in the pixels of the
    raster that covers most of it; pixels outside of these rows' geometry are invalid
    (``mask_valid`` 0, no cell, no label). So the parts of a split never share a pixel.

    Args:
        tiles: Grids to sample from; the first one's CRS and resolution are the dataset's.
        paths: File of each tile.
        transforms: Takes a sample and returns it transformed.
        legend: What the codes of ``lr_label`` mean, for :meth:`plot`.
        truth_legend: What the codes of ``mask`` and ``prediction`` mean.
        rasters: Number of the raster that each tile is part of (default: one raster).
    """

    _index: geopandas.GeoDataFrame

    def __init__(
        self,
        tiles: Sequence[GeoBox],
        paths: Sequence[str],
        transforms: Callable[[Sample], Sample] | None = None,
        legend: Legend | None = None,
        truth_legend: Legend | None = None,
        rasters: Sequence[int] | None = None,
    ) -> None:
        self.transforms = transforms
        self.legend, self.truth_legend = legend, truth_legend
        # Grid, file, raster and footprint of each tile as given here: a row of the index,
        # after splits, is a part of one of them.
        self._grids = tuple(tiles)
        self._files = tuple(paths)
        self._rasters = tuple(rasters or [0] * len(self._grids))
        self._raster_numbers = np.array(self._rasters)
        grid = self._grids[0]
        assert grid.crs is not None
        self._res = (grid.affine.a, -grid.affine.e)
        self._footprints = np.array(
            [tile.footprint(grid.crs).geom for tile in self._grids], dtype=object
        )
        times = [(pandas.Timestamp.min, pandas.Timestamp.max)] * len(self._grids)
        self.index = geopandas.GeoDataFrame(
            {'filepath': list(paths)},
            index=pandas.IntervalIndex.from_tuples(times, 'both', name='datetime'),
            geometry=list(self._footprints),
            crs=grid.crs.proj,
        )

    @property
    def index(self) -> geopandas.GeoDataFrame:
        """Footprints of what can be sampled, with ``filepath``, by time."""
        return self._index

    @index.setter
    def index(self, index: geopandas.GeoDataFrame) -> None:
        """Take the index of a split.

        Raises:
            InputError: A row is of a file that the dataset does not have.
        """
        if 'filepath' not in index.columns:
            # torchgeo's random_grid_cell_assignment drops the names of the columns, and
            # that of 0.8 the CRS too.
            index = index.rename(columns=dict(enumerate(self._index.columns)))
            columns = dict.fromkeys(index.columns)
            index = index.loc[:, ~index.columns.duplicated(keep='last')][list(columns)]
        if index.crs is None:
            grid = self._grids[0]
            assert grid.crs is not None
            index = index.set_crs(grid.crs.proj)
        # A split along an edge leaves lines and points, which hold no pixel.
        index = index[shapely.area(index.geometry.to_numpy()) > 0]
        #: number of the tile that each row is a part of, (n,)
        self.sources = self._tiles_of(index)
        self._index = index

    def _tiles_of(self, index: geopandas.GeoDataFrame) -> NDArray[np.int64]:
        """Number of the tile that each row of an index is a part of, (n,)."""
        numbers: dict[str, list[int]] = {}
        for number, file in enumerate(self._files):
            numbers.setdefault(file, []).append(number)
        shapes = shapely.to_wkb(self._footprints)
        exact = {
            (file, shape): number
            for number, (file, shape) in reversed(
                list(enumerate(zip(self._files, shapes, strict=True)))
            )
        }
        tiles = np.zeros(len(index), np.int64)
        geometries = index.geometry.to_numpy()
        for row, (file, geometry) in enumerate(
            zip(index['filepath'], geometries, strict=True)
        ):
            file = str(file)
            if file not in numbers:
                raise InputError(
                    f'{file}: is in the index but not in the dataset; make a dataset of it'
                )
            candidates = numbers[file]
            number = candidates[0]
            if len(candidates) > 1:
                number = exact.get((file, shapely.to_wkb(geometry)), -1)
            if number < 0:
                common = shapely.intersection(self._footprints[candidates], geometry)
                number = candidates[int(np.argmax(shapely.area(common)))]
            tiles[row] = number
        return tiles

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Whether each row of :attr:`index` is all of its tile, (n,)."""
        shapes = self._footprints[self.sources]
        whole: NDArray[np.bool_] = shapely.equals_exact(
            self.index.geometry.to_numpy(), shapes
        )
        return whole

    @property
    def is_whole(self) -> bool:
        """Whether :attr:`index` has all of every tile: no split has cut it."""
        return len(self.index) == len(self._grids) and bool(self.whole.all())

    @property
    def tiles(self) -> tuple[GeoBox, ...]:
        """Pixels of each row of :attr:`index`."""
        return tuple(tile.grid for tile in self.rows())

    @property
    def paths(self) -> list[str]:  # type: ignore[override]
        """File of each row of :attr:`index`."""
        return [str(path) for path in self.index['filepath']]

    def rows(
        self, roi: BaseGeometry | None = None, toi: pandas.Interval | None = None
    ) -> list[Tile]:
        """What the rows of :attr:`index` let a sampler draw from.

        Args:
            roi: Region of interest, in the CRS of the dataset.
            toi: Time of interest.

        Returns:
            A tile for each row, only those that hold pixels of *roi* and *toi* if there
            is one.
        """
        parts = (self._row(row, roi, toi) for row in range(len(self.index)))
        return [part for part in parts if part is not None]

    def _row(
        self,
        row: int,
        roi: BaseGeometry | None = None,
        toi: pandas.Interval | None = None,
    ) -> Tile | None:
        """What one row lets a sampler draw from; None if nothing."""
        number = int(self.sources[row])
        geometry, time = self.index.geometry.iloc[row], self.index.index[row]
        if roi is not None:
            geometry = geometry.intersection(roi)
        if toi is not None:
            if not toi.overlaps(time):
                return None
            time = pandas.Interval(
                max(time.left, toi.left), min(time.right, toi.right), 'both'
            )
        grid = self._grid_of(number, geometry)
        if roi is not None and 0 in grid.shape:
            return None
        full = shapely.equals_exact(geometry, self._footprints[number]) or (
            grid.crs == self._grids[0].crs and _is_box(geometry)
        )
        times = slice(time.left, time.right)
        return Tile(grid, geometry, times, self._rasters[number], bool(full))

    def _grid_of(self, number: int, geometry: BaseGeometry) -> GeoBox:
        """Pixels of a tile whose centres may lie in a geometry."""
        tile = self._grids[number]
        if shapely.equals_exact(geometry, self._footprints[number]):
            return tile
        if geometry.is_empty:
            return crop(tile, (0, 0, 0, 0))
        # Straight lines in one CRS are curves in another: a point each 64 pixels.
        outline = shapely.segmentize(geometry, 64 * max(self.res))
        x, y = shapely.get_coordinates(outline).T
        frame = self._grids[0]
        col, row = ~frame.affine * (x, y)
        edges = project(frame, tile, row, col).reshape(2, -1)
        top, left = np.floor(edges.min(axis=1) + 0.5).astype(int).tolist()
        bottom, right = np.ceil(edges.max(axis=1) - 0.5).astype(int).tolist()
        box = clip((top, left, bottom, right), *tile.shape.yx)
        return crop(tile, (box[0], box[1], max(box[2], box[0]), max(box[3], box[1])))

    @abstractmethod
    def sample(self, query: ChipQuery | GeoBox) -> Sample:
        """Read a chip, also where the index does not have it, and not transformed.

        Args:
            query: Pixels of a raster's grid, or beyond it.
        """

    @abstractmethod
    def cells(
        self, raster: int, geobox: GeoBox
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the LR cells whose centres lie in a grid, without its imagery.

        Args:
            raster: Number of the raster.
            geobox: Pixels of its grid.

        Returns:
            Raw codes of those that have one, (n,), and row and column of their centres
            in pixels of the grid, (2, n).
        """

    def lr_cells(
        self, tile: int | Tile
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the LR cells whose centres lie in a tile, without its imagery.

        Args:
            tile: Number of the row of :attr:`index`, or one of :meth:`rows`.

        Returns:
            Raw codes of those that have one, (n,), and row and column of their centres
            in pixels of the tile, (2, n).
        """
        part = self._row(tile) if isinstance(tile, int) else tile
        assert part is not None
        codes, places = self.cells(part.raster, part.grid)
        if part.full or not len(codes):
            return codes, places
        inside = self.contains(part.geometry, part.grid, *places)
        return codes[inside], places[:, inside]

    def __getitem__(self, query: Any) -> Sample:
        """Retrieve the chip of a spatiotemporal slice, or of some pixels.

        Args:
            query: [xmin:xmax, ymin:ymax, tmin:tmax] in the CRS of the dataset; what is
                left out is the whole range. Or a :class:`ChipQuery`.

        Returns:
            The sample.

        Raises:
            IndexError: *query* does not meet the imagery.
            InputError: *query* asks for another resolution, or is a number.
        """
        if isinstance(query, ChipQuery):
            return self._sample_of(query, self._rows_of(query))
        if isinstance(query, int):
            raise InputError(
                'Chips of a map have places, not numbers: give the DataLoader a sampler, '
                'such as ChipSampler(dataset, size), or index by [xmin:xmax, ymin:ymax]; '
                'Trainer(overfit_batches=…) takes the sampler away: give it '
                'limit_train_batches'
            )
        x, y, t = self._disambiguate_slice(query)
        if isinstance(query, ChipSlice):
            rows = self._rows_of(query.chip)
            times = self.index.index[rows]
            rows = rows[times.overlaps(pandas.Interval(t.start, t.stop, 'both'))]
            if not rows.size or not self._inside(query.chip.geobox, rows).any():
                raise IndexError(f'query: {query} not found in bounds: {self.bounds}')
            return self._sample_of(query.chip, rows)
        if not np.allclose((x.step, y.step), self.res):
            raise InputError(
                f'chips are read in their own pixels of {self.res}, '
                f'not in steps of {(x.step, y.step)}'
            )
        rows, covered = self._hits(x, y, t)
        if not rows.size:
            raise IndexError(f'query: {query} not found in bounds: {self.bounds}')
        best = int(self.sources[rows[int(np.argmax(covered))]])
        raster = self._rasters[best]
        same = [row for row in rows if self._rasters[self.sources[row]] == raster]
        return self._sample_of(ChipQuery(raster, self.snap(x, y, best)), np.array(same))

    def meets(self, query: ChipQuery) -> bool:
        """Whether the index has any of the pixels of a chip.

        Args:
            query: The chip.
        """
        return bool(self._inside(query.geobox, self._rows_of(query)).any())

    def _rows_of(self, query: ChipQuery) -> NDArray[np.int64]:
        """Rows of the index that are of a chip's raster; of many, only those near it."""
        rows = np.flatnonzero(self._raster_numbers[self.sources] == query.raster)
        if len(rows) <= MANY_ROWS:
            return rows
        grid = self._grids[0]
        assert grid.crs is not None
        bounds = query.geobox.footprint(grid.crs).geom.buffer(max(self.res)).bounds
        return np.intersect1d(rows, self.index.sindex.query(shapely.box(*bounds)))

    def _hits(
        self, x: slice, y: slice, t: slice
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows of the index that a query meets, and the area of it that they cover."""
        box = shapely.box(x.start, y.start, x.stop, y.stop)
        rows = np.sort(self.index.sindex.query(box, predicate='intersects'))
        times = self.index.index[rows]
        rows = rows[times.overlaps(pandas.Interval(t.start, t.stop, 'both'))]
        covered = shapely.area(self.index.geometry.to_numpy()[rows] & box)
        if box.area:
            # A query that only touches the edge of a row has no pixel of it.
            rows, covered = rows[covered > 0], covered[covered > 0]
        return rows, covered

    def _sample_of(self, query: ChipQuery, rows: NDArray[np.int64]) -> Sample:
        """Read a chip, take away what is not in some rows, and transform it."""
        sample = self.sample(query)
        inside = self._inside(query.geobox, rows)
        outside = ~inside & (sample['mask_valid'].numpy() > 0)
        if outside.any():
            # Only where a split cuts the imagery: what lies beyond the imagery itself is
            # invalid already.
            covered = torch.from_numpy(~inside)
            sample = {
                key: value.masked_fill(covered, OUTSIDE[key])
                if key in OUTSIDE
                else value
                for key, value in sample.items()
            }
        return sample if self.transforms is None else self.transforms(sample)

    def _inside(self, geobox: GeoBox, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Pixels of a chip whose centres lie in the geometry of some rows, (H, W).

        A centre on a line belongs to neither side.
        """
        inside = np.zeros(geobox.shape, bool)
        geometries = self.index.geometry.to_numpy()
        for row in rows:
            number, geometry = int(self.sources[row]), geometries[row]
            if shapely.equals_exact(geometry, self._footprints[number]):
                box = clip(box_in(self._grids[number], geobox), *geobox.shape.yx)
                inside[box[0] : box[2], box[1] : box[3]] = True
                continue
            height, width = geobox.shape
            if geobox.crs == self._grids[0].crs and _is_box(geometry):
                left, bottom, right, top = geometry.bounds
                x, _ = geobox.pix2wld(np.arange(width) + 0.5, np.zeros(width))
                _, y = geobox.pix2wld(np.zeros(height), np.arange(height) + 0.5)
                inside |= ((y > bottom) & (y < top))[:, None] & (x > left) & (x < right)
                continue
            centres = np.indices(geobox.shape) + 0.5
            inside |= self.contains(geometry, geobox, *centres)
        return inside

    def contains(
        self,
        geometry: BaseGeometry,
        grid: GeoBox,
        row: NDArray[np.float64],
        col: NDArray[np.float64],
    ) -> NDArray[np.bool_]:
        """Find places that lie in a geometry, and not on its outline.

        Args:
            geometry: In the CRS of the dataset.
            grid: Pixels in any CRS.
            row: Row of each place in pixels of *grid*, from the upper edge; any shape.
            col: Its column, likewise; the same shape.

        Returns:
            True where a place lies in it, of the shape of *row*.
        """
        at_row, at_col = project(grid, self._grids[0], row, col)
        x, y = self._grids[0].affine * (at_col, at_row)
        shapely.prepare(geometry)
        return np.asarray(shapely.contains_xy(geometry, x, y), dtype=bool)

    def snap(self, x: slice, y: slice, number: int = 0) -> GeoBox:
        """Find the pixels that are nearest to a query.

        Args:
            x: From west to east, in the CRS of the dataset.
            y: From south to north.
            number: The tile whose pixels are meant.

        Returns:
            As many pixels as the query has in the first tile's resolution, around its
            centre.
        """
        width = max(round((x.stop - x.start) / self.res[0]), 1)
        height = max(round((y.stop - y.start) / self.res[1]), 1)
        tile, corner = self._grids[number], Affine.translation(x.start, y.stop)
        scale = Affine.scale(self.res[0], -self.res[1])
        requested = GeoBox((height, width), corner * scale, self._grids[0].crs)
        row, col = project(requested, tile, np.array(height / 2), np.array(width / 2))
        top, left = round(float(row) - height / 2), round(float(col) - width / 2)
        return crop(tile, (top, left, top + height, left + width))

    def query(self, geobox: GeoBox) -> tuple[slice, slice]:
        """Find the query that gives a chip.

        Args:
            geobox: Pixels of one of the tiles, or beyond it.

        Returns:
            xmin:xmax and ymin:ymax in the CRS of the dataset; of a tile in another CRS,
            a box around the chip's centre that has as many pixels.
        """
        grid, (height, width) = self._grids[0], geobox.shape
        place = project(geobox, grid, np.array(height / 2), np.array(width / 2))
        x, y = grid.pix2wld(place[1], place[0])
        half = width * self.res[0] / 2, height * self.res[1] / 2
        return slice(x - half[0], x + half[0]), slice(y - half[1], y + half[1])

    def __and__(self, other: GeoDataset) -> IntersectionDataset:
        """Take the intersection with a dataset that torchgeo reads.

        Raises:
            InputError: *other* is of this package too.
        """
        if isinstance(other, ChipDataset):
            raise InputError(
                f'{type(self).__name__} & {type(other).__name__}: chips of two rasters '
                'have no common pixels; give one dataset several label rasters, or stack '
                'the bands first (gdalbuildvrt -separate)'
            )
        return super().__and__(other)

    def __or__(self, other: GeoDataset) -> UnionDataset:
        """Take the union; where both have a chip, the one with more data is taken."""
        if isinstance(other, ChipDataset):
            return UnionDataset(self, other, collate_fn=most_valid)
        return super().__or__(other)

    @property
    def origin(self) -> Affine:
        """From pixels of the first tile to the CRS of the dataset."""
        return self._grids[0].affine

    @property
    def crs(self) -> CRS:
        """CRS of the first tile."""
        return self.index.crs

    @crs.setter
    def crs(self, new_crs: CRS) -> None:
        # torchgeo's & and | set the CRS, which would mean to warp.
        if new_crs != self.crs:
            raise InputError(f'chips keep the CRS of their imagery; {_ELSEWHERE}')

    @property
    def res(self) -> tuple[float, float]:
        """Width and height of a pixel of the first tile."""
        return self._res

    @res.setter
    def res(self, new_res: float | tuple[float, float]) -> None:
        res = new_res if isinstance(new_res, tuple) else (new_res, new_res)
        if not np.allclose(res, self.res, rtol=1e-9, atol=0):
            raise InputError(f'chips keep the pixels of their imagery; {_ELSEWHERE}')

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of ``mask``; without these, of ``lr_label``."""
        legend = self.truth_legend or self.legend
        return legend.class_names if legend is not None else ()

    @property
    def all_bands(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of all bands of the imagery: their descriptions, or numbers from 1."""
        return ()

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands of ``image``."""
        return self.all_bands

    @property
    def rgb_bands(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the bands that are red, green and blue; none if nothing says so."""
        return ()

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

        Raises:
            InputError: *sample* is a batch.
            RGBBandsMissingError: :attr:`bands` lacks one of :attr:`rgb_bands`.
        """
        return plot_sample(
            sample,
            self.legend,
            self.truth_legend,
            show_titles,
            suptitle,
            rgb_of(self.bands, self.rgb_bands),
        )


def most_valid(samples: Sequence[Sample]) -> Sample:
    """The sample that has the most pixels with data, the first of equals.

    Args:
        samples: Samples of one place, with ``mask_valid`` (H, W).
    """
    return max(samples, key=lambda sample: int(sample['mask_valid'].sum()))


def _is_box(geometry: BaseGeometry) -> bool:
    """Whether a geometry is a rectangle along the axes."""
    left, bottom, right, top = geometry.bounds
    area = (right - left) * (top - bottom)
    return geometry.geom_type == 'Polygon' and abs(geometry.area - area) <= 1e-9 * area
