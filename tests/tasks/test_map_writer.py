# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Maps from a Trainer are those of the command."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
from torchgeo.main import main as torchgeo_main

from torchgeo_mapsr.datamodules import PairDataModule, SourceTargetDataModule
from torchgeo_mapsr.datasets import LRHRPair, LRHRPairs, collate_pairs
from torchgeo_mapsr.datasets.query import ChipQuery
from torchgeo_mapsr.datasets.scene.scene import Scene, make_scene
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.run import map_region
from torchgeo_mapsr.mapping.store import WorkStore
from torchgeo_mapsr.samplers import ChipSampler
from torchgeo_mapsr.samplers.lattice import LatticeSampler
from torchgeo_mapsr.tasks import MapSRTask, SegmentationTask
from torchgeo_mapsr.tasks.map_writer import MapWriter

from ..forked import run_forked
from ..mapping.conftest import BACKBONE, changed

CONFIG = Path(__file__).parents[2] / 'docs' / 'configs' / 'map_writer.yaml'


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp('scene'), seed=3, size=(330, 290))


@pytest.fixture(scope='module')
def made(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of the command without and with the labels as a prior, and the fit."""
    folder = tmp_path_factory.mktemp('made')
    job = MapJob.from_flags(
        imagery=(str(scene.imagery),),
        labels=(str(scene.labels),),
        legend=scene.legend,
        output=folder / 'cover.tif',
        backbone=BACKBONE,
        chip_size=128,
        tile_size=100,
        device='cpu',
        scores=True,
        prior=0.0,
        save_model=folder / 'fit.safetensors',
    )
    map_region(job)
    weighed = folder / 'weighed'
    map_region(
        changed(
            job,
            prior=0.5,
            output=weighed / 'cover.tif',
            save_model=weighed / 'fit.safetensors',
        )
    )
    return folder


def layers(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob('cover*.tif*')}


def predict(
    scene: Scene, fit: Path, output: Path, batch_size: int = 1, **trainer: Any
) -> None:
    task = MapSRTask(BACKBONE, legend=scene.legend, model=fit)
    data = PairDataModule(
        str(scene.imagery), str(scene.labels), batch_size=batch_size, patch_size=128
    )
    writer = MapWriter(output, tile_size=100, scores=True)
    silent = {'logger': False, 'enable_progress_bar': False, 'accelerator': 'cpu'}
    Trainer(callbacks=[writer], **silent, **trainer).predict(
        task, data, return_predictions=False
    )


def test_same_bytes_as_the_command(scene: Scene, made: Path, tmp_path: Path) -> None:
    predict(scene, made / 'fit.safetensors', tmp_path / 'cover.tif')
    assert layers(tmp_path) == layers(made)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in made.iterdir() if path.is_file()} - {
        'fit.safetensors'
    }
    ours, command = (
        json.loads((f / 'cover.json').read_text()) for f in (tmp_path, made)
    )
    assert ours['settings']['task']['name'] == 'MapSRTask'
    assert not [v for v in map(str, ours['settings'].values()) if '<' in v]
    assert ours['maps'][0].keys() == command['maps'][0].keys()
    for name in ours['maps'][0].keys() - {'map'}:
        assert ours['maps'][0][name] == command['maps'][0][name]
    assert ours['fit']['labels'] == command['fit']['labels']


@pytest.mark.parametrize('batch_size', [1, 3])
def test_same_bytes_with_labels_and_in_batches(
    scene: Scene, made: Path, tmp_path: Path, batch_size: int
) -> None:
    """Chips show the labels round them as far as these are smoothed."""
    fit = made / 'weighed' / 'fit.safetensors'
    predict(scene, fit, tmp_path / 'cover.tif', batch_size=batch_size)
    assert layers(tmp_path) == layers(made / 'weighed')
    assert layers(tmp_path) != layers(made)


def test_page_of_a_stack(scene: Scene, tmp_path: Path) -> None:
    """It shows the imagery, in the bands that were read, and the labels."""
    second = tmp_path / 'july.tif'
    second.write_bytes(Path(scene.imagery).read_bytes())
    data = PairDataModule(
        [str(scene.imagery), str(second)],
        str(scene.labels),
        bands=[3, 1],
        nodata=float('nan'),
        stack=True,
        patch_size=128,
    )
    task = MapSRTask('identity', legend=scene.legend, bands=4)
    writer = MapWriter(tmp_path / 'cover.tif', html=True)
    trainer = Trainer(
        callbacks=[writer],
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator='cpu',
    )
    trainer.fit(task, data)
    trainer.predict(task, data, return_predictions=False)
    text = (tmp_path / 'cover.json').read_text()
    settings = json.loads(text, parse_constant=pytest.fail)['settings']
    assert settings['imagery'] == [str(scene.imagery), str(second)]
    assert (settings['bands'], settings['nodata']) == ([3, 1], 'nan')
    assert settings['stack'] is True
    page = (tmp_path / 'cover.html').read_text()
    assert '"imagery": "data:image/jpeg' in page
    assert '"labels": "data:image/png' in page


DDP = """
from pathlib import Path
from tests.tasks.test_map_writer import predict
from torchgeo_mapsr.datasets.scene.scene import Scene
scene = Scene(**{scene!r})
predict(scene, Path({fit!r}), Path({output!r}), devices=2, strategy='ddp_fork')
"""


def test_two_processes_make_the_same_bytes(
    scene: Scene, made: Path, tmp_path: Path
) -> None:
    script = DDP.format(
        scene=vars(scene),
        fit=str(made / 'fit.safetensors'),
        output=str(tmp_path / 'cover.tif'),
    )
    script = 'from pathlib import PosixPath\n' + script
    done = run_forked(script)
    assert done.returncode == 0, done.stderr
    assert layers(tmp_path) == layers(made)
    assert not list(tmp_path.glob('*.parts*'))


def test_from_a_configuration(
    scene: Scene, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', ['torchgeo'])
    monkeypatch.chdir(tmp_path)  # Lightning writes config.yaml there
    args = ['predict', '--config', str(CONFIG), '--return_predictions', 'false']
    args += ['--trainer.accelerator', 'cpu', '--trainer.enable_progress_bar', 'false']
    args += ['--trainer.callbacks.output', str(tmp_path / 'cover.tif')]
    args += ['--trainer.callbacks.tile_size', '100', '--trainer.callbacks.scores=true']
    args += ['--model.model', str(made / 'fit.safetensors'), '--model.backbone']
    args += [BACKBONE, '--data.imagery', str(scene.imagery), '--data.labels']
    args += [str(scene.labels), '--data.patch_size', '128']
    torchgeo_main(args)
    assert layers(tmp_path) == layers(made)


def test_networks_and_several_rasters(scene: Scene, tmp_path: Path) -> None:
    """Any task; rasters that overlap are told apart; a loader of one's own."""
    files = []
    for name, start in (('left', 0), ('right', 90)):
        files.append(str(tmp_path / f'{name}.tif'))
        with rasterio.open(scene.imagery) as source:
            window = rasterio.windows.Window(start, 0, 200, 140)
            profile = source.profile | {
                'width': 200,
                'height': 140,
                'transform': source.window_transform(window),
            }
            values = source.read(window=window)
        # the same place, other values
        with rasterio.open(files[-1], 'w', **profile) as target:
            target.write(values if start else 255 - values)
    dataset = LRHRPairs.from_files(files, str(scene.labels))
    sampler = LatticeSampler(dataset, 96, overlap=32, halo=8, align=32)
    loader: DataLoader[Any] = DataLoader(
        dataset, 2, sampler=sampler, collate_fn=collate_pairs
    )
    task = SegmentationTask('unet', 'resnet18')
    writer = MapWriter(tmp_path / 'maps', tile_size=128)
    trainer = Trainer(
        callbacks=[writer], logger=False, enable_progress_bar=False, accelerator='cpu'
    )
    trainer.predict(task, loader, return_predictions=False)
    task.eval()
    for file, pair in zip(files, dataset.pairs, strict=True):
        path = tmp_path / 'maps' / Path(file).name
        with rasterio.open(path) as found, rasterio.open(file) as given:
            assert (found.transform, found.crs) == (given.transform, given.crs)
            assert found.shape == given.shape
            classes = found.read(1)
        # in the middle of the first chip nothing is blended
        chip = pair.sample(ChipQuery(0, pair.imagery.geobox[:96, :96]))
        batch = collate_pairs([chip])
        index = task.predict_step(batch, 0)['probabilities'][0].argmax(0).numpy()
        np.testing.assert_array_equal(
            classes[:40, :40], task.crosswalk.target.codes[index][:40, :40]
        )
    maps = [rasterio.open(tmp_path / 'maps' / Path(f).name).read() for f in files]
    assert (maps[0][:, :, 90:] != maps[1][:, :, :110]).any()


def test_networks_as_the_command_maps_them(
    scene: Scene, made: Path, tmp_path: Path
) -> None:
    task = SegmentationTask('unet', 'resnet18')
    data = PairDataModule(str(scene.imagery), str(scene.labels), patch_size=224)
    writer = MapWriter(tmp_path / 'cover.tif', tile_size=100, scores=True)
    silent: dict[str, Any] = {'logger': False, 'enable_progress_bar': False}
    trainer = Trainer(callbacks=[writer], accelerator='cpu', **silent)
    trainer.predict(task, data, return_predictions=False)
    trainer.save_checkpoint(tmp_path / 'last.ckpt')
    job = MapJob(
        imagery=(str(scene.imagery),),
        checkpoint=(str(tmp_path / 'last.ckpt'),),
        output=tmp_path / 'command' / 'cover.tif',
        scores=True,
        chips={'size': 224, 'tile_size': 100},
    )
    map_region(job)
    assert layers(tmp_path) == layers(tmp_path / 'command')


@pytest.mark.parametrize('case', ['exists', 'sampler', 'missing', 'held'])
def test_mistakes(scene: Scene, made: Path, tmp_path: Path, case: str) -> None:
    """Nothing is left behind, and nothing written over."""
    output = tmp_path / 'cover.tif'
    pair = LRHRPair(scene.imagery, scene.labels)
    sampler: Any = LatticeSampler(pair, 128, halo=14, align=4)
    message = {
        'exists': 'overwrite',
        'sampler': 'LatticeSampler',
        'missing': 'were not predicted',
        'held': 'Another run',
    }[case]
    if case == 'exists':
        output.write_text('mine')
    if case == 'sampler':
        sampler = ChipSampler(pair, 128)
    loader: DataLoader[Any] = DataLoader(
        pair, 1, sampler=sampler, collate_fn=collate_pairs
    )
    task = MapSRTask(BACKBONE, legend='nlcd', model=made / 'fit.safetensors')
    trainer = Trainer(
        callbacks=[MapWriter(output)],
        logger=False,
        enable_progress_bar=False,
        accelerator='cpu',
        limit_predict_batches=2 if case == 'missing' else None,
    )
    if case == 'held':
        with (
            WorkStore(tmp_path / 'cover.tif.parts', {}),
            pytest.raises(InputError, match=message),
        ):
            trainer.predict(task, loader)
    else:
        with pytest.raises(InputError, match=message):
            trainer.predict(task, loader)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == ({'cover.tif'} if case == 'exists' else set())


def test_data_of_two_domains(scene: Scene, made: Path, tmp_path: Path) -> None:
    """Those of self-training: the one that is evaluated is mapped."""
    paths = str(scene.imagery), str(scene.labels)
    parts = [PairDataModule(*paths, batch_size=1, patch_size=128) for _ in range(2)]
    writer = MapWriter(str(tmp_path / 'cover.tif'), tile_size=100)
    task = SegmentationTask(in_channels=4)
    Trainer(logger=False, accelerator='cpu', callbacks=[writer]).predict(
        task, SourceTargetDataModule(*parts), return_predictions=False
    )
    with rasterio.open(tmp_path / 'cover.tif') as one:
        with rasterio.open(made / 'cover.tif') as other:
            assert (one.shape, one.transform) == (other.shape, other.transform)
        assert (one.read(1) > 0).all()
