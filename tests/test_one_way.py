# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The command and the Trainer are two loops round one fit and one map."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from rasterio.transform import Affine

from torchgeo_mapsr import (
    FitOptions,
    LandCoverModel,
    LRHRPair,
    MapJob,
    MapSRTask,
    MapWriter,
    PairDataModule,
    map_region,
)
from torchgeo_mapsr.datasets.chip import Chip, read_chip
from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.scene import Scene, make_scene
from torchgeo_mapsr.models.head.prior import LabelPrior
from torchgeo_mapsr.samplers import FitSampler

from .forked import run_forked

BACKBONE = 'rcf?filters=6&colours=24&strides=1,4'
QUIET: dict[str, Any] = {
    'accelerator': 'cpu',
    'logger': False,
    'enable_progress_bar': False,
    'enable_model_summary': False,
    'enable_checkpointing': False,
}


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp('scene'), seed=3, size=(330, 290))


@pytest.fixture(scope='module')
def two_labels(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The west of the labels, and their east in cells half a cell further."""
    folder = tmp_path_factory.mktemp('labels')
    with rasterio.open(scene.labels) as file:
        codes, profile = file.read(1), file.profile
    west, east = codes.copy(), codes.copy()
    middle = codes.shape[1] // 2
    west[:, middle + 2 :] = profile['nodata'] or 0
    paths = []
    for name, part, shift in (
        ('west', west, 0.0),
        ('east', east[:, middle - 2 :], 0.5),
    ):
        first = 0 if name == 'west' else middle - 2
        transform = profile['transform'] * Affine.translation(first + shift, shift)
        path = folder / f'{name}.tif'
        options = profile | {
            'width': part.shape[1],
            'transform': transform,
            'nodata': profile['nodata'] or 0,
        }
        with rasterio.open(path, 'w', **options) as file:
            file.write(part, 1)
        paths.append(str(path))
    return paths


def by_command(
    scene: Scene, folder: Path, labels: list[str], chip: int, **flags: Any
) -> tuple[bytes, Path]:
    """Fit and map with the command's job."""
    flags = {'backbone': BACKBONE, 'device': 'cpu', 'seed': 7} | flags
    job = MapJob.from_flags(
        imagery=(str(scene.imagery),),
        labels=tuple(labels),
        legend='nlcd',
        output=folder / 'command.tif',
        save_model=folder / 'command.fit',
        chip_size=chip,
        tile_size=100,
        scores=True,
        **flags,
    )
    map_region(job)
    return (folder / 'command.fit').read_bytes(), folder / 'command.tif'


def by_trainer(
    scene: Scene,
    folder: Path,
    labels: list[str],
    chip: int,
    fit: FitOptions | None = None,
    batch_size: int = 1,
    **arguments: Any,
) -> tuple[bytes, Path]:
    """Fit and map with a Trainer."""
    data = PairDataModule(
        str(scene.imagery), labels, patch_size=chip, batch_size=batch_size
    )
    task = MapSRTask(BACKBONE, fit=fit, seed=7, **arguments)
    Trainer(max_epochs=1, **QUIET).fit(task, data)
    assert task.land_cover is not None
    writer = MapWriter(folder / 'trainer.tif', tile_size=100, scores=True)
    Trainer(callbacks=[writer], **QUIET).predict(task, data, return_predictions=False)
    return task.land_cover.to_bytes(), folder / 'trainer.tif'


def same_files(first: Path, second: Path) -> None:
    """Maps, confidences and scores are equal, pixel by pixel."""
    for end in ('', '_confidence', '_scores'):
        one, two = (
            rasterio.open(path.with_name(f'{path.stem}{end}.tif')).read()
            for path in (first, second)
        )
        np.testing.assert_array_equal(one, two)


@pytest.fixture(scope='module')
def commanded(
    scene: Scene, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, Path]:
    """Fit and map of the command with chips of 128."""
    folder = tmp_path_factory.mktemp('commanded')
    return by_command(scene, folder, [str(scene.labels)], 128)


@pytest.mark.parametrize('chip', [128, 224, 448])
@pytest.mark.parametrize('prior', [None, 0.0])
def test_same_fit_and_map(
    scene: Scene,
    commanded: tuple[bytes, Path],
    tmp_path: Path,
    chip: int,
    prior: float | None,
) -> None:
    labels = [str(scene.labels)]
    ours, map_ours = (
        commanded
        if (chip, prior) == (128, None)
        else by_command(scene, tmp_path, labels, chip, prior=prior)
    )
    theirs, map_theirs = by_trainer(
        scene, tmp_path, labels, chip, FitOptions(prior=prior)
    )
    assert ours == theirs
    same_files(map_ours, map_theirs)


def test_same_in_batches(
    scene: Scene, commanded: tuple[bytes, Path], tmp_path: Path
) -> None:
    ours, map_ours = commanded
    theirs, map_theirs = by_trainer(
        scene, tmp_path, [str(scene.labels)], 128, batch_size=3
    )
    assert ours == theirs
    same_files(map_ours, map_theirs)


@pytest.mark.parametrize(
    'flags',
    [
        {'upsampler': 'bilateral', 'propagate': 'tokens?spacing=16'},
        {'propagate': 'superpixels?spacing=12&alpha=0.5'},
    ],
)
def test_same_guided_and_propagated(
    scene: Scene, tmp_path: Path, flags: dict[str, Any]
) -> None:
    """By both ways; and a saved fit maps so under --model."""
    labels = [str(scene.labels)]
    ours, map_ours = by_command(scene, tmp_path, labels, 128, **flags)
    theirs, map_theirs = by_trainer(scene, tmp_path, labels, 128, **flags)
    assert ours == theirs
    same_files(map_ours, map_theirs)
    again = MapJob.from_flags(
        imagery=(str(scene.imagery),),
        labels=tuple(labels),
        legend='nlcd',
        output=tmp_path / 'again.tif',
        model=tmp_path / 'command.fit',
        chip_size=128,
        tile_size=100,
        scores=True,
        device='cpu',
    )
    report = map_region(again).report
    assert {name: report['fit'][name] for name in flags} == flags
    same_files(map_ours, tmp_path / 'again.tif')


# A process of its own: autograd of this one has threads, which cannot be forked.
TWO_PROCESSES = """
import sys
from pathlib import Path
from lightning.pytorch import Callback, Trainer
from torchgeo_mapsr import MapSRTask, PairDataModule

imagery, labels, folder, backbone = sys.argv[1:]


class Save(Callback):
    def on_fit_end(self, trainer, pl_module):
        name = f'fit{trainer.global_rank}'
        (Path(folder) / name).write_bytes(pl_module.land_cover.to_bytes())


data = PairDataModule(imagery, labels, patch_size=128)
Trainer(
    accelerator='cpu', devices=2, strategy='ddp_fork', max_epochs=1, logger=False,
    enable_progress_bar=False, enable_model_summary=False,
    enable_checkpointing=False, callbacks=[Save()],
).fit(MapSRTask(backbone, seed=7), data)
"""


def test_same_fit_of_two_processes(
    scene: Scene, commanded: tuple[bytes, Path], tmp_path: Path
) -> None:
    labels, (ours, _) = scene.labels, commanded
    done = run_forked(TWO_PROCESSES, scene.imagery, labels, tmp_path, BACKBONE)
    assert done.returncode == 0, done.stderr[-2000:]
    for rank in (0, 1):
        assert (tmp_path / f'fit{rank}').read_bytes() == ours


def test_same_with_two_label_rasters(
    scene: Scene, tmp_path: Path, two_labels: list[str]
) -> None:
    ours, map_ours = by_command(scene, tmp_path, two_labels, 128)
    theirs, map_theirs = by_trainer(scene, tmp_path, two_labels, 128)
    assert ours == theirs
    same_files(map_ours, map_theirs)


def test_one_rule_where_labels_overlap(scene: Scene, two_labels: list[str]) -> None:
    """Dataset, fit and prior label the same pixels: the first raster's, then the next."""
    imagery = Imagery(scene.imagery)
    rasters = LabelRaster.open(two_labels)
    assert len(rasters) == 2
    first, second = (raster.at(imagery.geobox) for raster in rasters)
    expected = np.where(first >= 0, first, second)
    assert (first >= 0).any()
    assert ((first < 0) & (second >= 0)).any()

    sample = LRHRPair(scene.imagery, two_labels)[_whole(scene)]
    chip = Chip.of(_batch(sample), 0)
    np.testing.assert_array_equal(_codes(chip), expected)

    pieces = np.full(expected.shape, -1)
    pair = LRHRPair(scene.imagery, two_labels)
    for query in FitSampler(pair, 128, halo=8, align=4):
        part, (rows, cols) = pair.read(query), query.own
        own = _codes(part)[part.region.numpy() > 0]
        _, top, left = part.key
        window = np.full(part.region.shape, -1)
        window[part.region.numpy() > 0] = own
        pieces[rows, cols] = window[
            rows.start - top : rows.stop - top, cols.start - left : cols.stop - left
        ]
    np.testing.assert_array_equal(pieces, expected)

    codes = torch.unique(chip.code[chip.code >= 0])
    prior = LabelPrior(codes, torch.eye(len(codes)), torch.ones(len(codes)), 1.0)
    evidence = prior.evidence(chip)
    assert evidence is not None
    np.testing.assert_array_equal((evidence != 0).any(0).numpy(), expected >= 0)


def _batch(sample: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A batch of one sample."""
    return {k: v[None] for k, v in sample.items() if isinstance(v, torch.Tensor)}


def _whole(scene: Scene) -> tuple[slice, slice]:
    box = Imagery(scene.imagery).geobox.boundingbox
    return slice(box.left, box.right), slice(box.bottom, box.top)


def _codes(chip: Chip) -> NDArray[np.int64]:
    """Code of each pixel's cell, -1 where it has none."""
    codes = torch.cat([torch.tensor([-1]), chip.code])
    return codes[chip.region].numpy()


def test_cells_larger_than_a_chip(tmp_path: Path) -> None:
    """Cells that no chip holds become whole in blocks of neighbouring chips."""
    scene = make_scene(tmp_path / 'scene', seed=5, size=(700, 700))
    with rasterio.open(scene.labels) as file:
        codes, profile = file.read(1), file.profile
    coarse = profile['transform'] * Affine.scale(3)
    coded = codes[1::3, 1::3]
    options = profile | {
        'transform': coarse,
        'height': coded.shape[0],
        'width': coded.shape[1],
    }
    path = tmp_path / 'coarse.tif'
    with rasterio.open(path, 'w', **options) as file:
        file.write(coded, 1)
    job = MapJob.from_flags(
        imagery=(str(scene.imagery),),
        labels=(str(path),),
        legend='nlcd',
        output=tmp_path / 'map.tif',
        backbone=BACKBONE,
        chip_size=96,
        max_chips=40,
        device='cpu',
    )
    report = map_region(job).report
    assert report['fit']['labels']['cells_used'] >= 4
    assert report['fit']['chips'] == 40


def test_edges_do_not_depend_on_the_chip_size(
    scene: Scene, commanded: tuple[bytes, Path], tmp_path: Path
) -> None:
    """At the last row and column a map is the same for chips of any size."""
    (tmp_path / 'fit').write_bytes(commanded[0])
    edges = []
    for chip in (128, 160, 448):
        path = tmp_path / f'edge{chip}.tif'
        map_region(
            MapJob.from_flags(
                imagery=(str(scene.imagery),),
                output=path,
                model=tmp_path / 'fit',
                chip_size=chip,
                device='cpu',
            )
        )
        with rasterio.open(path) as file:
            classes = file.read(1)
        edges.append(np.concatenate([classes[-8:].ravel(), classes[:, -8:].ravel()]))
    for edge in edges[1:]:
        assert np.mean(edge != edges[0]) < 2e-3


def test_a_saved_fit_has_a_digest(commanded: tuple[bytes, Path]) -> None:
    content, _ = commanded
    assert LandCoverModel.is_model(content)
    for place in (12, len(content) // 2, len(content) - 3):
        changed = bytearray(content)
        changed[place] ^= 0x10
        assert not LandCoverModel.is_model(bytes(changed))


def test_a_chip_of_a_sample_is_the_chip_of_the_files(scene: Scene) -> None:
    pair = LRHRPair(scene.imagery, scene.labels)
    query = next(iter(FitSampler(pair, 128, halo=8, align=4)))
    chip = read_chip(pair.imagery, query.geobox, pair.labels, own=query.own)
    again = Chip.of(_batch(pair[query]), 0)
    assert (again.key, again.partition) == (chip.key, True)
    for name in ('image', 'valid', 'region', 'code', 'place', 'cell_pixels'):
        torch.testing.assert_close(getattr(again, name), getattr(chip, name))
