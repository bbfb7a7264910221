# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a finished map holds, and whether it agrees with the LR labels it came from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from ..datasets.geo.region import cell_diameter, region_map
from ..datasets.labels import LabelRaster
from ..datasets.legends.crosswalk import Crosswalk
from ..datasets.legends.legend import Legend
from .area import row_areas

_BLOCK = 1024


@dataclass(frozen=True)
class MapSummary:
    """Counts by class of one map.

    Args:
        legend: The map's classes.
        pixels: Pixels of each class, (C,).
        hectares: Their area, (C,).
        nodata: Pixels without data.
        cells: LR cells of each class that have mapped pixels, (C,).
        agreeing: Those of them where the most frequent class of the map's pixels is
            the cell's class, (C,).
    """

    legend: Legend
    pixels: NDArray[np.int64]
    hectares: NDArray[np.float64]
    nodata: int
    cells: NDArray[np.int64]
    agreeing: NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types; agreement without a cell is null."""

        def share(part: int, whole: int) -> float | None:
            return round(part / whole, 4) if whole else None

        mapped = int(self.pixels.sum())
        cells, agreeing = self.cells.tolist(), self.agreeing.tolist()
        return {
            'pixels': mapped,
            'nodata_pixels': self.nodata,
            'hectares': round(float(self.hectares.sum()), 4),
            'lr_cells': sum(cells),
            'lr_agreement': share(sum(agreeing), sum(cells)),
            'classes': [
                {
                    'code': c.code,
                    'name': c.name,
                    'pixels': int(self.pixels[i]),
                    'hectares': round(float(self.hectares[i]), 4),
                    'share': share(int(self.pixels[i]), mapped),
                    'lr_cells': cells[i],
                    'lr_agreement': share(agreeing[i], cells[i]),
                }
                for i, c in enumerate(self.legend.classes)
            ],
        }


def summarise(
    path: Path,
    legend: Legend,
    labels: Sequence[LabelRaster] = (),
    crosswalk: Crosswalk | None = None,
) -> MapSummary:
    """Count a map's pixels, areas and agreement with LR labels, window by window.

    A cell is judged once, by the window that its first pixel lies in, row by row;
    windows are read with a margin that is wider than a cell, so that they see it whole.

    Args:
        path: Map of the legend's codes.
        legend: Its legend.
        labels: LR labels.
        crosswalk: From the labels' legend to the map's; needed if there are labels.

    Returns:
        The counts.
    """
    n = len(legend)
    pixels, cells, agreeing = (np.zeros(n, np.int64) for _ in range(3))
    hectares, nodata = np.zeros(n), 0
    with rasterio.open(path) as dataset:
        geobox = GeoBox.from_rio(dataset)
        areas = row_areas(geobox) / 1e4
        for rows, cols in _blocks(geobox):
            index = _read(dataset, legend, rows, cols)
            counts = np.stack([np.bincount(row + 1, minlength=n + 1) for row in index])
            nodata += int(counts[:, 0].sum())
            pixels += counts[:, 1:].sum(0)
            hectares += areas[rows] @ counts[:, 1:]
            for raster in labels if crosswalk is not None else ():
                assert crosswalk is not None
                seen, same = _agreement(
                    dataset, geobox, legend, raster, crosswalk, rows, cols
                )
                cells += seen
                agreeing += same
    return MapSummary(legend, pixels, hectares, nodata, cells, agreeing)


def _agreement(
    dataset: Any,
    geobox: GeoBox,
    legend: Legend,
    labels: LabelRaster,
    crosswalk: Crosswalk,
    rows: slice,
    cols: slice,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """LR cells whose first pixel lies in a window, and the agreeing ones, by class."""
    n = len(legend)
    margin = cell_diameter(geobox[rows, cols], labels.geobox)
    height, width = geobox.shape
    top, left = max(rows.start - margin, 0), max(cols.start - margin, 0)
    wide = (
        slice(top, min(rows.stop + margin, height)),
        slice(left, min(cols.stop + margin, width)),
    )
    region = region_map(geobox[wide], labels.geobox)
    known = crosswalk.index(labels.read(region.rows, region.cols)).ravel()
    size = known.size
    if not (known >= 0).any():
        return np.zeros(n, np.int64), np.zeros(n, np.int64)

    cell = region.mask_region.ravel() - 1
    # The last assignment counts: that of the first pixel. Cell -1 is none.
    first = np.full(size + 1, -1)
    first[cell[::-1]] = np.arange(cell.size)[::-1]
    row, col = np.divmod(first[:-1], region.mask_region.shape[1])
    mine = (
        (first[:-1] >= 0)
        & (row + top >= rows.start)
        & (row + top < rows.stop)
        & (col + left >= cols.start)
        & (col + left < cols.stop)
    )
    mapped = _read(dataset, legend, *wide).ravel()
    both = (cell >= 0) & (mapped >= 0)
    pairs = np.bincount(cell[both] * n + mapped[both], minlength=size * n)
    counts = pairs.reshape(size, n)
    judged = mine & (known >= 0) & (counts.sum(1) > 0)
    truth = known[judged]
    same = counts[judged].argmax(1) == truth
    return np.bincount(truth, minlength=n), np.bincount(truth[same], minlength=n)


def _blocks(geobox: GeoBox) -> Iterator[tuple[slice, slice]]:
    height, width = geobox.shape
    for row in range(0, height, _BLOCK):
        for col in range(0, width, _BLOCK):
            yield (
                slice(row, min(row + _BLOCK, height)),
                slice(col, min(col + _BLOCK, width)),
            )


def _read(dataset: Any, legend: Legend, rows: slice, cols: slice) -> NDArray[np.int64]:
    """Class indices of a window, -1 = no data."""
    codes = dataset.read(1, window=Window.from_slices(rows, cols))
    return legend.index(codes)
