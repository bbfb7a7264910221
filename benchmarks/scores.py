# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""From maps to figures: confusion matrices, means with spread, and a paired test."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import ttest_ind, wilcoxon
from torchmetrics.functional.classification import multiclass_confusion_matrix

Matrix = NDArray[np.int64]

# Two-sided level of the tests.
LEVEL = 0.05


def confusion_matrix(truth: Matrix, predicted: Matrix, classes: int) -> Matrix:
    """Count pixels by true and mapped class.

    Returns:
        (C, C), true classes in rows.
    """
    both = (truth >= 0) & (predicted >= 0)
    prediction, target = (torch.from_numpy(v[both]) for v in (predicted, truth))
    counts = multiclass_confusion_matrix(prediction, target, num_classes=classes)
    return np.asarray(counts.numpy())


def figures_of(matrix: Any) -> dict[str, Any]:
    """Figures of a confusion matrix over the classes present in its truth.

    Returns:
        ``iou`` of each class (None if it is absent), their mean ``miou``, ``accuracy``,
        mean ``recall``, mean ``f1``, and ``minority_iou`` of the rarest true class.
    """
    counts = np.asarray(matrix, float)
    hit, truth = np.diag(counts), counts.sum(1)
    present = truth > 0
    with np.errstate(invalid='ignore'):
        iou = hit / (truth + counts.sum(0) - hit)
        f1 = 2 * hit / (truth + counts.sum(0))
        recall = hit / truth
    return {
        'miou': float(iou[present].mean()),
        'accuracy': float(hit.sum() / counts.sum()),
        'recall': float(recall[present].mean()),
        'f1': float(f1[present].mean()),
        'minority_iou': float(iou[np.where(present, truth, np.inf).argmin()]),
        'iou': [float(v) if p else None for v, p in zip(iou, present, strict=True)],
    }


def mean_and_spread(values: Sequence[float], usual: int = 3) -> str:
    """Mean ± standard deviation; in brackets of how many, where not the usual number."""
    if not values:
        return '–'
    text = f'{np.mean(values):.3f}'
    if len(values) > 1:
        text += f' ± {np.std(values, ddof=1):.3f}'
    return text if len(values) in (1, usual) else f'{text} ({len(values)})'


def paired_test(first: Sequence[float], second: Sequence[float]) -> tuple[str, float]:
    """Wilcoxon's signed-rank test of two methods on the same scenes, two-sided.

    Returns:
        ``above``, ``below`` or ``level`` at 5 %, of the first; and p.
    """
    difference = np.subtract(first, second)
    if not np.any(difference):
        return 'level', 1.0
    p = float(wilcoxon(difference).pvalue)
    if p >= LEVEL:
        return 'level', p
    return ('above' if np.median(difference) > 0 else 'below'), p


def seed_test(first: Sequence[float], second: Sequence[float]) -> tuple[str, float]:
    """Welch's t-test of two methods trained with some seeds each, two-sided.

    Args:
        first: Figure of each seed, two or more.
        second: Those of the other method.

    Returns:
        ``above``, ``below`` or ``level`` at 5 %, of the first; and p.
    """
    p = float(ttest_ind(first, second, equal_var=False).pvalue)
    if not p < LEVEL:
        return 'level', p
    return ('above' if np.mean(first) > np.mean(second) else 'below'), p
