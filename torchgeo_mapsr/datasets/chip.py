# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Pixels and the LR cells under them: what every fit and every map looks at."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from torch import Tensor

from ..errors import InputError
from .geo.grid import Window, box_in, clip, coverage, crop, pixel_offset, project
from .geo.region import RegionMap, cell_diameter, region_map
from .geo.round_earth import columns_round
from .imagery import Imagery
from .labels import LabelRaster

#: Cells around a chip that a sample shows too: as far as labels are smoothed.
MARGIN = 3

# Whole cells are counted this many chips beyond a chip's edge, at most.
_REACH = 2


@dataclass(frozen=True, eq=False)
class LabelWindow:
    """The cells of one label raster around a chip.

    Args:
        code: Raw code of each cell, (h, w) int64, -1 = no label.
        coordinates: Row and column of each pixel's centre in this window, in cells,
            (2, H, W) float32; their floor is the cell. NaN where the labels' CRS is not
            defined.
        corner: Number of the raster, and row and column of the first cell, (3,) int64.
        cell_pixels: Pixels that each whole cell has, (h, w) float32; 0 for a cell
            without a pixel in the chip.
    """

    code: Tensor
    coordinates: Tensor
    corner: Tensor
    cell_pixels: Tensor


@dataclass(frozen=True, eq=False)
class Chip:
    """One image and the LR cells under it.

    The cells of all label windows are numbered one after another, each window row by
    row. Where several rasters have a label for a pixel, the first counts, and the next
    fills what it leaves open: the one rule of datasets, fits and priors.

    Args:
        image: Values as they are stored, (C, H, W) float32; continued by its mirror
            image beyond the imagery.
        valid: Pixels with data, (H, W) bool.
        region: 0 = outside, i + 1 = cell i, (H, W) int64.
        windows: Label windows; none for imagery without labels.
        key: Number of the imagery, and row and column of the chip's first pixel in it.
        partition: Whether :attr:`region` is 0 outside of the pixels that this chip has
            in a partition of the raster, so that pieces of a cell in several chips add
            up to the cell.
        core: Rows and columns that a map needs; all by default.
    """

    image: Tensor
    valid: Tensor
    region: Tensor
    windows: tuple[LabelWindow, ...] = ()
    key: tuple[int, int, int] = (0, 0, 0)
    partition: bool = False
    core: Window | None = None

    @property
    def code(self) -> Tensor:
        """Raw code of each cell, (n,) int64, -1 = no label."""
        if not self.windows:
            return torch.zeros(0, dtype=torch.int64)
        return torch.cat([window.code.flatten() for window in self.windows])

    @property
    def cell_pixels(self) -> Tensor:
        """Pixels that each whole cell has, (n,) float32."""
        return torch.cat([window.cell_pixels.flatten() for window in self.windows])

    @property
    def place(self) -> Tensor:
        """Raster, row and column of each cell, (n, 3) int64."""
        places = []
        for window in self.windows:
            h, w = window.code.shape
            row, col = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
            index = torch.stack([torch.zeros_like(row), row, col], -1).flatten(0, 1)
            places.append(index + window.corner)
        return torch.cat(places)

    @property
    def labelled(self) -> Tensor:
        """Pixels whose cell has a label, (H, W) bool."""
        has_label = torch.cat([torch.zeros(1, dtype=torch.bool), self.code >= 0])
        return has_label[self.region]

    def sample(self) -> dict[str, Any]:
        """The chip as a torchgeo sample; :meth:`of` is the way back.

        Returns:
            The keys that :class:`~torchgeo_mapsr.datasets.LRHRPair` documents. Of one
            label raster ``lr_label`` and ``lr_pixels`` are (h, w), ``lr_place`` (3,)
            and ``mask_coordinates`` (2, H, W); of R rasters (R, h, w), (R, 3) and
            (2 R, H, W).
        """
        sample: dict[str, Any] = {
            'image': self.image,
            'mask_valid': self.valid.long(),
            'chip': torch.tensor([*self.key, int(self.partition)]),
        }
        if self.core is not None:
            rows, cols = self.core
            edges = rows.start, rows.stop, cols.start, cols.stop
            sample['core'] = torch.tensor(edges)
        if not self.windows:
            return sample
        sample['mask_region'] = self.region
        stacked = {
            'lr_label': [window.code for window in self.windows],
            'lr_pixels': [window.cell_pixels for window in self.windows],
            'lr_place': [window.corner for window in self.windows],
        }
        for name, parts in stacked.items():
            sample[name] = parts[0] if len(parts) == 1 else torch.stack(parts)
        sample['mask_coordinates'] = torch.cat([w.coordinates for w in self.windows])
        return sample

    @classmethod
    def of(cls, batch: Mapping[str, Any], index: int, number: int = 0) -> Self:
        """One chip of a batch.

        Args:
            batch: A collated batch of a dataset of this package, possibly augmented.
            index: Which of its samples.
            number: A number of its own, where the batch does not say which chip it is, or
                where its cells lie: they are no other chip's then.

        Returns:
            The chip, on the CPU but for its image.
        """
        image = batch['image'][index]
        size = image.shape[-2:]
        valid = torch.ones(size, dtype=torch.bool)
        if 'mask_valid' in batch:
            valid = (batch['mask_valid'][index] > 0).reshape(size).cpu()
        key, partition, core = (-1, 0, number), False, None
        if 'chip' in batch:
            *place, flag = batch['chip'][index].tolist()
            key, partition = (place[0], place[1], place[2]), bool(flag)
        if 'core' in batch:
            top, bottom, left, right = batch['core'][index].tolist()
            core = slice(top, bottom), slice(left, right)
        region = torch.zeros(size, dtype=torch.int64)
        windows: tuple[LabelWindow, ...] = ()
        if 'lr_label' in batch and 'mask_region' in batch:
            region = batch['mask_region'][index].reshape(size).long().cpu()
            windows = _windows(batch, index, number)
        return cls(image, valid, region, windows, key, partition, core)


def _windows(
    batch: Mapping[str, Any], index: int, number: int
) -> tuple[LabelWindow, ...]:
    """Label windows of one sample of a batch, whose own number is given."""
    code = batch['lr_label'][index].cpu()
    code = code.reshape(-1, *code.shape[-2:])
    count, (h, w) = len(code), code.shape[-2:]
    size = batch['mask_region'].shape[-2:]
    if 'lr_pixels' in batch:
        pixels = batch['lr_pixels'][index].cpu().reshape(count, h, w)
    else:
        pixels = torch.full((count, h, w), torch.inf)
    corner = torch.zeros(count, 3, dtype=torch.int64)
    corner[:, 0] = -1 - count * number - torch.arange(count)
    if 'lr_place' in batch:
        corner = batch['lr_place'][index].cpu().reshape(count, 3)
    coordinates = torch.full((count, 2, *size), torch.nan)
    if 'mask_coordinates' in batch:
        coordinates = batch['mask_coordinates'][index].cpu().reshape(count, 2, *size)
    return tuple(
        LabelWindow(code[i], coordinates[i], corner[i], pixels[i]) for i in range(count)
    )


def read_chip(
    imagery: Imagery,
    geobox: GeoBox,
    labels: Sequence[LabelRaster] = (),
    own: Window | None = None,
    core: Window | None = None,
    number: int = 0,
) -> Chip:
    """Read a chip from files. Nothing is resampled.

    Args:
        imagery: The imagery.
        geobox: Pixels of its grid, or beyond it.
        labels: LR labels, in any CRS and grid.
        own: Rows and columns of the imagery's grid that the chip has in a partition of
            the raster; its cells are those of these pixels alone then.
        core: Rows and columns of the chip that a map needs; labels are read for these
            pixels alone then.
        number: Number of the imagery among others.

    Raises:
        InputError: If a file cannot be read.
    """
    image, valid = imagery.read(geobox)
    inside = clip(box_in(imagery.geobox, geobox), *geobox.shape)
    image = _mirrored(image, inside)
    part = core or (slice(0, geobox.height), slice(0, geobox.width))
    grid = geobox if core is None else geobox[part]
    region = np.zeros(grid.shape, np.int64)
    windows, first, labelled = [], 0, np.zeros(1, bool)
    under = [
        _regions(grid, r, core is None, len(labels) > 1, imagery.geobox) for r in labels
    ]
    shape = _common_shape(imagery, geobox, labels, under)
    for raster, regions in zip(labels, under, strict=True):
        window, cells = _label_window(
            imagery, geobox, raster, regions, shape, part, own
        )
        windows.append(window)
        has_label = np.concatenate([[False], window.code.numpy().ravel() >= 0])
        # What an earlier raster has a label for stays as it is.
        replaces = has_label[cells] | ((region == 0) & (cells > 0))
        replaces &= ~labelled[region]
        region = np.where(replaces, cells + first, region)
        labelled = np.concatenate([labelled, has_label[1:]])
        first += len(has_label) - 1
    if own is not None:
        region = np.where(_within(own, geobox, imagery.geobox), region, 0)
    if core is not None:
        region, small = np.zeros(geobox.shape, np.int64), region
        region[part] = small
    return Chip(
        torch.from_numpy(image),
        torch.from_numpy(valid),
        torch.from_numpy(region),
        tuple(windows),
        (number, *_offset(geobox, imagery.geobox)),
        own is not None,
        core,
    )


def _regions(
    grid: GeoBox, raster: LabelRaster, shares: bool, several: bool, whole: GeoBox
) -> RegionMap:
    """Cells of a raster under a chip; none of another raster that lies elsewhere."""
    if several and coverage(grid, raster.geobox) == 0:
        nowhere = np.full((2, *grid.shape), np.nan)
        none = np.zeros(grid.shape, np.int64)
        return RegionMap(none, (0, 0, 0, 0), np.zeros(0), nowhere)
    return region_map(grid, raster.geobox, shares, whole)


def _within(own: Window, geobox: GeoBox, grid: GeoBox) -> NDArray[np.bool_]:
    """Pixels of a chip that lie in rows and columns of a grid, (H, W)."""
    top, left = _offset(geobox, grid)
    inside = np.zeros(geobox.shape, bool)
    rows, cols = own
    inside[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left] = (
        True
    )
    return inside


def _offset(geobox: GeoBox, grid: GeoBox) -> tuple[int, int]:
    offset = pixel_offset(geobox, grid)
    if offset is None:
        raise InputError(f'{geobox} is not a crop of {grid}')
    return offset


def _mirrored(
    image: NDArray[np.float32], inside: tuple[int, int, int, int]
) -> NDArray[np.float32]:
    """Continue an image (C, H, W) beyond the imagery by its mirror image.

    The backbone sees texture there and no edge, and the same whatever the chip's size.
    """
    top, left, bottom, right = inside
    height, width = image.shape[1:]
    if inside == (0, 0, height, width) or top >= bottom or left >= right:
        return image

    def folded(first: int, last: int, size: int) -> NDArray[np.int64]:
        period = max(2 * (last - first - 1), 1)
        index = (np.arange(size) - first) % period
        return first + np.where(index < last - first, index, period - index)

    rows, cols = folded(top, bottom, height), folded(left, right, width)
    return image[:, rows[:, None], cols]


def _label_window(
    imagery: Imagery,
    geobox: GeoBox,
    raster: LabelRaster,
    regions: RegionMap,
    shape: tuple[int, int],
    part: Window,
    own: Window | None,
) -> tuple[LabelWindow, NDArray[np.int64]]:
    """Cells of a raster around a chip, and 0 or the number of the cell + 1 a pixel."""
    top, left, height, width = regions.window
    h, w = shape
    corner = top - MARGIN, left - MARGIN
    cells = regions.mask_region
    row, col = np.divmod(cells - 1, max(width, 1))
    cells = np.where(cells > 0, (row + MARGIN) * w + col + MARGIN + 1, 0)
    rows, cols = slice(corner[0], corner[0] + h), slice(corner[1], corner[1] + w)
    pixels = np.zeros((h, w), np.float32)
    if regions.share.any():
        inner = slice(MARGIN, MARGIN + height), slice(MARGIN, MARGIN + width)
        exact = own is not None
        pixels[inner] = _cell_pixels(imagery, geobox, raster, regions, exact)
    coordinates = np.full((2, *geobox.shape), np.nan, np.float32)
    coordinates[:, *part] = regions.coordinates - np.array(corner)[:, None, None]
    window = LabelWindow(
        torch.from_numpy(raster.read(rows, cols)),
        torch.from_numpy(coordinates),
        torch.tensor([raster.number, *corner]),
        torch.from_numpy(pixels),
    )
    return window, cells


def _cell_pixels(
    imagery: Imagery,
    geobox: GeoBox,
    raster: LabelRaster,
    regions: RegionMap,
    exact: bool,
) -> NDArray[np.float32]:
    """Pixels of each whole cell, (h, w).

    Those of cells that the chip's edge cuts are estimated by their area; exactly, they
    are counted in a wider part of the imagery, and only cells that the imagery's edge
    cuts are estimated.
    """
    top, left, height, width = regions.window
    wide = regions
    if exact:
        reach = cell_diameter(geobox, raster.geobox)
        row, col = _offset(geobox, imagery.geobox)
        box = clip(
            tuple(
                edge + sign * min(reach, _REACH * max(geobox.shape))
                for edge, sign in zip(
                    (row, col, row + geobox.height, col + geobox.width),
                    (-1, -1, 1, 1),
                    strict=True,
                )
            ),  # type: ignore[arg-type]
            *imagery.geobox.shape,
        )
        wide = region_map(
            crop(imagery.geobox, box), raster.geobox, whole=imagery.geobox
        )
    count = np.bincount(wide.mask_region.ravel(), minlength=wide.share.size + 1)[1:]
    whole = count / np.where(count > 0, wide.share, 1)
    whole = whole.reshape(wide.window[2:])
    if not exact:
        return whole.astype(np.float32)
    pixels = np.zeros((height, width), np.float32)
    rows = np.arange(height) + top - wide.window[0]
    cols = np.arange(width) + left - wide.window[1]
    turn = columns_round(raster.geobox)
    if turn is not None:  # on the other side of a pole a cell may have another column
        cols %= turn
    down = (rows >= 0) & (rows < wide.window[2])
    right = (cols >= 0) & (cols < wide.window[3])
    pixels[np.ix_(down, right)] = whole[np.ix_(rows[down], cols[right])]
    return pixels


def _common_shape(
    imagery: Imagery,
    geobox: GeoBox,
    labels: Sequence[LabelRaster],
    under: Sequence[RegionMap],
) -> tuple[int, int]:
    """Shape of the windows of all rasters, which a sample holds as one tensor."""
    shapes = [_window_shape(geobox.shape.yx, imagery.geobox, r.geobox) for r in labels]
    shapes += [regions.window[2:] for regions in under]
    h, w = np.max(shapes, axis=0).tolist() if shapes else (0, 0)
    return h + 2 * MARGIN, w + 2 * MARGIN


@lru_cache(maxsize=64)
def _window_shape(shape: tuple[int, int], hr: GeoBox, lr: GeoBox) -> tuple[int, int]:
    """Cells that hold the pixels of a chip of this size, wherever it lies.

    So that windows of chips of one size have one shape, as torchgeo's ``stack_samples``
    wants it.
    """
    height, width = shape
    middle = (hr.height - height) / 2, (hr.width - width) / 2
    row = middle[0] + np.array([0, 0, height, height], float)
    col = middle[1] + np.array([0, width, 0, width], float)
    cells = project(hr, lr, row, col)
    if not np.isfinite(cells).all():
        return 0, 0
    # The scale of a projection changes over a raster, by less than this.
    h, w = ((cells.max(1) - cells.min(1)) * 1.01).tolist()
    return math.ceil(h) + 1, math.ceil(w) + 1
