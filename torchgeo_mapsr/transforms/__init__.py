# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Region aggregation and augmentations that keep it exact."""

from .region_aggregation import RegionAggregation, aggregate_regions
from .resolution_alignment import ResolutionAlignment

__all__ = ('RegionAggregation', 'ResolutionAlignment', 'aggregate_regions')
