# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Two data modules side by side: a labelled source and an unlabelled target."""

from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import Dataset

from .._compat import Sample
from ..arguments import check_arguments
from .repeatable import RepeatableDataModule

PARTS = ('source', 'target')


class SourceTargetDataModule(RepeatableDataModule):
    """Train on batches of two data modules at once.

    A training batch is a dictionary of two batches, ``source`` and ``target``, each
    transferred and augmented by its own data module. Validation, test and prediction
    are the target's, or the source's where *evaluate* says so. Labels that the target's
    batches happen to have are for validation: self-training does not look at them.

    Source and target may be the same files; for other places, sensors or seasons give
    two. Their chips must have the same size.

    Args:
        source: Data with labels.
        target: Data to adapt to.
        mode: When an epoch ends: with the longer of the two, the shorter being repeated
            (*max_size_cycle*), or with the shorter (*min_size*).
        evaluate: Whose data is for validation, test and prediction: a target without
            any labels has none to compare with.

    Raises:
        InputError: *mode* or *evaluate* is something else.
    """

    def __init__(
        self,
        source: LightningDataModule,
        target: LightningDataModule,
        mode: Literal['max_size_cycle', 'min_size'] = 'max_size_cycle',
        evaluate: Literal['source', 'target'] = 'target',
    ) -> None:
        words = {'mode': mode, 'evaluate': evaluate}
        check_arguments(type(self).__init__, words)
        # torchgeo's command line takes only its own data modules; those have a dataset class.
        super().__init__(Dataset)
        self.source, self.target = source, target
        if isinstance(target, RepeatableDataModule):
            # Otherwise both would draw the same chips and turns.
            target.stream = 1
        self.mode = mode
        self.evaluated = source if evaluate == 'source' else target

    def prepare_data(self) -> None:
        """Download what there is to download, in one process."""
        for part in (self.source, self.target):
            part.prepare_data()

    def setup(self, stage: str) -> None:
        """Set up both; only one where nothing is trained.

        Args:
            stage: Fit, validate, test or predict.
        """
        both = self.source, self.target
        for part in both if stage == 'fit' else (self.evaluated,):
            # Their augmentations depend on the trainer's state.
            part.trainer = self.trainer
            part.setup(stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let both go on with one epoch.

        Args:
            state_dict: What :meth:`state_dict` returned.
        """
        for part in (self.source, self.target):
            if isinstance(part, RepeatableDataModule):
                part.load_state_dict(state_dict)

    def train_dataloader(self) -> CombinedLoader:
        """Load pairs of batches."""
        loaders = {
            'source': self.source.train_dataloader(),
            'target': self.target.train_dataloader(),
        }
        return CombinedLoader(loaders, self.mode)

    def val_dataloader(self) -> Any:
        """Load validation chips of the domain that is evaluated."""
        return self.evaluated.val_dataloader()

    def test_dataloader(self) -> Any:
        """Load test chips of the domain that is evaluated."""
        return self.evaluated.test_dataloader()

    def predict_dataloader(self) -> Any:
        """Load chips to predict of the domain that is evaluated."""
        return self.evaluated.predict_dataloader()

    def transfer_batch_to_device(
        self, batch: Sample, device: torch.device, dataloader_idx: int
    ) -> Sample:
        """Move a batch as its own data module does.

        Args:
            batch: A batch of the target, or one of both.
            device: Where to.
            dataloader_idx: Index of the loader.

        Returns:
            The batch on the device.
        """
        if not _is_pair(batch):
            moved: Sample = self.evaluated.transfer_batch_to_device(
                batch, device, dataloader_idx
            )
            return moved
        return {
            part: getattr(self, part).transfer_batch_to_device(
                batch[part], device, dataloader_idx
            )
            for part in PARTS
        }

    def on_after_batch_transfer(self, batch: Sample, dataloader_idx: int) -> Sample:
        """Augment a batch as its own data module does.

        Args:
            batch: A batch of the target, or one of both.
            dataloader_idx: Index of the loader.

        Returns:
            The augmented batch.
        """
        if not _is_pair(batch):
            augmented: Sample = self.evaluated.on_after_batch_transfer(
                batch, dataloader_idx
            )
            return augmented
        return {
            part: getattr(self, part).on_after_batch_transfer(
                batch[part], dataloader_idx
            )
            for part in PARTS
        }


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, dict) and set(batch) == set(PARTS)
