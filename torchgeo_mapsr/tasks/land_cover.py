# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What all tasks that map land cover have in common."""

from abc import abstractmethod
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
)

from .._compat import BaseTask, Sample
from ..datasets.legends.crosswalk import Crosswalk
from ..datasets.plot import plot_sample
from ..errors import InputError
from ..transforms import aggregate_regions
from .cells import BatchCells

# A class that the fit never saw costs much in `loss`, but not all.
LEAST_LOG_PROBABILITY = -30.0


class LandCoverTask(BaseTask):
    """A task that gives every pixel of HR imagery a class.

    Subclasses say how, in :meth:`log_probabilities`; validation, test, prediction and
    plots follow from it. Metrics, with the prefix ``val_`` or ``test_``:

    * if the batches have HR labels (``mask``): ``mIoU`` (macro), ``FWIoU`` (weighted)
      and ``F1`` (macro); and what torchgeo logs: ``OverallAccuracy``,
      ``AverageAccuracy`` (mean recall of the classes), and so ``Precision``,
      ``Recall``, ``F1Score`` and ``JaccardIndex`` (0.10: overall is micro, average is
      macro), ``MulticlassAccuracy`` and ``MulticlassJaccardIndex`` (0.8: micro)
    * ``LRAgreement``: share of whole LR cells whose label is the most frequent class
      among their predicted pixels
    * ``loss``: cross entropy of the labels of whole LR cells and the mean of their
      pixels' log-probabilities, normalised (Workman et al. 2023, eq. 1). It needs no HR
      label, so that checkpoints may be chosen by it. Without LR labels it is the cross
      entropy of the HR labels
    """

    #: From the codes of the LR labels to classes.
    crosswalk: Crosswalk

    #: From the codes of the HR labels to classes.
    truth: Crosswalk

    def configure_models(self) -> None:
        """Load the crosswalks that the hyperparameters name."""
        h = self.hparams
        self.crosswalk = Crosswalk.load(h['legend'], h['target'], h['crosswalk'])
        self.truth = Crosswalk.load(
            h['truth_legend'] or h['target'], h['target'], h['truth_crosswalk']
        )

    @property
    def ignore_value(self) -> int:
        """What metrics take for a pixel without a label."""
        return -1

    def configure_metrics(self) -> None:
        """Initialize the performance metrics."""
        classes, ignored = len(self.crosswalk.target), self.ignore_value
        metrics = land_cover_metrics(classes, ignored)
        self.val_metrics = metrics.clone(prefix='val_')
        self.test_metrics = metrics.clone(prefix='test_')
        agreement = MulticlassAccuracy(classes, average='micro', ignore_index=-1)
        self.val_agreement, self.test_agreement = agreement, agreement.clone()

    @abstractmethod
    def log_probabilities(self, batch: Sample) -> Tensor:
        """Log-probabilities of every pixel, (B, classes, H, W).

        Args:
            batch: With ``image`` (B, C, H, W), the values as read from the file, and
                LR labels where they act as a prior.
        """

    def cells(self, batch: Sample) -> BatchCells:
        """The LR cells of a batch.

        Args:
            batch: With LR labels.

        Raises:
            InputError: If it has none.
        """
        return BatchCells.of(batch, self.crosswalk)

    def truth_index(self, batch: Sample) -> Tensor:
        """Class of every pixel from the HR labels, (B, H, W) int64, -1 = none.

        Args:
            batch: With ``mask``; where ``mask_valid`` is 0 there is no class.

        Raises:
            InputError: If it has no HR labels.
        """
        if 'mask' not in batch:
            raise InputError(
                'The batch has no mask (HR labels): give the dataset its truth'
            )
        height, width = batch['mask'].shape[-2:]
        codes = batch['mask'].reshape(-1, height, width)
        index = torch.from_numpy(self.truth.index(codes.cpu().numpy()))
        index = index.to(codes.device)
        if 'mask_valid' in batch:
            index = torch.where(batch['mask_valid'].view_as(index) > 0, index, -1)
        return index

    def validation_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Compare predictions with the labels of a batch.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        prediction = self._evaluate(batch, 'val')
        experiment: Any = getattr(self.logger, 'experiment', None)
        # Panels show LR labels too; a batch without them has no panels.
        drawn = batch_idx < 10 and 'lr_label' in batch
        if drawn and hasattr(experiment, 'add_figure'):
            one = {k: v[0].cpu() for k, v in batch.items() if isinstance(v, Tensor)}
            figure = self.plot(one | {'prediction': prediction[0]})
            experiment.add_figure(f'image/{batch_idx}', figure, self.global_step)
            plt.close(figure)

    def test_step(self, batch: Sample, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Compare predictions with the labels of a batch.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        self._evaluate(batch, 'test')

    def predict_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """Compute class probabilities.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            ``probabilities`` (B, classes, H, W), and what the batch has of ``bounds``,
            ``crs`` and ``transform``. torchgeo 0.10 has these in single precision:
            georeference from the queries (*batch_indices* of a prediction writer).
        """
        return self.prediction(self.log_probabilities(batch).exp(), batch)

    def prediction(self, probabilities: Tensor, batch: Sample) -> dict[str, Any]:
        """Probabilities, and where they belong.

        Args:
            probabilities: (B, classes, H, W).
            batch: What they were made of.
        """
        prediction: dict[str, Any] = {'probabilities': probabilities}
        for key in ('bounds', 'crs', 'transform'):
            if key in batch:
                prediction[key] = batch[key]
        return prediction

    def plot(
        self, sample: Sample, show_titles: bool = True, suptitle: str | None = None
    ) -> Figure:
        """Plot image, LR labels, HR labels if there are any, and prediction.

        Args:
            sample: One sample of the dataset; with ``prediction`` (class indices, as
                from ``argmax``), or it is predicted here if there is a fit.
            show_titles: Put a title above each panel.
            suptitle: Title of the figure.

        Returns:
            The figure.
        """
        target = self.crosswalk.target
        codes = torch.tensor([-1, *target.codes.tolist()])
        panels = dict(sample)
        if 'prediction' not in sample and self.predicts:
            batch = {
                k: v[None].to(self.device)
                for k, v in sample.items()
                if isinstance(v, Tensor)
            }
            with torch.no_grad():
                panels['prediction'] = self.log_probabilities(batch)[0].argmax(0)
        if 'prediction' in panels:
            panels['prediction'] = codes[panels['prediction'].cpu() + 1]
        if 'mask' in sample:
            index = torch.from_numpy(self.truth.index(sample['mask'].cpu().numpy()))
            panels['mask'] = codes[index + 1]
        legend = self.crosswalk.source
        return plot_sample(panels, legend, target, show_titles, suptitle)

    @property
    def predicts(self) -> bool:
        """Whether there is something to predict with already."""
        return True

    def _evaluate(self, batch: Sample, stage: str) -> Tensor:
        """Log metrics of a batch, and return predicted classes (B, H, W)."""
        log_p = self.log_probabilities(batch)
        prediction, size = log_p.argmax(1), len(log_p)
        if 'mask' in batch:
            metrics = getattr(self, f'{stage}_metrics')
            index = self.truth_index(batch)
            metrics(prediction, torch.where(index < 0, self.ignore_value, index))
            self.log_dict(metrics, batch_size=size)
            if 'lr_label' not in batch:
                total = F.nll_loss(
                    log_p.float().clamp(min=LEAST_LOG_PROBABILITY),
                    index,
                    ignore_index=-1,
                    reduction='sum',
                )
                pixels = (index >= 0).sum()
                self.log(
                    f'{stage}_loss',
                    total / pixels.clamp(min=1),
                    batch_size=int(pixels),
                    sync_dist=True,
                )
        if 'lr_label' not in batch:
            return prediction
        cells = self.cells(batch)
        usable = cells.usable.flatten(1)
        label = torch.where(usable, cells.label.flatten(1), -1)
        count = label.shape[1]
        hot = F.one_hot(prediction, len(self.crosswalk.target)).movedim(-1, 1)
        votes = aggregate_regions(hot, cells.region, count, 'sum', cells.valid)
        agreement = getattr(self, f'{stage}_agreement')
        agreement(votes.argmax(2), label)
        self.log(f'{stage}_LRAgreement', agreement, batch_size=size)
        floor = log_p.float().clamp(min=LEAST_LOG_PROBABILITY)
        mean = aggregate_regions(floor, cells.region, count, 'mean', cells.valid)
        loss = F.cross_entropy(mean[usable], label[usable], reduction='sum')
        self.log(
            f'{stage}_loss',
            loss / usable.sum().clamp(min=1),
            batch_size=int(usable.sum()),
            sync_dist=True,
        )
        return prediction


def land_cover_metrics(classes: int, ignore_index: int = -1) -> MetricCollection:
    """Metrics of maps, by the names of torchgeo and of this field.

    Args:
        classes: Number of classes.
        ignore_index: Value of pixels that do not count.

    Returns:
        The metrics; those of the same sums are computed once.
    """
    every: dict[str, Metric | MetricCollection] = {}
    for prefix, average in (('Overall', 'micro'), ('Average', 'macro')):
        options: dict[str, Any] = {'average': average, 'ignore_index': ignore_index}
        every |= {
            f'{prefix}Accuracy': MulticlassAccuracy(classes, **options),
            f'{prefix}Precision': MulticlassPrecision(classes, **options),
            f'{prefix}Recall': MulticlassRecall(classes, **options),
            f'{prefix}F1Score': MulticlassF1Score(classes, **options),
            f'{prefix}JaccardIndex': MulticlassJaccardIndex(classes, **options),
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


def warn_of_scaled_values(image: Tensor, image_dtype: str | None) -> None:
    """Warn where values are between 0 and 1, and not what their declared type stores.

    Args:
        image: Images of the first batch.
        image_dtype: Data type of the imagery's files, as declared.

    Raises:
        InputError: If there is no such data type.
    """
    if not image.is_floating_point() or image_dtype is None:
        return
    try:
        kind = np.dtype(image_dtype)
    except TypeError:
        raise InputError(
            f"image_dtype={image_dtype!r} is no data type of files, such as 'uint8'"
        ) from None
    if not np.issubdtype(kind, np.integer):
        return
    values = image[image.isfinite()]
    if not values.numel() or values.amin() < 0 or values.amax() > 1:
        return
    if (values.frac() > 0).any():
        rank_zero_warn(
            f'The first batch has values between 0 and 1, and image_dtype is '
            f'{image_dtype}: hand over the values of the files as they are, or give '
            'image_dtype=None'
        )
