# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import inspect
import math
import pickle
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import Callback, Trainer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader
from torchgeo.models import ResNet18_Weights
from torchmetrics import MetricCollection

from torchgeo_mapsr import (
    Classes,
    ExpectedShares,
    InputError,
    MatchedStatistics,
    PairDataModule,
    RegionLabels,
    SegmentationTask,
    make_scene,
)
from torchgeo_mapsr._compat import SemanticSegmentationTask
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.datasets.plot import per_pixel
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.main import main
from torchgeo_mapsr.models.networks.trained import load_networks

from ..forked import run_forked

TRUTH = Classes(truth_legend='land-cover-4')
# An encoder of half a million numbers, where it is not the network that is tried.
SMALL = 'tu-test_resnet'
ARGUMENTS = {'in_channels': 4, 'classes': TRUTH, 'lr': 3e-3, 'scheduler': 'cosine'}


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp('scene'), seed=1, size=(192, 192))


@pytest.fixture(scope='module')
def data(scene: Scene) -> PairDataModule:
    return PairDataModule(
        str(scene.imagery),
        str(scene.labels),
        str(scene.truth),
        batch_size=3,
        patch_size=64,
        augment=True,
    )


def trainer(folder: Path, **arguments: object) -> Trainer:
    quiet = {'logger': False, 'enable_progress_bar': False, 'accelerator': 'cpu'}
    return Trainer(default_root_dir=folder, **{**quiet, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize('supervision', ['lr', 'hr'])
def test_learns_the_labels_it_is_given(
    supervision: str, data: PairDataModule, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    task = SegmentationTask(**ARGUMENTS, supervision=supervision)  # type: ignore[arg-type]
    quick = {'num_sanity_val_steps': 0, 'check_val_every_n_epoch': 8}
    run = trainer(tmp_path, max_epochs=8, enable_checkpointing=False, **quick)
    before = run.validate(task, data, verbose=False)[0]
    run.fit(task, data)
    after = run.validate(task, data, verbose=False)[0]
    assert after['val_loss'] < 0.9 * before['val_loss']
    if supervision == 'hr':
        assert after['val_OverallAccuracy'] > max(before['val_OverallAccuracy'], 0.5)
    assert {'val_mIoU', 'val_F1', 'val_AverageAccuracy', 'val_LRAgreement'} <= set(
        after
    )


def test_lr_label_is_that_of_the_cell_under_each_pixel(data: PairDataModule) -> None:
    data.setup('validate')
    batch = next(iter(data.val_dataloader()))
    task = SegmentationTask(**ARGUMENTS)  # type: ignore[arg-type]
    codes = per_pixel(batch['lr_label'][0], batch['mask_region'][0])
    expected = torch.from_numpy(task.crosswalk.index(codes))
    found = task.pixel_index(batch)[0]
    valid = batch['mask_valid'][0] > 0
    assert torch.equal(found[valid], expected[valid])
    assert (found[~valid] == -1).all()


def test_cross_entropy_is_torchs_and_zero_without_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator, requires_grad=True)
    index = torch.randint(-1, 4, (2, 5, 6), generator=generator)
    weights = (1.0, 2.0, 0.5, 4.0)
    task = SegmentationTask(**ARGUMENTS, class_weights=weights)  # type: ignore[arg-type]
    expected = F.cross_entropy(logits, index, torch.tensor(weights), ignore_index=-1)
    torch.testing.assert_close(task.pixel_loss(logits, index), expected)
    nothing = task.pixel_loss(logits, torch.full_like(index, -1))
    assert nothing == 0
    nothing.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_a_class_of_weight_0_is_no_label() -> None:
    """PyTorch's mean over its pixels alone is 0 / 0, which would end the network."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator, requires_grad=True)
    index = torch.randint(-1, 4, (2, 5, 6), generator=generator)
    weights = (0.0, 2.0, 0.5, 4.0)
    task = SegmentationTask(class_weights=weights)
    expected = F.cross_entropy(logits, index, torch.tensor(weights), ignore_index=-1)
    torch.testing.assert_close(task.pixel_loss(logits, index), expected)
    water = torch.where(index > 0, -1, index)
    assert F.cross_entropy(
        logits, water, torch.tensor(weights), ignore_index=-1
    ).isnan()
    nothing = task.pixel_loss(logits, water)
    nothing.backward()
    assert nothing == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize('precision', ['64-true', 'bf16-true'])
@pytest.mark.parametrize('supervision', ['lr', RegionLabels()], ids=['lr', 'regions'])
def test_weights_in_true_precisions(
    precision: Any, supervision: Any, data: PairDataModule, tmp_path: Path
) -> None:
    """Which convert the weights, but not the scores that are compared in single."""
    task = SegmentationTask(
        backbone=SMALL, class_weights=[1, 2, 3, 4], supervision=supervision
    )
    quick = {'precision': precision, 'fast_dev_run': 1}
    run = trainer(tmp_path, limit_val_batches=0, **quick)
    run.fit(task, data)
    assert run.callback_metrics['train_loss'].isfinite()


def test_checkpoint_is_whole(data: PairDataModule, tmp_path: Path) -> None:
    task = SegmentationTask(**ARGUMENTS)  # type: ignore[arg-type]
    run = trainer(tmp_path, fast_dev_run=1)
    run.fit(task, data)
    run.save_checkpoint(tmp_path / 'task.ckpt')
    loaded = SegmentationTask.load_from_checkpoint(
        tmp_path / 'task.ckpt', map_location='cpu'
    ).eval()
    image = torch.rand(1, 4, 40, 50) * 255
    torch.testing.assert_close(loaded(image), task.eval()(image))


@pytest.mark.parametrize('loss', ['ce', 'jaccard', 'focal', 'dice'])
def test_losses_are_those_of_segmentation_models(loss: Any) -> None:
    """Of all pixels; and those without a label are as if they were not there."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 8, 8, generator=generator)
    index = torch.randint(0, 4, (2, 8, 8), generator=generator)
    task = SegmentationTask(loss=loss)
    torchs = {
        'ce': F.cross_entropy,
        'jaccard': smp.losses.JaccardLoss('multiclass'),
        'focal': _focal,
        'dice': smp.losses.DiceLoss('multiclass'),
    }[loss]
    torch.testing.assert_close(task.pixel_loss(logits, index), torchs(logits, index))
    # rows 5 to 8 of both images have no label
    index[:, 5:] = -1
    torch.testing.assert_close(
        task.pixel_loss(logits, index), torchs(logits[:, :, :5], index[:, :5])
    )


def _focal(logits: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Normalised focal loss: means of -log p with weights (1 - p)², one a class."""
    one = F.one_hot(index, 4).movedim(-1, 1).float()
    p = logits.sigmoid() * one + (1 - logits.sigmoid()) * (1 - one)
    weight = (1 - p) ** 2
    return ((weight * -p.log()).sum((0, 2, 3)) / weight.sum((0, 2, 3))).mean()


def test_double_precision_by_default(data: PairDataModule, tmp_path: Path) -> None:
    """Files have no doubles, and networks are made of them then."""
    torch.set_default_dtype(torch.float64)
    try:
        task = SegmentationTask(backbone=SMALL)
        trainer(tmp_path, fast_dev_run=1).fit(task, data)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in task.parameters()} == {torch.float64}


class TestTorchgeo:
    """It is torchgeo's task, of whichever version is installed."""

    def test_it_is_one(self) -> None:
        task = SegmentationTask(num_classes=4)
        assert isinstance(task, SemanticSegmentationTask)
        assert isinstance(task.model, torch.nn.Module)

    def test_arguments_are_torchgeos(self) -> None:
        theirs = set(inspect.signature(SemanticSegmentationTask).parameters)
        ours = set(inspect.signature(SegmentationTask).parameters)
        # land cover has classes, which have names already, and no FCN
        theirs -= {'task', 'num_labels', 'labels', 'num_filters', 'pos_weight'}
        assert theirs <= ours
        assert len(ours) <= 19

    def test_step_is_torchgeos_where_pixels_have_labels(
        self, data: PairDataModule
    ) -> None:
        """On values that are scaled alike."""
        data.setup('validate')
        batch = next(iter(data.val_dataloader()))
        weights = [1.0, 2.0, 0.5, 4.0]
        options: dict[str, Any] = {'class_weights': weights, 'ignore_index': 2}
        ours = SegmentationTask(
            mean=0, std=1, classes=TRUTH, supervision='hr', **options
        ).eval()
        theirs = SemanticSegmentationTask(
            'unet', 'resnet18', in_channels=4, num_classes=4, **options
        ).eval()
        theirs.model.load_state_dict(ours.model.network.state_dict())
        index = ours.truth.index(batch['mask'].numpy())
        labelled = batch | {'mask': torch.from_numpy(index)}
        assert (labelled['mask'] >= 0).all()
        # theirs has no mask of pixels without data
        labelled['mask'][batch['mask_valid'] == 0] = 2
        for task in (ours, theirs):
            task.log = task.log_dict = lambda *_, **__: None
        torch.testing.assert_close(
            ours.training_step(batch, 0), theirs.training_step(labelled, 0)
        )

    def test_metrics_have_their_names(
        self, data: PairDataModule, tmp_path: Path
    ) -> None:
        """And their values, also where a class is ignored."""
        for ignored in (None, 2):
            torch.manual_seed(0)
            task = SegmentationTask(classes=TRUTH, ignore_index=ignored)
            run = trainer(tmp_path, enable_checkpointing=False)
            found = run.validate(task, data, verbose=False)[0]
            theirs = SemanticSegmentationTask(
                'unet', 'resnet18', in_channels=4, num_classes=4, ignore_index=ignored
            )
            metrics = theirs.val_metrics
            assert isinstance(metrics, MetricCollection)
            task.eval()
            for batch in data.val_dataloader():
                index = task.truth_index(batch)
                absent = -1 if ignored is None else ignored
                with torch.no_grad():
                    logits = task(batch['image'])
                known = index >= 0
                if ignored is None:
                    chosen = logits.movedim(1, -1)[known].T[None], index[known][None]
                else:
                    chosen = logits, torch.where(known, index, absent)
                metrics.update(*chosen)
            expected = metrics.compute()
            both = {k: v for k, v in expected.items() if 'Classwise' not in k}
            assert len(both) >= 2
            for name, value in both.items():
                if ignored is not None and 'Average' in name and 'Jaccard' not in name:
                    # torchmetrics counts the ignored class as one that is not found
                    continue
                assert found[name] == pytest.approx(value.item(), abs=1e-6), name
            assert found['val_mIoU'] == found['val_AverageJaccardIndex']
            assert found['val_mIoU'] != found['val_MulticlassJaccardIndex']

    def test_plateau_of_the_validation_loss(
        self, data: PairDataModule, tmp_path: Path
    ) -> None:
        class Losses(Callback):
            def on_validation_epoch_end(self, run: Trainer, task: Any) -> None:
                losses.append(run.callback_metrics['val_loss'].item())

        losses: list[float] = []
        task = SegmentationTask(backbone=SMALL, lr=0.01, patience=1)
        quick = {'limit_train_batches': 1, 'num_sanity_val_steps': 0}
        run = trainer(tmp_path, max_epochs=3, callbacks=[Losses()], **quick)
        run.fit(task, data)
        (config,) = run.lr_scheduler_configs
        assert isinstance(config.scheduler, ReduceLROnPlateau)
        assert config.scheduler.patience == 1
        assert len(losses) == 3
        assert config.scheduler.best == pytest.approx(min(losses))
        # without validation it stays
        run = trainer(
            tmp_path, max_epochs=2, limit_train_batches=1, limit_val_batches=0
        )
        with pytest.warns(RuntimeWarning, match='ReduceLROnPlateau'):
            run.fit(SegmentationTask(backbone=SMALL), data)

    @pytest.mark.parametrize('part', ['backbone', 'decoder'])
    def test_frozen_parts_stay(
        self, part: str, data: PairDataModule, tmp_path: Path
    ) -> None:
        """Their running statistics as well, which torchgeo's do not."""
        task = SegmentationTask(**{f'freeze_{part}': True}, lr=0.1)  # type: ignore[arg-type]
        parts = {
            'backbone': task.model.network.encoder,
            'decoder': task.model.network.decoder,
        }
        before = {k: deepcopy(v.state_dict()) for k, v in parts.items()}
        trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(task, data)
        for name, module in parts.items():
            pairs = [
                (value, before[name][key])
                for key, value in module.state_dict().items()
                if value.is_floating_point()
            ]
            same = [torch.equal(a, b) for a, b in pairs]
            assert all(same) if name == part else not any(same), name

    def test_weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file, an enum, its name, or nothing; True is the network library's."""
        theirs = timm.create_model('resnet18', in_chans=3)
        monkeypatch.setattr(
            ResNet18_Weights, 'get_state_dict', lambda *_, **__: theirs.state_dict()
        )
        torch.save(theirs.state_dict(), tmp_path / 'encoder.pth')
        enum = ResNet18_Weights.SENTINEL2_RGB_MOCO
        for weights in (str(tmp_path / 'encoder.pth'), enum, str(enum)):
            task = SegmentationTask(weights=weights, in_channels=3)
            for name, value in task.model.encoder.state_dict().items():
                assert torch.equal(value, theirs.state_dict()[name]), name
            assert 'weights' not in task.hparams
        asked: list[Any] = []
        create = smp.create_model

        def spy(*args: Any, encoder_weights: Any, **options: Any) -> Any:
            asked.append(encoder_weights)
            return create(*args, encoder_weights=None, **options)

        monkeypatch.setattr(smp, 'create_model', spy)
        for choice in (True, False, None):
            SegmentationTask(weights=choice)
        assert asked == ['imagenet', None, None]


def test_values_that_are_scaled_already_are_warned_of_once(
    recwarn: pytest.WarningsRecorder,
) -> None:
    image = torch.rand(2, 4, 64, 64)
    task = SegmentationTask()
    with pytest.warns(UserWarning, match='between 0 and 1, and image_dtype is uint8'):
        task(image)
    recwarn.clear()
    task(image)
    # an image that is dark, one that was declared, and numbers that were given
    SegmentationTask()((image > 0.5).float())
    SegmentationTask(image_dtype=None)(image)
    SegmentationTask(mean=0.5, std=0.2)(image)
    assert not [w for w in recwarn if 'image_dtype' in str(w.message)]
    with pytest.raises(InputError, match="image_dtype='bite' is no data type"):
        SegmentationTask(image_dtype='bite')(image)


def test_classes_without_lr_labels_have_a_validation_loss(
    data: PairDataModule, tmp_path: Path
) -> None:
    """The schedule looks at it."""
    data.setup('validate')
    batch = next(iter(data.val_dataloader()))
    bare = {k: batch[k] for k in ('image', 'mask', 'mask_valid')}
    task = SegmentationTask(classes=TRUTH, supervision='hr')
    loader = DataLoader([bare], batch_size=None)  # type: ignore[arg-type]
    found = trainer(tmp_path).validate(task, loader, verbose=False)[0]
    task.eval()
    with torch.no_grad():
        expected = F.cross_entropy(
            task(bare['image']), task.truth_index(bare), ignore_index=-1
        )
    assert found['val_loss'] == pytest.approx(expected.item(), rel=1e-5)


def test_what_a_command_line_makes_is_loaded_again(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nested groups from YAML and options; checkpoints hold plain values."""
    (tmp_path / 'config.yaml').write_text(
        f"""
trainer: {{fast_dev_run: false, max_steps: 1, limit_val_batches: 1, logger: false}}
model:
  class_path: torchgeo_mapsr.SegmentationTask
  init_args:
    model: segformer
    backbone: mit_b0
    mean: [1.0, 2.0, 3.0, 4.0]
    std: 60.0
    classes: {{legend: nlcd, target: land-cover-4}}
    supervision: {{class_path: torchgeo_mapsr.RegionLabels}}
data:
  class_path: torchgeo_mapsr.PairDataModule
  init_args:
    {{imagery: {scene.imagery}, labels: {scene.labels}, patch_size: 64, length: 2}}
"""
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['torchgeo-mapsr'])
    args = ['fit', '--config', 'config.yaml', '--trainer.accelerator', 'cpu']
    args += ['--model.classes.truth_legend', 'chesapeake-7']
    args += ['--model.supervision.reduction', 'sum']
    assert main(args) == 0
    (path,) = tmp_path.rglob('*.ckpt')
    task = SegmentationTask.load_from_checkpoint(path, map_location='cpu').eval()
    assert task.supervision == RegionLabels('sum')
    assert task.truth.source.name == 'chesapeake-7'
    image = 255 * torch.rand(1, 4, 64, 64)
    with torch.no_grad():
        expected = load_networks([path]).ensemble(image)
        torch.testing.assert_close(task(image).softmax(1), expected)


def test_copies() -> None:
    """Pickled and deeply copied tasks predict alike."""
    image = 255 * torch.rand(1, 4, 32, 32)
    task = SegmentationTask(class_weights=[1, 2, 3, 4], freeze_backbone=True).eval()
    for copy in (deepcopy(task), pickle.loads(pickle.dumps(task))):
        assert torch.equal(copy(image), task(image))
        assert dict(copy.hparams) == dict(task.hparams)


TWO_PROCESSES = """
import pickle
import sys
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torchgeo_mapsr import PairDataModule, RegionLabels, SegmentationTask

class Same(Callback):
    def on_train_end(self, trainer, task):
        sums = torch.stack([p.detach().double().sum() for p in task.parameters()])
        both = trainer.strategy.all_gather(sums)
        assert torch.equal(both[0], both[1]), 'processes differ'

seed_everything(0)
task = SegmentationTask(supervision=RegionLabels(), freeze_backbone=True)
data = PairDataModule(*sys.argv[1:], patch_size=64, length=4)
Trainer(
    accelerator='cpu', devices=2, strategy='ddp_fork', max_epochs=1, logger=False,
    enable_checkpointing=False, num_sanity_val_steps=0, limit_val_batches=1,
    callbacks=[Same()],
).fit(*pickle.loads(pickle.dumps((task, data))))
"""


def test_two_processes(scene: Scene, tmp_path: Path) -> None:
    """Pickled, as spawned processes get the task, its supervision and its classes."""
    done = run_forked(TWO_PROCESSES, scene.imagery, scene.labels, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'class_weights': (1.0, 2.0)}, 'class_weights has 2 values for 4 classes'),
        ({'num_classes': 5}, "num_classes is 5, and 'land-cover-4' has 4"),
        ({'loss': 'bce'}, 'loss must be one of ce, jaccard, focal, dice'),
        ({'weights': 'RESNET'}, 'RESNET is no file, and no weights of torchgeo'),
        ({'model': 'fcn'}, "Unknown model 'fcn'"),
        ({'mean': 1.0}, 'mean and std together'),
        (
            {'supervision': MatchedStatistics(), 'class_weights': [1, 2, 3, 4]},
            'MatchedStatistics has none: leave them out',
        ),
        (
            {'supervision': MatchedStatistics(hr_weight=1.0), 'ignore_index': 0},
            'MatchedStatistics compares shares of all classes: leave it out',
        ),
        (
            {'supervision': ExpectedShares(), 'ignore_index': 0},
            'ExpectedShares compares shares of all classes: leave it out',
        ),
    ],
)
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        SegmentationTask(**arguments)
    assert '\n' not in str(error.value)


def test_what_has_an_effect_is_taken() -> None:
    """Weights and an ignored class, where there are labels of pixels or cells."""
    weights = {'class_weights': [1, 2, 3, 4]}
    for supervision in ('lr', RegionLabels(), ExpectedShares()):
        SegmentationTask(supervision=supervision, **weights)  # type: ignore[arg-type]
    SegmentationTask(supervision=MatchedStatistics(hr_weight=1.0), **weights)  # type: ignore[arg-type]
    both = MatchedStatistics(sr_weight=0.0, hr_weight=1.0)
    for supervision in ('lr', RegionLabels(), both):
        SegmentationTask(supervision=supervision, ignore_index=2)  # type: ignore[arg-type]


def test_no_hr_labels() -> None:
    task = SegmentationTask(supervision='hr')
    with pytest.raises(InputError, match='no mask'):
        task.truth_index({'image': torch.zeros(1, 4, 8, 8)})


def test_a_longer_training_from_a_checkpoint_ends_at_rate_0(
    data: PairDataModule, tmp_path: Path
) -> None:
    """PyTorch's schedule goes on to the end of the first, and rises again from there."""
    rates: list[float] = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]['lr'])

    few = {'limit_train_batches': 2, 'limit_val_batches': 0, 'callbacks': [Watch()]}
    task = SegmentationTask(**ARGUMENTS, backbone=SMALL)  # type: ignore[arg-type]
    trainer(tmp_path, max_epochs=2, **few).fit(task, data)
    (path,) = tmp_path.rglob('*.ckpt')
    again = SegmentationTask(**ARGUMENTS, backbone=SMALL)  # type: ignore[arg-type]
    trainer(tmp_path, max_epochs=4, **few).fit(again, data, ckpt_path=path)
    steps = [(i, 4) for i in range(4)] + [(i, 8) for i in range(4, 8)]
    expected = [3e-3 * (1 + math.cos(math.pi * i / n)) / 2 for i, n in steps]
    assert rates == pytest.approx(expected, abs=1e-8)


def test_arguments_of_numpy_are_kept_as_plain_values(
    data: PairDataModule, tmp_path: Path
) -> None:
    """Checkpoints are read without running code, and JSON has no arrays."""
    legend = tmp_path / 'own.yaml'
    legend.write_text(yaml.safe_dump(Legend.load('nlcd').to_dict()))
    weights = np.array([1.0, 2.0, 1.0, 1.0])
    for arguments in (
        {
            'lr': np.float64(1e-3),
            'class_weights': list(weights),
            'mean': np.float32(100),
            'std': torch.tensor(50.0),
            'classes': Classes(legend=legend),  # type: ignore[arg-type]
        },
        {
            'in_channels': np.int64(4),
            'class_weights': weights,
            'mean': np.full(4, 100.0),
            'std': torch.full((4,), 50.0),
        },
    ):
        task = SegmentationTask(**{'backbone': SMALL, 'in_channels': 4, **arguments})
        run = trainer(tmp_path, fast_dev_run=1)
        run.fit(task, data)
        path = tmp_path / 'own.ckpt'
        run.save_checkpoint(path)
        again = SegmentationTask.load_from_checkpoint(path)
        assert again.hparams['lr'] == 1e-3
        run.validate(task, data, ckpt_path=str(path), verbose=False)


@pytest.mark.parametrize('supervision', ['lr', RegionLabels()])
def test_labels_of_weight_0_alone_are_no_labels(
    supervision: Any, data: PairDataModule, tmp_path: Path
) -> None:
    data.setup('fit')
    batch = next(iter(data.train_dataloader()))
    batch['lr_label'] = torch.full_like(batch['lr_label'], 41)
    task = SegmentationTask(
        backbone=SMALL, supervision=supervision, class_weights=[1.0, 0.0, 1.0, 1.0]
    )
    loader = DataLoader([batch], batch_size=None)
    with pytest.raises(InputError, match='whose weight is above 0'):
        trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(task, loader)
