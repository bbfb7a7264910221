# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Which chips to read."""

from .balanced import BalancedChipSampler
from .chips import ChipSampler
from .lattice import FitSampler, LatticeSampler
from .patches import PatchSampler

__all__ = (
    'BalancedChipSampler',
    'ChipSampler',
    'FitSampler',
    'LatticeSampler',
    'PatchSampler',
)
