# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How well maps agree with HR labels: one confusion matrix pooled over files."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from torchmetrics.functional.classification import multiclass_confusion_matrix

from ..datasets.geo.grid import pixel_offset
from ..datasets.labels import LabelRaster
from ..datasets.legends.crosswalk import Crosswalk
from ..datasets.legends.legend import Legend
from ..errors import InputError
from .area import row_areas

_BLOCK = 2048


@dataclass(frozen=True)
class Confusion:
    """Pixel counts by class, and what follows from them.

    Confusions of several files add up (``+``); every figure is then pooled.

    Args:
        legend: The classes, in the order of the matrix.
        matrix: Pixels of true class *i* (row) mapped to class *j* (column), (C, C).
        unmapped: Pixels with a true class where the map has no data; they are in no
            figure.
        unknown: Counts of the truth's codes that its legend does not have.
    """

    legend: Legend
    matrix: NDArray[np.int64]
    unmapped: int = 0
    unknown: Counter[int] = field(default_factory=Counter)

    def __add__(self, other: 'Confusion') -> 'Confusion':
        return Confusion(
            self.legend,
            self.matrix + other.matrix,
            self.unmapped + other.unmapped,
            self.unknown + other.unknown,
        )

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """Classes that occur in the truth, (C,)."""
        return self.matrix.sum(1) > 0

    @cached_property
    def share(self) -> NDArray[np.float64]:
        """Share of each class in the truth, (C,)."""
        return _ratio(self.matrix.sum(1), np.asarray(self.matrix.sum()))

    @cached_property
    def accuracy(self) -> float:
        """Share of pixels that are right."""
        return float(_ratio(np.trace(self.matrix), self.matrix.sum()))

    @cached_property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class, (C,); NaN if in neither."""
        hit = np.diag(self.matrix)
        return _ratio(hit, self.matrix.sum(0) + self.matrix.sum(1) - hit)

    @cached_property
    def f1(self) -> NDArray[np.float64]:
        """F1 score of each class, (C,); NaN if in neither."""
        hit = 2 * np.diag(self.matrix)
        return _ratio(hit, self.matrix.sum(0) + self.matrix.sum(1))

    @cached_property
    def recall(self) -> NDArray[np.float64]:
        """Producer's accuracy of each class, (C,)."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(1))

    @cached_property
    def precision(self) -> NDArray[np.float64]:
        """User's accuracy of each class, (C,)."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(0))

    @cached_property
    def miou(self) -> float:
        """Mean IoU over the classes present in the truth."""
        return float(self.iou[self.present].mean()) if self.present.any() else np.nan

    @cached_property
    def fwiou(self) -> float:
        """IoU weighted by the class shares of the truth."""
        return float((self.share * self.iou)[self.present].sum())

    @cached_property
    def macro_f1(self) -> float:
        """Mean F1 over the classes present in the truth."""
        return float(self.f1[self.present].mean()) if self.present.any() else np.nan

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types; what is undefined is null."""

        def number(value: float) -> float | None:
            return None if np.isnan(value) else round(float(value), 6)

        figures = ('iou', 'f1', 'precision', 'recall', 'share')
        return {
            'legend': self.legend.name,
            'pixels': int(self.matrix.sum()),
            'pixels_without_map': self.unmapped,
            'unknown_truth_codes': {str(k): v for k, v in self.unknown.items()},
            'accuracy': number(self.accuracy),
            'miou': number(self.miou),
            'fwiou': number(self.fwiou),
            'macro_f1': number(self.macro_f1),
            'classes': [
                {
                    'code': c.code,
                    'name': c.name,
                    **{name: number(getattr(self, name)[i]) for name in figures},
                }
                for i, c in enumerate(self.legend.classes)
            ],
            'confusion': self.matrix.tolist(),
        }


def _ratio(part: Any, whole: Any) -> NDArray[np.float64]:
    """Divide; 0 / 0 is NaN."""
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def confusion(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], legend: Legend
) -> Confusion:
    """Count pixels by true and mapped class.

    Args:
        truth: Class indices, any shape; -1 = no data.
        predicted: Class indices of the same shape; -1 = no data.
        legend: The classes.

    Returns:
        The counts over pixels that have both.
    """
    known = truth >= 0
    both = known & (predicted >= 0)
    matrix = multiclass_confusion_matrix(
        torch.from_numpy(predicted[both]),
        torch.from_numpy(truth[both]),
        num_classes=max(len(legend), 2),
    )
    counts = matrix.numpy().astype(np.int64)[: len(legend), : len(legend)]
    return Confusion(legend, counts, int(known.sum() - both.sum()))


def compare(
    map_path: str | Path,
    truth_path: str | Path,
    map_crosswalk: Crosswalk,
    truth_crosswalk: Crosswalk,
) -> Confusion:
    """Compare a map with HR labels.

    The finer of the two grids is compared pixel by pixel (the map's if they are
    alike); on it the other raster is looked up at pixel centres. Where one does not
    reach, there is nothing to compare. Windows keep the memory flat.

    Args:
        map_path: Raster of class codes.
        truth_path: Raster of class codes; may have another grid and CRS.
        map_crosswalk: From the map's legend to the one that is compared.
        truth_crosswalk: From the truth's legend to the same.

    Returns:
        The counts.

    Raises:
        InputError: If a file cannot be read or has no CRS, if they do not overlap, or
            if the map has codes that are not in its legend.
    """
    legend = map_crosswalk.target
    total = Confusion(legend, np.zeros((len(legend), len(legend)), np.int64))
    strange: Counter[int] = Counter()
    (mapped,), (truth,) = LabelRaster.open(map_path), LabelRaster.open(truth_path)
    for block in _blocks(_finer(mapped.geobox, truth.geobox)):
        here, true = _lookup(mapped, block), _lookup(truth, block)
        strange.update(map_crosswalk.unknown(here))
        part = confusion(truth_crosswalk.index(true), map_crosswalk.index(here), legend)
        unknown = Counter(truth_crosswalk.unknown(true))
        total += Confusion(legend, part.matrix, part.unmapped, unknown)
    if strange:
        raise InputError(
            f'{map_path} has codes {sorted(strange)} that are not in the legend '
            f'{map_crosswalk.source.name!r}; give the legend of the map with --legend.'
        )
    if not total.matrix.any() and not total.unmapped:
        raise InputError(
            f'{map_path} and {truth_path} have no pixels in common that have labels.'
        )
    return total


def _finer(first: GeoBox, second: GeoBox) -> GeoBox:
    """The grid with the clearly smaller pixels; the first if they are alike."""
    one, two = (row_areas(box)[box.height // 2] for box in (first, second))
    return second if two < one / 2 else first


def _blocks(grid: GeoBox) -> Iterator[GeoBox]:
    for row in range(0, grid.height, _BLOCK):
        for col in range(0, grid.width, _BLOCK):
            yield grid[row : row + _BLOCK, col : col + _BLOCK]


def _lookup(raster: LabelRaster, block: GeoBox) -> NDArray[np.int64]:
    """Codes at a block's pixel centres, -1 = no data."""
    offset = pixel_offset(block, raster.geobox)
    if offset is None:
        return raster.at(block)
    (row, col), (height, width) = offset, block.shape
    return raster.read(slice(row, row + height), slice(col, col + width))
