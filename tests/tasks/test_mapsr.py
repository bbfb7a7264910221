# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import signal
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import timm
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning_utilities.core import rank_zero as rank_zero_module
from matplotlib.figure import Figure
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader
from torchgeo import samplers

from torchgeo_mapsr import FitOptions, LandCoverModel, MapJob, map_array, map_region
from torchgeo_mapsr.datamodules import PairDataModule
from torchgeo_mapsr.datasets import Crosswalk, LRHRPair, collate_pairs, make_scene
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError, InputWarning
from torchgeo_mapsr.evaluation.accuracy import compare
from torchgeo_mapsr.models.head.probe import LinearProbe, class_weights
from torchgeo_mapsr.tasks import MapSRTask, SegmentationTask

from ..forked import run_forked

SMALL = 'rcf?filters=8&colours=32&strides=1,2,4'
# cross-validation is tested where it lives
FEW: dict[str, Any] = {'l2': 1e-3, 'prior': 0.2, 'max_pixels': 4000}
QUICK: dict[str, Any] = {'fit': FEW}


class Chips(LightningDataModule):
    """The chips of a scene, read once."""

    def __init__(self, scene: Scene, **options: Any) -> None:
        super().__init__()
        paths = [str(p) for p in (scene.imagery, scene.labels, scene.truth)]
        pairs = PairDataModule(*paths, **{'batch_size': 2, 'patch_size': 224} | options)
        pairs.setup('predict')
        self.batches = list(pairs.predict_dataloader())

    def loader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


@pytest.fixture(scope='module')
def chips(made_scene: Scene) -> Chips:
    return Chips(made_scene)


def trainer(folder: Path | None = None, **options: Any) -> Trainer:
    quiet = {'enable_progress_bar': False, 'enable_model_summary': False}
    options = {'max_epochs': 1, 'num_sanity_val_steps': 0} | quiet | options
    return Trainer(
        accelerator='cpu',
        logger=False,
        enable_checkpointing=folder is not None,
        default_root_dir=folder,
        **options,
    )


def probabilities(task: MapSRTask, data: LightningDataModule) -> Tensor:
    predicted = trainer().predict(task, data)
    return torch.cat([batch['probabilities'] for batch in predicted])


class Watch(Callback):
    """Looks at the backbone while the task is trained."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_before_optimizer_step(self, *args: Any) -> None:
        task = args[1]
        self.seen.append(any(m.training for m in task.backbone.modules()))


class Fitted:
    def __init__(self, scene: Scene, chips: Chips, folder: Path) -> None:
        self.scene, self.chips, self.watch = scene, chips, Watch()
        self.task = MapSRTask(SMALL)
        self.trainer = trainer(
            folder, max_epochs=9, num_sanity_val_steps=2, callbacks=[self.watch]
        )
        self.trainer.fit(self.task, chips)
        self.metrics = dict(self.trainer.callback_metrics)
        self.checkpoint = Path(self.trainer.checkpoint_callback.best_model_path)
        self.probabilities = probabilities(self.task, chips)


@pytest.fixture(scope='module')
def fitted(
    made_scene: Scene, chips: Chips, tmp_path_factory: pytest.TempPathFactory
) -> Fitted:
    return Fitted(made_scene, chips, tmp_path_factory.mktemp('fit'))


def test_fit_takes_one_epoch_and_sees_every_cell(fitted: Fitted) -> None:
    assert fitted.trainer.current_epoch == 1
    labels = fitted.task.land_cover.provenance['labels']
    usable, shown = set(), 0
    for batch in fitted.chips.batches:
        wanted = (crosswalk_index(batch['lr_label']) >= 0) & whole(batch)
        for chip, row, col in wanted.nonzero().tolist():
            raster, top, left = batch['lr_place'][chip].tolist()
            usable.add((raster, top + row, left + col))
            shown += 1
    # chips at the edge overlap others: what several show counts once
    assert labels['cells_used'] == len(usable)
    assert 100 < len(usable) < shown
    assert labels['unknown_codes'] == {}
    spec = fitted.task.land_cover.provenance['backbone']['spec']
    assert spec == f'{SMALL}&seed=0'  # any process makes the same filters


def crosswalk_index(codes: Tensor) -> Tensor:
    crosswalk = Crosswalk.load('nlcd', 'land-cover-4')
    return torch.from_numpy(crosswalk.index(codes.numpy()))


def whole(batch: dict[str, Any]) -> Tensor:
    """Cells all of whose pixels are in the chip."""
    shape = batch['lr_label'].shape
    region = batch['mask_region']
    count = torch.stack(
        [torch.bincount(r.flatten(), minlength=shape[1:].numel() + 1) for r in region]
    )
    count = count[:, 1:].view(shape)
    return (count > 0) & ((count - batch['lr_pixels']).abs() < 0.5)


def test_map_beats_the_coarse_labels(fitted: Fitted) -> None:
    scene = fitted.scene
    same = Crosswalk.load('land-cover-4', 'land-cover-4')
    coarse = Crosswalk.load('nlcd', 'land-cover-4')
    copy = compare(scene.labels, scene.truth, coarse, same)
    assert fitted.metrics['val_mIoU'] > copy.miou + 0.05


def test_metrics_are_pooled(fitted: Fitted) -> None:
    """Validation, test and a confusion matrix of the predictions agree."""
    (tested,) = trainer().test(fitted.task, fitted.chips, verbose=False)
    for name, value in tested.items():
        assert fitted.metrics[name.replace('test', 'val')] == pytest.approx(value)
    mask = torch.cat([batch['mask'] for batch in fitted.chips.batches])
    index = fitted.probabilities.argmax(1)
    matrix = np.zeros((4, 4))
    np.add.at(matrix, (mask.numpy() - 1, index.numpy()), 1)
    hit, true = np.diag(matrix), matrix.sum(1)
    iou = hit / (true + matrix.sum(0) - hit)
    assert tested['test_OverallAccuracy'] == pytest.approx(hit.sum() / matrix.sum())
    assert tested['test_mIoU'] == pytest.approx(iou.mean(), rel=1e-5)
    assert tested['test_FWIoU'] == pytest.approx(iou @ true / true.sum(), rel=1e-5)

    agreeing = cells = 0.0
    for batch, part in zip(fitted.chips.batches, index.split(2), strict=True):
        label = crosswalk_index(batch['lr_label'])
        for n, region in enumerate(batch['mask_region']):
            for i in (label[n] >= 0).flatten().nonzero()[:, 0]:
                inside = (region == i + 1) & (batch['mask_valid'][n] > 0)
                if not inside.any():
                    continue
                votes = torch.bincount(part[n][inside], minlength=4)
                share = float(inside.sum() / batch['lr_pixels'][n].flatten()[i])
                agreeing += min(share, 1) * bool(
                    votes.argmax() == label[n].flatten()[i]
                )
                cells += min(share, 1)
    assert tested['test_LRAgreement'] == pytest.approx(agreeing / cells)


def test_prediction_is_a_distribution_with_its_place(fitted: Fitted) -> None:
    (first, *_) = trainer().predict(fitted.task, fitted.chips)
    total = first['probabilities'].sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))
    keys = {key for key in fitted.chips.batches[0] if key in first}
    assert keys in ({'bounds', 'crs'}, {'bounds', 'transform'})


def test_labels_are_a_prior_where_there_are_any(fitted: Fitted) -> None:
    task, batch = fitted.task, fitted.chips.batches[0]
    bare = task.predict_step({'image': batch['image']}, 0)['probabilities']
    torch.testing.assert_close(bare, task(batch['image']).exp())
    weight = task.land_cover.head.prior.weight
    assert weight > 0
    given = fitted.probabilities[: len(bare)]
    assert not torch.allclose(bare, given)
    label = crosswalk_index(batch['lr_label'])
    flat = torch.nn.functional.pad(label.flatten(1), (1, 0), value=-1)
    pixel = flat.gather(1, batch['mask_region'].flatten(1)).view_as(batch['mask'])
    for_label = [
        p.gather(1, pixel.clamp(min=0)[:, None])[:, 0][pixel >= 0].mean()
        for p in (bare, given)
    ]
    assert for_label[1] > for_label[0]


@pytest.mark.parametrize(
    'option', [{'noise': 'sce'}, {'class_weight': 'log'}], ids=lambda o: next(iter(o))
)
def test_options_for_noisy_and_rare_labels(
    fitted: Fitted, chips: Chips, option: dict[str, str]
) -> None:
    """They reach the probe, and nothing before it."""
    task = MapSRTask(SMALL, fit=option)
    trainer().fit(task, chips)
    made, plain = task.land_cover, fitted.task.land_cover
    assert made.provenance['options'] | option == made.provenance['options']
    assert not torch.allclose(made.head.probe.weight, plain.head.probe.weight)
    for name, tensor in plain.origin.calibration.items():
        assert torch.equal(made.origin.calibration[name], tensor)
    assert torch.equal(made.head.prior.frequency, plain.head.prior.frequency)


def test_backbone_is_frozen(fitted: Fitted) -> None:
    task = fitted.task
    assert fitted.watch.seen
    assert not any(fitted.watch.seen)
    optimised = fitted.trainer.optimizers[0].param_groups[0]['params']
    assert {id(p) for p in optimised} == {id(p) for p in task.probe.parameters()}
    assert not any(name.startswith('backbone') for name in task.state_dict())


class TestCheckpoint:
    def test_predicts_the_same(self, fitted: Fitted) -> None:
        again = MapSRTask.load_from_checkpoint(fitted.checkpoint)
        assert torch.equal(probabilities(again, fitted.chips), fitted.probabilities)
        made = json.loads(json.dumps(fitted.task.land_cover.provenance))
        assert again.land_cover.provenance == made

    def test_through_the_trainer(self, fitted: Fitted) -> None:
        predicted = trainer().predict(
            MapSRTask(SMALL), fitted.chips, ckpt_path=str(fitted.checkpoint)
        )
        found = torch.cat([batch['probabilities'] for batch in predicted])
        assert torch.equal(found, fitted.probabilities)

    def test_is_strict(self, fitted: Fitted) -> None:
        content = torch.load(fitted.checkpoint, weights_only=True)
        state = content['state_dict']
        keys = MapSRTask(SMALL).load_state_dict(state, strict=True)
        assert keys.missing_keys == keys.unexpected_keys == []
        del state['probe.bias']
        with pytest.raises(RuntimeError, match=r'probe\.bias'):
            MapSRTask(SMALL).load_state_dict(state)

    def test_is_small_whatever_the_backbone(self, chips: Chips, tmp_path: Path) -> None:
        torch.manual_seed(0)
        network = timm.create_model('mobilenetv2_100', pretrained=False)
        weights = tmp_path / 'mobilenet.safetensors'
        save_file(network.state_dict(), weights)
        assert weights.stat().st_size > 10_000_000
        spec = 'timm:mobilenetv2_100?layers=1,2&mean=0.5&std=0.5'
        task = MapSRTask(spec, weights=str(weights), **QUICK)
        before = {k: v.clone() for k, v in task.backbone.state_dict().items()}
        run = trainer(tmp_path, limit_val_batches=0)
        run.fit(task, chips)
        # batch statistics too
        for name, tensor in task.backbone.state_dict().items():
            assert torch.equal(tensor, before[name])
        checkpoint = Path(run.checkpoint_callback.best_model_path)
        assert checkpoint.stat().st_size < 1_000_000
        again = MapSRTask.load_from_checkpoint(checkpoint)
        image = chips.batches[0]['image'][:1, :, :96, :96]
        assert torch.equal(again(image), task(image))


class TestSavedFit:
    @pytest.fixture(scope='class')
    def path(self, fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp('saved') / 'fit.safetensors'
        fitted.task.land_cover.save(path)
        return path

    def test_predicts_the_same(self, fitted: Fitted, path: Path) -> None:
        task = MapSRTask(SMALL, model=path)
        assert torch.equal(probabilities(task, fitted.chips), fitted.probabilities)
        assert 'model' not in task.hparams

    def test_elsewhere(self, path: Path, tmp_path: Path) -> None:
        scene = make_scene(tmp_path, seed=0, size=(200, 230), origin=(325e3, 4.2092e6))
        elsewhere = Chips(scene, patch_size=200)
        task = MapSRTask(SMALL, model=str(path))
        (tested,) = trainer().test(task, elsewhere, verbose=False)
        assert tested['test_OverallAccuracy'] > 0.6

    def test_is_that_of_the_map_command(
        self, fitted: Fitted, path: Path, tmp_path: Path
    ) -> None:
        """Which predicts the same with it, and whose own fits the task takes."""
        scene = fitted.scene
        inputs: dict[str, Any] = {
            'imagery': (str(scene.imagery),),
            'labels': (str(scene.labels),),
            'legend': scene.legend,
        }
        own = tmp_path / 'own.safetensors'
        map_region(MapJob.from_flags(**inputs, model=path, output=tmp_path / 'a.tif'))
        map_region(
            MapJob.from_flags(
                **inputs, backbone=SMALL, save_model=own, output=tmp_path / 'b.tif'
            )
        )
        for name, task in (('a', fitted.task), ('b', MapSRTask(SMALL, model=own))):
            with rasterio.open(tmp_path / f'{name}.tif') as file:
                mapped = file.read(1)
            found = probabilities(task, fitted.chips).argmax(1) + 1
            # the last chips of a row or column are moved back into the imagery
            corners = [(0, 0), (0, 224), (160, 0), (160, 224)]
            for chip, (top, left) in zip(found, corners, strict=True):
                part = mapped[top : top + 224, left : left + 224]
                assert (part == chip.numpy()).mean() > 0.98

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'backbone': 'rcf?filters=4'}, 'not those that the fit was made with'),
            ({'backbone': 'identity'}, 'not those that the fit was made with'),
            ({'target': 'worldcover'}, 'give target=land-cover-4'),
            # what would have been the fit's
            ({'fit': {'l2': 1.0}}, 'fit.l2 has no effect on a fit that is kept'),
            ({'fit': {'recipe': 'classes'}}, 'fit.recipe has no effect on a fit'),
            ({'fit': {'score': 'lda', 'max_chips': 3}}, 'fit.max_chips has no effect'),
            ({'solver': 'sgd'}, 'solver has no effect on a fit that is kept'),
        ],
    )
    def test_must_fit(self, path: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            MapSRTask(**{'backbone': SMALL, 'model': path, **options})

    def test_must_have_its_bands(self, chips: Chips, tmp_path: Path) -> None:
        """Which the weights of some backbones do not tell."""
        task = MapSRTask('identity', **QUICK)
        trainer(limit_val_batches=0).fit(task, chips)
        task.land_cover.save(tmp_path / 'fit.safetensors')
        with pytest.raises(InputError, match='give bands=4'):
            MapSRTask('identity', model=tmp_path / 'fit.safetensors', bands=3)

    @pytest.mark.parametrize(
        ('options', 'used'),
        [
            ({}, {}),
            ({'fit': {'score': 'lda'}}, {'score': 'lda'}),
            ({'fit': {'prior': 0.0}, 'seed': 0}, {'prior': 0.0}),
            ({'upsampler': 'bilateral'}, {'upsampler': 'bilateral'}),
            ({'propagate': 'superpixels'}, {'propagate': 'superpixels'}),
            ({'calibrate': False}, {'calibrate': False}),
        ],
        ids=str,
    )
    def test_what_decides_the_map_is_taken(
        self, fitted: Fitted, path: Path, options: Any, used: Any
    ) -> None:
        """As the command does with ``--model``; from a checkpoint likewise."""
        expected = LandCoverModel.load(path).with_options(**used).to_bytes()
        task = MapSRTask(SMALL, model=path, **options)
        assert task.land_cover.to_bytes() == expected
        again = MapSRTask.load_from_checkpoint(fitted.checkpoint, **options)
        assert again.land_cover.to_bytes() == expected
        assert (expected == path.read_bytes()) == (not options)

    def test_must_have_the_same_weights(self, path: Path, tmp_path: Path) -> None:
        fit = LandCoverModel.load(path)
        other = replace(fit, origin=replace(fit.origin, digest='0' * 16))
        other.save(tmp_path / 'other.safetensors')
        with pytest.raises(InputError, match='not those that the fit was made with'):
            MapSRTask(SMALL, model=tmp_path / 'other.safetensors')


class TestSGD:
    @pytest.fixture(scope='class')
    def solved(self, chips: Chips) -> tuple[MapSRTask, MapSRTask, list[float]]:
        fit = FEW | {'l2': 1e-2, 'recipe': 'classes'}
        options: dict[str, Any] = {'fit': fit, 'backbone': 'identity'}
        lbfgs = MapSRTask(**options)
        trainer(limit_val_batches=0).fit(lbfgs, chips)
        sgd = MapSRTask(**options, solver='sgd', lr=0.05)
        losses: list[float] = []

        class Losses(Callback):
            def on_train_epoch_end(self, run: Trainer, _: Any) -> None:
                losses.append(float(run.callback_metrics['train_loss']))

        run = trainer(limit_val_batches=0, max_epochs=60, callbacks=[Losses()])
        run.fit(sgd, chips)
        assert run.current_epoch == 60
        return lbfgs, sgd, losses

    def test_approaches_the_optimum(
        self, chips: Chips, solved: tuple[MapSRTask, MapSRTask, list[float]]
    ) -> None:
        """The objective of the L-BFGS probe, computed here in plain terms."""
        lbfgs, sgd, losses = solved
        features, label = [], []
        for batch in chips.batches:
            index, complete = crosswalk_index(batch['lr_label']), whole(batch)
            for n, region in enumerate(batch['mask_region']):
                for i in (complete[n] & (index[n] >= 0)).flatten().nonzero()[:, 0]:
                    inside = batch['image'][n][:, region == i + 1]
                    features.append(inside.mean(1))
                    label.append(index[n].flatten()[i])
        x, y = torch.stack(features), torch.stack(label)
        weight = class_weights(y, 4, 0.5)

        def objective(probe: LinearProbe) -> float:
            each = torch.nn.functional.cross_entropy(probe(x), y, reduction='none')
            squares = ((probe.weight * sgd.scale) ** 2).sum()
            return float(each.double() @ weight + 1e-2 * 4 / 2 * squares)

        best, found = (objective(task.land_cover.head.probe) for task in (lbfgs, sgd))
        nothing = objective(LinearProbe(torch.zeros(4, 4), torch.zeros(4)))
        assert best < 0.8 * nothing
        assert found == pytest.approx(best, rel=0.01)
        assert losses[-1] < losses[0]

    def test_prompts_are_made_with_it(
        self, chips: Chips, solved: tuple[MapSRTask, MapSRTask, list[float]]
    ) -> None:
        lbfgs, sgd, _ = solved
        assert sgd.land_cover.provenance['solver'] == 'sgd'
        a, b = (probabilities(task, chips).argmax(1) for task in (lbfgs, sgd))
        assert (a == b).float().mean() > 0.97

    def test_goes_on_from_a_checkpoint(self, chips: Chips, tmp_path: Path) -> None:
        task = MapSRTask('identity', solver='sgd', **QUICK)
        first = trainer(tmp_path, limit_val_batches=0)
        first.fit(task, chips)
        path = first.checkpoint_callback.best_model_path
        again = MapSRTask('identity', solver='sgd', **QUICK)
        second = trainer(limit_val_batches=0, max_epochs=2)
        second.fit(again, chips, ckpt_path=path)
        assert second.global_step == 2 * len(chips.batches)
        assert torch.equal(again.scale, task.scale)
        assert not torch.equal(again.probe.weight, task.probe.weight)


def test_calibration_waits_for_enough_chips(chips: Chips) -> None:
    """And no chip that waited is lost."""
    counts = []
    for number in (1, 2, 100):
        task = MapSRTask(SMALL, fit=FEW | {'calibration_chips': number})
        trainer(limit_val_batches=0).fit(task, chips)
        labels = task.land_cover.provenance['labels']
        counts.append((labels['cells'], labels['cells_used']))
        digest = task.land_cover.provenance['backbone']['weights']
        assert digest == task.backbone.weights_digest()
        assert not task.backbone.needs_calibration
    assert len(set(counts)) == 1


def test_half_precision_is_for_the_backbone_alone(chips: Chips) -> None:
    """Which has nothing to compute here."""
    task = MapSRTask('identity', **QUICK)
    trainer(limit_val_batches=0).fit(task, chips)
    half = trainer(precision='bf16-mixed').predict(task, chips)
    found = torch.cat([batch['probabilities'] for batch in half])
    assert torch.equal(found, probabilities(task, chips))


def test_double_precision_by_default_is_refused(chips: Chips) -> None:
    task = MapSRTask('identity', **QUICK)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(InputError, match=r'torch\.set_default_dtype'):
            trainer().fit(task, chips)
    finally:
        torch.set_default_dtype(torch.float32)


def test_bilateral_upsampling(chips: Chips, fitted: Fitted) -> None:
    task = MapSRTask(SMALL, upsampler='bilateral', **QUICK)
    small = Chips(fitted.scene, patch_size=128, batch_size=1)
    small.batches = small.batches[:4]
    trainer(limit_val_batches=1).fit(task, small)
    again = MapSRTask(SMALL, **QUICK)
    again.load_state_dict(task.state_dict())
    image = small.batches[0]['image']
    assert torch.equal(task(image), again(image))  # the fit says how it maps
    again.land_cover = task.land_cover.with_options(upsampler='bilinear')
    assert not torch.allclose(task(image), again(image))


@pytest.mark.parametrize('grid', ['GridGeoSampler', 'GriddedPatchSampler'])
def test_torchgeo_samplers(made_scene: Scene, grid: str) -> None:
    """Inside a trainer that someone has already, with plain loaders."""
    if not hasattr(samplers, grid):
        pytest.skip(f'no {grid} in this torchgeo')
    random = {'GridGeoSampler': 'RandomGeoSampler'}.get(grid, 'RandomPatchSampler')
    pair = LRHRPair(made_scene.imagery, made_scene.labels, made_scene.truth)
    several = getattr(samplers, random)(pair, size=160, length=6)
    every = getattr(samplers, grid)(pair, size=160, stride=160)
    train, test = (
        DataLoader(pair, batch_size=2, sampler=sampler, collate_fn=collate_pairs)
        for sampler in (several, every)
    )
    task = MapSRTask(SMALL, **QUICK)
    run = trainer()
    run.fit(task, train, test)
    (tested,) = run.test(task, test, verbose=False)
    assert tested['test_OverallAccuracy'] > 0.6
    assert len(run.predict(task, test)) == len(test)


TWO_PROCESSES = """
import sys
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torchgeo_mapsr import MapSRTask, PairDataModule

class Same(Callback):
    def on_train_end(self, trainer, task):
        mine = task.backbone.weights_digest(), task.land_cover.to_bytes()
        all_of_them = [None, None]
        torch.distributed.all_gather_object(all_of_them, mine)
        assert all_of_them[0] == all_of_them[1]

*paths, spec, folder = sys.argv[1:]
task = MapSRTask(
    spec, solver='sgd', fit={'l2': 0.01, 'prior': 0.2, 'max_pixels': 10**6}
)
trainer = Trainer(
    accelerator='cpu', devices=2, strategy='ddp_fork', max_epochs=1, logger=False,
    enable_checkpointing=False, num_sanity_val_steps=0, callbacks=[Same()],
)
trainer.fit(task, PairDataModule(*paths, patch_size=224))
task.land_cover.save(f'{folder}/sgd.safetensors')
"""


def test_two_processes_share_the_chips(made_scene: Scene, tmp_path: Path) -> None:
    """By SGD, whose steps depend on the processes; both end with the same.

    That L-BFGS finds what one process finds, bit by bit, is in tests/test_one_way.py.
    """
    paths = [str(made_scene.imagery), str(made_scene.labels), str(made_scene.truth)]
    done = run_forked(TWO_PROCESSES, *paths, SMALL, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    options = FitOptions(l2=0.01, prior=0.2, max_pixels=10**6)
    one = MapSRTask('identity', fit=options)
    trainer(limit_val_batches=0).fit(one, PairDataModule(*paths, patch_size=224))
    two = LandCoverModel.load(tmp_path / 'sgd.safetensors')
    for key in ('cells', 'cells_used'):
        found = two.provenance['labels'][key]
        assert found == one.land_cover.provenance['labels'][key]


class TestLimits:
    """Whatever ends a fit early leaves one to what was seen."""

    @pytest.fixture
    def data(self, made_scene: Scene) -> PairDataModule:
        paths = str(made_scene.imagery), str(made_scene.labels)
        return PairDataModule(*paths, batch_size=1, patch_size=160)

    @pytest.mark.parametrize('backbone', ['identity', SMALL])
    @pytest.mark.parametrize(
        ('limits', 'chips'),
        [
            ({'max_steps': 3}, 3),
            ({'limit_train_batches': 2}, 2),
            ({'fast_dev_run': 3}, 3),
            ({'max_time': timedelta(microseconds=1)}, None),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
    )
    def test_of_a_trainer(
        self, data: PairDataModule, backbone: str, limits: dict[str, Any], chips: int
    ) -> None:
        """Also before there are enough chips to calibrate a backbone."""
        task = MapSRTask(backbone, **QUICK)
        run = trainer(limit_val_batches=0, **limits)
        run.fit(task, data)
        assert task.land_cover is not None
        total = len(run.train_dataloader)
        assert chips is None or chips < total
        seen = task.land_cover.provenance['chips']
        assert seen == chips if chips else 0 < seen < total
        image = torch.rand(1, 4, 64, 64) * 255
        assert task(image).exp().sum(1).allclose(torch.ones(1, 64, 64))

    def test_chips_of_the_fit(self, data: PairDataModule) -> None:
        few = {'max_chips': 2, 'calibration_chips': 2}
        task = MapSRTask('identity', fit=FEW | few)
        run = trainer(limit_val_batches=0)
        run.fit(task, data)
        assert task.land_cover.provenance['chips'] == 2
        assert run.global_step == 2 < len(run.train_dataloader)

    @pytest.mark.parametrize('backbone', ['identity', SMALL])
    def test_ctrl_c(self, data: PairDataModule, backbone: str) -> None:
        class Interrupt(Callback):
            def on_train_batch_end(self, *args: Any) -> None:
                if args[-1] == 2:
                    raise KeyboardInterrupt

        task = MapSRTask(backbone, **QUICK)
        handler = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                trainer(limit_val_batches=0, callbacks=[Interrupt()]).fit(task, data)
        finally:
            signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
        assert task.land_cover is not None
        assert task.land_cover.provenance['chips'] == 3


class TestAgain:
    """A task that is fitted again, to other imagery."""

    @pytest.fixture
    def elsewhere(self, tmp_path: Path) -> Chips:
        return Chips(make_scene(tmp_path / 'other', seed=7, size=(256, 256)))

    @pytest.mark.parametrize('loaded', [False, True])
    def test_is_a_new_fit(self, fitted: Fitted, elsewhere: Chips, loaded: bool) -> None:
        if loaded:
            task = MapSRTask.load_from_checkpoint(fitted.checkpoint)
        else:
            task = deepcopy(fitted.task)
        before, kept = task.land_cover, task.land_cover.to_bytes()
        new = MapSRTask(SMALL)
        for one in (task, new):
            trainer(limit_val_batches=0).fit(one, elsewhere)
        assert task.land_cover.to_bytes() == new.land_cover.to_bytes()
        assert before.to_bytes() == kept

    def test_ctrl_c(self, fitted: Fitted, elsewhere: Chips) -> None:
        class Interrupt(Callback):
            def on_train_batch_end(self, *args: Any) -> None:
                raise KeyboardInterrupt

        task = deepcopy(fitted.task)
        handler = signal.getsignal(signal.SIGINT)
        try:
            run = trainer(limit_val_batches=0, callbacks=[Interrupt()])
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                run.fit(task, elsewhere)
        finally:
            signal.signal(signal.SIGINT, handler)
        assert task.land_cover is not None
        assert task.land_cover.provenance['chips'] == 2

    def test_state_of_no_fit(self, fitted: Fitted) -> None:
        task = deepcopy(fitted.task)
        task.load_state_dict(MapSRTask(SMALL).state_dict())
        assert not task.predicts


class TestMistakes:
    def test_validation_within_the_epoch(self, chips: Chips) -> None:
        with pytest.raises(InputError, match='val_check_interval'):
            trainer(val_check_interval=1).fit(MapSRTask(SMALL), chips)

    def test_no_fit(self, chips: Chips) -> None:
        for stage in ('validate', 'test', 'predict'):
            with pytest.raises(InputError, match='no fit to predict with'):
                getattr(trainer(), stage)(MapSRTask(SMALL), chips)

    def test_other_bands(self, chips: Chips) -> None:
        with pytest.raises(InputError, match='give the task bands=4'):
            trainer().fit(MapSRTask(SMALL, bands=3), chips)

    def test_one_class(self, chips: Chips) -> None:
        batch = chips.batches[0]
        water = batch | {'lr_label': torch.full_like(batch['lr_label'], 11)}
        loader = DataLoader([water], batch_size=None)
        for recipe, message in (
            ('codes', 'only the code 11'),
            ('classes', "only 'Water'"),
        ):
            task = MapSRTask(SMALL, fit=FEW | {'recipe': recipe})
            with pytest.raises(InputError, match=message):
                trainer().fit(task, loader)

    def test_unknown_codes_are_reported(
        self, chips: Chips, caplog: pytest.LogCaptureFixture
    ) -> None:
        codes = chips.batches[0]['lr_label'].clone()
        first, second = whole(chips.batches[0])[0].nonzero()[:2].tolist()
        codes[0, *first] = codes[0, *second] = 7
        batch = chips.batches[0] | {'lr_label': codes}
        task = MapSRTask(SMALL, **QUICK)
        # Lightning's logger by itself: whether it hands on what it is told is decided by
        # what was imported first.
        log = rank_zero_module.log
        caplog.set_level('INFO', log.name)
        log.addHandler(caplog.handler)
        try:
            warned = r"'nlcd' does not have .* 7 \(2 cells\)"
            with pytest.warns(UserWarning, match=warned):
                trainer().fit(task, DataLoader([batch], batch_size=None))
        finally:
            log.removeHandler(caplog.handler)
        # And what the fit says of classes: there is neither a map nor a report.
        assert task.land_cover.remarks
        assert ' '.join(task.land_cover.remarks) in caplog.messages
        assert task.land_cover.provenance['labels']['unknown_codes'] == {'7': 2}

    @pytest.mark.parametrize(
        'options',
        [{'backbone': 'rfc'}, {'legend': 'nlcb'}, {'crosswalk': 'x'}, {'model': 'x'}],
    )
    def test_names(self, options: dict[str, Any]) -> None:
        with pytest.raises(InputError):
            MapSRTask(**options)


class TestPlot:
    def test_predicts(self, fitted: Fitted) -> None:
        batch = fitted.chips.batches[0]
        sample = {k: v[1] for k, v in batch.items() if isinstance(v, Tensor)}
        figure = fitted.task.plot(sample, suptitle='A chip')
        titles = [axis.get_title() for axis in figure.axes]
        assert titles == ['Image', 'LR labels', 'HR labels', 'Prediction']
        drawn = figure.axes[3].images[0].get_array()
        index = fitted.probabilities[1].argmax(0)
        colors = fitted.task.crosswalk.target.colors
        np.testing.assert_array_equal(drawn, colors[index])

    def test_needs_no_fit(self, fitted: Fitted) -> None:
        batch = fitted.chips.batches[0]
        sample = {k: v[0] for k, v in batch.items() if isinstance(v, Tensor)}
        assert len(MapSRTask(SMALL).plot(sample).axes) == 3
        with pytest.raises(InputError, match='this is a batch of'):
            fitted.task.plot(batch)

    def test_is_logged(self, fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
        """To whatever logger takes figures, as TensorBoard's does."""

        class Experiment:
            figures: dict[str, Figure]

            def __init__(self) -> None:
                self.figures = {}

            def add_figure(self, name: str, figure: Figure, step: int) -> None:
                self.figures[name] = figure

        class Logger:
            experiment = Experiment()

        monkeypatch.setattr(MapSRTask, 'logger', Logger())
        trainer().validate(fitted.task, fitted.chips, verbose=False)
        names = {f'image/{i}' for i in range(len(fitted.chips.batches))}
        assert set(Logger.experiment.figures) == names


def test_overfit_batches_is_named(made_scene: Scene) -> None:
    """Lightning takes the sampler away, and what is left has no places."""
    paths = str(made_scene.imagery), str(made_scene.labels)
    data = PairDataModule(*paths, batch_size=2, patch_size=224)
    with pytest.raises(InputError, match='limit_train_batches'):
        trainer(overfit_batches=1).fit(MapSRTask('identity', **QUICK), data)


def test_band_deviations_are_kept_before_the_fit() -> None:
    """A guided fit that goes on from within its epoch needs them."""
    task = MapSRTask(SMALL, upsampler='bilateral', **QUICK)
    task.backbone.calibrate([(255 * torch.rand(4, 64, 64), torch.ones(64, 64))])
    task._spread, task._calibrated = (1.0, 2.0, 3.0, 4.0), True
    again = MapSRTask(SMALL, upsampler='bilateral', **QUICK)
    again.load_state_dict(task.state_dict())
    assert again._spread == task._spread
    assert again._calibrated
    kept, mine = again.backbone.calibration(), task.backbone.calibration()
    assert all(torch.equal(kept[name], mine[name]) for name in mine)


def test_labels_of_another_legend(made_scene: Scene) -> None:
    """As the command says, and not fitted to the few codes that are in both."""
    paths = str(made_scene.imagery), str(made_scene.labels)
    data = PairDataModule(*paths, batch_size=2, patch_size=224)
    with pytest.raises(InputError, match="'nlcd' has them"):
        trainer().fit(MapSRTask('identity', legend='worldcover', **QUICK), data)


def test_imagery_and_labels_are_looked_at(made_scene: Scene, tmp_path: Path) -> None:
    """As the command does: a copy of labels, and bands that are not those of the fit."""
    grid = LRHRPair(made_scene.imagery, made_scene.labels).imagery.geobox
    with rasterio.open(made_scene.labels) as file:
        profile, codes = file.profile, LabelRaster.open(made_scene.labels)[0].at(grid)
    profile |= {'transform': grid.affine, 'crs': str(grid.crs)}
    copy, turned = tmp_path / 'copy.tif', tmp_path / 'turned.tif'
    profile |= {'height': grid.height, 'width': grid.width}
    with rasterio.open(copy, 'w', **profile) as file:
        file.write(np.where(codes < 0, 0, codes).astype(np.uint8), 1)
    with rasterio.open(made_scene.imagery) as file:
        values, names, options = file.read(), file.descriptions, file.profile
    with rasterio.open(turned, 'w', **options) as file:
        file.write(values[[2, 1, 0, 3]])
        file.descriptions = [names[i] for i in (2, 1, 0, 3)]
    data = PairDataModule(str(made_scene.imagery), str(copy), patch_size=224)
    task = MapSRTask('identity', **QUICK)
    with pytest.warns(InputWarning, match=r'copy\.tif: .* look resampled'):
        trainer(limit_val_batches=0).fit(task, data)
    other = PairDataModule(str(turned), str(copy), patch_size=224)
    with pytest.raises(
        InputError, match=r'turned\.tif has its bands in the order blue'
    ):
        trainer().predict(task, other)
    network = SegmentationTask(backbone='tu-test_resnet', in_channels=4)
    run = trainer(limit_train_batches=1, limit_val_batches=0)
    with pytest.warns(InputWarning, match=r'copy\.tif: .* look resampled'):
        run.fit(network, data)
    run.save_checkpoint(checkpoint := tmp_path / 'network.ckpt')
    with pytest.raises(InputError, match=r'order blue, .* of the fit .*3 2 1 4'):
        map_array(checkpoint, turned)
    with pytest.raises(InputError, match=r'order blue, .* of the fit'):
        trainer().predict(network, other)


def test_a_checkpoint_from_within_the_fit(chips: Chips, tmp_path: Path) -> None:
    """The fit would be one to the chips that were seen afterwards."""
    every = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    run = trainer(tmp_path, callbacks=[every], limit_val_batches=0)
    run.fit(MapSRTask('identity', **QUICK), chips)
    early = min(tmp_path.glob('*.ckpt'), key=lambda path: path.stat().st_mtime_ns)
    again = trainer(limit_val_batches=0)
    with pytest.raises(InputError, match='begin anew'):
        again.fit(MapSRTask('identity', **QUICK), chips, ckpt_path=str(early))


def test_a_learning_rate_is_of_sgd_alone() -> None:
    with pytest.raises(InputError, match="lr needs solver='sgd'"):
        MapSRTask(SMALL, lr=0.5)
    assert MapSRTask(SMALL, solver='sgd', lr=0.5).hparams['lr'] == 0.5
