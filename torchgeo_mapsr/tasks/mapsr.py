# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""MapSR as a LightningModule."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from .. import __version__
from .._compat import Sample
from ..errors import InputError
from ..models.head.fit import CAUTIOUS, FitOptions, fit_classifier
from ..models.head.probe import ABSENT, LinearProbe
from .cells import BatchCells
from .collect import Collected, Collector
from .predicting import PredictingTask
from .saved import load_for

# Pixels to draw from a batch where nobody knows how many there will be.
_PIXELS = 1024


class MapSRTask(PredictingTask):
    """Land cover at the imagery's resolution, from LR labels (MapSR).

    ``fit`` looks at every chip once, finds the mean features of the LR cells, and fits
    a :class:`~torchgeo_mapsr.models.head.head.Classifier` to them at the end of the
    epoch: a linear probe, and class prompts from the pixels where the probe agrees
    with the labels. The probe is solved by L-BFGS; with ``solver='sgd'`` it is trained
    on one batch after another instead, for as many epochs as the trainer says. No HR
    label takes part. Validation, test and prediction need no training.

    Batches are those of :class:`~torchgeo_mapsr.datasets.LRHRPair`; prediction needs
    ``image`` only, and uses LR labels where there are any. A cell counts where a chip
    shows all of it: make chips several cells wide.

    Args:
        backbone: Spec of the frozen backbone, see
            :func:`~torchgeo_mapsr.models.backbones.create.create_backbone`.
        weights: Local weight file of the backbone.
        bands: Bands of the imagery.
        image_dtype: Data type of the imagery's files, by which values are scaled where
            the weights expect 0..1; None if they are between 0 and 1 already.
        legend: Legend of the LR labels, a name or a file.
        target: Legend of the map.
        crosswalk: Name or file of the crosswalk between them.
        truth_legend: Legend of ``mask``, the HR labels; *target* by default.
        truth_crosswalk: Name or file of the crosswalk from it to *target*.
        model: A saved fit to predict with, see :meth:`save`.
        solver: How the probe is fitted.
        lr: Learning rate of ``sgd``.
        score: What scores a pixel, see
            :class:`~torchgeo_mapsr.models.head.head.Classifier`.
        balance: See :class:`~torchgeo_mapsr.models.head.fit.FitOptions`, as the next five.
        strength: L2 strength of the probe. By default it is chosen by held-out LR
            cells, or a cautious one for ``sgd``.
        prior: Weight of the LR labels at prediction.
        prompts: Prompts a class.
        confidence_quantile: Quantile of the probe's confidence that prompts need.
        centre: Whether cosine similarity is seen from the mean of all features.
        upsampler: How values get from tokens to pixels.
        max_pixels: Pixels that prompts are made from, at most.
        calibration_chips: Chips that the backbone's statistics are found from: the
            first ones of the training data.
        seed: Seed of the drawn pixels, of folds and clusters.
        noise: How cells whose label seems wrong weigh less, see
            :class:`~torchgeo_mapsr.models.head.fit.FitOptions`, as the next; of ``lbfgs``.
        class_weight: How classes weigh in the fit.
    """

    ignore = 'model'

    mean: Tensor
    scale: Tensor
    count: Tensor

    def __init__(
        self,
        backbone: str = 'rcf',
        weights: str | None = None,
        bands: int = 4,
        image_dtype: str | None = 'uint8',
        legend: str = 'nlcd',
        target: str = 'land-cover-4',
        crosswalk: str | None = None,
        truth_legend: str | None = None,
        truth_crosswalk: str | None = None,
        model: str | Path | None = None,
        solver: Literal['lbfgs', 'sgd'] = 'lbfgs',
        lr: float = 1e-2,
        score: Literal['fusion', 'probe', 'lda', 'cosine'] = 'fusion',
        balance: float = 0.5,
        strength: float | None = None,
        prior: float | None = None,
        prompts: int = 1,
        confidence_quantile: float = 0.0,
        centre: bool = False,
        upsampler: Literal['bilinear', 'bilateral'] = 'bilinear',
        max_pixels: int = 60_000,
        calibration_chips: int = 16,
        seed: int = 0,
        noise: Literal['none', 'sce', 'small-loss'] = 'none',
        class_weight: Literal['power', 'log'] = 'power',
    ) -> None:
        super().__init__()
        if solver == 'sgd' and (noise != 'none' or class_weight != 'power'):
            raise InputError("noise and class_weight need solver='lbfgs'")
        if model is not None:
            self.classifier = load_for(self.backbone, self.crosswalk.target, model)
            self.calibrated = True

    def configure_models(self) -> None:
        """Make the backbone and a probe that says nothing yet."""
        super().configure_models()
        features, classes = sum(self.backbone.channels), len(self.crosswalk.target)
        # Of standardised features, as the buffers say. Only sgd trains it.
        self.probe = nn.Linear(features, classes)
        nn.init.zeros_(self.probe.weight)
        nn.init.zeros_(self.probe.bias)
        self.register_buffer('mean', torch.zeros(features))
        self.register_buffer('scale', torch.zeros(features))
        self.register_buffer('count', torch.zeros(classes))
        self._collector: Collector | None = None
        self._trains = self.hparams['solver'] == 'sgd'
        if self._trains:
            # Also statistics of features want more than the first batch.
            self.calibrated = False

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise the probe, and nothing but it.

        Returns:
            The optimiser. With ``lbfgs`` it has nothing to do but to count steps:
            Lightning saves no checkpoint of step zero.
        """
        if self._trains:
            return torch.optim.Adam(self.probe.parameters(), lr=self.hparams['lr'])
        return torch.optim.SGD(self.probe.parameters(), lr=0.0)

    def on_train_start(self) -> None:
        """Begin to collect."""
        expected, ranks = self.trainer.num_training_batches, self.trainer.world_size
        pixels = _PIXELS
        if isinstance(expected, int):
            pixels = -(-self.hparams['max_pixels'] // max(expected * ranks, 1))
        self._waiting = []
        self._collector = Collector(
            pixels, self.hparams['seed'], self.trainer.global_rank, ranks
        )
        self._first_epoch = self.current_epoch
        self._prior: float | None = self.hparams['prior']
        self._sigma: float | None = None

    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Collect LR cells and pixels, and compute the loss of the probe for ``sgd``.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            The loss tensor; zero where no gradient is wanted.
        """
        assert self._collector is not None
        chips = self.hparams['calibration_chips']
        features, label = [], []
        for ready in self.calibrate(batch, batch_idx, chips):
            tokens = self.tokens(ready['image'])
            cells = BatchCells.of(ready, self.crosswalk)
            means = cells.features(tokens)
            if self.current_epoch == self._first_epoch:
                self._collector.add(ready, cells, means, tokens)
            features.append(means[cells.usable.flatten(1)])
            label.append(cells.label[cells.usable])
        if not self._trains or not features:
            return 0 * (self.probe.weight.sum() + self.probe.bias.sum())
        if not self.scale.any():
            pixels = self._collector.collected().pixels.features.double()
            scale, mean = torch.std_mean(pixels, dim=0)
            self.mean.copy_(mean)
            self.scale.copy_(torch.where(scale > 1e-6 * scale.max(), scale, 1.0))
        loss = self._loss(torch.cat(features), torch.cat(label))
        self.log('train_loss', loss, batch_size=len(batch['image']))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        """Fit the classifier at the end of an epoch, before it is validated.

        Args:
            outputs: What :meth:`training_step` returned.
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
        """
        if self.trainer.is_last_batch:
            self._fit()

    def on_train_epoch_end(self) -> None:
        """L-BFGS has found the optimum: another epoch would show the same cells."""
        if not self._trains:
            self.trainer.should_stop = True

    def _loss(self, features: Tensor, label: Tensor) -> Tensor:
        """What :func:`fit_probe` minimises, estimated from some whole cells.

        The weights of the classes go by the cells seen so far.
        """
        classes = len(self.count)
        self.count += torch.bincount(label, minlength=classes)
        weight = self.count.clamp(min=1) ** -self.hparams['balance']
        weight = weight * self.count.sum() / (self.count * weight).sum().clamp(min=1)
        logits = self.probe((features - self.mean) / self.scale).float()
        loss = F.cross_entropy(logits, label, reduction='none') * weight[label]
        penalty = (self._strength or 0) * features.shape[1] / 2
        squares = self.probe.weight.square().sum()
        return loss.sum() / max(len(label), 1) + penalty * squares

    @property
    def _strength(self) -> float | None:
        """L2 strength of the probe; None to choose it."""
        given: float | None = self.hparams['strength']
        return CAUTIOUS if given is None and self._trains else given

    def _fit(self) -> None:
        """Fit the classifier to what all processes have collected."""
        assert self._collector is not None
        collected = self._collector.collected()
        h, target = self.hparams, self.crosswalk.target
        options = FitOptions(
            score=h['score'],
            balance=h['balance'],
            strength=self._strength,
            prior=self._prior,
            prior_sigma=self._sigma,
            prompts=h['prompts'],
            confidence_quantile=h['confidence_quantile'],
            centre=h['centre'],
            seed=h['seed'],
            noise=h['noise'],
            class_weight=h['class_weight'],
        )
        probe = None
        if self._trains:
            weight, bias = (p.detach().cpu() for p in self.probe.parameters())
            bias = torch.where(self.count.cpu() > 0, bias, ABSENT)
            probe = LinearProbe(weight, bias).unscale(self.mean.cpu(), self.scale.cpu())
        fitted = fit_classifier(
            collected.cells, collected.pixels, target, options, probe
        )
        # The cells are those of the first epoch, and so is the weight they ask for.
        self._prior, self._sigma = fitted.prior_weight, fitted.prior_sigma
        fitted = replace(
            fitted,
            calibration=self.backbone.calibration(),
            provenance={**fitted.provenance, **self._provenance(collected)},
        )
        # On another machine the last bits may differ.
        self.classifier = self.trainer.strategy.broadcast(fitted)

    def _provenance(self, collected: Collected) -> dict[str, Any]:
        """Where the fit comes from, as JSON types."""
        crosswalk, backbone = self.crosswalk, self.backbone
        unknown = collected.unknown(crosswalk)
        if unknown:
            rank_zero_warn(
                f"Codes that the legend '{crosswalk.source.name}' does not have were "
                f'ignored: {", ".join(f"{c} ({n} cells)" for c, n in unknown.items())}'
            )
        return {
            'backbone': {
                'spec': backbone.spec,
                'bands': self.hparams['bands'],
                'channels': sum(backbone.channels),
                'weights': backbone.weights_digest(),
            },
            'labels': {
                'legend': crosswalk.source.name,
                'target': crosswalk.target.name,
                'crosswalk': crosswalk.name,
                'reference': crosswalk.reference,
                'cells': len(collected.cells),
                'cells_used': int(collected.cells.usable.sum()),
                'unknown_codes': {str(code): n for code, n in unknown.items()},
            },
            'solver': self.hparams['solver'],
            'upsampler': self.hparams['upsampler'],
            'seed': self.hparams['seed'],
            'versions': {
                'torchgeo-mapsr': __version__,
                'torchgeo': version('torchgeo'),
                'torch': torch.__version__,
            },
        }
