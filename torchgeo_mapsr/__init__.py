# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Land-cover map super-resolution for torchgeo."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .offline import heed_variable

if TYPE_CHECKING:
    from .datamodules import (
        ChesapeakePairsDataModule,
        FineLabelDataModule,
        Low2HighDataModule,
        OpenEarthMapDataModule,
        OpenEarthMapSARDataModule,
        PairDataModule,
        SourceTargetDataModule,
        UnlabelledDataModule,
    )
    from .datasets import (
        ChesapeakePairs,
        Crosswalk,
        ExemplarLabels,
        FineLabelPair,
        Imagery,
        JointStatistics,
        LabelRaster,
        Legend,
        Low2High,
        LRHRPair,
        LRHRPairs,
        OpenEarthMap,
        OpenEarthMapSAR,
        UnlabelledImagery,
        collate_pairs,
        make_scene,
    )
    from .datasets.chip import Chip
    from .errors import InputError
    from .losses import (
        ClassBalancedCrossEntropy,
        ClassCentreContrast,
        ClassPrior,
        LovaszLoss,
        RegionCrossEntropy,
        SymmetricCrossEntropy,
    )
    from .mapping.arrays import fit, map_array
    from .mapping.config import MapJob
    from .mapping.run import map_region
    from .models.backbones.backbone import Backbone
    from .models.backbones.create import create_backbone
    from .models.export import ExportableModel
    from .models.head.cells import Cells
    from .models.head.head import Head
    from .models.head.options import FitOptions
    from .models.model import LandCoverModel
    from .models.tokens.tokens import Tokens
    from .offline import forbid_network
    from .samplers import (
        BalancedChipSampler,
        ChipSampler,
        FitSampler,
        LatticeSampler,
        PatchSampler,
    )
    from .tasks import (
        AdversarialTask,
        ClassAwareTask,
        Classes,
        ExpectationMaximizationTask,
        ExpectedShares,
        MapSRTask,
        MaskedAutoencoderTask,
        MatchedStatistics,
        Network,
        OracleTask,
        PixelLabels,
        PseudoLabelTask,
        RegionLabels,
        SegmentationTask,
        SelfTrainingTask,
    )
    from .tasks.map_writer import MapWriter
    from .transforms import ClassMix, RegionAggregation, ResolutionAlignment

__version__ = '0.1.0'

__all__ = (
    'AdversarialTask',
    'Backbone',
    'BalancedChipSampler',
    'Cells',
    'ChesapeakePairs',
    'ChesapeakePairsDataModule',
    'Chip',
    'ChipSampler',
    'ClassAwareTask',
    'ClassBalancedCrossEntropy',
    'ClassCentreContrast',
    'ClassMix',
    'ClassPrior',
    'Classes',
    'Crosswalk',
    'ExemplarLabels',
    'ExpectationMaximizationTask',
    'ExpectedShares',
    'ExportableModel',
    'FineLabelDataModule',
    'FineLabelPair',
    'FitOptions',
    'FitSampler',
    'Head',
    'Imagery',
    'InputError',
    'JointStatistics',
    'LRHRPair',
    'LRHRPairs',
    'LabelRaster',
    'LandCoverModel',
    'LatticeSampler',
    'Legend',
    'LovaszLoss',
    'Low2High',
    'Low2HighDataModule',
    'MapJob',
    'MapSRTask',
    'MapWriter',
    'MaskedAutoencoderTask',
    'MatchedStatistics',
    'Network',
    'OpenEarthMap',
    'OpenEarthMapDataModule',
    'OpenEarthMapSAR',
    'OpenEarthMapSARDataModule',
    'OracleTask',
    'PairDataModule',
    'PatchSampler',
    'PixelLabels',
    'PseudoLabelTask',
    'RegionAggregation',
    'RegionCrossEntropy',
    'RegionLabels',
    'ResolutionAlignment',
    'SegmentationTask',
    'SelfTrainingTask',
    'SourceTargetDataModule',
    'SymmetricCrossEntropy',
    'Tokens',
    'UnlabelledDataModule',
    'UnlabelledImagery',
    'collate_pairs',
    'create_backbone',
    'fit',
    'forbid_network',
    'make_scene',
    'map_array',
    'map_region',
)

# Where each name lives. torch and torchgeo take seconds to import, so that it happens
# when a name is asked for: `torchgeo-mapsr --help` asks for none.
_HOMES = {
    'datamodules': (
        'ChesapeakePairsDataModule',
        'FineLabelDataModule',
        'Low2HighDataModule',
        'OpenEarthMapDataModule',
        'OpenEarthMapSARDataModule',
        'PairDataModule',
        'SourceTargetDataModule',
        'UnlabelledDataModule',
    ),
    'datasets': (
        'ChesapeakePairs',
        'Crosswalk',
        'ExemplarLabels',
        'FineLabelPair',
        'Imagery',
        'JointStatistics',
        'LRHRPair',
        'LRHRPairs',
        'LabelRaster',
        'Legend',
        'Low2High',
        'OpenEarthMap',
        'OpenEarthMapSAR',
        'UnlabelledImagery',
        'collate_pairs',
        'make_scene',
    ),
    'errors': ('InputError',),
    'losses': (
        'ClassBalancedCrossEntropy',
        'ClassCentreContrast',
        'ClassPrior',
        'LovaszLoss',
        'RegionCrossEntropy',
        'SymmetricCrossEntropy',
    ),
    'mapping.run': ('map_region',),
    'datasets.chip': ('Chip',),
    'mapping.arrays': ('fit', 'map_array'),
    'mapping.config': ('MapJob',),
    'models.backbones.backbone': ('Backbone',),
    'models.head.cells': ('Cells',),
    'models.head.head': ('Head',),
    'models.tokens.tokens': ('Tokens',),
    'tasks.map_writer': ('MapWriter',),
    'models.backbones.create': ('create_backbone',),
    'models.head.options': ('FitOptions',),
    'models.export': ('ExportableModel',),
    'models.model': ('LandCoverModel',),
    'offline': ('forbid_network',),
    'samplers': (
        'BalancedChipSampler',
        'ChipSampler',
        'FitSampler',
        'LatticeSampler',
        'PatchSampler',
    ),
    'tasks': (
        'AdversarialTask',
        'ClassAwareTask',
        'Classes',
        'ExpectationMaximizationTask',
        'ExpectedShares',
        'MapSRTask',
        'MaskedAutoencoderTask',
        'MatchedStatistics',
        'Network',
        'OracleTask',
        'PixelLabels',
        'PseudoLabelTask',
        'RegionLabels',
        'SegmentationTask',
        'SelfTrainingTask',
    ),
    'transforms': ('ClassMix', 'RegionAggregation', 'ResolutionAlignment'),
}

heed_variable()

_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.{_HOME[name]}', __name__), name)


def __dir__() -> list[str]:
    """Public names, whether they are imported yet or not."""
    return [*globals(), *__all__]
