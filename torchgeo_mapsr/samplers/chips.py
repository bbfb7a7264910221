# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Chips that lie in the tiles of a dataset."""

from collections.abc import Iterator

import numpy as np
import pandas
import torch
from odc.geo.geobox import GeoBox
from pyproj import CRS
from rasterio.transform import Affine
from shapely import Polygon
from torch import Generator
from torchgeo.datasets import GeoDataset, IntersectionDataset, UnionDataset
from torchgeo.samplers import GeoSampler

from ..arguments import check_range
from ..datasets.base import ChipDataset, Tile
from ..datasets.geo.grid import crop, starts
from ..datasets.query import ChipQuery, ChipSlice
from ..errors import InputError
from ..seeds import seed_at

Query = tuple[slice, slice, slice]


class RandomSampler(GeoSampler):
    """Draws chips: in each epoch others, and in one that is taken again the same."""

    #: Random numbers; None: PyTorch's.
    generator: Generator | None = None

    #: Number that sets what is drawn apart from what another sampler draws that trains
    #: beside it: both see the same seed and epochs.
    stream: int = 0

    _goes_by_epoch = False

    def set_epoch(self, epoch: int) -> None:
        """Draw by the number of an epoch, which Lightning tells before it begins.

        PyTorch's generator begins anew in a training that goes on, which would see the
        chips of its first epochs once more. A generator that was given stays.

        Args:
            epoch: From 0; the first is drawn by PyTorch's generator.
        """
        if self.generator is not None and not self._goes_by_epoch:
            return
        self._goes_by_epoch, self.generator = True, None
        if epoch:
            seed = seed_at('chips', self.stream, epoch)
            self.generator = Generator().manual_seed(seed)


class ChipSampler(RandomSampler):
    """Sample each tile in its own pixels: all of it once, or at random.

    A tile is what a row of the dataset's ``index`` holds: a file, or the part of it that
    a split has left. torchgeo's samplers work too, but skip tiles that are hardly larger
    than a chip, or lay their lattice over gaps between tiles. Here a chip lies in its
    tile where the tile is as large as a chip; a smaller tile is one chip, padded.

    Args:
        dataset: What to sample from; of this package, or of torchgeo (``pair & other``).
        size: Height and width of a chip, in pixels.
        stride: Pixels between chips (default: *size*). The last chip of a row or column
            is moved back into the tile.
        length: Number of random chips in an epoch, from tiles by their area; None for
            all chips in order.
        generator: Random numbers (default: PyTorch's).
        roi: Region of interest, in the CRS of the dataset. Chips lie in it where it is
            as large as a chip; to keep pixels apart use torchgeo's ``roi_split``.
        toi: Time of interest.

    Raises:
        InputError: The dataset has nothing in *roi* and *toi*, or nothing at all to draw
            *length* chips from, or a number is below 1.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from torch.utils.data import DataLoader
        >>> from torchgeo_mapsr.datasets import LRHRPair, collate_pairs, make_scene
        >>> folder = TemporaryDirectory()
        >>> scene = make_scene(folder.name, size=(96, 128))
        >>> pair = LRHRPair(scene.imagery, scene.labels)
        >>> sampler = ChipSampler(pair, size=64)
        >>> len(sampler)
        4
        >>> loader = DataLoader(
        ...     pair, batch_size=2, sampler=sampler, collate_fn=collate_pairs
        ... )
        >>> [tuple(batch['image'].shape) for batch in loader]
        [(2, 4, 64, 64), (2, 4, 64, 64)]
    """

    def __init__(
        self,
        dataset: GeoDataset,
        size: int,
        stride: int | None = None,
        length: int | None = None,
        generator: Generator | None = None,
        roi: Polygon | None = None,
        toi: pandas.Interval | None = None,
    ) -> None:
        for name, pixels in (('size', size), ('stride', stride), ('length', length)):
            check_range(name, pixels, 1, whole=True)
        self.size = size
        self.stride = stride or size
        self.length = length
        self.generator = generator
        self.crs = dataset.crs
        # The part of the dataset whose pixels queries are snapped to, if there is one.
        self._dataset = _chip_dataset(dataset)
        self._exact = isinstance(dataset, ChipDataset)
        self.tiles = tiles_of(dataset, roi, toi, length)

    def __iter__(self) -> Iterator[Query]:
        """Yield xmin:xmax, ymin:ymax, tmin:tmax in the CRS of the dataset."""
        for tile, top, left in self._random() if self.length else self._all():
            chip = self._chip(tile, top, left)
            yield query_of(self._dataset, chip, tile, self._exact)

    def __len__(self) -> int:
        """Number of chips in an epoch."""
        return self.length or sum(1 for _ in self._all())

    def _all(self) -> Iterator[tuple[Tile, int, int]]:
        for tile in self.tiles:
            for top in starts(tile.grid.height, self.size, self.stride):
                for left in starts(tile.grid.width, self.size, self.stride):
                    if self._meets(tile, top, left):
                        yield tile, top, left

    def _random(self) -> Iterator[tuple[Tile, int, int]]:
        areas = torch.tensor([_pixels(tile) for tile in self.tiles])
        for _ in range(self.length or 0):
            number = int(torch.multinomial(areas, 1, generator=self.generator))
            tile = self.tiles[number]
            top, left = self._place(tile)
            while not self._meets(tile, top, left):
                top, left = self._place(tile)
            yield tile, top, left

    def _place(self, tile: Tile) -> tuple[int, int]:
        """A random row and column where a chip begins."""
        top, left = (
            int(
                torch.randint(
                    max(pixels - self.size, 0) + 1, (), generator=self.generator
                )
            )
            for pixels in tile.grid.shape
        )
        return top, left

    def _meets(self, tile: Tile, top: int, left: int) -> bool:
        """Whether a chip holds any of its tile, which need not be a rectangle."""
        if tile.full:
            return True
        dataset = self._dataset if self._exact else None
        return meets(dataset, self._chip(tile, top, left), tile, self.crs)

    def _chip(self, tile: Tile, top: int, left: int) -> GeoBox:
        return crop(tile.grid, (top, left, top + self.size, left + self.size))


def tiles_of(
    dataset: GeoDataset,
    roi: Polygon | None = None,
    toi: pandas.Interval | None = None,
    length: int | None = None,
) -> list[Tile]:
    """What there is to sample from in a dataset, by rows of its index.

    Args:
        dataset: Of this package, or made of some by ``&`` and ``|``, or of torchgeo.
        roi: Region of interest, in the CRS of the dataset.
        toi: Time of interest.
        length: Chips that are to be drawn from them, if any.

    Returns:
        The tiles that hold pixels.

    Raises:
        InputError: There is none in *roi* and *toi*, or none to draw from.
    """
    if isinstance(dataset, ChipDataset):
        tiles = dataset.rows(roi, toi)
    else:
        tiles = _rows(dataset, roi, toi)
    exact = dataset if isinstance(dataset, ChipDataset) else None
    tiles = [
        tile
        for tile in tiles
        if 0 not in tile.grid.shape and _has_pixel(exact, tile, dataset.crs)
    ]
    if not tiles and len(dataset):
        raise InputError(
            f'{type(dataset).__name__} has no pixels in this region and time; give roi '
            f'in the CRS of the dataset, {dataset.crs.name}'
        )
    if not tiles and length:
        raise InputError(
            f'{type(dataset).__name__} is empty: there is nothing to draw {length} chips '
            'from; look at the split that it is a part of'
        )
    return tiles


def query_of(
    dataset: ChipDataset | None, chip: GeoBox, tile: Tile, exact: bool = True
) -> Query:
    """The query that gives a chip.

    Args:
        dataset: The dataset of this package that reads it; None for torchgeo.
        chip: Its pixels.
        tile: What it lies in.
        exact: Whether the tile is one of *dataset*, and not of what it is part of.
    """
    if dataset is not None:
        slices = (*dataset.query(chip), tile.time)
        return ChipSlice(slices, ChipQuery(tile.raster, chip)) if exact else slices
    box = chip.boundingbox
    return slice(box.left, box.right), slice(box.bottom, box.top), tile.time


def meets(dataset: ChipDataset | None, chip: GeoBox, tile: Tile, crs: CRS) -> bool:
    """Whether a chip holds any of the pixels of a tile.

    Args:
        dataset: The dataset of this package that the tile is of, whose pixels are where
            their centres are; None for others, where an area counts.
        chip: Its pixels.
        tile: What it lies in.
        crs: CRS of the tile's geometry.
    """
    outline = chip.footprint(crs).geom
    common = outline.intersection(tile.geometry)
    if dataset is None or not common.area:
        return bool(common.area > 0)
    left, bottom, right, top = outline.bounds
    pixel = max((right - left) / chip.width, (top - bottom) / chip.height)
    # A circle with the radius of a pixel holds a centre: so most chips need no search for
    # one, which takes 30 ms.
    if not common.buffer(-pixel).is_empty:
        return True
    centres = np.indices(chip.shape) + 0.5
    return bool(dataset.contains(tile.geometry, chip, *centres).any())


def _has_pixel(dataset: ChipDataset | None, tile: Tile, crs: CRS) -> bool:
    """Whether a tile has a pixel: one that is thinner may lie between their centres."""
    if tile.full:
        return True
    height, width = tile.grid.shape
    return any(
        meets(dataset, crop(tile.grid, (top, left, top + 256, left + 256)), tile, crs)
        for top in range(0, height, 256)
        for left in range(0, width, 256)
    )


def _rows(
    dataset: GeoDataset, roi: Polygon | None, toi: pandas.Interval | None
) -> list[Tile]:
    """Rows of a dataset of torchgeo, in pixels of its resolution."""
    index = dataset.index
    if toi is not None:
        index = index[index.index.overlaps(toi)]
    part = _chip_dataset(dataset)
    tiles = []
    for geometry, time in zip(index.geometry, index.index, strict=True):
        shape = geometry if roi is None else geometry.intersection(roi)
        if not shape.area:
            continue
        left, bottom, right, top = shape.bounds
        step = Affine.scale(dataset.res[0], -dataset.res[1])
        corner = Affine.translation(*geometry.bounds[0::3])
        if part is not None:
            # Of an intersection, too, the part that is never resampled decides the pixels.
            corner = Affine.translation(*(part.origin * (0, 0)))
        col, row = ~(corner * step) * (left, top)
        last_col, last_row = ~(corner * step) * (right, bottom)
        box = tuple(round(edge) for edge in (row, col, last_row, last_col))
        grid = crop(GeoBox((1, 1), corner * step, dataset.crs), box)  # type: ignore[arg-type]
        full = bool(np.isclose(shape.area, (right - left) * (top - bottom)))
        tiles.append(Tile(grid, shape, slice(time.left, time.right), full=full))
    return tiles


def _chip_dataset(dataset: GeoDataset) -> ChipDataset | None:
    """The first dataset of this package among those that torchgeo put together."""
    if isinstance(dataset, ChipDataset):
        return dataset
    if isinstance(dataset, IntersectionDataset | UnionDataset):
        parts = (_chip_dataset(part) for part in dataset.datasets)
        return next((part for part in parts if part is not None), None)
    return None


def _pixels(tile: Tile) -> float:
    """Pixels of a tile, as far as its geometry holds them."""
    count = float(tile.grid.width * tile.grid.height)
    if tile.full:
        return count
    return count * float(tile.geometry.area / tile.geometry.envelope.area)
