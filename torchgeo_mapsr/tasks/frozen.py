# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Tasks on top of a frozen backbone."""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._compat import Sample
from ..errors import InputError
from ..models.backbones.backbone import Backbone
from ..models.backbones.create import create_backbone
from ..models.tokens.bilateral import JointBilateral
from ..models.tokens.tokens import Tokens
from .land_cover import LandCoverTask

_BACKBONE = 'backbone.'

# The guide of the joint bilateral upsampler has this standard deviation in each band:
# that of a photograph whose values are between 0 and 1.
_CONTRAST = 0.2


class FrozenTask(LandCoverTask):
    """A task whose backbone never changes.

    torchgeo's ``freeze_backbone`` leaves the backbone in training mode, where batch
    statistics drift, and its weights in the optimiser and in every checkpoint. Here it
    stays in evaluation mode and outside of both: a checkpoint holds what the backbone
    has learned from the imagery (:meth:`Backbone.calibration`) and is made whole by
    the hyperparameters.
    """

    backbone: Backbone

    #: Whether the backbone knows the imagery.
    calibrated: bool

    def configure_models(self) -> None:
        """Make the backbone that the hyperparameters name."""
        super().configure_models()
        self.backbone = create_backbone(
            self.hparams['backbone'],
            self.hparams['bands'],
            self.hparams['weights'],
            self.hparams['image_dtype'],
        )
        self.calibrated = not self.backbone.needs_calibration
        self._waiting: list[Sample] = []
        self.register_load_state_dict_post_hook(_forgive)

    def on_fit_start(self) -> None:
        """Spare the user a warning about what is meant to be so."""
        message = r'Found \d+ module\(s\) in eval mode'
        warnings.filterwarnings('ignore', message=message)

    @torch.no_grad()
    def tokens(self, image: Tensor) -> Tokens:
        """Features of a batch, under the upsampler that the hyperparameters name.

        Args:
            image: (B, C, H, W), the values as read from the file.

        Raises:
            InputError: If the image has another number of bands.
        """
        self._check(image)
        tokens = self.backbone(image).to(torch.float32)
        if self.hparams['upsampler'] == 'bilateral':
            spread = image.float().flatten(2).std(2).clamp(min=1e-6)[..., None, None]
            tokens = tokens.with_upsampler(JointBilateral(image / spread * _CONTRAST))
        return tokens

    def calibrate(self, batch: Sample, batch_idx: int, chips: int) -> list[Sample]:
        """Hold batches back until there are enough for the backbone to learn from.

        Args:
            batch: The next batch of the training data.
            batch_idx: Its number.
            chips: Images that are enough; the epoch's end is enough in any case.

        Returns:
            Batches that can be worked on now: none, all that were held back, or, once
            the backbone is calibrated, the one.
        """
        self._check(batch['image'])
        if self.calibrated:
            return [batch]
        self._waiting.append(batch)
        enough = sum(len(waiting['image']) for waiting in self._waiting) >= chips
        if not enough and batch_idx + 1 < self.trainer.num_training_batches:
            return []
        ready, self._waiting = self._waiting, []
        if self.backbone.needs_calibration:
            self.backbone.calibrate(_chips(ready))
        # Processes see different images, and must not have different backbones.
        shared = self.trainer.strategy.broadcast(self.backbone.calibration())
        self.backbone.load_calibration(shared)
        self.calibrated = True
        return ready

    def _check(self, image: Tensor) -> None:
        """Refuse images (B, C, H, W) of another number of bands."""
        bands, wanted = image.shape[1], self.hparams['bands']
        if bands != wanted:
            raise InputError(
                f'The imagery has {bands} bands and the task was made for {wanted}: '
                f'give the task bands={bands}, or choose bands of the imagery'
            )

    def state_dict(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Everything but the backbone; see :meth:`torch.nn.Module.state_dict`."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        prefix = kwargs.get('prefix', '') + _BACKBONE
        for name in [name for name in state if name.startswith(prefix)]:
            del state[name]
        return state

    def get_extra_state(self) -> dict[str, Any]:
        """What the backbone has learned, where it has learned anything."""
        known = self.calibrated
        return {'calibration': self.backbone.calibration() if known else None}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_extra_state` returned.

        Args:
            state: That.
        """
        if state['calibration'] is not None:
            self.backbone.load_calibration(state['calibration'])
            self.calibrated = True


class _Missing(NamedTuple):
    """What :func:`torch.nn.Module.load_state_dict` hands to its hooks."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def _forgive(module: nn.Module, keys: _Missing) -> None:
    """A checkpoint lacks the backbone, and is whole."""
    keys.missing_keys[:] = [
        name for name in keys.missing_keys if not name.startswith(_BACKBONE)
    ]


def _chips(batches: list[Sample]) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and their validity, as a backbone's calibration takes them."""
    for batch in batches:
        for i, image in enumerate(batch['image']):
            valid = torch.ones(image.shape[1:], dtype=torch.bool)
            if 'mask_valid' in batch:
                valid = batch['mask_valid'][i].reshape(image.shape[1:]) > 0
            yield image, valid
