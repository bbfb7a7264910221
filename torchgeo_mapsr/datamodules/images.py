# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Data modules of images with a label for every pixel."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

from torch import nn
from torch.utils.data import DataLoader
from torchgeo.datamodules import NonGeoDataModule

from .._compat import Sample
from ..arguments import check_arguments, check_range
from ..datasets.images import ImageChips
from ..datasets.openearthmap import OpenEarthMap
from ..datasets.openearthmap_sar import Modality, OpenEarthMapSAR
from ..transforms import RandomChip
from ..transforms.flips_and_turns import FlipsAndTurns

Split = Literal['train', 'val', 'test']
Transforms = Callable[[Sample], Sample]


class ImageChipsDataModule(NonGeoDataModule, ABC):
    """What data modules of labelled chips have in common.

    Training sees a random part of each image, validation, test and prediction whole
    images one by one, which may differ in size. Batches keep the values of the imagery
    as they are stored (torchgeo's base class would divide them by 255): networks know
    their own mean and standard deviation.

    Args:
        batch_size: Parts in a training batch.
        patch_size: Height and width of a part, in pixels.
        num_workers: Processes that read.
        augment: Flip and turn parts.

    Raises:
        InputError: A number is out of its range.
    """

    def __init__(
        self,
        batch_size: int = 8,
        patch_size: int = 512,
        num_workers: int = 0,
        augment: bool = True,
    ) -> None:
        check_range('batch_size', batch_size, 1, whole=True)
        check_range('patch_size', patch_size, 1, whole=True)
        check_range('num_workers', num_workers, 0, whole=True)
        super().__init__(ImageChips, batch_size, num_workers)
        self.val_batch_size = self.test_batch_size = self.predict_batch_size = 1
        self.patch_size = patch_size
        self.aug = nn.Identity()
        if augment:
            self.train_aug = FlipsAndTurns()

    @abstractmethod
    def images(self, split: Split, transforms: Transforms | None = None) -> ImageChips:
        """Make the dataset of a split."""

    def setup(self, stage: str) -> None:
        """Set up datasets.

        Args:
            stage: Fit, validate, test or predict.
        """
        if stage == 'fit':
            self.train_dataset = self.images('train', RandomChip(self.patch_size))
        if stage in ('fit', 'validate'):
            self.val_dataset = self.images('val')
        if stage == 'test':
            self.test_dataset = self.images('test')
        if stage == 'predict':
            self.predict_dataset = self.images('test')

    def train_dataloader(self) -> DataLoader[Sample]:
        """Load the training images in random order, the last batch included.

        torchgeo drops an incomplete batch: of a few images nothing would be left.
        """
        return DataLoader(
            self._valid_attribute('train_dataset'),
            batch_size=self.batch_size,
            shuffle=True,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


class OpenEarthMapDataModule(ImageChipsDataModule):
    """Data module of OpenEarthMap.

    Args:
        root: Folder of the data, see :class:`~torchgeo_mapsr.datasets.OpenEarthMap`.
        batch_size: Parts in a training batch.
        patch_size: Height and width of a part, in pixels.
        num_workers: Processes that read.
        augment: Flip and turn parts.
    """

    def __init__(
        self,
        root: str = 'data',
        batch_size: int = 8,
        patch_size: int = 512,
        num_workers: int = 0,
        augment: bool = True,
    ) -> None:
        super().__init__(batch_size, patch_size, num_workers, augment)
        self.root = root

    def images(
        self, split: Split, transforms: Transforms | None = None
    ) -> OpenEarthMap:
        """Make the dataset of a split."""
        return OpenEarthMap(self.root, split, transforms)


class OpenEarthMapSARDataModule(ImageChipsDataModule):
    """Data module of OpenEarthMap-SAR.

    Optical images are there for training alone, so with ``modality='optical'`` these
    are validated, tested and predicted too: against the published pseudo-labels, or to
    make new ones.

    Args:
        root: Folder of the data, see :class:`~torchgeo_mapsr.datasets.OpenEarthMapSAR`.
        modality: Which image is ``image``: ``sar`` or ``optical``.
        paired: Also give the optical image of a SAR image, as ``image_optical``.
        labels: Folder of the training labels; validation and test have ``labels``.
        batch_size: Parts in a training batch.
        patch_size: Height and width of a part, in pixels.
        num_workers: Processes that read.
        augment: Flip and turn parts.

    Raises:
        InputError: *modality* is something else, or a number is out of its range.
    """

    def __init__(
        self,
        root: str = 'data',
        modality: Modality = 'sar',
        paired: bool = False,
        labels: str = 'labels',
        batch_size: int = 8,
        patch_size: int = 512,
        num_workers: int = 0,
        augment: bool = True,
    ) -> None:
        check_arguments(type(self).__init__, {'modality': modality})
        super().__init__(batch_size, patch_size, num_workers, augment)
        self.root, self.modality, self.paired = root, modality, paired
        self.labels = labels

    def images(
        self, split: Split, transforms: Transforms | None = None
    ) -> OpenEarthMapSAR:
        """Make the dataset of a split."""
        train = split == 'train'
        return OpenEarthMapSAR(
            self.root,
            'train' if self.modality == 'optical' else split,
            self.modality,
            self.paired and train,
            self.labels if train else 'labels',
            transforms,
        )
