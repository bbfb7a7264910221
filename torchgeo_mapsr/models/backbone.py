# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Frozen backbones: one protocol, and the one place that makes them from a spec."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import InputError
from .spec import Member, parse_spec, suggest
from .tokens import Tokens

KINDS = ('rcf', 'identity', 'timm:NAME', 'torchgeo:WEIGHTS')


class Backbone(nn.Module, ABC):
    """A frozen map from images to token grids.

    :func:`create_backbone` hands it out in evaluation mode, where it stays whatever
    module it becomes part of (batch statistics do not drift), and with frozen
    parameters, so that it belongs in no optimiser.

    Args:
        bands: Bands that an image must have; None for any number.
        channels: Features of each level, D_l.
        strides: Pixels a token of each level.
        halo: Pixels at an image's border whose features miss context. What lies
            within it changes most when the image is cut elsewhere.
    """

    #: Text that makes this backbone again, set by :func:`create_backbone`.
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
            Its tokens.
        """

    def project(
        self, image: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Linear scores of every pixel, W (U F) + b with bilinear U.

        Args:
            image: (B, C, H, W) float32, the values as read from the file.
            weight: (K, D) weights.
            bias: (K,) intercepts.

        Returns:
            (B, K, H, W): ``forward(image).project(weight, bias)``, but for rounding.
        """
        return self(image).project(weight, bias)

    @property
    def fused(self) -> bool:
        """Whether :meth:`project` is faster than forward and a projection."""
        return False

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


def create_backbone(
    spec: str, bands: int, weights: str | None = None, dtype: str | None = None
) -> Backbone:
    """Make a backbone.

    A spec is one member or several joined by ``+`` (their features are then
    concatenated). Each is ``kind[:name][?option=value&option=value…]``:

    * ``rcf``: random convolutional features, which need no weights
      (:class:`~torchgeo_mapsr.models.rcf.RCF`);
    * ``identity``: the bands themselves, for a raster of embeddings
      (:class:`~torchgeo_mapsr.models.identity.Identity`);
    * ``timm:NAME``: a model of timm
      (:func:`~torchgeo_mapsr.models.timm_backbone.timm_backbone`);
    * ``torchgeo:WEIGHTS``: weights of torchgeo
      (:func:`~torchgeo_mapsr.models.torchgeo_backbone.torchgeo_backbone`).

    The options of each are the keyword arguments of what is named in brackets.

    Args:
        spec: The text.
        bands: Bands of the imagery.
        weights: Local weight file for the first member that takes weights.
        dtype: Data type of the imagery's file, e.g. ``uint8``: it tells how values
            scale to 0..1 where the weights expect that. None for floating point.

    Returns:
        The backbone, frozen. Its ``spec`` includes the weight file.

    Raises:
        InputError: If the spec does not name a backbone, an option is wrong, or
            weights are missing or do not fit.
    """
    members = list(parse_spec(spec))
    if weights is not None:
        takers = [i for i, m in enumerate(members) if m.kind in ('timm', 'torchgeo')]
        if not takers:
            raise InputError(f'Backbone {spec!r} takes no weight file, got {weights!r}')
        members[takers[0]] = members[takers[0]].with_option('weights', str(weights))
    backbones = [_create(member, bands, dtype) for member in members]
    if len(backbones) == 1:
        return backbones[0]
    from .concat import Concat

    return Concat(backbones)


def _create(member: Member, bands: int, dtype: str | None) -> Backbone:
    """One member; each kind is imported when it is asked for (timm takes seconds)."""
    backbone: Backbone
    if member.kind in ('rcf', 'identity') and member.name:
        raise InputError(
            f'Backbone {member.kind!r} has no name after a colon, got {str(member)!r}'
        )
    match member.kind:
        case 'rcf':
            from .rcf import RCF

            backbone = member.build(RCF, bands)
        case 'identity':
            from .identity import Identity

            backbone = member.build(Identity, bands)
        case 'timm':
            from .timm_backbone import timm_backbone

            backbone = member.build(timm_backbone, member.name, bands, dtype)
        case 'torchgeo':
            from .torchgeo_backbone import torchgeo_backbone

            backbone = member.build(torchgeo_backbone, member.name, bands)
        case _:
            raise InputError(
                f'Unknown backbone {member.kind!r}{suggest(member.kind, _names())} '
                f'(kinds: {", ".join(KINDS)}; several are joined by +)'
            )
    backbone.spec = str(member)
    return backbone.eval().requires_grad_(False)


def _names() -> list[str]:
    """Everything that a bare word may have been meant for."""
    import timm

    return ['rcf', 'identity', *(f'timm:{name}' for name in timm.list_models())]
