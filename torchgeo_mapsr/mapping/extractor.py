# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A frozen backbone on a device, here or in another process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from socket import gethostname
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from ..datasets.geo.plan import Plan
from ..datasets.imagery import Imagery
from ..errors import InputError
from ..models.backbones.backbone import Backbone
from ..models.backbones.create import create_backbone
from ..models.head.probe import LinearProbe
from ..models.tokens.bilateral import JointBilateral
from ..models.tokens.tokens import Tokens
from ..models.tokens.upsample import Window

# Standard deviation of a guide's bands: that of a photograph with values of 0 to 1.
_CONTRAST = 0.2

# Chips that are scored at once, at most; each takes some tens of megabytes.
_MOST = 8

# Chips that the bands' spread is found from.
_SPREAD = 16

#: Types of lower precision by their names.
HALF = {'bf16': torch.bfloat16, 'fp16': torch.float16}


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


def chips_at_once(device: torch.device) -> int:
    """Chips that are best scored at once on a device.

    On a CPU the many small steps round a chip's large products use one core each: with
    a core to each chip, none is idle. Results are the same, whatever the number.

    Args:
        device: The device.
    """
    return min(torch.get_num_threads(), _MOST) if device.type == 'cpu' else 1


def band_spread(images: Sequence[Imagery], plans: Sequence[Plan]) -> tuple[float, ...]:
    """Standard deviation of each band, from a few chips of all rasters.

    It is one number for the whole region, so that a guide does not change from chip
    to chip.

    Args:
        images: The rasters.
        plans: Their plans.

    Returns:
        One number a band.
    """
    chips = [(i, chip) for i, plan in enumerate(plans) for chip in plan.lattice()]
    pixels = []
    for i, chip in chips[:: -(-len(chips) // _SPREAD)]:
        image, valid = images[i].read(plans[i].crop(chip))
        pixels.append(torch.from_numpy(image[:, valid]))
    every = torch.cat(pixels, 1)
    spread = every.std(1) if every.shape[1] > 1 else torch.ones(len(every))
    return tuple(spread.clamp(min=1e-6).tolist())


@dataclass(frozen=True)
class Recipe:
    """What any process makes a job's frozen backbone from: names, and no weights.

    Args:
        spec: Spec of the backbone, with its weight file.
        bands: Bands of the imagery.
        dtype: Data type of its files, if they hold integers.
        digest: Fingerprint of all weights, so that another machine's file under the
            same name, or a file that has changed, is noticed.
        device: Name of the device, found where the backbone is made.
        precision: fp32, bf16 or fp16.
        spread: Standard deviation of each band, if upsampling is to be guided by the
            image.
        compiled: Whether networks are compiled.
    """

    spec: str
    bands: int
    dtype: str | None
    digest: str
    device: str
    precision: str = 'fp32'
    spread: tuple[float, ...] | None = None
    compiled: bool = False

    def make(self, calibration: Mapping[str, Tensor]) -> 'Extractor':
        """Make the backbone.

        Args:
            calibration: What it has learned from the imagery.

        Raises:
            InputError: If its weights are not there, or are others.
        """
        device = device_of(self.device)
        backbone = create_backbone(self.spec, self.bands, None, self.dtype)
        backbone.load_calibration(dict(calibration))
        if backbone.weights_digest() != self.digest:
            raise InputError(
                f'The weights of the backbone {self.spec!r} are others on the worker '
                f'{gethostname()}; give a file that all workers see.'
            )
        if self.compiled:
            backbone.compile()
        return Extractor(backbone.to(device), device, self.precision, self.spread, self)


@dataclass(frozen=True)
class Extractor:
    """A frozen backbone on a device.

    Sent to another process, it is made there again from its recipe.

    Args:
        backbone: The backbone, calibrated.
        device: Where it computes.
        precision: fp32, bf16 or fp16.
        spread: Standard deviation of each band, if upsampling is to be guided by the
            image; bilinear if None.
        recipe: How it was made; None if it stays in this process.
    """

    backbone: Backbone
    device: torch.device
    precision: str = 'fp32'
    spread: tuple[float, ...] | None = None
    recipe: Recipe | None = None

    def __reduce__(self) -> tuple[Callable[..., 'Extractor'], tuple[Any, ...]]:
        return _extractor, (self.recipe, save(self.backbone.calibration()))

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.float32]) -> Tokens:
        """Tokens of an image (C, H, W), float32."""
        batch = torch.from_numpy(image)[None].to(self.device)
        half = HALF.get(self.precision)
        with torch.autocast(self.device.type, half, enabled=half is not None):
            tokens = self.backbone(batch)
        tokens = tokens.to(torch.float32)
        if self.spread is not None:
            spread = batch.new_tensor(self.spread)[:, None, None]
            guide = batch / spread * _CONTRAST
            tokens = tokens.with_upsampler(JointBilateral(guide))
        self._wait()
        return tokens

    @property
    def fused(self) -> bool:
        """Whether linear scores are found faster without tokens."""
        return self.backbone.fused and self.spread is None

    @torch.inference_mode()
    def project(
        self, image: NDArray[np.float32], projection: LinearProbe, window: Window
    ) -> Tensor:
        """Linear scores of an image's pixels, in single precision, without tokens.

        Args:
            image: (C, H, W), float32.
            projection: Weights (K, D) and intercepts.
            window: Rows and columns of the pixels that are wanted.

        Returns:
            (1, K, h, w), of the window's size.
        """
        batch = torch.from_numpy(image)[None].to(self.device)
        weight, bias = projection.weight, projection.bias
        scores = self.backbone.project(batch, weight, bias, window)
        self._wait()
        return scores

    def _wait(self) -> None:
        """Let a GPU finish, or its time is counted to others."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)


@lru_cache(maxsize=1)
def _extractor(recipe: Recipe, calibration: bytes) -> Extractor:
    """Made once for all that is sent to this process."""
    return recipe.make(load(calibration))
