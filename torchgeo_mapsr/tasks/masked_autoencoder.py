# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Pretraining of a segmentation network's encoder on imagery alone."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import segmentation_models_pytorch as smp
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from safetensors.torch import save
from torch import Tensor
from torch.optim import AdamW

from .._compat import BaseTask, Sample
from ..arguments import check_arguments, check_local, plain
from ..atomic import replacing
from ..datasets.base import ChipDataset
from ..errors import InputError
from ..mapping.outputs import check_outputs
from ..models.backbones.spec import suggest
from ..models.networks.masked_autoencoder import STRIDE, MaskedAutoencoder
from ..models.networks.normalisation import normalisation
from ..seeds import repeatable, seed_at, seeded
from .land_cover import check_domains, warn_of_scaled_values
from .schedule import CosineDecay, training_steps


class MaskedAutoencoderTask(BaseTask):
    """Pretrain the encoder of a segmentation network on imagery without labels.

    Workman et al. 2023, section 4.5: see
    :class:`~torchgeo_mapsr.models.networks.masked_autoencoder.MaskedAutoencoder`. When training
    ends, the encoder's weights are written to *output*, which other tasks take as
    ``weights``; they take a checkpoint of this task too. The imagery is standardised as
    theirs is, so give *image_dtype*, *mean* and *std* alike.

    Batches need ``image`` of *size* × *size* pixels (``patch_size`` of the data
    modules).

    Args:
        backbone: Encoder, as
            :class:`~torchgeo_mapsr.models.networks.segmentation.SegmentationNetwork` takes it.
        in_channels: Bands of the imagery.
        image_dtype: Data type of the imagery's files.
        mean: Mean of each band, or one for all, in units of the files.
        std: Standard deviation likewise.
        size: Height and width of the images, in pixels.
        dim: Width of the transformer's tokens.
        depth: Blocks of the transformer.
        heads: Attention heads of the transformer.
        decoder_dim: Width of the decoder's tokens.
        decoder_depth: Blocks of the decoder.
        decoder_heads: Attention heads of the decoder.
        ratio: Share of patches that is masked.
        hidden: What is masked.
        output: File to write the encoder's weights to; an older one is replaced.
        lr: Learning rate after the warm-up; it falls to zero along a cosine.
        weight_decay: Weight decay of AdamW.
        warmup: Share of the steps over which the learning rate rises.

    Raises:
        InputError: An argument is out of its range.
    """

    def __init__(
        self,
        backbone: str = 'resnet18',
        in_channels: int = 4,
        image_dtype: str | None = 'uint8',
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        size: int = 224,
        dim: int = 384,
        depth: int = 12,
        heads: int = 6,
        decoder_dim: int = 192,
        decoder_depth: int = 2,
        decoder_heads: int = 6,
        ratio: float = 0.75,
        hidden: Literal['pixels', 'tokens'] = 'pixels',
        output: str = 'encoder.safetensors',
        lr: float = 1.5e-4,
        weight_decay: float = 0.05,
        warmup: float = 0.05,
    ) -> None:
        super().__init__()

    def configure_models(self) -> None:
        """Make the autoencoder."""
        self.hparams.update(plain(self.hparams))
        h = self.hparams
        check_arguments(
            type(self).__init__,
            h,
            {
                'in_channels': (1, math.inf),
                'lr': (0, math.inf),
                'weight_decay': (0, math.inf),
                'warmup': (0, 1),
            },
        )
        self._scored = False
        self.normalise = normalisation(
            h['in_channels'], h['image_dtype'], h['mean'], h['std']
        )
        self.autoencoder = MaskedAutoencoder(
            create_encoder(h['backbone'], h['in_channels']),
            h['in_channels'],
            h['size'],
            h['dim'],
            h['depth'],
            h['heads'],
            h['decoder_dim'],
            h['decoder_depth'],
            h['decoder_heads'],
            h['ratio'],
            h['hidden'],
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimise everything.

        Returns:
            AdamW with the moments of He et al. 2022, and a learning rate that rises
            along a line and falls along a cosine.
        """
        h = self.hparams
        optimizer = AdamW(
            [p for p in self.parameters() if p.requires_grad],
            lr=h['lr'],
            betas=(0.9, 0.95),
            weight_decay=h['weight_decay'],
        )
        steps = training_steps(self.trainer)
        rise = max(round(h['warmup'] * steps), 1)
        scheduler = CosineDecay(optimizer, steps, rise)
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': scheduler, 'interval': 'step'},
        }

    def on_train_start(self) -> None:
        """Make sure that the encoder can be written when training ends.

        Raises:
            InputError: If *output* is a folder, lies in none, or is what is read.
        """
        if self.trainer.fast_dev_run:
            return
        loader: Any = self.trainer.train_dataloader
        dataset = getattr(loader, 'dataset', None)
        read = dataset.paths if isinstance(dataset, ChipDataset) else []
        check_local(self.hparams['output'])
        check_outputs([Path(self.hparams['output'])], read, overwrite=True)

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        """Refuse batches of two domains.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
        """
        check_domains(self, batch)

    @repeatable
    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute the error of the masked patches.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            The loss tensor.
        """
        return self._loss(batch, 'train')

    def validation_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Compute the error of the masked patches.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        self._evaluate(batch, batch_idx, 'val')

    def test_step(self, batch: Sample, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Compute the error of the masked patches.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        self._evaluate(batch, batch_idx, 'test')

    def predict_step(self, batch: Sample, batch_idx: int) -> Any:
        """There is nothing to predict.

        Args:
            batch: The output of your DataLoader.
            batch_idx: Integer displaying index of this batch.
        """
        raise InputError('Pretraining predicts nothing: give its encoder to a task')

    def on_train_end(self) -> None:
        """Write the encoder's weights."""
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:
            self.save_encoder(self.hparams['output'])

    def save_encoder(self, path: str | Path) -> None:
        """Write the encoder's weights.

        Args:
            path: A .safetensors file, which is there when it is whole.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        state = self.autoencoder.encoder.state_dict()
        with replacing(path) as part:
            content = save({name: value.contiguous() for name, value in state.items()})
            part.write_bytes(content)  # save_file raises no OSError

    def _evaluate(self, batch: Sample, batch_idx: int, stage: str) -> None:
        # The same masks in each epoch.
        seed = seed_at('masks', self.global_rank, batch_idx)
        with seeded(seed, self.device):
            self._loss(batch, stage)

    def _loss(self, batch: Sample, stage: str) -> Tensor:
        image, bands = batch['image'], self.hparams['in_channels']
        if image.shape[1] != bands:
            raise InputError(
                f'The imagery has {image.shape[1]} bands and the task was made for '
                f'{bands}: give the task in_channels={image.shape[1]}, or choose bands '
                'of the imagery'
            )
        if not self._scored:
            self._scored = True
            if self.hparams['mean'] is None:
                warn_of_scaled_values(image, self.hparams['image_dtype'])
        image = self.normalise(image.nan_to_num(nan=0, posinf=0, neginf=0))
        kind = next(self.autoencoder.parameters()).dtype
        loss = self.autoencoder.loss(image.to(kind))
        self.log(f'{stage}_loss', loss, batch_size=len(image), sync_dist=True)
        return loss


def create_encoder(backbone: str, bands: int) -> Any:
    """Make an encoder of stride 32, as segmentation networks have.

    Args:
        backbone: A name of segmentation-models-pytorch, or ``tu-NAME`` of timm.
        bands: Bands of the imagery.

    Raises:
        InputError: If there is none of that name, or it has another stride.
    """
    try:
        encoder = smp.encoders.get_encoder(
            backbone, in_channels=bands, depth=5, weights=None
        )
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(
            f'No encoder {backbone!r}'
            f'{suggest(backbone, smp.encoders.get_encoder_names())}; encoders of timm '
            'are called tu-NAME'
        ) from error
    if encoder.output_stride != STRIDE:
        raise InputError(
            f'The encoder {backbone!r} has a stride of {encoder.output_stride}; '
            f'pretraining is for those of {STRIDE}, such as resnet18'
        )
    return encoder
