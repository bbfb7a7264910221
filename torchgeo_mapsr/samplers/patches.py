# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Chips at the patches of a footprint file."""

import warnings
from collections.abc import Iterator, Sequence

import geopandas
import numpy as np
import pandas
import shapely
import torch
from numpy.typing import NDArray
from pyproj import Transformer
from shapely import Polygon
from torch import Generator
from torchgeo.datasets import GeoDataset

from ..arguments import check_range
from ..datasets.base import ChipDataset, Tile
from ..datasets.geo.grid import crop
from ..datasets.geo.names import PathLike
from ..datasets.patches import read_footprints
from ..datasets.sources import SAME_PLACE
from ..errors import InputError, InputWarning
from .chips import Query, RandomSampler, meets, query_of, tiles_of


class PatchSampler(RandomSampler):
    """Sample the patches that a footprint file names, such as ``select`` writes.

    Patches whose centre is in no tile of the dataset, or that have no pixel of it, are
    left out. Files of any CRS will do: a patch is the chip around the footprint's
    centre, in the raster that holds most of it; of several that hold as much, in the
    dataset's first.

    Args:
        dataset: What to sample from, of this package or of torchgeo.
        patches: The footprint file, or what it holds.
        size: Height and width of a chip, in pixels of the raster that it lies in
            (default: what the footprint spans).
        shuffle: Sample in random order, another one in each epoch.
        length: Number of chips in an epoch (default: each patch once). Of more than
            there are patches, all are sampled equally often, to within one.
        generator: Random numbers (default: PyTorch's).
        roi: Region of interest, in the CRS of the dataset.
        toi: Time of interest.

    Raises:
        InputError: The file cannot be read, none of its patches is in the dataset, or a
            number is below 1.

    Warns:
        InputWarning: Some lie in several rasters of one place.
    """

    def __init__(
        self,
        dataset: GeoDataset,
        patches: PathLike | geopandas.GeoDataFrame,
        size: int | None = None,
        shuffle: bool = True,
        length: int | None = None,
        generator: Generator | None = None,
        roi: Polygon | None = None,
        toi: pandas.Interval | None = None,
    ) -> None:
        for name, number in (('size', size), ('length', length)):
            check_range(name, number, 1, whole=True)
        table = patches
        if not isinstance(table, geopandas.GeoDataFrame):
            table = read_footprints(table)
        outlines = table.geometry.to_crs(dataset.crs).to_numpy()
        # By shapely, since geopandas warns of planar operations on degrees.
        centroids = shapely.centroid(table.geometry.to_numpy())
        centres = geopandas.GeoSeries(centroids, crs=table.crs).to_crs(dataset.crs)
        index = dataset.index if roi is None else dataset.index.clip(roi)
        if toi is not None:
            index = index[index.index.overlaps(toi)]
        patch, row = index.sindex.query(centres, predicate='intersects')
        # A patch has the time of the first row of the index that holds it.
        inside, first = np.unique(patch, return_index=True)
        times = index.index[row[first]]
        if not len(inside):
            raise InputError(
                f'none of the {len(table)} patches is in the imagery; '
                'give patches of the same place'
            )
        self.shuffle, self.length, self.generator = shuffle, length, generator
        if isinstance(dataset, ChipDataset):
            points = np.stack([centres.x, centres.y], 1)[inside]
            tiles = tiles_of(dataset, roi, toi)
            self._queries: list[Query] = _chips(
                dataset, tiles, points, outlines[inside], size
            )
            if not self._queries:
                raise InputError(
                    f'none of the {len(table)} patches has a pixel of the imagery'
                )
            return
        width, height = dataset.res
        if size is None:
            spans = np.sqrt(shapely.area(outlines[inside]) / (width * height))
            pixels = np.maximum(np.rint(spans), 1)
        else:
            pixels = np.full(len(inside), size)
        x, y = centres.x.to_numpy()[inside], centres.y.to_numpy()[inside]
        half_x, half_y = pixels * width / 2, pixels * height / 2
        self._queries = [
            (slice(left, right), slice(bottom, top), slice(time.left, time.right))
            for left, right, bottom, top, time in zip(
                (x - half_x).tolist(),
                (x + half_x).tolist(),
                (y - half_y).tolist(),
                (y + half_y).tolist(),
                times,
                strict=True,
            )
        ]

    def __iter__(self) -> Iterator[Query]:
        """Yield xmin:xmax, ymin:ymax, tmin:tmax in the CRS of the dataset."""
        left = len(self)
        while left > 0:
            for index in self._order()[:left]:
                yield self._queries[index]
            left -= len(self._queries)

    def __len__(self) -> int:
        """Number of chips in an epoch."""
        return len(self._queries) if self.length is None else self.length

    def _order(self) -> list[int]:
        count = len(self._queries)
        if not self.shuffle:
            return list(range(count))
        order: list[int] = torch.randperm(count, generator=self.generator).tolist()
        return order


def _chips(
    dataset: ChipDataset,
    tiles: Sequence[Tile],
    points: NDArray[np.float64],
    outlines: NDArray[np.object_],
    size: int | None,
) -> list[Query]:
    """Chips in the pixels of the rasters that patches lie in.

    Args:
        dataset: What reads them.
        tiles: What can be sampled.
        points: Centres of the patches, (n, 2), in the CRS of the dataset.
        outlines: Their footprints, (n,), likewise.
        size: Height and width of a chip, in pixels.
    """
    tree = shapely.STRtree([tile.geometry for tile in tiles])
    patch, of = tree.query(shapely.points(points), predicate='intersects')
    shapes = np.array([tile.geometry for tile in tiles], object)
    held = shapely.area(shapely.intersection(shapes[of], outlines[patch]))
    areas = shapely.area(outlines)
    # Rounded, since equal areas differ in their last bits.
    order = np.lexsort((of, -np.round(held / areas[patch], 6), patch))
    patch, of, held = patch[order], of[order], held[order]
    patch, first, count = np.unique(patch, return_index=True, return_counts=True)
    several = 0
    queries = []
    for number, start, others in zip(patch, first, count, strict=True):
        found = tiles[of[start]]
        several += any(
            tiles[other].raster != found.raster and _show_one_place(tiles[other], found)
            for other in of[start + 1 : start + others]
        )
        grid = found.grid
        assert grid.crs is not None
        x, y = Transformer.from_crs(
            dataset.crs, grid.crs.proj, always_xy=True
        ).transform(*points[number])
        pixel = grid.footprint(dataset.crs).geom.area / (grid.width * grid.height)
        side = size or max(round(float(np.sqrt(areas[number] / pixel))), 1)
        col, row = ~grid.affine * (x, y)
        top, left = round(row - side / 2), round(col - side / 2)
        chip = crop(grid, (top, left, top + side, left + side))
        if meets(dataset, chip, found, dataset.crs):
            queries.append(query_of(dataset, chip, found))
    if several:
        warnings.warn(
            f'{several} of the patches lie in several rasters of one place, of which the '
            'one that holds most of a patch is sampled, or else the first: give toi, or '
            'one raster of each place',
            InputWarning,
            stacklevel=3,
        )
    return queries


def _show_one_place(one: Tile, other: Tile) -> bool:
    """Whether two tiles are of one place, and not neighbours with a common margin."""
    common = one.geometry.intersection(other.geometry).area
    return bool(common > SAME_PLACE * min(one.geometry.area, other.geometry.area))
