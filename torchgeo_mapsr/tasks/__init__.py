# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Lightning modules."""

from .mapsr import MapSRTask
from .predicting import PredictingTask

__all__ = ('MapSRTask', 'PredictingTask')
