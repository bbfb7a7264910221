# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""LR/HR label pairs, legends, crosswalks, joint statistics and region geometry."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .geo.region import RegionMap, lr_coordinates, region_map
from .imagery import Imagery
from .labels import LabelRaster
from .legends.crosswalk import Crosswalk
from .legends.legend import Legend, LegendClass
from .legends.statistics import JointStatistics
from .measured import measure_statistics
from .recovered import RecoveredLabels
from .scene.scene import Scene, make_scene

if TYPE_CHECKING:
    from .base import ChipDataset
    from .chesapeake import ChesapeakePairs
    from .collate import collate_pairs
    from .exemplars import ExemplarLabels
    from .fine import FineLabelPair
    from .images import ImageChips
    from .low2high import Low2High
    from .mosaic import LRHRPairs
    from .openearthmap import OpenEarthMap
    from .openearthmap_sar import OpenEarthMapSAR
    from .pair import LRHRPair
    from .unlabelled import ManyImagery, UnlabelledImagery

__all__ = (
    'ChesapeakePairs',
    'ChipDataset',
    'Crosswalk',
    'ExemplarLabels',
    'FineLabelPair',
    'ImageChips',
    'Imagery',
    'JointStatistics',
    'LRHRPair',
    'LRHRPairs',
    'LabelRaster',
    'Legend',
    'LegendClass',
    'Low2High',
    'ManyImagery',
    'OpenEarthMap',
    'OpenEarthMapSAR',
    'RecoveredLabels',
    'RegionMap',
    'Scene',
    'UnlabelledImagery',
    'collate_pairs',
    'lr_coordinates',
    'make_scene',
    'measure_statistics',
    'region_map',
)

# torchgeo takes seconds to import. What is built on it is imported when it is asked
# for, so that rasters and legends can be used, and bad ones refused, at once.
_ON_TORCHGEO = {
    'ChesapeakePairs': 'chesapeake',
    'ChipDataset': 'base',
    'ExemplarLabels': 'exemplars',
    'FineLabelPair': 'fine',
    'ImageChips': 'images',
    'LRHRPair': 'pair',
    'LRHRPairs': 'mosaic',
    'Low2High': 'low2high',
    'OpenEarthMap': 'openearthmap',
    'OpenEarthMapSAR': 'openearthmap_sar',
    'ManyImagery': 'unlabelled',
    'UnlabelledImagery': 'unlabelled',
    'collate_pairs': 'collate',
}


def __getattr__(name: str) -> Any:
    """Import a name that needs torchgeo."""
    if name not in _ON_TORCHGEO:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.{_ON_TORCHGEO[name]}', __name__), name)
