# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Features by a frozen backbone: what it is made from, calibrated by, and gives."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ..datasets.bands import UNNAMED, BandDescriptions
from ..errors import InputError
from .backbones.backbone import Backbone
from .backbones.create import create_backbone
from .backbones.rcf import MAX_BANDS
from .tokens.bilateral import JointBilateral
from .tokens.tokens import Tokens

# Standard deviation that a guide's bands are scaled to: about that of a photograph with
# values of 0 to 1.
_CONTRAST = 0.2

# Most values, over all chips, that a calibration looks at where there are many bands.
CALIBRATION_VALUES = 2**28

#: Types of lower precision by their names.
HALF = {'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass(frozen=True, eq=False)
class FrozenBackbone:
    """What any process makes a frozen backbone from: names and statistics, no weights.

    Args:
        spec: Spec of the backbone, with its weight file.
        bands: Bands of the imagery.
        dtype: Data type of its files, if they hold integers.
        digest: Fingerprint of all weights, so that another machine's file under the
            same name, or a file that has changed, is noticed.
        calibration: What it has learned from the imagery.
        descriptions: What the imagery's files say of the bands.
        pixel_size: Side of their pixels in metres; 0 where it is not known.
    """

    spec: str
    bands: int
    dtype: str | None
    digest: str
    calibration: Mapping[str, Tensor]
    descriptions: BandDescriptions = UNNAMED
    pixel_size: float = 0.0

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        bands: int,
        dtype: str | None,
        descriptions: BandDescriptions = UNNAMED,
        pixel_size: float = 0.0,
    ) -> Self:
        """Describe a backbone.

        Args:
            backbone: The backbone, calibrated.
            bands: Bands of the imagery.
            dtype: Data type of its files, if they hold integers.
            descriptions: What they say of the bands.
            pixel_size: Side of their pixels in metres; 0 where it is not known.
        """
        calibration = {name: t.cpu() for name, t in backbone.calibration().items()}
        digest = backbone.weights_digest()
        return cls(
            backbone.spec, bands, dtype, digest, calibration, descriptions, pixel_size
        )

    def make(self, weights: str | None = None) -> Backbone:
        """Make the backbone.

        Args:
            weights: Weight file, where it is not where the spec says.

        Raises:
            InputError: If its weights are not there, or are others.
        """
        backbone = create_backbone(self.spec, self.bands, weights, self.dtype)
        backbone.load_calibration(dict(self.calibration))
        return self.adopt(backbone)

    def adopt(self, backbone: Backbone) -> Backbone:
        """Take a backbone that is there, and make sure that it is the one.

        Args:
            backbone: A backbone.

        Returns:
            It, if it has this calibration; or else a copy that has. Other models may map
            with the backbone.

        Raises:
            InputError: If it is another one.
        """
        own = {name: t.cpu() for name, t in backbone.calibration().items()}
        alike = own.keys() == self.calibration.keys() and all(
            own[name].shape == t.shape for name, t in self.calibration.items()
        )
        same = alike and all(own[n].equal(t) for n, t in self.calibration.items())
        if (alike or not own) and not same:
            backbone = deepcopy(backbone)
            backbone.load_calibration(dict(self.calibration))
        if backbone.weights_digest() != self.digest:
            raise InputError(
                f'The weights of the backbone {self.spec!r} for {self.bands} bands are '
                'not those that the fit was made with; name their file with --weights '
                '(weights).'
            )
        return backbone

    def fields(self) -> dict[str, Any]:
        """Everything but tensors, as JSON types."""
        return {
            'spec': self.spec,
            'bands': self.bands,
            'dtype': self.dtype,
            'weights': self.digest,
            'descriptions': self.descriptions.to_dict(),
            'pixel_size': self.pixel_size,
        }


def extract(
    backbone: Backbone,
    image: Tensor,
    precision: str = 'fp32',
    spread: tuple[float, ...] | None = None,
) -> Tokens:
    """Features of one image.

    Args:
        backbone: The backbone, on the image's device.
        image: (C, H, W) float32, the values as read from the file.
        precision: Arithmetic of the backbone.
        spread: Standard deviation of each band, if upsampling is to be guided by the
            image; bilinear if None.

    Returns:
        Tokens of a batch of one, float32.
    """
    batch = image[None]
    half = HALF.get(precision)
    with (
        torch.no_grad(),
        torch.autocast(image.device.type, half, enabled=half is not None),
    ):
        tokens = backbone(batch).to(torch.float32)
    if spread is not None:
        scale = batch.new_tensor(spread)[:, None, None]
        guide = (batch / scale * _CONTRAST).nan_to_num(nan=0, posinf=0, neginf=0)
        tokens = tokens.with_upsampler(JointBilateral(guide))
    if image.device.type == 'cuda':
        # Wait, or the GPU's time would be counted to the next stage.
        torch.cuda.synchronize(image.device)
    return tokens


def calibration_part(image: Tensor, valid: Tensor, chips: int) -> tuple[Tensor, Tensor]:
    """The part of a chip that calibration looks at: the middle, if bands are many.

    Calibration holds all of its chips in memory, which is gigabytes of hundreds of
    bands.

    Args:
        image: (C, H, W).
        valid: (H, W).
        chips: Chips that are looked at, at most.

    Returns:
        Both, or the square in their middle.
    """
    bands, height, width = image.shape
    side = int((CALIBRATION_VALUES / (chips * bands)) ** 0.5)
    if bands <= MAX_BANDS or side >= max(height, width):
        return image, valid
    rows, cols = (
        slice(max((size - side) // 2, 0), max((size - side) // 2, 0) + side)
        for size in (height, width)
    )
    if not valid[rows, cols].any():
        return image, valid
    # A copy: a view would keep the whole chip in memory.
    return image[:, rows, cols].clone(), valid[rows, cols].clone()


def band_spread(images: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, ...]:
    """Standard deviation of each band over some images.

    Args:
        images: Images (C, H, W) with their validity (H, W), as a backbone's calibration
            takes them.

    Returns:
        One number a band.
    """
    chosen = [image[:, valid].float() for image, valid in images]
    if not chosen:
        return ()
    if len(chosen[0]) > MAX_BANDS:
        # Band by band, so that hundreds of bands are not held twice.
        bands = zip(*chosen, strict=True)
        spread = torch.stack([torch.cat(parts).std() for parts in bands])
        return tuple(spread.nan_to_num(nan=1.0).clamp(min=1e-6).tolist())
    pixels = torch.cat(chosen, 1)
    spread = pixels.std(1) if pixels.shape[1] > 1 else torch.ones(len(pixels))
    return tuple(spread.clamp(min=1e-6).tolist())
