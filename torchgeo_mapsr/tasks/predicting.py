# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Everything that needs no training: a classifier on a frozen backbone."""

from typing import Any

import torch
from torch import Tensor

from .._compat import Sample
from ..errors import InputError
from ..models.head.head import Classifier
from .evidence import batch_evidence
from .frozen import FrozenTask
from .saved import from_bytes, to_bytes


class PredictingTask(FrozenTask):
    """A task that predicts with a classifier on top of a frozen backbone.

    Its metrics are those of :class:`~torchgeo_mapsr.tasks.land_cover.LandCoverTask`.
    """

    #: What was fitted; None before. ``classifier.save`` exports it.
    classifier: Classifier | None

    def configure_models(self) -> None:
        """Make the backbone; nothing is fitted yet."""
        super().configure_models()
        self.classifier = None

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
        fitted = self._fitted
        projection = fitted.projection
        plain = self.hparams['upsampler'] == 'bilinear'
        # Differences of large scores would be lost in half precision.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            if projection and plain and self.backbone.fused:
                self._check(image)
                scores = self.backbone.project(
                    image, projection.weight, projection.bias
                )
                return _logarithm(fitted.decide(scores, evidence))
        tokens = self.tokens(image)
        with torch.autocast(self.device.type, enabled=False):
            return _logarithm(fitted.probabilities(tokens, evidence))

    def log_probabilities(self, batch: Sample) -> Tensor:
        """Classify every pixel, with the LR labels as a prior where there are any.

        Args:
            batch: With ``image`` (B, C, H, W).

        Returns:
            Log-probabilities, (B, classes, H, W).

        Raises:
            InputError: If nothing was fitted yet.
        """
        evidence = None
        if 'lr_label' in batch and self._fitted.prior_weight > 0:
            cells = self.cells(batch)
            with torch.autocast(self.device.type, enabled=False):
                evidence = batch_evidence(
                    cells.label,
                    cells.region,
                    cells.share,
                    self._fitted.frequency,
                    self._fitted.prior_sigma,
                )
        return self(batch['image'], evidence)

    @property
    def predicts(self) -> bool:
        """Whether there is a fit to predict with."""
        return self.classifier is not None

    def validation_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Compare predictions with the labels of a batch; nothing before the fit.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        if self.predicts or self.trainer.state.fn != 'fit':
            super().validation_step(batch, batch_idx, dataloader_idx)

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


def _logarithm(probabilities: Tensor) -> Tensor:
    """Finite where a class has no probability."""
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
