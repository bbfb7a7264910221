# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Maps of trained networks. What maps have in common is tested in test_run.py."""

import json
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from lightning.pytorch import Trainer

from torchgeo_mapsr import InputError, MapJob, SegmentationTask, map_region
from torchgeo_mapsr.datasets.chip import Chip
from torchgeo_mapsr.datasets.geo.grid import Window
from torchgeo_mapsr.datasets.scene.scene import Scene, make_scene
from torchgeo_mapsr.main import main
from torchgeo_mapsr.mapping.progress import Stopwatch
from torchgeo_mapsr.mapping.tiles import ModelScores
from torchgeo_mapsr.models.networks.files import NetworkFiles

from ..forked import METHOD


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks that nothing has trained: their maps are colourful."""
    folder = tmp_path_factory.mktemp('checkpoints')
    paths = [folder / f'{seed}.ckpt' for seed in (0, 1)]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        task = SegmentationTask(in_channels=4)
        trainer = Trainer(accelerator='cpu', barebones=True)
        trainer.strategy.connect(task)
        trainer.save_checkpoint(path)
    return paths


def probabilities(path: Path, scene: Scene) -> torch.Tensor:
    """Of the whole scene at once, by the task itself."""
    task = SegmentationTask.load_from_checkpoint(path, map_location='cpu').eval()
    with rasterio.open(scene.imagery) as dataset:
        image = torch.from_numpy(dataset.read()).float()[None]
    with torch.no_grad():
        return task.log_probabilities({'image': image})[0].exp()


def test_is_the_tasks_own_prediction(
    scene: Scene, checkpoints: list[Path], tmp_path: Path
) -> None:
    """With one chip there is nothing to blend, and two networks are averaged."""
    job = MapJob.from_flags(
        imagery=(str(scene.imagery),),
        checkpoint=tuple(checkpoints),
        ensemble_weights=(1, 3),
        output=tmp_path / 'cover.tif',
        chip_size=512,
        tile_size=100,
        scores=True,
        device='cpu',
    )
    result = map_region(job)
    one, two = (probabilities(path, scene) for path in checkpoints)
    expected = 0.25 * one + 0.75 * two
    with rasterio.open(tmp_path / 'cover.tif') as dataset:
        found = dataset.read(1)
    data = found > 0
    best, second = expected.topk(2, 0).values.numpy()
    sure = data & (best - second > 1e-5)
    assert sure.mean() > 0.9
    assert np.array_equal(found[sure], expected.argmax(0).numpy()[sure] + 1)
    with rasterio.open(tmp_path / 'cover_scores.tif') as dataset:
        percent = dataset.read().astype(float)
    assert np.abs(percent - 100 * expected.numpy())[:, data].max() < 0.51
    fit = result.report['fit']
    assert fit['shares'] == [0.25, 0.75]
    assert [member['task'] for member in fit['checkpoints']] == ['SegmentationTask'] * 2


def test_chips_are_blended(
    scene: Scene, checkpoints: list[Path], tmp_path: Path
) -> None:
    """Many chips, from the command line, with labels to compare the map with."""
    args = ['map', str(scene.imagery), '--checkpoint', str(checkpoints[0])]
    args += ['--labels', str(scene.labels), '--legend', scene.legend]
    args += ['--chip-size', '192', '--tile-size', '128', '--device', 'cpu']
    args += ['--scores', '--output', str(tmp_path / 'cover.tif'), '--quiet']
    assert main(args) == 0
    with rasterio.open(tmp_path / 'cover_scores.tif') as dataset:
        percent = dataset.read().astype(float)
    data = percent[0] < 255
    steps = np.abs(np.diff(percent, axis=2)).mean(0)
    inside = data[:, 1:] & data[:, :-1]
    columns = np.array(
        [steps[:, i][inside[:, i]].mean() for i in range(steps.shape[1])]
    )
    # across the tiles' borders no more than elsewhere
    assert columns[127] < columns.mean() + 3 * columns.std()
    assert columns[255] < columns.mean() + 3 * columns.std()
    report = json.loads((tmp_path / 'cover.json').read_text())
    assert report['maps'][0]['classes']
    assert 'network' in report['timings']


@pytest.mark.parametrize(
    ('names', 'before'),
    [(('last.ckpt', 'last.ckpt'), (1, 1)), (('a.ckpt', 'b.ckpt'), (1, 0))],
)
def test_other_checkpoints_are_other_work(
    checkpoints: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, str],
    before: tuple[int, int],
) -> None:
    """Also of one name, or in another order: nothing of the interrupted run is used."""
    scene = make_scene(tmp_path, seed=3, size=(96, 96))
    paths = [tmp_path / str(i) / name for i, name in enumerate(names)]
    for source, path in zip(checkpoints, paths, strict=True):
        path.parent.mkdir()
        shutil.copy(source, path)

    def job(output: str, first: int, second: int) -> MapJob:
        return MapJob.from_flags(
            imagery=(str(scene.imagery),),
            checkpoint=(paths[first], paths[second]),
            ensemble_weights=(9.0, 1.0),
            output=tmp_path / output,
            device='cpu',
        )

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr('torchgeo_mapsr.mapping.run.publish', stop)
        with pytest.raises(KeyboardInterrupt):
            map_region(job('map.tif', *before))
    (resumed,) = map_region(job('map.tif', 0, 1)).maps
    (fresh,) = map_region(job('fresh.tif', 0, 1)).maps
    assert resumed.read_bytes() == fresh.read_bytes()


def open_and_score(sent: bytes, image: torch.Tensor, core: Window) -> torch.Tensor:
    """What a worker does."""
    scores: ModelScores = pickle.loads(sent)
    valid = torch.ones(image.shape[1:], dtype=torch.bool)
    chip = Chip(image, valid, torch.zeros_like(valid, dtype=torch.int64), core=core)
    scored = scores.score(chip, Stopwatch())
    assert scored.probabilities is not None
    assert scored.probabilities.shape[1:] == scored.valid.shape
    empty = replace(chip, valid=~valid)
    assert scores.score(empty, Stopwatch()).probabilities is None
    return scored.probabilities


def test_sent_to_another_process(checkpoints: list[Path]) -> None:
    """What arrives is made of the same files."""
    files = NetworkFiles.of((checkpoints[0],), (), 'cpu', 'fp32')
    sent = pickle.dumps(ModelScores(files))
    assert len(sent) < 2000
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((4, 40, 50), np.float32) * 255)
    core = slice(5, 35), slice(0, 42)
    expected = open_and_score(sent, image, core)
    assert expected.shape == (4, 30, 42)
    with ProcessPoolExecutor(1, get_context(METHOD)) as pool:
        there = pool.submit(open_and_score, sent, image, core).result()
    assert torch.equal(there, expected)


def test_another_file_is_noticed(checkpoints: list[Path], tmp_path: Path) -> None:
    path = tmp_path / 'a.ckpt'
    path.write_bytes(checkpoints[0].read_bytes())
    looked_up = NetworkFiles.of((path,), (), 'cpu', 'fp32')
    path.write_bytes(checkpoints[1].read_bytes())
    with pytest.raises(InputError, match='is another one'):
        looked_up.open()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (['--target', 'worldcover'], 'give --target land-cover-4'),
        (['--bands', '1', '2', '3'], 'has 3 bands but the imagery of the fit has 4'),
        (['--model', 'fit.safetensors'], 'leave out --model'),
        (['--save-model', 'fit.safetensors'], 'leave out --model and --save-model'),
        (['--ensemble-weights', '1', '2'], '2 weights for 1 networks'),
        (['--propagate', 'tokens'], '--propagate has no effect on a trained network'),
        (['--prior', '0'], '--prior has no effect on a trained network'),
        (['--output', '{checkpoint}'], 'neither a .tif file nor a folder'),
    ],
)
def test_mistakes(
    changes: list[str],
    message: str,
    scene: Scene,
    checkpoints: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = ['map', str(scene.imagery), '--checkpoint', str(checkpoints[0])]
    args += ['--output', str(tmp_path / 'cover.tif')]
    args += [change.format(checkpoint=checkpoints[0]) for change in changes]
    before = checkpoints[0].read_bytes()
    assert main(args) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1
    assert checkpoints[0].read_bytes() == before
    assert not list(tmp_path.iterdir())
