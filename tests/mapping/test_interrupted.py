# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Runs that are killed, stopped or out of disk, as a person would meet them."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.features import rasterize

from torchgeo_mapsr.datasets.scene.scene import make_scene
from torchgeo_mapsr.main import main
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.inputs import Inputs
from torchgeo_mapsr.mapping.options import BackboneOptions
from torchgeo_mapsr.mapping.outputs import Outputs
from torchgeo_mapsr.mapping.run import map_region
from torchgeo_mapsr.mapping.tile_files import TileFiles

from ..forked import Forked
from .conftest import arguments, changed


@pytest.fixture
def expected(mapped: Path) -> NDArray[np.uint8]:
    """The map of a run that nothing happens to."""
    with rasterio.open(mapped / 'cover.tif') as dataset:
        return dataset.read()


def start(job: MapJob, before: str = '') -> Forked:
    return Forked(
        f'{before}\nimport sys\nfrom torchgeo_mapsr.main import main\n'
        f'sys.exit(main({arguments(job)!r}))'
    )


def wait_for_tiles(job: MapJob, process: Forked, count: int) -> None:
    folder = Path(f'{job.output}.parts')
    end = time.monotonic() + 240
    while len(list(folder.glob('[0-9]*.tile'))) < count:
        assert process.returncode is None, process.stderr
        assert time.monotonic() < end
        time.sleep(0.005)


def finish(
    job: MapJob, expected: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, int]:
    """Run the same command again: the same map, without the finished tiles.

    Returns:
        Tiles that were there, and that were made.
    """
    folder = Path(f'{job.output}.parts')
    there = len(list(folder.glob('[0-9]*.tile')))
    assert list(folder.glob('fit_*.safetensors'))
    assert not Path(job.output).exists()
    made = []
    save = TileFiles.save

    def count(self: TileFiles, image: int, tile: object, **arrays: np.ndarray) -> None:
        made.append(tile)
        save(self, image, tile, **arrays)

    monkeypatch.setattr(TileFiles, 'save', count)
    assert main(arguments(job)) == 0
    assert not folder.exists()
    with rasterio.open(job.output) as dataset:
        np.testing.assert_array_equal(dataset.read(), expected)
    return there, len(made)


def test_killed_run_is_resumed(
    job: MapJob,
    expected: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    process = start(job)
    wait_for_tiles(job, process, 3)
    process.kill()
    process.wait()
    there, made = finish(job, expected, monkeypatch)
    assert there >= 3
    assert there + made == 4 * 3
    assert 'Going on' in capsys.readouterr().out


@pytest.mark.skipif(os.name == 'nt', reason='Windows sends no SIGINT to a child alone')
def test_ctrl_c_keeps_what_is_finished(
    job: MapJob, expected: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(job)
    wait_for_tiles(job, process, 2)
    process.kill(signal.SIGINT)
    assert process.wait(60) == 130
    assert 'same command again' in process.stderr
    assert 'Traceback' not in process.stderr
    there, made = finish(job, expected, monkeypatch)
    assert there + made == 4 * 3


def test_disk_full_is_one_line(
    job: MapJob, expected: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for a full disk: write(2) fails alike.

    The fit is larger than the limit, so that it is set when all tiles are made.
    """
    pytest.importorskip('resource')
    before = (
        'import resource\n'
        'from torchgeo_mapsr.mapping import run\n'
        'publish = run.publish\n'
        'def limited(*args):\n'
        '    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n'
        '    publish(*args)\n'
        'run.publish = limited\n'
    )
    process = start(job, before)
    code, message = process.wait(), process.stderr
    assert code == 2, message
    lines = [line for line in message.splitlines() if line.startswith('torchgeo')]
    assert len(lines) == 1
    assert 'disk' in lines[0]
    assert 'Traceback' not in message
    folder = Path(job.output).parent
    published = [p for p in folder.glob('cover*') if p.is_file()]
    assert not [path for path in published if '.parts.' not in path.name]
    there, made = finish(job, expected, monkeypatch)
    assert (there, made) == (12, 0)


def test_work_of_other_settings_is_left(job: MapJob) -> None:
    folder = Path(f'{job.output}.parts')
    folder.mkdir()
    other = folder / '0_0_0_0123456789ab.tile'
    other.write_bytes(b'of other settings')
    assert main(arguments(job)) == 0
    assert Path(job.output).exists()
    assert [path.name for path in folder.iterdir() if path.name != 'lock'] == [
        other.name
    ]


def stop_before_publishing(job: MapJob, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave all tiles and the fit of a job; give their folder."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr('torchgeo_mapsr.mapping.run.publish', stop)
        assert main(arguments(job)) == 130
    folder = Path(f'{job.output}.parts')
    assert len(list(folder.glob('[0-9]*.tile'))) == 12
    return folder


def test_outputs_that_are_asked_for_after_the_map_was_published(
    job: MapJob, expected: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr('torchgeo_mapsr.mapping.run.run_report', stop)
        assert main(arguments(job)) == 130
    output = Path(job.output)
    before = output.stat().st_mtime_ns, output.read_bytes()
    more = changed(
        job,
        polygons=output.with_name('cover.gpkg'),
        html=True,
        save_model=output.with_name('fit.safetensors'),
    )
    map_region(more)
    # The map is that of the first run; the rest is made of it.
    assert (output.stat().st_mtime_ns, output.read_bytes()) == before
    frame = geopandas.read_file(more.polygons, layer='cover')
    with rasterio.open(output) as dataset:
        burnt = rasterize(
            zip(frame.geometry, frame['class'], strict=True),
            dataset.shape,
            transform=dataset.transform,
            dtype='uint8',
        )
    np.testing.assert_array_equal(burnt, expected[0])
    assert frame['confidence'].between(0, 100).all()
    assert output.with_suffix('.html').exists()
    assert more.save_model.exists()
    assert not list(output.parent.glob('*.parts*'))


def test_damaged_leftovers_are_made_again(
    job: MapJob, expected: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stop_before_publishing(job, monkeypatch)
    first, second, *_ = sorted(folder.glob('[0-9]*.tile'))
    for path in (first, second):
        path.write_bytes(path.read_bytes()[:-40])
    there, made = finish(job, expected, monkeypatch)
    assert (there, made) == (12, 2)


def test_damaged_fit_is_made_again(
    job: MapJob, expected: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stop_before_publishing(job, monkeypatch)
    (fit,) = folder.glob('fit_*.safetensors')
    content = fit.read_bytes()
    fit.write_bytes(content[:-100])
    again = changed(job, save_model=folder.parent / 'again.safetensors')
    map_region(again)
    assert again.save_model.read_bytes() == content
    with rasterio.open(job.output) as dataset:
        np.testing.assert_array_equal(dataset.read(), expected)


def test_changed_input_is_other_work(
    job: MapJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing of the old imagery gets into the new map."""
    imagery = tmp_path / 'imagery.tif'
    shutil.copy(job.imagery[0], imagery)
    job = changed(job, imagery=(str(imagery),))
    stop_before_publishing(job, monkeypatch)
    with rasterio.open(imagery, 'r+') as dataset:
        dataset.write(dataset.read()[:, ::-1])
    assert main(arguments(job)) == 0
    assert 'it differs in inputs' in ' '.join(capsys.readouterr().out.split())
    fresh = map_region(changed(job, output=tmp_path / 'fresh.tif')).maps[0]
    assert Path(job.output).read_bytes() == fresh.read_bytes()


def test_changed_weights_of_a_spec_are_other_work(job: MapJob, tmp_path: Path) -> None:
    """Of each member of the spec, though all have one name."""
    files = [tmp_path / folder / 'w.pth' for folder in 'ab']
    spec = '+'.join(f'timm:resnet10t?weights={file}' for file in files)
    job = changed(job, backbone=spec)
    outputs = Outputs.of(job.output, job.imagery)
    for file in files:
        file.parent.mkdir()
        file.write_bytes(b'weights')
    inputs, _ = Inputs.open(job, outputs)
    assert set(map(str, files)) <= set(map(str, inputs.files(job)))
    seen = [inputs.describe(job)]
    for file in files:
        file.write_bytes(b'others')
        assert inputs.describe(job) not in seen
        seen.append(inputs.describe(job))


def test_every_crash_state_is_resumed(
    job: MapJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copy the folder before each file operation of a run, and resume each copy."""
    home, states = tmp_path / 'home', tmp_path / 'states'
    home.mkdir()
    states.mkdir()
    small = make_scene(tmp_path / 'scene', seed=3, size=(90, 150))
    job = changed(
        job,
        imagery=(str(small.imagery),),
        labels=(str(small.labels),),
        output=tmp_path / 'fitted.tif',
        backbone='identity',
        tile_size=96,
        save_model=tmp_path / 'fit.safetensors',
    )
    map_region(job)
    # The fit is copied then, and kept beside the tiles as if it had just been made.
    job = changed(
        job,
        output=home / 'cover.tif',
        backbone=BackboneOptions.spec,
        model=job.save_model,
        save_model=None,
    )
    copies: list[Path] = []

    def copying(name: str) -> None:
        operation = getattr(os, name)

        def copy_first(*args: object, **kwargs: object) -> object:
            if home.exists() and str(home) in str(args[0]):
                copies.append(states / str(len(copies)))
                # Another thread may take a scratch file away meanwhile.
                with contextlib.suppress(shutil.Error):
                    shutil.copytree(home, copies[-1])
            return operation(*args, **kwargs)

        monkeypatch.setattr(os, name, copy_first)

    for name in ('unlink', 'remove', 'rmdir', 'replace', 'rename', 'link', 'mkdir'):
        copying(name)
    assert main(arguments(job)) == 0
    monkeypatch.undo()
    names = sorted(path.name for path in home.iterdir())
    with rasterio.open(job.output) as dataset:
        expected = dataset.read()
    assert len(copies) > 20
    tried = set()
    for copy in copies:
        state = frozenset(
            (path.name, path.read_bytes() if path.is_file() else b'')
            for path in copy.rglob('*')
        )
        if state in tried:
            continue
        tried.add(state)
        shutil.rmtree(home)
        copy.rename(home)
        assert main(arguments(job)) == 0, copy.name
        with rasterio.open(job.output) as dataset:
            np.testing.assert_array_equal(dataset.read(), expected)
        assert sorted(path.name for path in home.iterdir()) == names
