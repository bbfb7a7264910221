# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Backbone and classifier on a device: from a chip's pixels to its scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.imagery import Imagery
from ..errors import InputError
from ..models.backbone import Backbone
from ..models.classifier import Classifier
from ..models.joint_bilateral import JointBilateral
from ..models.prior import evidence, label_shares
from ..models.tokens import Tokens
from .inputs import Inputs
from .plan import Chip, Plan
from .stopwatch import Stopwatch
from .sweep import ScoredChip

if TYPE_CHECKING:
    from ..models.propagation import Propagation

# Standard deviation of a guide's bands: that of a photograph with values of 0 to 1.
_CONTRAST = 0.2

# Chips that the bands' spread is found from.
_SPREAD = 16

_HALF = {'bf16': torch.bfloat16, 'fp16': torch.float16}


def device_of(name: str) -> torch.device:
    """The device of a name; ``auto`` is a GPU where there is one.

    Raises:
        InputError: If there is no such device here.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f'There is no device {name!r} here: {reason}') from None


def band_spread(images: Sequence[Imagery], plans: Sequence[Plan]) -> Tensor:
    """Standard deviation of each band, from a few chips of all rasters.

    It is one number for the whole region, so that a guide does not change from chip
    to chip.

    Args:
        images: The rasters.
        plans: Their plans.

    Returns:
        (C, 1, 1).
    """
    chips = [(i, chip) for i, plan in enumerate(plans) for chip in plan.lattice()]
    pixels = []
    for i, chip in chips[:: -(-len(chips) // _SPREAD)]:
        image, valid = images[i].read(plans[i].crop(chip))
        pixels.append(torch.from_numpy(image[:, valid]))
    every = torch.cat(pixels, 1)
    spread = every.std(1) if every.shape[1] > 1 else torch.ones(len(every))
    return spread.clamp(min=1e-6)[:, None, None]


@dataclass(frozen=True)
class Extractor:
    """A frozen backbone on a device.

    Args:
        backbone: The backbone, calibrated.
        device: Where it computes.
        precision: fp32, bf16 or fp16.
        spread: Standard deviation of each band, (C, 1, 1), if upsampling is to be
            guided by the image; bilinear if None.
    """

    backbone: Backbone
    device: torch.device
    precision: str = 'fp32'
    spread: Tensor | None = None

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.float32]) -> Tokens:
        """Tokens of an image (C, H, W), float32."""
        batch = torch.from_numpy(image)[None].to(self.device)
        half = _HALF.get(self.precision)
        with torch.autocast(self.device.type, half, enabled=half is not None):
            tokens = self.backbone(batch)
        tokens = tokens.to(torch.float32)
        if self.spread is not None:
            guide = batch / self.spread.to(self.device) * _CONTRAST
            tokens = tokens.with_upsampler(JointBilateral(guide))
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)  # or its time is counted to others
        return tokens


class ReadChip(NamedTuple):
    """What there is to know of a chip before the backbone sees it.

    Args:
        image: Raw values, (C, H, W).
        valid: Pixels with data, (H, W).
        evidence: What the LR labels say, (C, H, W), or None.
    """

    image: NDArray[np.float32]
    valid: NDArray[np.bool_]
    evidence: Tensor | None


@dataclass(frozen=True)
class Model:
    """Everything that turns a chip into class probabilities.

    Args:
        extractor: The backbone.
        classifier: What was fitted, on the same device.
        inputs: The job's inputs: imagery, and the LR labels that act as a prior.
        watch: Counts the time.
        propagation: Spatial refinement of the scores, or None.
    """

    extractor: Extractor
    classifier: Classifier
    inputs: Inputs
    watch: Stopwatch
    propagation: 'Propagation | None' = None

    @property
    def provenance(self) -> dict[str, Any]:
        """How the classifier was made, and how it is used."""
        used = {
            'score': self.classifier.score,
            'prior_weight': self.classifier.prior_weight,
        }
        return {**self.classifier.provenance, **used}

    def reader(self, imagery: Imagery, plan: Plan) -> Callable[[Chip], ReadChip]:
        """A function that reads chips of a raster.

        Args:
            imagery: The raster.
            plan: Its plan.
        """
        crosswalk, labels = self.inputs.crosswalk, self.inputs.labels
        frequency = self.classifier.frequency.cpu()
        weighs = bool(labels) and self.classifier.prior_weight > 0

        def read(chip: Chip) -> ReadChip:
            with self.watch('read'):
                grid = plan.crop(chip)
                image, valid = imagery.read(grid)
                said = None
                if weighs and crosswalk is not None and valid.any():
                    shares, support = label_shares(grid, labels, crosswalk)
                    said = evidence(shares, support, frequency)
                return ReadChip(image, valid, said)

        return read

    @torch.inference_mode()
    def score(self, chip: ReadChip) -> ScoredChip:
        """Class probabilities of a chip's pixels."""
        if not chip.valid.any():
            return ScoredChip(None, chip.valid)
        with self.watch('backbone'):
            tokens = self.extractor(chip.image)
        with self.watch('match'):
            said = None if chip.evidence is None else chip.evidence[None]
            log_p = self.classifier.log_probabilities(tokens, said)
        if self.propagation is not None:
            with self.watch('propagate'):
                image, valid = (
                    torch.from_numpy(part)[None].to(log_p.device)
                    for part in (chip.image, chip.valid)
                )
                log_p = self.propagation(log_p, tokens, image, valid)
        return ScoredChip(log_p[0].exp(), chip.valid)
