# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How well maps agree with HR labels: one confusion matrix pooled over files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy.ndimage import distance_transform_edt

from ..datasets.geo.areas import PixelAreas, pixel_metres
from ..datasets.geo.grid import blocks_of, crop, pixel_offset
from ..datasets.labels import LabelRaster
from ..datasets.legends.crosswalk import Crosswalk
from ..datasets.legends.legend import Legend
from ..errors import InputError
from .class_maps import one_grid
from .confusion import Confusion, confusion
from .groups import Groups

_BLOCK = 2048


@dataclass(frozen=True)
class Assessment:
    """Confusions of a comparison, of all pixels and by group.

    Args:
        total: Of all pixels.
        groups: Of the pixels of each group, by kind of group and name.
    """

    total: Confusion
    groups: Mapping[str, Mapping[str, Confusion]] = field(default_factory=dict)

    def __add__(self, other: 'Assessment') -> 'Assessment':
        groups: dict[str, dict[str, Confusion]] = {}
        for part in (self.groups, other.groups):
            for kind, by_name in part.items():
                table = groups.setdefault(kind, {})
                for name, result in by_name.items():
                    table[name] = table[name] + result if name in table else result
        return Assessment(self.total + other.total, groups)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        groups = {
            kind: {name: result.to_dict() for name, result in by_name.items()}
            for kind, by_name in self.groups.items()
        }
        return {**self.total.to_dict(), 'groups': groups}


def compare(
    map_path: str | Path,
    truth_path: str | Path,
    map_crosswalk: Crosswalk,
    truth_crosswalk: Crosswalk,
) -> Confusion:
    """Compare a map with HR labels.

    Args:
        map_path: Raster of class codes.
        truth_path: Raster of class codes; may have another grid and CRS.
        map_crosswalk: From the map's legend to the one that is compared.
        truth_crosswalk: From the truth's legend to the same.

    Returns:
        The counts; see :func:`assess`.
    """
    return assess(map_path, truth_path, map_crosswalk, truth_crosswalk).total


def assess(
    map_path: str | Path,
    truth_path: str | Path,
    map_crosswalk: Crosswalk,
    truth_crosswalk: Crosswalk,
    boundary_width: float | None = None,
    groups: Groups | None = None,
) -> Assessment:
    """Compare a map with HR labels, by group and along boundaries, too.

    The finer of the two grids is compared pixel by pixel (the map's if they are
    alike); on it the other raster is looked up at pixel centres. Where one does not
    reach, there is nothing to compare. Windows keep the memory flat; for the boundaries
    they are read with a margin, so that they see what the whole raster would.

    Args:
        map_path: Raster of class codes.
        truth_path: Raster of class codes; may have another grid and CRS.
        map_crosswalk: From the map's legend to the one that is compared.
        truth_crosswalk: From the truth's legend to the same.
        boundary_width: Metres from a boundary in which the boundary IoU is taken; it is
            not measured by default.
        groups: Groups of pixels that are counted apart, too.

    Returns:
        The counts.

    Raises:
        InputError: If a file cannot be read or has no CRS, if they do not overlap, if
            the width is below a pixel, or if the map has codes that are not in its
            legend.
    """
    legend = map_crosswalk.target
    empty = Confusion(legend, np.zeros((len(legend), len(legend)), np.int64))
    mapped, truth = one_grid(map_path), one_grid(truth_path)
    grid = _finer(mapped.geobox, truth.geobox)
    pixel = pixel_metres(grid)
    margin = 0
    if boundary_width is not None:
        if boundary_width < max(pixel):
            raise InputError(
                f'--boundary {boundary_width:g} m is less than a pixel of {map_path} '
                f'({max(pixel):.3g} m); give at least that.'
            )
        empty = replace(
            empty,
            boundary=np.zeros((2, len(legend)), np.int64),
            boundary_width=boundary_width,
        )
        # No pixel of the map is further away than its other end.
        margin = int(min(boundary_width / min(pixel), max(grid.shape))) + 1
    total, unlisted = Assessment(empty), Counter[int]()
    for rows, cols in blocks_of(grid, _BLOCK):
        block = crop(grid, (rows.start, cols.start, rows.stop, cols.stop))
        wide = block.pad(margin) if margin else block
        mapped_codes, true_codes = _lookup(mapped, wide), _lookup(truth, wide)
        inner = (
            slice(margin, wide.height - margin),
            slice(margin, wide.width - margin),
        )
        unlisted.update(map_crosswalk.unknown(mapped_codes[inner]))
        unknown = Counter(truth_crosswalk.unknown(true_codes[inner]))
        true = truth_crosswalk.index(true_codes)
        predicted = map_crosswalk.index(mapped_codes)
        compared = _Compared(legend, true[inner], predicted[inner])
        if boundary_width is not None:
            valid = (true >= 0) & (predicted >= 0)
            near = [
                near_boundary(i, valid, len(legend), boundary_width, pixel)[:, *inner]
                for i in (true, predicted)
            ]
            compared = replace(compared, near=near, boundary_width=boundary_width)
        by_kind: dict[str, dict[str, Confusion]] = {}
        for kind, (names, grouping) in (groups or {}).items():
            number = grouping(block)
            present = np.unique(number[(number >= 0) & (compared.true >= 0)])
            by_kind[kind] = {
                str(g) if names is None else names[g]: compared.within(number == g)
                for g in present.tolist()
            }
        total += Assessment(replace(compared.count(), unknown=unknown), by_kind)
    if unlisted:
        raise InputError(
            f'{map_path} has codes {sorted(unlisted)} that are not in the legend '
            f'{map_crosswalk.source.name!r}; give the legend of the map with --legend.'
        )
    if not total.total.matrix.any() and not total.total.unmapped:
        if total.total.unknown:
            codes = ', '.join(map(str, sorted(total.total.unknown)[:12]))
            raise InputError(
                f'{truth_path}: none of its codes ({codes}) is in the legend '
                f'{truth_crosswalk.source.name!r}; give the legend of the truth with '
                '--truth-legend.'
            )
        raise InputError(
            f'{map_path} and {truth_path} have no pixels in common that have labels.'
        )
    return total


def compared_pixel(map_path: str | Path, truth_path: str | Path) -> tuple[float, float]:
    """Height and width in metres of the pixels in which :func:`assess` compares two files.

    Args:
        map_path: Raster of class codes.
        truth_path: Raster of class codes; may have another grid and CRS.
    """
    grids = (one_grid(path).geobox for path in (map_path, truth_path))
    return pixel_metres(_finer(*grids))


def near_boundary(
    index: NDArray[np.int64],
    valid: NDArray[np.bool_],
    classes: int,
    width: float,
    pixel: tuple[float, float],
) -> NDArray[np.bool_]:
    """Pixels of each class that are near another class.

    Where data ends there is no boundary: what lies beyond is not known.

    Args:
        index: Class indices, (H, W).
        valid: Pixels that have one, in truth and map alike, (H, W).
        classes: Number of classes, C.
        width: Metres; a pixel is near if the centre of one of another class is at most
            so far away.
        pixel: Height and width of a pixel in metres.

    Returns:
        (C, H, W).
    """
    result = np.zeros((classes, *index.shape), bool)
    for c in np.unique(index[valid]):
        other = valid & (index != c)
        if other.any():
            distance = distance_transform_edt(~other, sampling=pixel)
            # A millionth more, for rounding of the pixel size.
            result[c] = valid & (index == c) & (distance <= width * (1 + 1e-6))
    return result


@dataclass(frozen=True, eq=False)
class _Compared:
    """Classes of the same pixels by truth and map.

    Args:
        legend: The classes.
        true: Class indices by the truth, (h, w); -1 = no data.
        predicted: Those by the map, likewise.
        near: Pixels of each class that are near its boundary in the truth, and in the
            map, (C, h, w) each; none if boundaries are not measured.
        boundary_width: Metres from a boundary that are near.
    """

    legend: Legend
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    near: Sequence[NDArray[np.bool_]] = ()
    boundary_width: float | None = None

    def count(self) -> Confusion:
        """Count them."""
        counts = confusion(self.true, self.predicted, self.legend)
        if not self.near:
            return counts
        one, two = self.near
        sums = np.stack([(one & two).sum((1, 2)), (one | two).sum((1, 2))])
        return replace(counts, boundary=sums, boundary_width=self.boundary_width)

    def within(self, inside: NDArray[np.bool_]) -> Confusion:
        """Count some of them.

        Args:
            inside: Which, (h, w).
        """
        true = np.where(inside, self.true, -1)
        return replace(self, true=true, near=[n & inside for n in self.near]).count()


def _finer(first: GeoBox, second: GeoBox) -> GeoBox:
    """The grid with the clearly smaller pixels; the first if they are alike."""
    one, two = (PixelAreas(box).middle for box in (first, second))
    return second if two < one / 2 else first


def _lookup(raster: LabelRaster, block: GeoBox) -> NDArray[np.int64]:
    """Codes at a block's pixel centres, -1 = no data."""
    offset = pixel_offset(block, raster.geobox)
    if offset is None:
        return raster.at(block)
    (row, col), (height, width) = offset, block.shape
    return raster.read(slice(row, row + height), slice(col, col + width))
