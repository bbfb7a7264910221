# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Trained networks as a model of chips."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...datasets.chip import Chip
from ...datasets.legends.legend import Legend
from ...errors import InputError
from ..head.calibration import Calibration
from ..model import HALF, Timer, device_of, file_digest, no_timer

if TYPE_CHECKING:
    from .trained import Trained


@dataclass(frozen=True, eq=False)
class NetworkModel:
    """Networks that turn a chip into class probabilities.

    Args:
        trained: The networks, on the device.
        device: Where they compute.
        precision: fp32, bf16 or fp16.
    """

    trained: 'Trained'
    device: torch.device
    precision: str = 'fp32'

    #: Networks see the imagery alone.
    uses_labels = False

    #: Their probabilities are what they say.
    calibration = Calibration(description='not calibrated: the networks’ own')

    @property
    def target(self) -> Legend:
        """Legend of the classes."""
        return self.trained.target

    @property
    def bands(self) -> int:
        """Bands of the imagery."""
        return self.trained.bands

    @property
    def halo(self) -> int:
        """Pixels at a chip's border that lack context."""
        return self.trained.halo

    @property
    def stride(self) -> int:
        """Pixels that chips start at multiples of."""
        return self.trained.stride

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the networks come from."""
        return self.trained.provenance

    @torch.no_grad()
    def probabilities(self, chip: Chip, timer: Timer = no_timer) -> Tensor:
        """Class probabilities of a chip's core; see :class:`~..model.ChipModel`."""
        half = HALF.get(self.precision)
        with timer('network'):
            image = chip.image[None].to(self.device)
            with torch.autocast(self.device.type, half, enabled=half is not None):
                probabilities: Tensor = self.trained.ensemble(image)[0]
            if self.device.type == 'cuda':
                # Or the GPU's time is counted to what comes next.
                torch.cuda.synchronize(self.device)
        rows, cols = chip.core or (slice(None), slice(None))
        return probabilities[:, rows, cols]


@dataclass(frozen=True)
class NetworkFiles:
    """Checkpoints of networks by their files: what is sent to other processes.

    Args:
        paths: Checkpoints.
        digests: SHA-256 of each.
        weights: Weight of each; all alike if empty.
        device: Name of the device, looked for where they are opened.
        precision: fp32, bf16 or fp16.
    """

    paths: tuple[Path, ...]
    digests: tuple[str, ...]
    weights: tuple[float, ...]
    device: str
    precision: str

    @classmethod
    def of(
        cls,
        paths: tuple[Path, ...],
        weights: tuple[float, ...],
        device: str,
        precision: str,
    ) -> 'NetworkFiles':
        """Look at files.

        Args:
            paths: Checkpoints.
            weights: Weight of each; all alike if empty.
            device: Name of the device.
            precision: fp32, bf16 or fp16.

        Raises:
            InputError: If one is not there.
        """
        for path in paths:
            if not path.is_file():
                raise InputError(f'Checkpoint {path} does not exist.')
        digests = tuple(file_digest(path) for path in paths)
        absolute = tuple(path.absolute() for path in paths)
        return cls(absolute, digests, weights, device, precision)

    def open(self) -> NetworkModel:
        """Load them, once in this process.

        Raises:
            InputError: If they are no checkpoints, or are others than those that were
                looked at.
        """
        return _opened(self)

    def on(self, device: str) -> 'NetworkFiles':
        """The same on another device.

        Args:
            device: Its name.
        """
        return replace(self, device=device)


@lru_cache(maxsize=1)
def _opened(files: NetworkFiles) -> NetworkModel:
    for path, digest in zip(files.paths, files.digests, strict=True):
        if not path.is_file() or file_digest(path) != digest:
            raise InputError(f'Checkpoint {path} is not there or is another one.')
    # timm and others, which a map by frozen features needs not.
    from .trained import Trained

    trained = Trained.load(files.paths, files.weights or None)
    device = device_of(files.device)
    trained = replace(trained, ensemble=trained.ensemble.to(device))
    return NetworkModel(trained, device, files.precision)
