# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Lightning modules."""

from ..models.networks.segmentation import Network
from .adversarial import AdversarialTask
from .class_aware import ClassAwareTask
from .classes import Classes
from .em import ExpectationMaximizationTask
from .land_cover import LandCoverTask
from .mapsr import MapSRTask
from .masked_autoencoder import MaskedAutoencoderTask
from .network import NetworkTask
from .oracle import OracleTask
from .pseudo_label import PseudoLabelTask
from .segmentation import SegmentationTask
from .self_training import SelfTrainingTask
from .supervision import (
    ExpectedShares,
    MatchedStatistics,
    PixelLabels,
    RegionLabels,
    Supervision,
)

__all__ = (
    'AdversarialTask',
    'ClassAwareTask',
    'Classes',
    'ExpectationMaximizationTask',
    'ExpectedShares',
    'LandCoverTask',
    'MapSRTask',
    'MaskedAutoencoderTask',
    'MatchedStatistics',
    'Network',
    'NetworkTask',
    'OracleTask',
    'PixelLabels',
    'PseudoLabelTask',
    'RegionLabels',
    'SegmentationTask',
    'SelfTrainingTask',
    'Supervision',
)
