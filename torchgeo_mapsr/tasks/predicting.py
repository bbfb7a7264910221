# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Everything that needs no training: prediction, validation, test."""

from typing import Any, Literal

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from .._compat import Sample
from ..datasets.crosswalk import Crosswalk
from ..datasets.plot import plot_sample
from ..errors import InputError
from ..models.classifier import Classifier
from ..models.tokens import Tokens
from ..transforms import aggregate_regions
from .cells import BatchCells
from .evidence import batch_evidence
from .frozen import FrozenTask
from .saved import from_bytes, to_bytes


class PredictingTask(FrozenTask):
    """A task that predicts with a classifier on top of a frozen backbone.

    Metrics, with the prefix ``val_`` or ``test_``:

    * ``OverallAccuracy``, ``mIoU`` (macro) and ``FWIoU`` (weighted), if the batches
      have HR labels (``mask``)
    * ``LRAgreement``: share of whole LR cells whose label is the most frequent class
      among their predicted pixels
    * ``loss``: cross entropy of the probe on whole LR cells
    """

    #: What was fitted; None before. ``classifier.save`` exports it.
    classifier: Classifier | None

    def configure_models(self) -> None:
        """Make the backbone, and the crosswalks that the hyperparameters name."""
        super().configure_models()
        h = self.hparams
        self.crosswalk = Crosswalk.load(h['legend'], h['target'], h['crosswalk'])
        self.truth = Crosswalk.load(
            h['truth_legend'] or h['target'], h['target'], h['truth_crosswalk']
        )
        self.classifier = None

    def configure_metrics(self) -> None:
        """Initialize the performance metrics."""
        classes = len(self.crosswalk.target)

        def jaccard(average: Literal['macro', 'weighted']) -> MulticlassJaccardIndex:
            return MulticlassJaccardIndex(classes, average=average, ignore_index=-1)

        accuracy = MulticlassAccuracy(classes, average='micro', ignore_index=-1)
        metrics = MetricCollection(
            {
                'OverallAccuracy': accuracy,
                'mIoU': jaccard('macro'),
                'FWIoU': jaccard('weighted'),
            }
        )
        self.val_metrics = metrics.clone(prefix='val_')
        self.test_metrics = metrics.clone(prefix='test_')
        self.val_agreement, self.test_agreement = accuracy.clone(), accuracy.clone()

    def forward(self, image: Tensor, evidence: Tensor | None = None) -> Tensor:
        """Classify every pixel.

        Args:
            image: (B, C, H, W), the values as read from the file.
            evidence: What LR labels say, (B, classes, H, W).

        Returns:
            Log-probabilities, (B, classes, H, W).

        Raises:
            InputError: If nothing was fitted yet.
        """
        fitted, tokens = self._fitted, self.tokens(image)
        # Differences of large scores would be lost in half precision.
        with torch.autocast(self.device.type, enabled=False):
            return fitted.log_probabilities(tokens, evidence)

    def validation_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Compare predictions with the labels of a batch; nothing before the fit.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        if self.trainer.state.fn == 'fit' and self.classifier is None:
            return
        prediction = self._evaluate(batch, 'val')
        experiment: Any = getattr(self.logger, 'experiment', None)
        if batch_idx < 10 and hasattr(experiment, 'add_figure'):
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
        log_p, _, _ = self._score(batch)
        found: dict[str, Any] = {'probabilities': log_p.exp()}
        for key in ('bounds', 'crs', 'transform'):
            if key in batch:
                found[key] = batch[key]
        return found

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
        if 'prediction' not in sample and self.classifier is not None:
            batch = {
                k: v[None].to(self.device)
                for k, v in sample.items()
                if isinstance(v, Tensor)
            }
            with torch.no_grad():
                log_p, _, _ = self._score(batch)
            panels['prediction'] = log_p[0].argmax(0)
        if 'prediction' in panels:
            panels['prediction'] = codes[panels['prediction'].cpu() + 1]
        if 'mask' in sample:
            index = torch.from_numpy(self.truth.index(sample['mask'].cpu().numpy()))
            panels['mask'] = codes[index + 1]
        legend = self.crosswalk.source
        return plot_sample(panels, legend, target, show_titles, suptitle)

    def get_extra_state(self) -> dict[str, Any]:
        """What was learned: the backbone's calibration, and the classifier."""
        fitted = self.classifier
        content = to_bytes(fitted) if fitted is not None else None
        return {**super().get_extra_state(), 'classifier': content}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_extra_state` returned.

        Args:
            state: That.
        """
        super().set_extra_state(state)
        content = state['classifier']
        self.classifier = None
        if content is not None:
            self.classifier = from_bytes(content, self.backbone.calibration())

    @property
    def _fitted(self) -> Classifier:
        """The classifier, on the device of this module."""
        if self.classifier is None:
            raise InputError(
                'There is no fit to predict with: fit the task first, load a '
                'checkpoint of a fitted one (ckpt_path), or give it a saved fit (model)'
            )
        return self.classifier.to(self.device)

    def _score(self, batch: Sample) -> tuple[Tensor, Tokens, BatchCells | None]:
        """Log-probabilities of every pixel, tokens, and LR cells if there are any."""
        fitted, tokens = self._fitted, self.tokens(batch['image'])
        cells = BatchCells.of(batch, self.crosswalk) if 'lr_label' in batch else None
        evidence = None
        # Differences of large scores would be lost in half precision.
        with torch.autocast(self.device.type, enabled=False):
            if cells is not None and fitted.prior_weight > 0:
                evidence = batch_evidence(
                    cells.label, cells.region, cells.share, fitted.frequency
                )
            return fitted.log_probabilities(tokens, evidence), tokens, cells

    def _evaluate(self, batch: Sample, stage: str) -> Tensor:
        """Log metrics of a batch, and return predicted classes (B, H, W)."""
        log_p, tokens, cells = self._score(batch)
        prediction, size = log_p.argmax(1), len(log_p)
        if 'mask' in batch:
            index = self.truth.index(batch['mask'].cpu().numpy())
            truth = torch.from_numpy(index).to(log_p.device).view_as(prediction)
            if 'mask_valid' in batch:
                valid = batch['mask_valid'].view_as(prediction) > 0
                truth = torch.where(valid, truth, -1)
            metrics = getattr(self, f'{stage}_metrics')
            metrics(prediction, truth)
            self.log_dict(metrics, batch_size=size)
        if cells is None:
            return prediction
        usable = cells.usable.flatten(1)
        label = torch.where(usable, cells.label.flatten(1), -1)
        hot = F.one_hot(prediction, len(self.crosswalk.target)).movedim(-1, 1)
        votes = aggregate_regions(hot, cells.region, label.shape[1], 'sum', cells.valid)
        agreement = getattr(self, f'{stage}_agreement')
        agreement(votes.argmax(2), label)
        self.log(f'{stage}_LRAgreement', agreement, batch_size=size)
        # A class that the fit never saw costs much, but not all.
        logits = self._fitted.probe(cells.features(tokens)[usable]).clamp(min=-30)
        loss = F.cross_entropy(logits, label[usable], reduction='sum')
        self.log(
            f'{stage}_loss',
            loss / usable.sum().clamp(min=1),
            batch_size=int(usable.sum()),
            sync_dist=True,
        )
        return prediction
