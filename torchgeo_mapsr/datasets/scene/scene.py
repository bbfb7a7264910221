# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A made scene: imagery, coarse labels on a rotated grid, and the truth."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio import Affine
from rasterio.enums import ColorInterp
from rasterio.windows import Window
from scipy.special import ndtr

from ...arguments import check_local
from ...errors import InputError
from ..geo.region import region_map
from ..legends.legend import Legend
from ..legends.statistics import JointStatistics, class_counts
from .landscape import MARGIN, Landscape
from .photograph import BANDS, REACH, photograph

# UTM zone 18N near the Chesapeake, where Albers is turned by 12.7°
HR_CRS, LR_CRS = 'EPSG:26918', 'EPSG:5070'
ORIGIN = (325000.0, 4210000.0)
TARGET = 'land-cover-4'

# side of the blocks in which a scene is drawn, in pixels; a multiple of the files' tiles
BLOCK, TILE = 1024, 512


@dataclass(frozen=True)
class Scene:
    """Files of a made scene.

    Args:
        imagery: Red, green, blue and near infrared, uint8.
        labels: Coarse labels on their own grid, 0 where there are none.
        truth: HR labels in codes of ``land-cover-4``: for evaluation.
        legend: Name of the legend of *labels*.
        target: Name of the legend of *truth*.
    """

    imagery: Path
    labels: Path
    truth: Path
    legend: str
    target: str = TARGET


def make_scene(
    folder: str | Path,
    seed: int = 0,
    size: tuple[int, int] = (512, 512),
    resolution: float = 1.0,
    labels: str = 'nlcd',
    noise: float = 0.0,
    cell: float = 30.0,
    origin: tuple[float, float] = ORIGIN,
) -> Scene:
    """Make a scene of rivers, woods, fields, roads and houses.

    Imagery and truth are in UTM, the coarse labels in NLCD's Albers on whole multiples
    of the cell's side. Each NLCD label is drawn by Bayes' rule from what the cell holds,
    with the joint statistics of Malkin et al. 2019, Table 4: it has the noise that was
    measured in Maryland.

    The same arguments make the same scene. Scenes of one seed and size that differ in
    their origin are windows of one landscape.

    Args:
        folder: Where to write ``imagery.tif``, ``lr.tif`` and ``hr.tif``.
        seed: Which landscape.
        size: Rows and columns of the imagery.
        resolution: Side of a pixel in metres.
        labels: 'nlcd', drawn from the joint statistics, or 'land-cover-4', the class
            that covers most of the cell.
        noise: Share of labels, 0 to 1, that have nothing to do with their cell and are
            drawn from all labels of the scene.
        cell: Side of an LR cell in metres.
        origin: Easting and northing of the upper left corner.

    Returns:
        The files.

    Raises:
        InputError: If an argument is out of its range.
    """
    if labels not in ('nlcd', TARGET):
        raise InputError(f"labels of a made scene are 'nlcd' or '{TARGET}': {labels!r}")
    if min(size) < 1 or resolution <= 0 or cell < resolution or not 0 <= noise <= 1:
        raise InputError(
            'a made scene has at least one pixel, cells no smaller than its pixels, and '
            f'noise of 0 to 1: size {size}, resolution {resolution}, cell {cell}, '
            f'noise {noise}'
        )
    check_local(folder)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scene = Scene(folder / 'imagery.tif', folder / 'lr.tif', folder / 'hr.tif', labels)
    landscape = Landscape(seed)
    place = Affine(resolution, 0, origin[0], 0, -resolution, origin[1])
    hr = GeoBox(size, place, HR_CRS)
    top, left = _viewpoint(landscape, seed, size[0] * resolution, size[1] * resolution)
    top, left = top + ORIGIN[1] - origin[1], left + origin[0] - ORIGIN[0]

    # cells are counted from the projection's origin, so they lie on multiples of 30 m
    everywhere = GeoBox((1, 1), Affine(cell, 0, 0, 0, -cell, 0), LR_CRS)
    target = Legend.load(TARGET)
    parts = []
    with (
        _create(scene.imagery, hr, len(BANDS), photometric='RGB') as imagery,
        _create(scene.truth, hr, 1, TARGET) as truth,
    ):
        imagery.colorinterp = (*imagery.colorinterp[:3], ColorInterp.undefined)
        imagery.descriptions = BANDS
        for rows, columns in _blocks(size):
            image, cover = _draw(landscape, top, left, rows, columns, resolution)
            window = Window.from_slices(rows, columns)
            imagery.write(image, window=window)
            truth.write(cover, 1, window=window)
            regions = region_map(hr[rows, columns], everywhere)
            counts = class_counts(
                regions.mask_region,
                target.index(cover),
                len(regions.share),
                len(target),
            )
            parts.append((regions.window, counts))

    first_row, first_column, counts = _merge(parts)
    codes = _label(landscape, counts, first_row, first_column, labels, noise)
    move = Affine.translation(first_column, first_row)
    lr = GeoBox(codes.shape, everywhere.affine * move, LR_CRS)
    with _create(scene.labels, lr, 1, labels) as file:
        file.write(codes, 1)
    return scene


def _viewpoint(
    landscape: Landscape, seed: int, height: float, width: float
) -> tuple[float, float]:
    """Find a window of the landscape with something of everything in it."""
    # water, woods, towns, and fields
    target = np.array([0.1, 0.3, 0.3, 0.3])
    y = np.linspace(0, min(height, 2000), 40)
    x = np.linspace(0, min(width, 2000), 40)
    best, corner = -1.0, (0.0, 0.0)
    for top, left in np.random.default_rng([seed, 2]).integers(-1000, 1000, (100, 2)):
        zones = landscape.zones(y + 30.0 * top, x + 30.0 * left)
        kind = np.where(zones.town > 0, 2, np.where(zones.wood > 0, 1, 3))
        kind[zones.water] = 0
        shares = np.bincount(kind.ravel(), minlength=4) / kind.size
        least = float((shares / target).min())
        if least > best:
            best, corner = least, (30.0 * float(top), 30.0 * float(left))
    return corner


def _blocks(size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    for row in range(0, size[0], BLOCK):
        for column in range(0, size[1], BLOCK):
            yield (
                slice(row, min(row + BLOCK, size[0])),
                slice(column, min(column + BLOCK, size[1])),
            )


def _draw(
    landscape: Landscape,
    top: float,
    left: float,
    rows: slice,
    columns: slice,
    resolution: float,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (4, H, W) and cover (H, W) of a block, drawn with a margin around it."""
    margin = int(np.ceil(max(MARGIN, REACH) / resolution)) + 2
    y = top + (np.arange(rows.start - margin, rows.stop + margin) + 0.5) * resolution
    x = np.arange(columns.start - margin, columns.stop + margin)
    x = left + (x + 0.5) * resolution
    canvas = landscape.draw(y, x)
    inner = (slice(margin, -margin), slice(margin, -margin))
    return photograph(canvas, landscape.noise)[:, *inner], canvas.cover[inner]


def _merge(
    parts: list[tuple[tuple[int, int, int, int], NDArray[np.int64]]],
) -> tuple[int, int, NDArray[np.int64]]:
    """Add up the counts of blocks that share cells: first row and column, (h, w, C)."""
    windows = np.array([window for window, _ in parts])
    top, left = windows[:, :2].min(axis=0).tolist()
    bottom, right = (windows[:, :2] + windows[:, 2:]).max(axis=0).tolist()
    classes = parts[0][1].shape[1]
    total = np.zeros((bottom - top, right - left, classes), dtype=np.int64)
    for (row, column, h, w), counts in parts:
        row, column = row - top, column - left
        total[row : row + h, column : column + w] += counts.reshape(h, w, classes)
    return top, left, total


def _label(
    landscape: Landscape,
    counts: NDArray[np.int64],
    first_row: int,
    first_column: int,
    labels: str,
    noise: float,
) -> NDArray[np.uint8]:
    """Draw the code of each cell from its counts of HR pixels (h, w, C)."""
    covered = counts.sum(axis=-1) > 0
    portion = counts[covered] / counts[covered].sum(axis=-1, keepdims=True)
    if labels == TARGET:
        chance = np.eye(portion.shape[1])[portion.argmax(axis=1)]
    else:
        chance = JointStatistics.load('malkin2019').posterior(portion)
    chance = (1 - noise) * chance + noise * chance.mean(axis=0)

    # neighbours tend to be labelled alike: the numbers that choose are smooth in part,
    # and uniform in each cell all the same, so Bayes' rule holds for it
    i = first_row + np.arange(counts.shape[0])
    j = first_column + np.arange(counts.shape[1])
    even = landscape.noise.smooth(i.astype(float), j.astype(float), 4, 300)
    rough = landscape.noise.normal(i[:, None], j, 301)
    chosen = ndtr(np.sqrt(0.6) * even + np.sqrt(0.4) * rough)[covered]
    up_to = chance.cumsum(axis=1)
    index = (up_to <= chosen[:, None] * up_to[:, -1:]).sum(axis=1)
    codes = np.zeros(covered.shape, dtype=np.uint8)
    codes[covered] = Legend.load(labels).codes[index]
    return codes


def _create(
    path: Path, grid: GeoBox, count: int, legend: str | None = None, **options: Any
) -> Any:
    """Open a tiled GeoTIFF for writing, with the colours of a legend."""
    if legend is not None:
        options['nodata'] = 0
    file = rasterio.open(
        path,
        'w',
        driver='GTiff',
        dtype='uint8',
        count=count,
        height=grid.height,
        width=grid.width,
        crs=str(grid.crs),
        transform=grid.affine,
        tiled=True,
        blockxsize=TILE,
        blockysize=TILE,
        compress='deflate',
        zlevel=1,
        bigtiff='if_safer',
        **options,
    )
    if legend is not None:
        classes = Legend.load(legend).classes
        file.write_colormap(1, {item.code: (*item.color, 255) for item in classes})
    return file
