# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a map asks of a model, whatever it is: class probabilities of a chip."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from ..datasets.bands import BandDescriptions
from ..datasets.chip import Chip
from ..datasets.legends.legend import Legend
from .head.calibration import Calibration

#: Counts the time of a block to a stage.
Timer = Callable[[str], AbstractContextManager[None]]


def no_timer(stage: str) -> AbstractContextManager[None]:
    """Count nothing.

    Args:
        stage: Not used.
    """
    return nullcontext()


class ChipModel(Protocol):
    """What makes class probabilities of chips: a fit, or trained networks."""

    @property
    def target(self) -> Legend:
        """Legend of the classes, C."""

    @property
    def bands(self) -> int | None:
        """Bands of the imagery; None for any number."""

    @property
    def descriptions(self) -> BandDescriptions:
        """What is said of these bands; nothing where they are not known."""

    @property
    def pixel_size(self) -> float:
        """Side of the imagery's pixels in metres; 0 where it is not known."""

    @property
    def halo(self) -> int:
        """Pixels at a chip's border that lack context."""

    @property
    def stride(self) -> int:
        """Pixels that chips start at multiples of."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def uses_labels(self) -> bool:
        """Whether the LR labels of a chip change its probabilities."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Where it comes from, as JSON types."""

    @property
    def calibration(self) -> Calibration:
        """What makes the probabilities of a map, when chips are blended, sure enough."""

    def probabilities(self, chip: Chip, timer: Timer = no_timer) -> Tensor:
        """Probabilities of the classes of the pixels of a chip's core.

        Args:
            chip: The chip.
            timer: Counts the time of each stage.

        Returns:
            (C, h, w) float32, of the core's size.
        """
