# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import inspect
import pickle
from copy import deepcopy
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

import torchgeo_mapsr
from torchgeo_mapsr import (
    Classes,
    Crosswalk,
    ExpectationMaximizationTask,
    ExpectedShares,
    InputError,
    JointStatistics,
    MatchedStatistics,
    PairDataModule,
    PixelLabels,
    RegionLabels,
    SegmentationTask,
    make_scene,
)
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.models.networks.trained import load_networks
from torchgeo_mapsr.tasks import Supervision
from torchgeo_mapsr.transforms import RegionAggregation

OPTIONS: dict[str, Any] = {'lr': 3e-3, 'scheduler': 'cosine'}


def matching(options: dict[str, Any] | None = None, **fields: Any) -> SegmentationTask:
    supervision = MatchedStatistics(**fields)
    return SegmentationTask(supervision=supervision, **(OPTIONS | (options or {})))


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp('scene'), seed=1, size=(192, 192))


@pytest.fixture(scope='module')
def data(scene: Scene) -> PairDataModule:
    paths = str(scene.imagery), str(scene.labels), str(scene.truth)
    return PairDataModule(*paths, batch_size=3, patch_size=64)


@pytest.fixture(scope='module')
def batch(data: PairDataModule) -> dict[str, Any]:
    data.setup('validate')
    return next(iter(data.val_dataloader()))


def trainer(folder: Path, **arguments: Any) -> Trainer:
    quiet = {'logger': False, 'enable_progress_bar': False, 'accelerator': 'cpu'}
    return Trainer(default_root_dir=folder, **{**quiet, **arguments})


def without_log(task: Any) -> dict[str, float]:
    """Let a step be called without a trainer; what it logs."""
    logged: dict[str, float] = {}
    task.log = lambda name, value, **_: logged.update({name: float(value.detach())})
    return logged


def literal(task: SegmentationTask, batch: dict[str, Any]) -> float:
    """Equations 4 and 7 or appendix C, cell by cell and class by class."""
    assert isinstance(task.supervision, MatchedStatistics)
    table, least_std = task.supervision.table, task.supervision.least_std
    p = task(batch['image']).double().softmax(1)
    total = weight = 0.0
    for b in range(len(p)):
        codes = batch['lr_label'][b].flatten().tolist()
        whole = batch['lr_pixels'][b].flatten().tolist()
        for i, code in enumerate(codes):
            inside = (batch['mask_region'][b] == i + 1) & (batch['mask_valid'][b] > 0)
            n, row = int(inside.sum()), int(table.source.index(code))
            if not n or row < 0:
                continue
            share = min(n / whole[i], 1)
            mu = p[b][:, inside].mean(1)
            sigma2 = (p[b] * (1 - p[b]))[:, inside].sum(1) / n**2 + 1e-6
            eta, rho = (torch.from_numpy(t[row]) for t in (table.mean, table.std))
            loss = (mu - eta) ** 2 / (sigma2 + rho.clamp(min=least_std) ** 2)
            loss = (loss + torch.log(2 * np.pi * sigma2)) / 2
            if task.supervision.criterion == 'interval':
                loss = ((mu - eta).abs() - rho).clamp(min=0).square().sum().sqrt()
            total, weight = total + share * float(loss.sum()), weight + share
    return total / weight


@pytest.mark.parametrize(
    'options', [{}, {'least_std': 0.2}, {'criterion': 'interval'}], ids=str
)
def test_loss_is_the_papers_over_all_cells(
    options: dict[str, Any], batch: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    task = matching(**options).eval()
    logged = without_log(task)
    with torch.no_grad():
        loss = task.training_step(batch, 0)
        expected = literal(task, batch)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert logged['train_loss'] == logged['train_sr_loss'] == loss.item()
    assert 'train_hr_loss' not in logged


def test_joint_training_is_a_weighted_sum(batch: dict[str, Any]) -> None:
    half = batch | {'mask': batch['mask'].clone()}
    half['mask'][:, :, 20:] = -1
    torch.manual_seed(0)
    task = matching(sr_weight=0.5, hr_weight=3.0).eval()
    logged = without_log(task)
    with torch.no_grad():
        loss = task.training_step(half, 0).item()
        logits = task(half['image'])
        index = torch.from_numpy(task.truth.index(half['mask']))
        pixels = F.cross_entropy(logits, index, ignore_index=-1).item()
        expected = 0.5 * literal(task, half) + 3 * pixels
    assert loss == pytest.approx(expected, rel=1e-4)
    assert logged['train_hr_loss'] == pytest.approx(pixels, rel=1e-5)
    # without an HR label in the batch only the statistics are left
    half['mask'][:] = -1
    with torch.no_grad():
        loss = task.training_step(half, 0).item()
        assert loss == pytest.approx(0.5 * literal(task, half), rel=1e-4)
    with pytest.raises(InputError, match='give the dataset its truth'):
        task.training_step({k: v for k, v in half.items() if k != 'mask'}, 0)


def test_learns_and_maps(data: PairDataModule, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = matching()
    quick = {'num_sanity_val_steps': 0, 'check_val_every_n_epoch': 6}
    run = trainer(tmp_path, max_epochs=6, **quick)
    before = run.validate(task, data, verbose=False)[0]
    run.fit(task, data)
    after = run.validate(task, data, verbose=False)[0]
    assert after['val_OverallAccuracy'] > max(before['val_OverallAccuracy'], 0.4)
    # a checkpoint maps like those of other tasks
    run.save_checkpoint(tmp_path / 'task.ckpt')
    found = load_networks([tmp_path / 'task.ckpt'])
    image = torch.rand(1, 4, 64, 64) * 255
    with torch.no_grad():
        expected = task.eval()(image).softmax(1)
        torch.testing.assert_close(found.ensemble(image), expected)
    again = SegmentationTask.load_from_checkpoint(
        tmp_path / 'task.ckpt', map_location='cpu'
    )
    torch.testing.assert_close(again.eval()(image).softmax(1), expected)


def lacking(folder: Path, *codes: int) -> str:
    """The shipped table without some classes."""
    table = JointStatistics.load('malkin2019')
    table.save(folder / 'table.yaml')
    content = yaml.safe_load((folder / 'table.yaml').read_text())
    for code in codes:
        del content['classes'][code]
    (folder / 'table.yaml').write_text(yaml.safe_dump(content))
    return str(folder / 'table.yaml')


def test_class_without_statistics_is_refused_at_the_start(
    data: PairDataModule, batch: dict[str, Any], tmp_path: Path
) -> None:
    codes = batch['lr_label'][batch['lr_pixels'] > 0]
    common = int(codes[codes > 0].mode().values)
    path = lacking(tmp_path, common)
    task = matching(statistics=path)
    steps: list[int] = []
    original = task.training_step
    task.training_step = lambda *a: steps.append(1) or original(*a)  # type: ignore
    run = trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    with pytest.raises(InputError, match=rf'lack LR class {common} \('):
        run.fit(task, data)
    assert not steps
    # another dataset cannot be looked through: the batch that shows it is refused
    with pytest.raises(InputError, match=rf'lack LR class {common} \('):
        original(batch, 0)
    # cells that no pixel lies in do not matter
    hidden = batch | {'mask_region': torch.zeros_like(batch['mask_region'])}
    without_log(task)
    assert original(hidden, 0) == 0


def test_data_without_labels_are_refused(
    scene: Scene, tmp_path: Path, made_scene: Scene
) -> None:
    paths = str(scene.imagery), str(scene.labels), str(scene.truth)
    data = PairDataModule(*paths, batch_size=9, patch_size=64)
    quick = {'max_epochs': 1, 'num_sanity_val_steps': 0, 'limit_val_batches': 0}
    # codes 1 to 4 are no NLCD classes, and NLCD's are none of the four
    wrong = PairDataModule(
        str(scene.imagery), str(scene.truth), batch_size=9, patch_size=64
    )
    with pytest.raises(InputError, match="have a code of the legend 'nlcd'; their"):
        trainer(tmp_path, **quick).fit(matching(), wrong)
    task = matching({'classes': Classes(truth_legend='openearthmap')}, hr_weight=1.0)
    task.truth = type(task.truth)('none', task.truth.source, task.truth.target, {})
    with pytest.raises(InputError, match="an HR label of a class of 'land-cover-4'"):
        trainer(tmp_path, **quick).fit(task, data)


def test_mistakes() -> None:
    with pytest.raises(InputError, match="of the legend 'nlcd', and this task has"):
        matching({'classes': Classes('worldcover')})
    with pytest.raises(InputError, match="of the target 'land-cover-4'"):
        matching({'classes': Classes(target='worldcover')})
    with pytest.raises(InputError, match="there is no 'malkin'"):
        matching(statistics='malkin')
    with pytest.raises(InputError, match='not both 0'):
        MatchedStatistics(sr_weight=0.0)
    with pytest.raises(InputError, match='0 or more'):
        MatchedStatistics(hr_weight=-1.0)
    with pytest.raises(InputError, match='least_std must be above 0'):
        MatchedStatistics(least_std=0.0)
    for name, value in (('least_std', 0.1), ('variance_weight', 0.0)):
        with pytest.raises(InputError, match=f'{name} has no effect with criterion'):
            MatchedStatistics(criterion='interval', **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize('weights', [None, (1.0, 2.0, 0.5, 4.0)])
def test_soft_labels_are_the_expected_shares(
    weights: Any, batch: dict[str, Any]
) -> None:
    """Malkin et al. 2019, soft naive: cell by cell."""
    batch = batch | {'mask_valid': batch['mask_valid'].clone()}
    batch['mask_valid'][:, :5] = 0
    torch.manual_seed(0)
    task = SegmentationTask(
        supervision=ExpectedShares(), class_weights=weights, **OPTIONS
    ).eval()
    without_log(task)
    loss = task.training_step(batch, 0)
    logits, table = task(batch['image']), JointStatistics.load('malkin2019')
    total = weight = 0.0
    for b in range(len(logits)):
        codes = [-1, *batch['lr_label'][b].flatten().tolist()]
        for number in batch['mask_region'][b].unique().tolist():
            inside = batch['mask_region'][b] == number
            inside &= batch['mask_valid'][b] > 0
            if table.source.index(codes[number]) < 0 or not inside.any():
                continue
            shares = torch.from_numpy(table.proportions(codes[number])).float()
            target = shares.expand(int(inside.sum()), -1)
            if weights is None:
                pixels = F.cross_entropy(
                    logits[b][:, inside].T, target, reduction='sum'
                )
                total, weight = total + pixels, weight + len(target)
            else:
                target = target * torch.tensor(weights)
                log_p = logits[b][:, inside].log_softmax(0).T
                total, weight = total - (target * log_p).sum(), weight + target.sum()
    torch.testing.assert_close(loss, total / weight)


def test_hard_naive_is_the_argmax_of_the_soft_labels(batch: dict[str, Any]) -> None:
    """The crosswalk ``scenes`` was made of the same table."""
    supervision = ExpectedShares()
    task = SegmentationTask(supervision=supervision)
    shares = supervision.pixel_shares(batch, task)
    assert torch.equal(shares.sum(1) > 0, batch['mask_valid'] > 0)
    hard = PixelLabels('lr').index(batch, task)
    labelled = shares.sum(1) > 0
    assert torch.equal(shares.argmax(1)[labelled], hard[labelled])
    scenes = Crosswalk.load('nlcd', 'land-cover-4', 'scenes')
    codes = task.crosswalk.source.codes
    np.testing.assert_array_equal(task.crosswalk.index(codes), scenes.index(codes))


@pytest.mark.parametrize(
    'supervision',
    [
        PixelLabels('lr'),
        PixelLabels('hr'),
        RegionLabels('sum'),
        ExpectedShares(),
        MatchedStatistics('nlcd-descriptions', hr_weight=0.5),
        MatchedStatistics(criterion='interval'),
    ],
    ids=lambda s: type(s).__name__,
)
class TestEvery:
    """What holds for every supervision."""

    def test_no_label_has_no_loss_and_no_gradient(
        self, supervision: Supervision, batch: dict[str, Any]
    ) -> None:
        """Another process may have labels: every parameter has a gradient."""
        task = SegmentationTask(supervision=supervision)
        without_log(task)
        nothing = {'lr_label': torch.full_like(batch['lr_label'], -1)}
        nothing['mask'] = torch.full_like(batch['mask'], -1)
        loss: Tensor = task.training_step(batch | nothing, 0)
        loss.backward()
        assert loss == 0
        for parameter in task.model.parameters():
            assert parameter.grad is not None
            assert not parameter.grad.any()

    def test_plain_copy_is_the_same(self, supervision: Supervision) -> None:
        """As checkpoints and YAML files have it."""
        plain = supervision.to_dict()
        assert yaml.safe_load(yaml.safe_dump(plain)) == plain
        again = Supervision.of(plain)
        assert again == supervision
        assert type(again) is type(supervision)

    def test_checkpoint_without_code(
        self, supervision: Supervision, tmp_path: Path
    ) -> None:
        task = SegmentationTask(supervision=supervision)
        run = trainer(tmp_path, max_epochs=0)
        run.strategy.connect(task)
        run.save_checkpoint(tmp_path / 'task.ckpt')
        torch.load(tmp_path / 'task.ckpt', weights_only=True)
        again = SegmentationTask.load_from_checkpoint(tmp_path / 'task.ckpt')
        assert again.supervision == supervision

    def test_copies(self, supervision: Supervision, batch: dict[str, Any]) -> None:
        """A task may be pickled and copied, before and after it was used."""
        task = SegmentationTask(supervision=supervision).eval()
        for _ in range(2):
            losses = []
            for one in (task, deepcopy(task), pickle.loads(pickle.dumps(task))):
                without_log(one)
                with torch.no_grad():
                    losses.append(one.training_step(batch, 0).item())
                del one.log
            assert losses[0] == losses[1] == losses[2] > 0


def test_what_is_no_supervision_is_refused() -> None:
    for bad in ('nlcd', 1, {'class_path': 'pathlib.Path'}, {'init_args': {}}):
        with pytest.raises(InputError, match="supervision is 'lr', 'hr' or an object"):
            SegmentationTask(supervision=bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match='source must be one of lr, hr'):
        PixelLabels('mask')  # type: ignore[arg-type]
    with pytest.raises(InputError, match='RegionLabels gives them none'):
        SegmentationTask(supervision=RegionLabels(), loss='jaccard')


def test_a_task_leaves_nothing_in_a_default() -> None:
    """Defaults of signatures are one object for all: jsonargparse reads what is in it."""
    ExpectationMaximizationTask(classes=Classes('nlcd', 'land-cover-4'))
    found = 0
    for name in torchgeo_mapsr.__all__:
        value = getattr(torchgeo_mapsr, name)
        if not (isinstance(value, type) and issubclass(value, LightningModule)):
            continue
        for parameter in inspect.signature(value).parameters.values():
            if is_dataclass(parameter.default):
                names = {field.name for field in fields(parameter.default)}
                assert set(vars(parameter.default)) == names, (name, parameter.name)
                found += 1
    assert found > 5


def loader(*batches: dict[str, Any]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def silent(**options: Any) -> Trainer:
    quiet = {'enable_progress_bar': False, 'enable_model_summary': False}
    quiet |= {'logger': False, 'enable_checkpointing': False}
    return Trainer(accelerator='cpu', **{'max_epochs': 1} | quiet | options)


@pytest.fixture(scope='module')
def region_batch(made_scene: Scene) -> dict[str, Any]:
    paths = [str(p) for p in (made_scene.imagery, made_scene.labels, made_scene.truth)]
    data = PairDataModule(*paths, batch_size=2, patch_size=64, stride=200)
    data.setup('predict')
    first: dict[str, Any] = next(iter(data.predict_dataloader()))
    return first


class TestRegions:
    """Workman et al. 2023."""

    @pytest.mark.parametrize('reduction', ['mean', 'sum'])
    def test_loss_is_equation_1(
        self, region_batch: dict[str, Any], reduction: Any
    ) -> None:
        """As the transform's docstring writes it out."""
        torch.manual_seed(0)
        task = SegmentationTask(supervision=RegionLabels(reduction), scheduler='cosine')
        run = silent()
        run.fit(task, loader(region_batch))
        task.train()
        found = RegionAggregation(reduction=reduction)(
            region_batch | {'logits': task(region_batch['image'])}
        )
        index = torch.from_numpy(task.crosswalk.index(found['region_label'].numpy()))
        each = F.cross_entropy(
            found['region_logits'].mT, index, reduction='none', ignore_index=-1
        )
        weight = torch.where(index >= 0, found['region_weight'], 0.0)
        expected = (each * weight).sum() / weight.sum()
        again = silent(limit_train_batches=1)
        again.fit(task, loader(region_batch))
        # batch statistics are those of the batch, before and after a step
        assert float(again.callback_metrics['train_loss']) == pytest.approx(
            float(expected), rel=1e-4
        )

    def test_learns(self, region_batch: dict[str, Any]) -> None:
        torch.manual_seed(0)
        task = SegmentationTask(supervision=RegionLabels(), lr=3e-3, scheduler='cosine')
        before = silent().validate(task, loader(region_batch), verbose=False)[0]
        silent().fit(task, loader(*[region_batch] * 15))
        after = silent().validate(task, loader(region_batch), verbose=False)[0]
        assert after['val_LRAgreement'] > before['val_LRAgreement']
        assert after['val_loss'] < before['val_loss']

    def test_cells_without_pixels(self, region_batch: dict[str, Any]) -> None:
        nowhere = region_batch | {
            'mask_region': torch.zeros_like(region_batch['mask_region'])
        }
        unknown = region_batch | {
            'lr_label': torch.full_like(region_batch['lr_label'], 7)
        }
        for bad in (nowhere, unknown):
            with pytest.raises(
                InputError, match='No pixel of the training chips has an LR label'
            ):
                silent().fit(SegmentationTask(supervision=RegionLabels()), loader(bad))
        # one chip without labels is no mistake
        silent().fit(
            SegmentationTask(supervision=RegionLabels()), loader(nowhere, region_batch)
        )

    def test_other_bands(self, region_batch: dict[str, Any]) -> None:
        with pytest.raises(InputError, match='give in_channels=4'):
            silent().fit(
                SegmentationTask(in_channels=3, supervision=RegionLabels()),
                loader(region_batch),
            )

    def test_no_lr_labels(self, region_batch: dict[str, Any]) -> None:
        bare: dict[str, Tensor] = {'image': region_batch['image']}
        with pytest.raises(InputError, match='has no mask_region, lr_label, lr_pixels'):
            silent().fit(SegmentationTask(supervision=RegionLabels()), loader(bare))
