# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Lightning modules."""

from .class_aware import ClassAwareTask
from .expectation_maximization import ExpectationMaximizationTask
from .joint_statistics import JointStatisticsTask
from .label_super_resolution import LabelSuperResolutionTask
from .land_cover import LandCoverTask
from .mapsr import MapSRTask
from .masked_autoencoder import MaskedAutoencoderTask
from .oracle import OracleTask
from .pseudo_label import PseudoLabelTask
from .region_aggregation import RegionAggregationTask
from .segmentation import SegmentationTask
from .self_training import SelfTrainingTask
from .soft_naive import SoftNaiveTask

__all__ = (
    'ClassAwareTask',
    'ExpectationMaximizationTask',
    'JointStatisticsTask',
    'LabelSuperResolutionTask',
    'LandCoverTask',
    'MapSRTask',
    'MaskedAutoencoderTask',
    'OracleTask',
    'PseudoLabelTask',
    'RegionAggregationTask',
    'SegmentationTask',
    'SelfTrainingTask',
    'SoftNaiveTask',
)
