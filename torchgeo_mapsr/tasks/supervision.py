# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What the labels of a batch ask of a network's logits."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .._compat import Sample
from ..arguments import POSITIVE, check_choice, check_range
from ..datasets.legends.crosswalk import Crosswalk
from ..datasets.legends.statistics import JointStatistics
from ..errors import InputError
from ..losses import (
    IntervalConstraintLoss,
    RegionCrossEntropy,
    StatisticsMatchingLoss,
    label_counts,
)
from ..losses.statistics_matching import LEAST_STD
from ..transforms.region_aggregation import Reduction
from .cells import BatchCells

#: How counts in a cell are compared with statistics.
Criterion = Literal['compromise', 'kl_printed', 'kl', 'interval']


class LabelReader(Protocol):
    """What a supervision asks of the task that trains."""

    #: Weight of each class, (C,), if classes have weights.
    class_weights: Tensor | None

    def cells(self, batch: Sample) -> BatchCells:
        """LR cells of a batch."""

    def truth_index(self, batch: Sample) -> Tensor:
        """Class of every pixel from the HR labels, (B, H, W), -1 = none."""

    def pixel_loss(self, logits: Tensor, index: Tensor) -> Tensor:
        """Loss of labelled pixels; 0 where there are none."""

    def trains(self, index: Tensor) -> Tensor:
        """Which labels train: not those of classes of weight 0."""


class SupervisionLoss(NamedTuple):
    """Loss of a batch.

    Args:
        loss: What is minimised.
        parts: Its parts, by the names under which they are logged.
        labelled: Whether the batch has a label, for each kind that it should have.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    labelled: dict[str, Tensor]


class Supervision(ABC):
    """A way to train a network that scores pixels with labels of pixels or cells.

    Subclasses are frozen dataclasses of plain values, so that a YAML file names them by
    ``class_path`` and ``init_args``, and a checkpoint keeps them.
    """

    @property
    def labels_pixels(self) -> bool:
        """Whether pixels have labels of their own, which the task's loss compares."""
        return False

    @property
    def takes_cells(self) -> bool:
        """Whether LR labels train."""
        return True

    @property
    def weighs_classes(self) -> bool:
        """Whether weights of classes (``class_weights``) change the loss."""
        return True

    @property
    def ignores_classes(self) -> bool:
        """Whether a class can be left out of the loss (``ignore_index``)."""
        return True

    @staticmethod
    def of(value: 'Supervision | str | Mapping[str, Any]') -> 'Supervision':
        """Take a supervision, also one that a checkpoint has.

        Of a supervision it is a copy: a default in a signature is one object for all
        tasks, and jsonargparse would take what that has read for its arguments.

        Args:
            value: A supervision, what :meth:`to_dict` returned, or ``lr`` or ``hr`` for
                :class:`PixelLabels`.

        Raises:
            InputError: If it is something else.
        """
        if isinstance(value, Supervision):
            return copy(value)
        if value in ('lr', 'hr'):
            return PixelLabels(value)  # type: ignore[arg-type]
        if isinstance(value, Mapping) and 'class_path' in value:
            module, _, name = str(value['class_path']).rpartition('.')
            with suppress(ImportError):
                kind = getattr(import_module(module or __name__), name, None)
                if isinstance(kind, type) and issubclass(kind, Supervision):
                    return kind(**value.get('init_args', {}))
        raise InputError(
            f"supervision is 'lr', 'hr' or an object such as RegionLabels(), not {value}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Its class and arguments, as a YAML file has them."""
        kind = type(self)
        arguments = asdict(self)  # type: ignore[call-overload]
        return {
            'class_path': f'{kind.__module__}.{kind.__qualname__}',
            'init_args': arguments,
        }

    def check(self, crosswalk: Crosswalk) -> None:  # noqa: B027, most fit any
        """Make sure that it fits the classes of a task.

        Args:
            crosswalk: From LR codes to classes.

        Raises:
            InputError: If it does not.
        """

    def check_codes(self, codes: ArrayLike) -> None:  # noqa: B027, most can
        """Make sure that it can do with LR codes.

        Args:
            codes: Any codes; those that are none of the legend's do not matter.

        Raises:
            InputError: If it cannot.
        """

    @abstractmethod
    def loss(
        self, logits: Tensor, batch: Sample, reader: LabelReader
    ) -> SupervisionLoss:
        """Compute the loss of a batch.

        Args:
            logits: Scores of the pixels, (B, C, H, W).
            batch: The labels.
            reader: Reads them.

        Returns:
            The loss; 0, with a gradient of zeros, without a label.
        """


@dataclass(frozen=True)
class PixelLabels(Supervision):
    """A label for each pixel: that of the LR cell that holds it, or the HR label.

    The first is the baseline *Low* of Workman et al. 2023, section 5.3, and *hard naive*
    of Malkin et al. 2019; the second *High* of Workman et al., the upper bound.

    Args:
        source: Which labels train: ``lr`` or ``hr`` (``mask``).
    """

    source: Literal['lr', 'hr'] = 'lr'

    def __post_init__(self) -> None:
        check_choice('source', self.source, ('lr', 'hr'))

    @property
    def labels_pixels(self) -> bool:
        """Whether pixels have labels of their own."""
        return True

    @property
    def takes_cells(self) -> bool:
        """Whether LR labels train, and not HR labels."""
        return self.source == 'lr'

    def index(self, batch: Sample, reader: LabelReader) -> Tensor:
        """Class of each pixel, (B, H, W), -1 = none.

        Args:
            batch: With these labels.
            reader: Reads them.
        """
        if self.source == 'hr':
            return reader.truth_index(batch)
        cells = reader.cells(batch)
        return cells.of_pixels(cells.label, -1)

    def loss(
        self, logits: Tensor, batch: Sample, reader: LabelReader
    ) -> SupervisionLoss:
        """Compute the loss of each pixel with its label, see :class:`Supervision`."""
        index = self.index(batch, reader)
        loss = reader.pixel_loss(logits, index)
        return SupervisionLoss(loss, {}, {self.source: reader.trains(index).any()})


@dataclass(frozen=True)
class RegionLabels(Supervision):
    """One label for all pixels of an LR cell: region aggregation, *Agg*.

    Workman et al. 2023, equation 1: scores of pixels are aggregated over each LR cell,
    and its label is compared with that, see
    :class:`~torchgeo_mapsr.losses.RegionCrossEntropy`. Nothing is upsampled, so a cell
    of one label may hold pixels of several classes.

    Args:
        reduction: How scores of a cell are aggregated. The paper adds them up; with
            their mean, scores, learning rate and probabilities are those of other
            networks.

    Raises:
        InputError: *reduction* is something else.
    """

    reduction: Reduction = 'mean'

    def __post_init__(self) -> None:
        check_choice('reduction', self.reduction, get_args(Reduction))

    def loss(
        self, logits: Tensor, batch: Sample, reader: LabelReader
    ) -> SupervisionLoss:
        """Compute the cross entropy of cells, see :class:`Supervision`."""
        cells = reader.cells(batch)
        criterion = RegionCrossEntropy(self.reduction, reader.class_weights)
        loss = criterion(logits, cells.region, cells.label, cells.share, cells.valid)
        labelled = (reader.trains(cells.label) & (cells.share > 0)).any()
        return SupervisionLoss(loss, {}, {'lr': labelled})


class StatisticalSupervision(Supervision):
    """LR labels that stand for a distribution of HR classes."""

    #: Name or file of the joint statistics of LR and HR classes.
    statistics: str

    @cached_property
    def table(self) -> JointStatistics:
        """The joint statistics."""
        return JointStatistics.load(self.statistics)

    def check(self, crosswalk: Crosswalk) -> None:
        """Make sure that the statistics are of the task's legends.

        Args:
            crosswalk: From LR codes to classes.

        Raises:
            InputError: If they are of others.
        """
        for kind, legend, other in (
            ('legend', crosswalk.source, self.table.source),
            ('target', crosswalk.target, self.table.target),
        ):
            if not np.array_equal(legend.codes, other.codes):
                raise InputError(
                    f"statistics '{self.table.name}' are of the {kind} '{other.name}', "
                    f"and this task has '{legend.name}': give statistics of that, such "
                    'as `torchgeo-mapsr statistics` measures'
                )

    def check_codes(self, codes: ArrayLike) -> None:
        """Make sure that the table has LR classes.

        Args:
            codes: Any codes; those that are none of the legend's do not matter.

        Raises:
            InputError: If it lacks one.
        """
        table = self.table
        missing = table.missing(codes)
        if missing:
            names = dict(zip(table.source.codes, table.source.class_names, strict=True))
            listed = ', '.join(f'{code} ({names[code]})' for code in missing)
            raise InputError(
                f"statistics '{table.name}' lack LR class {listed} of the labels: add it "
                'to the file, or measure your own with `torchgeo-mapsr statistics`'
            )

    def rows(self, cells: BatchCells) -> Tensor:
        """Row of the table for each cell, (B, h · w) int64; -1 if it has no class.

        Args:
            cells: Cells of a batch.

        Raises:
            InputError: If the table lacks the class of a cell with a pixel.
        """
        visible = torch.where(cells.share > 0, cells.codes, -1).flatten(1).cpu().numpy()
        self.check_codes(visible)
        index = torch.from_numpy(self.table.source.index(visible))
        return index.to(cells.codes.device)


@dataclass(frozen=True)
class ExpectedShares(StatisticalSupervision):
    """Expected shares as soft labels of each pixel: *soft naive* of Malkin et al. 2019.

    Every pixel has the expected shares η of the HR classes in its LR cell as target of
    the cross entropy (section 3.1). *Hard naive*, with the most frequent class, is
    :class:`PixelLabels` with the crosswalk ``scenes``, which was made of the same table.

    Args:
        statistics: Joint statistics of the LR and HR classes, a name or a file.
    """

    statistics: str = 'malkin2019'

    @property
    def ignores_classes(self) -> bool:
        """Whether a class can be left out: no pixel has it alone."""
        return False

    def pixel_shares(self, batch: Sample, reader: LabelReader) -> Tensor:
        """Expected shares of the cell that each pixel lies in, (B, C, H, W).

        Args:
            batch: With LR labels. A pixel without one has zeros.
            reader: Reads them.
        """
        cells = reader.cells(batch)
        rows = cells.of_pixels(self.rows(cells).view_as(cells.codes), -1)
        # Published tables are rounded: rows are scaled to sum to one.
        table = self.table.proportions(self.table.source.codes)
        shares = torch.from_numpy(table).float().to(rows.device)[rows.clamp(min=0)]
        return torch.where(rows[..., None] >= 0, shares, 0).movedim(-1, 1)

    def loss(
        self, logits: Tensor, batch: Sample, reader: LabelReader
    ) -> SupervisionLoss:
        """Compute the cross entropy with the shares, see :class:`Supervision`."""
        shares = self.pixel_shares(batch, reader)
        if reader.class_weights is not None:
            shares = shares * reader.class_weights[:, None, None]
        total = -(shares * logits.float().log_softmax(1)).sum()
        loss = total / shares.sum().clamp(min=1e-6)
        return SupervisionLoss(loss, {}, {'lr': shares.any()})


@dataclass(frozen=True)
class MatchedStatistics(StatisticalSupervision):
    """Counts of HR classes in LR cells: label super-resolution, Malkin et al. 2019.

    A cell's LR label is no label of its pixels, but a distribution of how many of them
    are of each HR class: medium-intensity development is 63 ± 22 % impervious, 21 ± 19 %
    field and 14 ± 17 % forest. The network's predictions in the cell are counted (eq. 3
    and 4), and the counts compared with that (eq. 5 to 7), see
    :class:`~torchgeo_mapsr.losses.StatisticsMatchingLoss`. So the LR classes need not be
    HR classes, and an HR class may well be nowhere the most frequent one. A cell that
    the chip cuts counts by its visible share.

    With *hr_weight*, pixels that have an HR label (``mask`` is not -1) add their loss:
    the paper's joint training, HR + SR. Both losses are means.

    Args:
        statistics: Joint statistics of the LR and HR classes, a name or a file:
            ``malkin2019`` (NLCD, measured in Maryland), ``nlcd-descriptions``, or what
            ``torchgeo-mapsr statistics`` has measured.
        criterion: How counts are compared, see
            :class:`~torchgeo_mapsr.losses.StatisticsMatchingLoss`; or ``interval``, with
            the statistics as bounds η ± ρ (appendix C, for comparison), see
            :class:`~torchgeo_mapsr.losses.IntervalConstraintLoss`, which has neither a
            log-variance term nor a floor.
        variance_weight: Weight of the log-variance term.
        sr_weight: Weight of the statistics loss.
        hr_weight: Weight of the HR labels' loss; 0: HR labels take no part.
        least_std: Floor of the standard deviations ρ. Wider where a table comes from few
            cells, or describes with tight bounds.

    Raises:
        InputError: A weight is negative, both of labels are 0, *least_std* is not above
            0, *criterion* is something else, or has no use for an argument.
    """

    statistics: str = 'malkin2019'
    criterion: Criterion = 'compromise'
    variance_weight: float = 1.0
    sr_weight: float = 1.0
    hr_weight: float = 0.0
    least_std: float = LEAST_STD

    def __post_init__(self) -> None:
        check_choice('criterion', self.criterion, get_args(Criterion))
        for name in ('variance_weight', 'sr_weight', 'hr_weight'):
            check_range(name, getattr(self, name), 0)
        if not self.sr_weight and not self.hr_weight:
            raise InputError('sr_weight and hr_weight are not both 0.')
        check_range('least_std', self.least_std, POSITIVE)
        for field in fields(self) if self.criterion == 'interval' else ():
            if field.name not in ('variance_weight', 'least_std'):
                continue
            if getattr(self, field.name) != field.default:
                raise InputError(
                    f"{field.name} has no effect with criterion='interval': leave it out"
                )

    @property
    def labels_pixels(self) -> bool:
        """Whether pixels have labels of their own."""
        return self.hr_weight > 0

    @property
    def weighs_classes(self) -> bool:
        """Whether weights of classes change the loss: that of HR labels."""
        return self.labels_pixels

    @property
    def ignores_classes(self) -> bool:
        """Whether a class can be left out: only where HR labels alone train."""
        return not self.sr_weight

    def loss(
        self, logits: Tensor, batch: Sample, reader: LabelReader
    ) -> SupervisionLoss:
        """Compute the weighted sum of both losses, see :class:`Supervision`."""
        cells = reader.cells(batch)
        rows = self.rows(cells)
        mean, std = (
            torch.from_numpy(values).float().to(logits.device)
            for values in (self.table.mean, self.table.std)
        )
        criterion: IntervalConstraintLoss | StatisticsMatchingLoss
        if self.criterion == 'interval':
            criterion = IntervalConstraintLoss(mean, std)
        else:
            criterion = StatisticsMatchingLoss(
                mean,
                std,
                self.criterion,
                self.variance_weight,
                least_std=self.least_std,
            )
        p = logits.float().softmax(1)
        counts = label_counts(p, cells.region, rows.shape[1], cells.valid)
        sr = criterion(counts, rows, cells.share.flatten(1))
        loss, parts = self.sr_weight * sr, {'sr_loss': sr}
        labelled = {'lr': (rows >= 0).any()} if self.sr_weight else {}
        if self.hr_weight:
            index = reader.truth_index(batch)
            hr = reader.pixel_loss(logits, index)
            loss, parts['hr_loss'] = loss + self.hr_weight * hr, hr
            labelled['hr'] = reader.trains(index).any()
        return SupervisionLoss(loss, parts, labelled)
