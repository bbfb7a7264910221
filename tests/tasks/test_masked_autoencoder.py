# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader

from torchgeo_mapsr.datamodules import UnlabelledDataModule
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.networks.masked_autoencoder import MaskedAutoencoder
from torchgeo_mapsr.tasks import MaskedAutoencoderTask, SegmentationTask

SMALL: dict[str, Any] = {'size': 64, 'dim': 32, 'depth': 1, 'heads': 4}
SMALL |= {'decoder_dim': 16, 'decoder_depth': 1, 'decoder_heads': 2}


def trainer(**options: Any) -> Trainer:
    quiet = {'enable_progress_bar': False, 'enable_model_summary': False}
    quiet |= {'logger': False, 'enable_checkpointing': False}
    return Trainer(accelerator='cpu', **{'max_epochs': 1} | quiet | options)


def loader(bands: int = 4, count: int = 2, size: int = 64) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, bands, size, size)
    return DataLoader(
        [{'image': 255 * torch.rand(shape, generator=generator)} for _ in range(count)],
        batch_size=None,
    )


def test_encoder_starts_a_network(tmp_path: Path) -> None:
    path = tmp_path / 'deep' / 'encoder.safetensors'
    task = MaskedAutoencoderTask(**SMALL, output=str(path), lr=1e-2)
    before = {k: v.clone() for k, v in task.autoencoder.encoder.state_dict().items()}
    run = trainer(enable_checkpointing=True, default_root_dir=tmp_path)
    run.fit(task, loader(), loader())
    after = task.autoencoder.encoder.state_dict()
    assert not torch.equal(before['conv1.weight'], after['conv1.weight'])
    assert [p.name for p in path.parent.iterdir()] == ['encoder.safetensors']
    assert {'train_loss', 'val_loss'} <= set(run.callback_metrics)
    checkpoint = run.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    for source in (str(path), checkpoint):
        network = SegmentationTask(weights=source).model
        for name, tensor in network.encoder.state_dict().items():
            assert torch.equal(tensor, after[name]), name


def test_it_is_the_standardised_image_that_is_reconstructed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def loss(self: MaskedAutoencoder, image: torch.Tensor) -> torch.Tensor:
        seen.append(image)
        return image.mean() * self.head.bias.sum()

    monkeypatch.setattr(MaskedAutoencoder, 'loss', loss)
    task = MaskedAutoencoderTask(**SMALL, mean=[1, 2, 3, 4], std=2.0)
    data = loader(count=1)
    trainer().validate(task, data, verbose=False)
    image = next(iter(data))['image']
    expected = (image - torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1)) / 2
    torch.testing.assert_close(seen[0], expected)


def test_learning_rate_rises_and_falls() -> None:
    rates = []

    class Rates(Callback):
        def on_train_batch_start(self, run: Trainer, *_: Any) -> None:
            rates.append(run.optimizers[0].param_groups[0]['lr'])

    task = MaskedAutoencoderTask(**SMALL, warmup=0.5, lr=1.0)
    run = trainer(callbacks=[Rates()], fast_dev_run=8)
    run.fit(task, loader(count=8))
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert rates[5:] == pytest.approx([0.854, 0.5, 0.146], abs=1e-3)


def test_goes_on_with_the_masks_that_it_would_have_drawn(tmp_path: Path) -> None:
    every = ModelCheckpoint(tmp_path, '{epoch}', save_top_k=-1)
    output = str(tmp_path / 'encoder.safetensors')
    kept = {'max_epochs': 2, 'enable_checkpointing': True, 'callbacks': [every]}
    tasks = []
    for options in (kept, {'max_epochs': 2, 'ckpt': tmp_path / 'epoch=0.ckpt'}):
        first = options.pop('ckpt', None)
        torch.manual_seed(0)
        tasks.append(MaskedAutoencoderTask(**SMALL, output=output))
        trainer(**options).fit(tasks[-1], loader(count=1), ckpt_path=first)
    for one, other in zip(*(task.parameters() for task in tasks), strict=True):
        assert torch.equal(one, other)


def test_validation_has_the_same_masks_in_each_epoch() -> None:
    torch.manual_seed(0)
    task, data = MaskedAutoencoderTask(**SMALL), loader()
    losses = [trainer().validate(task, data, verbose=False) for _ in range(2)]
    assert losses[0] == losses[1]


class TestMistakes:
    def test_images(self) -> None:
        with pytest.raises(InputError, match='give the task in_channels=3'):
            trainer().fit(MaskedAutoencoderTask(**SMALL), loader(bands=3))
        with pytest.raises(InputError, match='patch_size=64'):
            trainer().fit(MaskedAutoencoderTask(**SMALL), loader(size=96))

    def test_encoders(self) -> None:
        with pytest.raises(InputError, match=r"No encoder 'resnet19'.*resnet18"):
            MaskedAutoencoderTask(**SMALL, backbone='resnet19')

    def test_nothing_to_predict(self) -> None:
        with pytest.raises(InputError, match='predicts nothing'):
            trainer().predict(MaskedAutoencoderTask(**SMALL), loader())

    def test_weights_of_another_encoder(self, tmp_path: Path) -> None:
        path = tmp_path / 'encoder.safetensors'
        MaskedAutoencoderTask(**SMALL).save_encoder(path)
        with pytest.raises(InputError, match='does not fit the encoder resnet34'):
            SegmentationTask(weights=str(path), backbone='resnet34')
        with pytest.raises(InputError, match='does not fit the encoder resnet18'):
            SegmentationTask(weights=str(path), in_channels=3)


def test_an_output_that_cannot_be_written(made_scene: Scene, tmp_path: Path) -> None:
    """It is a line before the first step, and not a traceback after the last."""
    copy = tmp_path / 'imagery.tif'
    copy.write_bytes(Path(made_scene.imagery).read_bytes())
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').touch()
    data = UnlabelledDataModule(str(copy), patch_size=64, length=1)
    for output, message in (
        (tmp_path / 'folder', 'is a folder'),
        ('s3://bucket/encoder.safetensors', 'is an address'),
        (tmp_path / 'file' / 'encoder.safetensors', 'file is no folder'),
        (copy, 'is an input and would be overwritten'),
    ):
        run, task = trainer(), MaskedAutoencoderTask(**SMALL, output=output)
        with pytest.raises(InputError, match=message):
            run.fit(task, data)
        assert run.global_step == 0
