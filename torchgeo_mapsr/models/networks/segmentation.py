# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Trainable segmentation networks between imagery as it is read and class scores."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import segmentation_models_pytorch as smp
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models._api import WeightsEnum

from ...arguments import check_range, construct, plain
from ...errors import InputError
from ..backbones.frozen import mirror
from ..backbones.spec import suggest
from ..backbones.weights import load_weights, read_weights, strip_prefix
from .normalisation import normalisation

#: torchgeo's names for architectures whose name here is another.
_ALIASES = {'deeplabv3+': 'deeplabv3plus', 'unet++': 'unetplusplus'}

_ARCHITECTURES = [
    'unet',
    'unetplusplus',
    'manet',
    'linknet',
    'fpn',
    'pspnet',
    'pan',
    'deeplabv3',
    'deeplabv3plus',
    'upernet',
    'segformer',
    'dpt',
]


@dataclass(frozen=True)
class Network:
    """What a segmentation network is made from, by torchgeo's names.

    Args:
        model: Architecture: unet, deeplabv3+, upernet, segformer… (those of smp).
        backbone: Encoder: a name of smp (resnet18, mit_b0…), or ``tu-NAME`` of timm.
        weights: Where the encoder starts: a local file (.safetensors, .pth or a
            checkpoint), one of torchgeo's weights or its name, True for smp's ImageNet
            weights, or None or False for a random start. All but a file are downloaded.
        in_channels: Bands of the imagery, C.
        image_dtype: Data type of the imagery's files, see
            :class:`SegmentationNetwork`.
        mean: Mean of each band, or one for all, in units of the files.
        std: Standard deviation likewise.
        freeze_backbone: Train the decoder and the head only. The encoder stays in
            evaluation mode, so that its running statistics stay as well.
        freeze_decoder: Train the encoder and the head only, likewise.

    Raises:
        InputError: *in_channels* is below 1.
    """

    model: str = 'unet'
    backbone: str = 'resnet18'
    # bool before str, so that a command line's `true` is not taken for a file
    weights: bool | WeightsEnum | str | None = None
    in_channels: int = 4
    image_dtype: str | None = 'uint8'
    mean: Sequence[float] | float | None = None
    std: Sequence[float] | float | None = None
    freeze_backbone: bool = False
    freeze_decoder: bool = False

    def __post_init__(self) -> None:
        """Check the number of bands; what is kept are plain values."""
        check_range('in_channels', self.in_channels, 1, whole=True)
        for name in ('in_channels', 'mean', 'std'):
            object.__setattr__(self, name, plain(getattr(self, name)))
        if self.image_dtype is not None:
            object.__setattr__(self, 'image_dtype', str(self.image_dtype))

    @classmethod
    def of(cls, value: 'Network | Mapping[str, Any]') -> 'Network':
        """Take a network's arguments, also those that a checkpoint has.

        Args:
            value: Arguments, as an object or as a mapping.

        Raises:
            InputError: If it is something else.
        """
        return construct(cls, value, 'network')

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the weights: a checkpoint has its own."""
        return {k: v for k, v in vars(self).items() if k != 'weights'}


class SegmentationNetwork(nn.Module):
    """A network of segmentation-models-pytorch that takes raw values of any size.

    Values are standardised by *mean* and *std*. Without these, values of uint8 are
    brought to -1..1 by their type; of other types each band is standardised by the mean
    and standard deviation of all training batches so far, since reflectances and digital
    numbers have no common range. Images are continued at the right and bottom by
    mirroring, to a multiple of the network's stride (and to 128 pixels for ``pan``), and
    scores are cropped.

    Batch normalisation of a single value, of the one chip that may be left at the end of
    an epoch, goes by its running statistics: there are no others.

    Args:
        arguments: What it is made from.
        num_classes: Number of classes, K.

    Raises:
        InputError: If an argument does not fit.

    >>> import torch
    >>> network = SegmentationNetwork(Network('unet', 'resnet18', in_channels=3), 5)
    >>> network(torch.zeros(1, 3, 50, 70)).shape
    torch.Size([1, 5, 50, 70])
    """

    def __init__(self, arguments: Network, num_classes: int) -> None:
        super().__init__()
        self.arguments = arguments
        self.normalise = normalisation(
            arguments.in_channels, arguments.image_dtype, arguments.mean, arguments.std
        )
        self.network = _create(arguments, num_classes)
        _load_encoder(self.network.encoder, arguments)
        for part in self._frozen:
            part.requires_grad_(False)
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                module.register_forward_pre_hook(_pause_for_one_value)
                module.register_forward_hook(_resume, always_call=True)
        # A Trainer does not change the modes of modules.
        self.train()

    @property
    def in_channels(self) -> int:
        """Bands of the imagery, C."""
        return self.arguments.in_channels

    @property
    def _frozen(self) -> list[nn.Module]:
        """Parts that are not trained."""
        frozen = self.arguments.freeze_backbone, self.arguments.freeze_decoder
        parts = self.network.encoder, self.network.decoder
        return [part for part, stays in zip(parts, frozen, strict=True) if stays]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all parts but those that are frozen.

        Args:
            mode: Training, or evaluation.
        """
        super().train(mode)
        for part in self._frozen:
            part.train(False)
        return self

    @property
    def encoder(self) -> nn.Module:
        """The encoder, a module of segmentation-models-pytorch."""
        encoder: nn.Module = self.network.encoder
        return encoder

    @property
    def stride(self) -> int:
        """What the sides of an image have to be multiples of, in pixels."""
        stride = int(self.network.encoder.output_stride)
        # dpt halves the tokens once more
        return 2 * stride if self.arguments.model == 'dpt' else stride

    @property
    def least(self) -> int:
        """Side of the smallest image that the decoder takes, in pixels."""
        # its attention halves the coarsest features three times
        return 8 * self.stride if self.arguments.model == 'pan' else self.stride

    @property
    def halo(self) -> int:
        """Pixels at an image's border that are given no weight when chips are blended.

        Two cells of the coarsest grid of common encoders. Receptive fields are larger,
        but what lies beyond the border counts little there.
        """
        return max(2 * self.stride, 64)

    def forward(self, image: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            image: (B, C, H, W), the values as read from the file.

        Returns:
            Logits, (B, K, H, W).

        Raises:
            InputError: If the image has another number of bands.
        """
        height, width = image.shape[-2:]
        return self.classify(self.features(image))[..., :height, :width]

    def features(self, image: Tensor) -> Tensor:
        """Features of the decoder, before they are classified.

        Args:
            image: (B, C, H, W), the values as read from the file.

        Returns:
            (B, D, h, w); pixels of the continued image, or cells of s × s of them for
            decoders that end at stride s.

        Raises:
            InputError: If the image has another number of bands.
        """
        if image.shape[1] != self.in_channels:
            raise InputError(
                f'The imagery has {image.shape[1]} bands and the network was made for '
                f'{self.in_channels}: give in_channels={image.shape[1]}, or choose bands '
                'of the imagery'
            )
        image = self.normalise(image.nan_to_num(nan=0, posinf=0, neginf=0))
        # torch.set_default_dtype may have made the weights double precision.
        image = image.to(next(self.network.parameters()).dtype)
        height, width = (
            max(-(-n // self.stride) * self.stride, self.least)
            for n in image.shape[-2:]
        )
        levels = self.network.encoder(mirror(image, height, width))
        if isinstance(levels, tuple):
            # vision transformers have prefix tokens too
            return self.network.decoder(*levels)
        return self.network.decoder(levels)

    def classify(self, features: Tensor) -> Tensor:
        """Logits of the continued image, (B, K, H', W') with H' ≥ H and W' ≥ W.

        Args:
            features: What :meth:`features` returned.
        """
        return self.network.segmentation_head(features)


def _named(encoder: Any, backbone: str) -> tuple[nn.Module, dict[str, str]]:
    """Where an encoder's weights go, and what files call them, by their names here.

    smp wraps networks of timm, and timm takes apart those whose features are asked for:
    ``stages.0.`` is ``stages_0.`` then. Files have the names of the whole network.
    """
    module: nn.Module = encoder.model if backbone.startswith('tu-') else encoder
    stage = re.compile(r'^([a-z]+)_(\d+)\.') if module is not encoder else None
    return module, {
        name: stage.sub(r'\1.\2.', name) if stage else name
        for name in module.state_dict()
    }


def _pause_for_one_value(module: nn.Module, inputs: tuple[Tensor]) -> None:
    """Let batch normalisation evaluate where there is one value in a channel."""
    shape = inputs[0].shape
    paused: Any = module.training and shape.numel() == shape[1]
    module.paused = paused
    if paused:
        module.training = False


def _resume(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    if module.paused:
        module.training = True


def _create(arguments: Network, num_classes: int) -> Any:
    model, backbone = arguments.model, arguments.backbone
    arch = _ALIASES.get(model, model)
    if arch not in _ARCHITECTURES:
        raise InputError(
            f'Unknown model {model!r}{suggest(model, _ARCHITECTURES)} '
            f'(models: {", ".join(_ARCHITECTURES)})'
        )
    # Otherwise timm's transformers take only images of their pretraining size.
    options = {'strict_img_size': False} if backbone.startswith('tu-swin') else {}
    if arch == 'dpt':
        options['dynamic_img_size'] = True
    try:
        return smp.create_model(
            arch,
            backbone,
            encoder_weights='imagenet' if arguments.weights is True else None,
            in_channels=arguments.in_channels,
            classes=num_classes,
            **options,
        )
    except (KeyError, ValueError, RuntimeError, TypeError, OSError) as error:
        names = smp.encoders.get_encoder_names()
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f'{model} cannot be made with the encoder {backbone!r}'
            f'{suggest(backbone, names)} ({reason[:200]}); encoders of timm are called '
            'tu-NAME'
        ) from error


def _load_encoder(encoder: Any, arguments: Network) -> None:
    """Load weights of a file, or of torchgeo, into an encoder."""
    weights = arguments.weights
    if weights is None or isinstance(weights, bool):
        return
    if isinstance(weights, WeightsEnum):
        state, source = _download(weights), str(weights)
    elif Path(weights).is_file():
        state, source = read_weights(weights), weights
    else:
        # takes seconds to import
        from torchgeo.models import get_weight

        try:
            enum = get_weight(weights)
        except ValueError as error:
            raise InputError(
                f'weights: {weights} is no file, and no weights of torchgeo'
            ) from error
        state, source = _download(enum), weights
    module, names = _named(encoder, arguments.backbone)
    state = strip_prefix(state, names.values())
    state = {key: state[name] for key, name in names.items() if name in state}
    load_weights(module, state, source, f'the encoder {arguments.backbone}')


def _download(weights: WeightsEnum) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=True)
    except OSError as error:
        raise InputError(
            f'weights: {weights} cannot be downloaded ({error}): give a local file'
        ) from error
    return state
