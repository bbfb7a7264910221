# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What all tasks that map land cover have in common."""

import warnings
from abc import abstractmethod
from dataclasses import fields
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import MetricCollection

from .._compat import BaseTask, Sample
from ..arguments import plain
from ..datasets.imagery_chips import ImageryChips
from ..datasets.label_check import check_codes
from ..datasets.legends.crosswalk import Crosswalk
from ..datasets.legends.legend import Legend
from ..datasets.mosaic import LRHRPairs
from ..datasets.plot import check_single, plot_sample
from ..errors import InputError
from ..samplers.lattice import pairs_of
from ..transforms import aggregate_regions
from .cells import BatchCells, valid_pixels
from .classes import Classes
from .metrics import land_cover_metrics

# Least log-probability that counts in `loss`: one pixel of a class that the fit never saw
# (probability 0) would make the whole sum infinite.
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
    * ``LRAgreement``: share of LR cells whose label is the most frequent class among
      their predicted pixels
    * ``loss``: cross entropy of the labels of LR cells and the mean of their pixels'
      log-probabilities, normalised (Workman et al. 2023, eq. 1). It needs no HR label,
      so that checkpoints may be chosen by it. Without LR labels it is the cross entropy
      of the HR labels

    In both of the last a cell that a chip cuts weighs by its visible share, so that cells
    count alike however chips lie, and chips may be smaller than a cell.
    """

    #: Whether batches of two domains, source and target, train it.
    takes_domains: ClassVar[bool] = False

    #: From the codes of the LR labels to classes.
    crosswalk: Crosswalk

    #: From the codes of the HR labels to classes.
    truth: Crosswalk

    def configure_models(self) -> None:
        """Load the crosswalks that the hyperparameters name."""
        self.hparams.update(plain(self.hparams))
        names = (field.name for field in fields(Classes))
        classes = Classes(**{name: self.hparams[name] for name in names})
        self.crosswalk, self.truth = classes.load()

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
        #: Whether labels were compared, for each stage and the labels that its loss is of.
        self._compared: dict[tuple[str, str], bool] = {}

    def on_fit_start(self) -> None:
        """Spare the user a warning about parts that are meant to be in eval mode."""
        message = r'Found \d+ module\(s\) in eval mode'
        warnings.filterwarnings('ignore', message=message)

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        """Refuse batches of two domains where nothing is done with them.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
        """
        if not self.takes_domains:
            check_domains(self, batch)

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
        return torch.where(valid_pixels(batch, 'mask'), index, -1)

    def validation_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Compare predictions with the labels of a batch.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        prediction = self._evaluate(batch, 'val', dataloader_idx)
        experiment: Any = getattr(self.logger, 'experiment', None)
        # Panels show LR labels too; a batch without them has no panels.
        drawn = batch_idx < 10 and 'lr_label' in batch
        if drawn and hasattr(experiment, 'add_figure'):
            one = {k: v[0].cpu() for k, v in batch.items() if isinstance(v, Tensor)}
            figure = self.plot(one | {'prediction': prediction[0]})
            experiment.add_figure(f'image/{batch_idx}', figure, self.global_step)
            plt.close(figure)

    def on_validation_epoch_end(self) -> None:
        """Say so where there was nothing to compare with.

        Logging metrics is left to Lightning; torchgeo 0.10 does so here.
        """
        self._tell_of_no_labels('val')

    def on_test_epoch_end(self) -> None:
        """Say so where there was nothing to compare with, as for validation."""
        self._tell_of_no_labels('test')

    def _tell_of_no_labels(self, stage: str) -> None:
        for kind, side, measures in (
            ('LR', self.crosswalk, f'{stage}_loss and {stage}_LRAgreement'),
            ('HR', self.truth, f'{stage}_loss, {stage}_mIoU and others'),
        ):
            some = self._compared.pop((stage, kind), None)
            # The few batches of a sanity check may lack labels by chance.
            if some is None or self.trainer.sanity_checking:
                continue
            if not self.trainer.strategy.reduce_boolean_decision(some, all=False):
                rank_zero_warn(
                    f'No pixel of the chips has an {kind} label of a class of '
                    f"'{side.target.name}', so {measures} are no numbers: see that the "
                    f"labels overlap, and are codes of '{side.source.name}'"
                )

    def test_step(self, batch: Sample, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Compare predictions with the labels of a batch.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        self._evaluate(batch, 'test', dataloader_idx)

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

        Raises:
            InputError: *sample* is a batch.
        """
        check_single(sample)
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

    def _metrics(self, stage: str, dataloader_idx: int) -> MetricCollection:
        """Metrics of one of several loaders: each has sums of its own."""
        first: MetricCollection = getattr(self, f'{stage}_metrics')
        if not dataloader_idx:
            return first
        name = f'{stage}_metrics_{dataloader_idx}'
        if not hasattr(self, name):
            with torch.inference_mode(False):
                metrics = first.clone()
                metrics.reset()
            setattr(self, name, metrics)
            # Lightning collects a task's metrics once; None makes it look again.
            self._metric_attributes = None
        later: MetricCollection = getattr(self, name)
        return later

    def _evaluate(self, batch: Sample, stage: str, dataloader_idx: int) -> Tensor:
        """Log metrics of a batch, and return predicted classes (B, H, W)."""
        log_p = self.log_probabilities(batch)
        prediction, size = log_p.argmax(1), len(log_p)
        if 'mask' in batch:
            metrics = self._metrics(stage, dataloader_idx)
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
                self._note_compared(stage, 'HR', bool(pixels))
        if 'lr_label' not in batch:
            return prediction
        cells = self.cells(batch)
        label = cells.label.flatten(1)
        count = label.shape[1]
        visible = torch.where(label >= 0, cells.share.flatten(1), 0).float()
        seen = visible > 0
        hot = F.one_hot(prediction, len(self.crosswalk.target)).movedim(-1, 1)
        votes = aggregate_regions(hot, cells.region, count, 'sum', cells.valid)
        agreeing = (votes.argmax(2) == label)[seen]
        floor = log_p.float().clamp(min=LEAST_LOG_PROBABILITY)
        mean = aggregate_regions(floor, cells.region, count, 'mean', cells.valid)
        loss = F.cross_entropy(mean[seen], label[seen], reduction='none')
        visible = visible[seen]
        weight = visible.sum()
        least = weight.clamp(min=torch.finfo(weight.dtype).tiny)
        self.log_dict(
            {
                f'{stage}_LRAgreement': (agreeing * visible).sum() / least,
                f'{stage}_loss': (loss * visible).sum() / least,
            },
            # The weight of the batch in the mean; it need not be an integer.
            batch_size=float(weight),  # type: ignore[arg-type]
            sync_dist=True,
        )
        self._note_compared(stage, 'LR', bool(weight > 0))
        return prediction

    def _note_compared(self, stage: str, kind: str, some: bool) -> None:
        self._compared[stage, kind] = self._compared.get((stage, kind), False) or some


def pairs_of_loader(loader: Any) -> tuple[ImageryChips, ...]:
    """Imagery that a loader of this package's chips reads; none of others.

    Args:
        loader: A loader of a trainer.
    """
    dataset = getattr(loader, 'dataset', None)
    return pairs_of(dataset) if isinstance(dataset, ImageryChips | LRHRPairs) else ()


def check_labels(loader: Any, legend: Legend) -> None:
    """Check the labels that a loader's chips have as ``torchgeo-mapsr map`` does.

    Args:
        loader: A loader of a trainer; nothing is known of other datasets' labels.
        legend: What the codes mean.

    Raises:
        InputError: The legend has few of the codes.

    Warns:
        InputWarning: Labels look resampled, or a class is their no-data value.
    """
    pairs = pairs_of_loader(loader)
    labels = {raster.number: raster for pair in pairs for raster in pair.lr_labels}
    if labels:
        grids = [pair.imagery.geobox for pair in pairs]
        check_codes(tuple(labels.values()), legend, grids)


def check_domains(task: object, batch: Sample) -> None:
    """Make sure that a batch is of one domain.

    Args:
        task: What is to be trained.
        batch: A batch.

    Raises:
        InputError: If it has a source and a target.
    """
    if 'image' not in batch and {'source', 'target'} & set(batch):
        raise InputError(
            f'{type(task).__name__} trains on one set of imagery, not on source and '
            'target: give it PairDataModule, or another task'
        )


def check_averages(trainer: Trainer) -> None:
    """Refuse precisions in which a moving average stands still.

    Args:
        trainer: The trainer.

    Raises:
        InputError: Its weights are in half precision: a step of a thousandth is rounded
            away there.
    """
    if str(trainer.precision) in ('16-true', 'bf16-true'):
        raise InputError(
            f"precision='{trainer.precision}' would round the steps of moving averages "
            "away: give the trainer '32-true' or a mixed one"
        )


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
