# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Joint statistics measured on LR and HR labels of the same place."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .geo.grid import clip, coverage, pixel_ratio, window_in
from .geo.names import PathLike
from .geo.region import region_map
from .labels import LabelRaster
from .legends.crosswalk import Crosswalk
from .legends.legend import Legend
from .legends.statistics import JointStatistics, class_counts

# Side of the blocks that HR labels are read in, in pixels.
BLOCK = 1024


def measure_statistics(
    labels: PathLike | Iterable[PathLike],
    truth: PathLike | Iterable[PathLike],
    legend: Legend,
    crosswalk: Crosswalk,
    name: str = 'measured',
) -> JointStatistics:
    """Measure the shares of HR classes in LR cells, as Malkin et al. 2019 did.

    Each HR pixel is counted in the LR cell that holds its centre, each raster in its
    own CRS and grid; of several LR or HR rasters the first that has a code there counts. A
    cell counts by the share of it that has HR labels.

    Args:
        labels: LR label files or folders.
        truth: HR label files or folders.
        legend: What the codes of *labels* mean.
        crosswalk: From the codes of *truth* to the classes of the statistics.
        name: Name for the statistics.

    Returns:
        The statistics.

    Raises:
        InputError: A file cannot be used, or no cell has an LR and an HR label.
    """
    coarse, fine = LabelRaster.open(labels), LabelRaster.open(truth)
    parts = []
    for number, raster in enumerate(fine):
        above = [f for f in fine[:number] if coverage(raster.geobox, f.geobox) > 0]
        below = [c for c in coarse if coverage(raster.geobox, c.geobox) > 0]
        parts += [
            _count(raster, c, crosswalk, above + below[:i]) for i, c in enumerate(below)
        ]
    cells = [np.concatenate(values) for values in zip(*parts, strict=True)]
    index = legend.index(cells[0]) if cells else np.zeros(0, np.int64)
    if not (index >= 0).any():
        raise InputError(
            f'{fine[0].paths[0]}: has no HR label in a cell of {coarse[0].paths[0]} with '
            'an LR label; give labels of the same place, and check the two legends'
        )
    _, counts, share = cells
    reference = f'measured on {int((index >= 0).sum())} LR cells'
    return JointStatistics.estimate(
        legend, crosswalk.target, index, counts, share, name, reference
    )


def _count(
    fine: LabelRaster,
    coarse: LabelRaster,
    crosswalk: Crosswalk,
    before: Sequence[LabelRaster],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Codes, HR counts (n, C) and labelled shares of the LR cells under a raster.

    Pixels under a code of one of the rasters *before* are left out.
    """
    classes = len(crosswalk.target)
    # blocks share the cells on their edges: counts of all blocks are added up
    top, left, bottom, right = window_in(fine.geobox, coarse.geobox)
    total = np.zeros((bottom - top, right - left, classes), np.int64)
    for rows, cols in _blocks(*fine.geobox.shape):
        index = crosswalk.index(fine.read(rows, cols))
        for other in before:
            index[other.at(fine.geobox[rows, cols]) >= 0] = -1
        if (index < 0).all():
            continue
        block = fine.geobox[rows, cols]
        regions = region_map(block, coarse.geobox, whole=fine.geobox)
        row, col, h, w = regions.window
        counts = class_counts(regions.mask_region, index, h * w, classes)
        inner = clip(
            (row - top, col - left, row - top + h, col - left + w), *total.shape[:2]
        )
        y, x = slice(inner[0], inner[2]), slice(inner[1], inner[3])
        part = counts.reshape(h, w, classes)
        total[y, x] += part[
            y.start + top - row : y.stop + top - row,
            x.start + left - col : x.stop + left - col,
        ]
    codes = coarse.read(slice(top, bottom), slice(left, right))
    labelled = total.sum(axis=-1)
    inside = labelled > 0
    # the share of a cell that its labelled pixels cover; rotated grids may give a cell a
    # pixel more than its area holds
    share = np.minimum(labelled * pixel_ratio(fine.geobox, coarse.geobox), 1)
    return codes[inside], total[inside], share[inside]


def _blocks(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, height, BLOCK):
        for col in range(0, width, BLOCK):
            yield (
                slice(row, min(row + BLOCK, height)),
                slice(col, min(col + BLOCK, width)),
            )
