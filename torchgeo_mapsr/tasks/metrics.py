# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Metrics of maps."""

from typing import Any

from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
)


class _WithoutIgnored:
    """A mean over classes that the ignored one is no part of.

    Of pixels that a map gives to it, torchmetrics 1.9 makes a class with a score of 0, but
    for the Jaccard index, where it is left out.
    """

    fp: Tensor | list[Tensor]
    ignore_index: int | None

    def compute(self) -> Tensor:
        """The mean."""
        counted, ignored = self.fp, self.ignore_index
        assert isinstance(counted, Tensor)
        if ignored is not None and 0 <= ignored < len(counted):
            # The truth has no pixel of this class; without false positives it is absent.
            kept = counted.clone()
            kept[ignored] = 0
            self.fp = kept
        try:
            mean: Tensor = super().compute()  # type: ignore[misc]
        finally:
            self.fp = counted
        return mean


class _AverageAccuracy(_WithoutIgnored, MulticlassAccuracy):
    pass


class _AveragePrecision(_WithoutIgnored, MulticlassPrecision):
    pass


class _AverageRecall(_WithoutIgnored, MulticlassRecall):
    pass


class _AverageF1Score(_WithoutIgnored, MulticlassF1Score):
    pass


def land_cover_metrics(classes: int, ignore_index: int = -1) -> MetricCollection:
    """Metrics of maps, by the names of torchgeo and of this field.

    Args:
        classes: Number of classes.
        ignore_index: Value of pixels that do not count; a class of this number is no
            part of means.

    Returns:
        The metrics; those of the same sums are computed once.
    """
    micro: dict[str, Any] = {'average': 'micro', 'ignore_index': ignore_index}
    macro: dict[str, Any] = {'average': 'macro', 'ignore_index': ignore_index}
    every: dict[str, Metric | MetricCollection] = {
        'OverallAccuracy': MulticlassAccuracy(classes, **micro),
        'OverallPrecision': MulticlassPrecision(classes, **micro),
        'OverallRecall': MulticlassRecall(classes, **micro),
        'OverallF1Score': MulticlassF1Score(classes, **micro),
        'OverallJaccardIndex': MulticlassJaccardIndex(classes, **micro),
        'AverageAccuracy': _AverageAccuracy(classes, **macro),
        'AveragePrecision': _AveragePrecision(classes, **macro),
        'AverageRecall': _AverageRecall(classes, **macro),
        'AverageF1Score': _AverageF1Score(classes, **macro),
        'AverageJaccardIndex': MulticlassJaccardIndex(classes, **macro),
    }
    every |= {
        'MulticlassAccuracy': every['OverallAccuracy'].clone(),
        'MulticlassJaccardIndex': every['OverallJaccardIndex'].clone(),
        'mIoU': every['AverageJaccardIndex'].clone(),
        'FWIoU': MulticlassJaccardIndex(
            classes, average='weighted', ignore_index=ignore_index
        ),
        'F1': every['AverageF1Score'].clone(),
    }
    return MetricCollection(every)
