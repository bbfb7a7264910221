# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""LR/HR label pairs, legends, crosswalks, joint statistics and region geometry."""

from .chesapeake import ChesapeakePairs
from .chips import ChipDataset
from .collate import collate_pairs
from .crosswalk import Crosswalk
from .imagery import Imagery
from .labels import LabelRaster
from .legend import Legend, LegendClass
from .pair import LRHRPair
from .pairs import LRHRPairs
from .recovered import RecoveredLabels
from .region import RegionMap, lr_coordinates, region_map
from .scene import Scene, make_scene
from .statistics import JointStatistics

__all__ = (
    'ChesapeakePairs',
    'ChipDataset',
    'Crosswalk',
    'Imagery',
    'JointStatistics',
    'LRHRPair',
    'LRHRPairs',
    'LabelRaster',
    'Legend',
    'LegendClass',
    'RecoveredLabels',
    'RegionMap',
    'Scene',
    'collate_pairs',
    'lr_coordinates',
    'make_scene',
    'region_map',
)
