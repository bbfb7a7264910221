# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Pixels counted by true and mapped class, and the figures that follow from them."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..datasets.legends.legend import Legend
from ..errors import InputError


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
        boundary: Pixels of each class near its boundary in both and in either of truth
            and map, (2, C); none if it was not measured.
        boundary_width: Metres from a boundary that are near.

    >>> legend = Legend.load('land-cover-4')
    >>> result = Confusion(legend, np.diag([4, 3, 2, 0]))
    >>> result.accuracy, result.miou, result.present.tolist()
    (1.0, 1.0, [True, True, True, False])
    """

    legend: Legend
    matrix: NDArray[np.int64]
    unmapped: int = 0
    unknown: Counter[int] = field(default_factory=Counter)
    boundary: NDArray[np.int64] | None = None
    boundary_width: float | None = None

    def __add__(self, other: 'Confusion') -> 'Confusion':
        if self.legend.words != other.legend.words:
            raise InputError(
                f'Counts of the classes of {self.legend.name!r} and of '
                f'{other.legend.name!r} do not add up.'
            )
        if self.boundary is None or other.boundary is None:
            boundary = None
        else:
            boundary = self.boundary + other.boundary
        return Confusion(
            self.legend,
            self.matrix + other.matrix,
            self.unmapped + other.unmapped,
            self.unknown + other.unknown,
            boundary,
            self.boundary_width or other.boundary_width,
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
        right = np.diag(self.matrix)
        return _ratio(right, self.matrix.sum(0) + self.matrix.sum(1) - right)

    @cached_property
    def f1(self) -> NDArray[np.float64]:
        """F1 score of each class, (C,); NaN if in neither."""
        twice = 2 * np.diag(self.matrix)
        return _ratio(twice, self.matrix.sum(0) + self.matrix.sum(1))

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
        if not self.present.any():
            return float('nan')
        return float((self.share * self.iou)[self.present].sum())

    @cached_property
    def macro_f1(self) -> float:
        """Mean F1 over the classes present in the truth."""
        return float(self.f1[self.present].mean()) if self.present.any() else np.nan

    @cached_property
    def mean_recall(self) -> float:
        """Mean producer's accuracy over the classes present in the truth."""
        present = self.recall[self.present]
        return float(present.mean()) if present.size else np.nan

    @cached_property
    def kappa(self) -> float:
        """Kappa (Cohen 1960), (p_o − p_e) / (1 − p_e); NaN if all is one class."""
        total = self.matrix.sum()
        if total == 0:
            return np.nan
        rows, cols = self.matrix.sum(1) / total, self.matrix.sum(0) / total
        chance = float(rows @ cols)
        return (self.accuracy - chance) / (1 - chance) if chance < 1 else np.nan

    @cached_property
    def boundary_iou(self) -> NDArray[np.float64]:
        """IoU of each class near its boundaries, (C,); NaN if not measured.

        Cheng et al. 2021, Boundary IoU, CVPR, eq. 2.
        """
        if self.boundary is None:
            return np.full(len(self.legend), np.nan)
        return _ratio(*self.boundary)

    @cached_property
    def mean_boundary_iou(self) -> float:
        """Mean boundary IoU over the classes present in the truth that have one."""
        values = self.boundary_iou[self.present]
        values = values[~np.isnan(values)]
        return float(values.mean()) if values.size else np.nan

    def save_csv(self, path: str | Path) -> None:
        """Write the matrix: a row for each true class, a column for each mapped.

        Args:
            path: CSV file to write.
        """
        import pandas

        names = self.legend.class_names
        pandas.DataFrame(self.matrix, names, names).to_csv(
            path, index_label='truth \\ map', lineterminator='\r\n', compression=None
        )

    def save_png(self, path: str | Path) -> None:
        """Draw the matrix, each row in percent of its true class.

        Args:
            path: PNG file to write.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        names, size = self.legend.class_names, len(self.legend)
        share = 100 * _ratio(self.matrix, self.matrix.sum(1, keepdims=True))
        figure = Figure(figsize=(2.5 + 0.8 * size, 1.8 + 0.7 * size), dpi=120)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.imshow(np.nan_to_num(share), vmin=0, vmax=100, cmap='Blues')
        for i in range(size):
            for j in range(size):
                value = share[i, j]
                text = '–' if np.isnan(value) else f'{value:.1f}'
                color = 'white' if value > 55 else 'black'
                axes.text(j, i, text, ha='center', va='center', color=color, size=9)
        labels = [
            name if present else f'{name} (absent)'
            for name, present in zip(names, self.present, strict=True)
        ]
        axes.set_xticks(range(size), names, rotation=40, ha='right')
        axes.set_yticks(range(size), labels)
        axes.set_xlabel('map')
        axes.set_ylabel('truth')
        axes.set_title('percent of each true class', size=10)
        figure.tight_layout()
        figure.savefig(path, format='png')

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types; what is undefined is null."""

        def number(value: float) -> float | None:
            return None if np.isnan(value) else round(float(value), 6)

        figures = ('iou', 'f1', 'precision', 'recall', 'share', 'boundary_iou')
        return {
            'legend': self.legend.name,
            'pixels': int(self.matrix.sum()),
            'pixels_without_map': self.unmapped,
            'unknown_truth_codes': {str(k): v for k, v in self.unknown.items()},
            'accuracy': number(self.accuracy),
            'miou': number(self.miou),
            'fwiou': number(self.fwiou),
            'macro_f1': number(self.macro_f1),
            'mean_recall': number(self.mean_recall),
            'kappa': number(self.kappa),
            'boundary_iou': number(self.mean_boundary_iou),
            'boundary_width_metres': self.boundary_width,
            'classes': [
                {
                    'code': c.code,
                    'name': c.name,
                    'in_truth': bool(self.present[i]),
                    **{name: number(getattr(self, name)[i]) for name in figures},
                }
                for i, c in enumerate(self.legend.classes)
            ],
            'confusion': self.matrix.tolist(),
        }


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
    # It takes longer to import than torch, and the report of a map does not need it.
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    labelled = truth >= 0
    both = labelled & (predicted >= 0)
    matrix = multiclass_confusion_matrix(
        torch.from_numpy(predicted[both]),
        torch.from_numpy(truth[both]),
        num_classes=max(len(legend), 2),
    )
    counts = matrix.numpy().astype(np.int64)[: len(legend), : len(legend)]
    return Confusion(legend, counts, int(labelled.sum() - both.sum()))


def _ratio(numerator: Any, denominator: Any) -> NDArray[np.float64]:
    """Divide; 0 / 0 is NaN."""
    above, below = np.asarray(numerator, float), np.asarray(denominator, float)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
