# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Frozen backbones: what they have in common."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..tokens.tokens import Tokens


class Backbone(nn.Module, ABC):
    """A frozen map from images to token grids.

    :func:`~torchgeo_mapsr.models.backbones.create.create_backbone` hands it out in evaluation
    mode, where it stays whatever module it becomes part of (batch statistics do not
    drift), and with frozen parameters, so that it belongs in no optimiser.

    Args:
        bands: Bands that an image must have; None for any number.
        channels: Features of each level, D_l.
        strides: Pixels a token of each level.
        halo: Pixels at an image's border whose features miss context. What lies
            within it changes most when the image is cut elsewhere.
    """

    #: Text that makes this backbone again, set by
    #: :func:`~torchgeo_mapsr.models.backbones.create.create_backbone`.
    spec: str = ''

    def __init__(
        self,
        bands: int | None,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        halo: int = 0,
    ) -> None:
        super().__init__()
        self.bands = bands
        self.channels = channels
        self.strides = strides
        self.halo = halo

    @abstractmethod
    def forward(self, image: Tensor) -> Tokens:
        """Features of a batch.

        Args:
            image: (B, C, H, W) float32, the values as read from the file.

        Returns:
            Its tokens. Where linear scores have a shorter way than through features,
            they are :class:`~torchgeo_mapsr.models.tokens.tokens.LazyTokens`.
        """

    @property
    def needs_calibration(self) -> bool:
        """Whether :meth:`calibrate` must be called before the first image."""
        return False

    def calibrate(self, chips: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Learn what depends on the imagery, without any label.

        Args:
            chips: Images (C, H, W) with their validity (H, W), a sample of what will
                be mapped.
        """

    def calibration(self) -> dict[str, Tensor]:
        """What was learned by :meth:`calibrate`.

        Returns:
            Small tensors, to be saved with the fit.
        """
        return {}

    def load_calibration(self, calibration: dict[str, Tensor]) -> None:
        """Take over what another backbone of the same spec has learned.

        Args:
            calibration: What :meth:`calibration` returned.
        """

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode.

        Args:
            mode: Ignored.

        Returns:
            Itself.
        """
        return super().train(False)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the networks in it, at their first image; there may be none.

        The arguments are those of :func:`torch.compile`. Images of every other shape
        are compiled anew, or for any shape.
        """

    def weights_digest(self) -> str:
        """Fingerprint of all weights, learned statistics included.

        Returns:
            The first 16 hexadecimal digits of a SHA-256.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy())
        return digest.hexdigest()[:16]
