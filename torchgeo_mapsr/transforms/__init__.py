# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Region aggregation, and augmentations that keep it exact."""

from .chip import RandomChip
from .class_mix import ClassMix, mix_samples
from .region_aggregation import RegionAggregation, aggregate_regions
from .resolution_alignment import ResolutionAlignment

__all__ = (
    'ClassMix',
    'RandomChip',
    'RegionAggregation',
    'ResolutionAlignment',
    'aggregate_regions',
    'mix_samples',
)
