# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import warnings
from pathlib import Path
from typing import Any

import pytest
import sklearn.metrics
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from torchgeo_mapsr import (
    AdversarialTask,
    Classes,
    InputError,
    MapSRTask,
    MaskedAutoencoderTask,
    OracleTask,
    PairDataModule,
    RegionLabels,
    SegmentationTask,
)
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.tasks.cells import valid_pixels
from torchgeo_mapsr.tasks.metrics import land_cover_metrics

Batch = dict[str, Any]


@pytest.fixture(scope='module')
def batches(made_scene: Scene) -> list[Batch]:
    """Chips of 20 pixels, and cells of 30."""
    paths = [str(p) for p in (made_scene.imagery, made_scene.labels, made_scene.truth)]
    data = PairDataModule(*paths, batch_size=3, patch_size=20, stride=150)
    data.setup('predict')
    found: list[Batch] = list(data.predict_dataloader())
    found[0]['mask_valid'][0, :, :7] = 0
    assert len(found) > 2
    return found


def quiet(**options: Any) -> Trainer:
    return Trainer(
        accelerator='cpu', logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, **options,
    )  # fmt: skip


@pytest.fixture
def loader(batches: list[Batch]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def validate(task: Any, batches: list[Batch]) -> dict[str, float]:
    run = quiet()
    loader = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    (found,) = run.validate(task, loader, verbose=False)
    return dict(found)


def test_cut_cells_weigh_by_their_visible_share(batches: list[Batch]) -> None:
    """Cell by cell; no chip shows a whole one."""
    torch.manual_seed(0)
    task = SegmentationTask().eval()
    found = validate(task, batches)
    loss = agreeing = total = 0.0
    for batch in batches:
        with torch.no_grad():
            log_p = task(batch['image']).log_softmax(1)
        label = torch.from_numpy(task.crosswalk.index(batch['lr_label'].numpy()))
        for b, i in (label.flatten(1) >= 0).nonzero().tolist():
            inside = (batch['mask_region'][b] == i + 1) & (batch['mask_valid'][b] > 0)
            pixels = log_p[b][:, inside].double()
            if not pixels.numel():
                continue
            c = int(label.flatten(1)[b, i])
            share = inside.sum().item() / batch['lr_pixels'].flatten(1)[b, i].item()
            assert 0 < share < 0.6
            loss -= share * pixels.mean(1).log_softmax(0)[c].item()
            agreeing += share * bool(pixels.argmax(0).bincount().argmax() == c)
            total += share
    assert found['val_loss'] == pytest.approx(loss / total, rel=1e-5)
    assert found['val_LRAgreement'] == pytest.approx(agreeing / total, rel=1e-5)


def test_data_without_lr_labels_are_warned_of(batches: list[Batch]) -> None:
    task = OracleTask(Classes('nlcd', 'land-cover-4'))
    bare = [b | {'lr_label': torch.zeros_like(b['lr_label'])} for b in batches]
    with pytest.warns(
        UserWarning, match='No pixel of the chips has an LR label'
    ) as all_:
        validate(task, bare)
    assert sum('LR label' in str(w.message) for w in all_) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'No pixel of the chips')
        # one batch that has some is enough, and HR labels need none
        validate(task, [bare[0], batches[1]])
        some = 'image', 'mask', 'mask_valid'
        validate(SegmentationTask(), [{k: batches[0][k] for k in some}])


def test_data_without_hr_labels_are_warned_of(batches: list[Batch]) -> None:
    """Where there are no LR labels, of which the loss is otherwise."""
    kept = ('image', 'mask', 'mask_valid')
    fine = {key: batches[0][key] for key in kept}
    none = fine | {'mask': torch.full_like(fine['mask'], -1)}
    with pytest.warns(UserWarning, match='has an HR label .*val_mIoU'):
        validate(SegmentationTask(supervision='hr'), [none])
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'No pixel of the chips')
        validate(SegmentationTask(supervision='hr'), [none, fine])


def test_valid_pixels() -> None:
    image = torch.zeros(2, 4, 3, 5)
    assert torch.equal(valid_pixels({'image': image}), torch.ones(2, 3, 5).bool())
    given = torch.randint(0, 2, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    # augmentations give masks a channel axis, and another type
    for mask in (given, given[:, None].float()):
        found: Tensor = valid_pixels({'image': image, 'mask_valid': mask})
        assert torch.equal(found, given > 0)


class Wider(SegmentationTask):
    """A task of a user's, which hands arguments on."""

    def __init__(self, extra: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extra = extra


def test_a_subclass_keeps_what_it_hands_on(tmp_path: Path) -> None:
    task = Wider(
        5, model='unet', backbone='resnet18', in_channels=4, lr=0.01,
        supervision=RegionLabels('sum'), ignore_index=0,
    )  # fmt: skip
    trainer = Trainer(accelerator='cpu', logger=False, barebones=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / 'a.ckpt')
    again = Wider.load_from_checkpoint(tmp_path / 'a.ckpt')
    assert (again.extra, again.hparams['lr'], again.hparams['ignore_index']) == (
        5,
        0.01,
        0,
    )
    assert again.supervision == RegionLabels('sum')
    assert again.hparams['in_channels'] == 4


def test_a_learning_rate_that_was_found_counts() -> None:
    task = SegmentationTask('unet', 'resnet18', scheduler='plateau')
    task.hparams['lr'] = 0.02  # as Lightning's Tuner does
    assert task.configure_optimizers()['optimizer'].param_groups[0]['lr'] == 0.02


@pytest.mark.parametrize('make', [SegmentationTask, MaskedAutoencoderTask])
def test_a_cosine_needs_an_end(make: Any, loader: Any) -> None:
    options = {'in_channels': 4}
    if make is SegmentationTask:
        options |= {'model': 'unet', 'backbone': 'resnet18', 'scheduler': 'cosine'}
    trainer = quiet(max_epochs=-1, max_time='00:00:01:00')
    with pytest.raises(InputError, match='max_epochs or max_steps'):
        trainer.fit(make(**options), loader)


@pytest.mark.parametrize(
    'make', [SegmentationTask, MapSRTask, MaskedAutoencoderTask, AdversarialTask]
)
def test_two_domains_are_refused(make: Any, loader: Any, made_scene: Scene) -> None:
    options: Any = {}
    if make is AdversarialTask:
        options = {'exemplars': str(made_scene.truth)}
    batch = next(iter(loader))
    both = DataLoader([{'source': batch, 'target': batch}], batch_size=None)
    with pytest.raises(InputError, match='not on source and target'):
        quiet(max_epochs=1).fit(make(**options), both)


def test_each_loader_has_metrics_of_its_own(loader: Any) -> None:
    torch.manual_seed(0)
    task = SegmentationTask('unet', 'resnet18', in_channels=4)
    batches = list(loader)
    loaders = [DataLoader([batch], batch_size=None) for batch in batches[:2]]
    both = quiet().validate(task, loaders, verbose=False)
    alone = [quiet().validate(task, one, verbose=False)[0] for one in loaders]
    for number, metrics in enumerate(alone):
        for name, value in metrics.items():
            found = both[number][f'{name}/dataloader_idx_{number}']
            assert found == pytest.approx(value, nan_ok=True), name
    assert alone[0]['val_mIoU'] != alone[1]['val_mIoU']


@pytest.mark.parametrize('ignored', [-1, 0, 2])
def test_metrics_are_those_of_scikit_learn(ignored: int) -> None:
    """Also of maps that have the ignored class, or a class that the truth lacks."""
    generator = torch.Generator().manual_seed(0)
    prediction, truth = torch.randint(5, (2, 6, 30, 30), generator=generator)
    truth[truth == 4] = ignored
    prediction[prediction == 3] = 1
    metrics = land_cover_metrics(6, ignored)
    for part in zip(prediction.split(2), truth.split(2), strict=True):
        metrics.update(*part)
    found = metrics.compute()
    known = truth != ignored
    y, x = truth[known].numpy(), prediction[known].numpy()
    present = [c for c in range(5) if c != ignored]
    options = {'labels': present, 'average': 'macro', 'zero_division': 0}
    for name, function in (
        ('AveragePrecision', sklearn.metrics.precision_score),
        ('AverageRecall', sklearn.metrics.recall_score),
        ('AverageAccuracy', sklearn.metrics.recall_score),
        ('AverageF1Score', sklearn.metrics.f1_score),
        ('F1', sklearn.metrics.f1_score),
        ('AverageJaccardIndex', sklearn.metrics.jaccard_score),
        ('mIoU', sklearn.metrics.jaccard_score),
    ):
        assert found[name].item() == pytest.approx(function(y, x, **options)), name
    right = float((y == x).mean())
    for name in ('OverallAccuracy', 'OverallPrecision', 'OverallF1Score'):
        assert found[name].item() == pytest.approx(right), name


def test_sizes_of_cells_in_half_precision(batches: list[Batch]) -> None:
    """Up to what float16 holds; a cell of more would have no pixel in view."""
    task, batch = SegmentationTask(), dict(batches[0])
    share = task.cells(batch).share
    batch['lr_pixels'] = batches[0]['lr_pixels'].half()
    torch.testing.assert_close(task.cells(batch).share, share, rtol=1e-3, atol=0)
    batch['lr_pixels'] = (100 * batches[0]['lr_pixels']).half()
    with pytest.raises(InputError, match="no size in precision='16-true'"):
        task.cells(batch)
