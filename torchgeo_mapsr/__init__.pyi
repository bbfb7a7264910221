# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The package's public names, and where each lives: the only place that lists them.

Type checkers, the documentation and, when a name is asked for, Python read this file.
"""

from .datamodules import ChesapeakePairsDataModule as ChesapeakePairsDataModule
from .datamodules import FineLabelDataModule as FineLabelDataModule
from .datamodules import Low2HighDataModule as Low2HighDataModule
from .datamodules import OpenEarthMapDataModule as OpenEarthMapDataModule
from .datamodules import OpenEarthMapSARDataModule as OpenEarthMapSARDataModule
from .datamodules import PairDataModule as PairDataModule
from .datamodules import SourceTargetDataModule as SourceTargetDataModule
from .datamodules import UnlabelledDataModule as UnlabelledDataModule
from .datasets import ChesapeakePairs as ChesapeakePairs
from .datasets import Crosswalk as Crosswalk
from .datasets import ExemplarLabels as ExemplarLabels
from .datasets import FineLabelPair as FineLabelPair
from .datasets import Imagery as Imagery
from .datasets import JointStatistics as JointStatistics
from .datasets import LabelRaster as LabelRaster
from .datasets import Legend as Legend
from .datasets import Low2High as Low2High
from .datasets import LRHRPair as LRHRPair
from .datasets import LRHRPairs as LRHRPairs
from .datasets import OpenEarthMap as OpenEarthMap
from .datasets import OpenEarthMapSAR as OpenEarthMapSAR
from .datasets import UnlabelledImagery as UnlabelledImagery
from .datasets import collate_pairs as collate_pairs
from .datasets import make_scene as make_scene
from .datasets.chip import Chip as Chip
from .errors import InputError as InputError
from .losses import ClassBalancedCrossEntropy as ClassBalancedCrossEntropy
from .losses import ClassCentreContrast as ClassCentreContrast
from .losses import ClassPrior as ClassPrior
from .losses import LovaszLoss as LovaszLoss
from .losses import RegionCrossEntropy as RegionCrossEntropy
from .losses import SymmetricCrossEntropy as SymmetricCrossEntropy
from .mapping.arrays import fit as fit
from .mapping.arrays import map_array as map_array
from .mapping.config import MapJob as MapJob
from .mapping.run import map_region as map_region
from .models.backbones.backbone import Backbone as Backbone
from .models.backbones.create import create_backbone as create_backbone
from .models.export import ExportableModel as ExportableModel
from .models.head.cells import Cells as Cells
from .models.head.head import Head as Head
from .models.head.options import FitOptions as FitOptions
from .models.model import LandCoverModel as LandCoverModel
from .models.tokens.tokens import Tokens as Tokens
from .offline import forbid_network as forbid_network
from .samplers import BalancedChipSampler as BalancedChipSampler
from .samplers import ChipSampler as ChipSampler
from .samplers import FitSampler as FitSampler
from .samplers import LatticeSampler as LatticeSampler
from .samplers import PatchSampler as PatchSampler
from .tasks import AdversarialTask as AdversarialTask
from .tasks import ClassAwareTask as ClassAwareTask
from .tasks import Classes as Classes
from .tasks import ExpectationMaximizationTask as ExpectationMaximizationTask
from .tasks import ExpectedShares as ExpectedShares
from .tasks import MapSRTask as MapSRTask
from .tasks import MaskedAutoencoderTask as MaskedAutoencoderTask
from .tasks import MatchedStatistics as MatchedStatistics
from .tasks import Network as Network
from .tasks import OracleTask as OracleTask
from .tasks import PixelLabels as PixelLabels
from .tasks import PseudoLabelTask as PseudoLabelTask
from .tasks import RegionLabels as RegionLabels
from .tasks import SegmentationTask as SegmentationTask
from .tasks import SelfTrainingTask as SelfTrainingTask
from .tasks.map_writer import MapWriter as MapWriter
from .transforms import ClassMix as ClassMix
from .transforms import RegionAggregation as RegionAggregation
from .transforms import ResolutionAlignment as ResolutionAlignment

__version__: str
