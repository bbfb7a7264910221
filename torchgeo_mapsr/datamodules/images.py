# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Data modules of images with a label for every pixel."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Generator, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchgeo.datamodules import NonGeoDataModule

from .._compat import Sample
from ..arguments import check_arguments, check_range
from ..datasets.images import ImageChips
from ..datasets.openearthmap import OpenEarthMap
from ..datasets.openearthmap_sar import Modality, OpenEarthMapSAR
from ..seeds import seed_at, seeded
from ..transforms import RandomChip
from ..transforms.flips_and_turns import FlipsAndTurns
from .repeatable import RepeatableDataModule

Split = Literal['train', 'val', 'test']
Transforms = Callable[[Sample], Sample]


class ImageChipsDataModule(RepeatableDataModule, NonGeoDataModule, ABC):
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
        self._goes_on_at = 0
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
        parts = _Parts(self._valid_attribute('train_dataset'))
        seed = seed_at('images', self.stream)
        sampler = _EachImage(len(parts), seed)
        if self.trainer is not None:
            # Processes share one order.
            sampler.seed = self.trainer.strategy.broadcast(seed)
            sampler.set_epoch(self.epoch)
        return DataLoader(
            parts,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


class _Parts(Dataset[Sample]):
    """Random parts of images: item k · n + i is the k-th of image i, of n.

    Whichever process reads it, and however many it has read before.
    """

    def __init__(self, images: ImageChips) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int) -> Sample:
        with seeded(item):
            return self.images[item % len(self)]


class _EachImage(Sampler[int]):
    """A part of each image, in random order; in an epoch that is taken again the same."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Draw by the number of an epoch, which Lightning tells before it begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        part = (self.seed + self.epoch) % 2**32
        generator = Generator().manual_seed(part)
        for number in torch.randperm(self.count, generator=generator).tolist():
            yield part * self.count + number

    def __len__(self) -> int:
        return self.count


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
