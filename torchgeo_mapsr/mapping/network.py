# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Trained networks on a device: from a chip's pixels to its scores."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ..datasets.geo.plan import Chip, Plan
from ..datasets.imagery import Imagery
from ..errors import InputError
from ..models.networks.trained import Trained
from .extractor import HALF, chips_at_once, device_of
from .inputs import Inputs, file_digest
from .sweep import ReadChip, ScoredChip
from .timing import Stopwatch


@dataclass(frozen=True)
class Checkpoints:
    """What any process makes a job's networks from.

    Args:
        paths: Checkpoints.
        digests: SHA-256 of each.
        weights: Weight of each; all alike if empty.
        device: Name of the device, found where the networks are made.
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
    ) -> 'Checkpoints':
        """Look at files.

        Raises:
            InputError: If one is not there.
        """
        for path in paths:
            if not path.is_file():
                raise InputError(f'Checkpoint {path} does not exist')
        digests = tuple(file_digest(path) for path in paths)
        return cls(
            tuple(p.absolute() for p in paths), digests, weights, device, precision
        )

    def make(self, watch: Stopwatch, device: str | None = None) -> 'NetworkModel':
        """Load them.

        Args:
            watch: Counts the time.
            device: Name of another device than theirs.

        Raises:
            InputError: If they are no checkpoints, do not make the map that is asked
                for, or are others than those that were looked at.
        """
        for path, digest in zip(self.paths, self.digests, strict=True):
            if not path.is_file() or file_digest(path) != digest:
                raise InputError(f'Checkpoint {path} is not there or is another one.')
        trained = Trained.load(self.paths, self.weights or None)
        where = device_of(device or self.device)
        trained = replace(trained, ensemble=trained.ensemble.to(where))
        return NetworkModel(trained, where, watch, self)


@dataclass(frozen=True)
class NetworkModel:
    """Networks that turn a chip into class probabilities.

    Sent to another process, it is made there again from the checkpoints.

    Args:
        trained: The networks, on the device.
        device: Where they compute.
        watch: Counts the time.
        checkpoints: Where they come from.
    """

    trained: Trained
    device: torch.device
    watch: Stopwatch
    checkpoints: Checkpoints

    def __reduce__(self) -> tuple[Callable[..., 'NetworkModel'], tuple[Any, ...]]:
        # Chips are read from imagery that comes with the work.
        return _network, (self.checkpoints,)

    def check(self, inputs: Inputs) -> None:
        """Make sure that the networks make the map that is asked for.

        Args:
            inputs: What the job reads.

        Raises:
            InputError: If their classes or bands are others.
        """
        target = self.trained.target
        if target != inputs.target:
            raise InputError(
                f"The network maps the classes of '{target.name}', not of "
                f"'{inputs.target.name}'; give --target {target.name}."
            )
        if self.trained.bands != inputs.bands:
            raise InputError(
                f'The network was trained on imagery of {self.trained.bands} bands, '
                f'this has {inputs.bands}; choose bands with --bands.'
            )

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the networks come from."""
        return self.trained.provenance

    @property
    def threads(self) -> int:
        """Chips that are best scored at once."""
        return chips_at_once(self.device)

    def reader(self, imagery: Imagery, plan: Plan) -> Callable[[Chip], ReadChip]:
        """A function that reads chips of a raster.

        Args:
            imagery: The raster.
            plan: Its plan.
        """

        def read(chip: Chip) -> ReadChip:
            with self.watch('read'):
                return ReadChip(*imagery.read(plan.crop(chip)), plan.core(chip))

        return read

    @torch.inference_mode()
    def score(self, chip: ReadChip) -> ScoredChip:
        """Class probabilities of the pixels of a chip's core."""
        core, valid = chip.core, chip.valid[chip.core]
        if not chip.valid.any():
            return ScoredChip(None, valid)
        half = HALF.get(self.checkpoints.precision)
        with self.watch('network'):
            image = torch.from_numpy(chip.image)[None].to(self.device)
            with torch.autocast(self.device.type, half, enabled=half is not None):
                probabilities = self.trained.ensemble(image)[0]
            if self.device.type == 'cuda':
                torch.cuda.synchronize(self.device)  # or its time is counted to others
        return ScoredChip(probabilities[:, *core], valid)


def _network(checkpoints: Checkpoints) -> NetworkModel:
    """The networks, in the process that they were sent to."""
    return replace(_made(checkpoints), watch=Stopwatch())


@lru_cache(maxsize=1)
def _made(checkpoints: Checkpoints) -> NetworkModel:
    """Made once for all work that is sent to this process."""
    return checkpoints.make(Stopwatch())
