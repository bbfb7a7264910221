# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Lightning modules."""

from .land_cover import LandCoverTask
from .mapsr import MapSRTask
from .predicting import PredictingTask
from .segmentation import SegmentationTask

__all__ = ('LandCoverTask', 'MapSRTask', 'PredictingTask', 'SegmentationTask')
