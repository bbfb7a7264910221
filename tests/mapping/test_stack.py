# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Two dates as bands of one image: the same map as of one file with all bands."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from torchgeo_mapsr import LandCoverModel, fit, map_array
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.main import main
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.run import map_region
from torchgeo_mapsr.mapping.tile_files import TileFiles

from .conftest import arguments, changed


@pytest.fixture(scope='module')
def dates(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two dates of the scene, and a file with the bands of both."""
    folder = tmp_path_factory.mktemp('dates')
    with rasterio.open(scene.imagery) as source:
        may, profile = source.read(), source.profile
    july = np.clip(may[::-1].astype(int) + 20, 0, 255).astype(np.uint8)
    paths = {}
    for name, values in (
        ('may', may),
        ('july', july),
        ('both', np.concatenate([may, july])),
    ):
        paths[name] = str(folder / f'{name}.tif')
        options = profile | {'count': len(values), 'photometric': 'MINISBLACK'}
        with rasterio.open(paths[name], 'w', **options) as file:
            file.write(values)
    return paths


def test_command(
    job: MapJob,
    dates: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    both = tmp_path / 'both.tif'
    assert main(arguments(job, imagery=(dates['both'],), output=both)) == 0
    args = arguments(job, imagery=(dates['may'], dates['july']))
    capsys.readouterr()
    assert main(args) == 2
    assert '--stack' in capsys.readouterr().err
    fit_file = tmp_path / 'fit.safetensors'
    assert main([*args, '--stack', '--html', '--save-model', str(fit_file)]) == 0
    assert (tmp_path / 'cover.html').exists()
    for name in ('', '_confidence'):
        one, two = (tmp_path / f'{stem}{name}.tif' for stem in ('cover', 'both'))
        assert one.read_bytes() == two.read_bytes()
    report = json.loads((tmp_path / 'cover.json').read_text())
    (names,) = report['bands'].values()
    assert [names[0], names[4]] == ['may:1', 'july:1']
    assert report['settings']['stack'] is True

    # the fit maps stacks of as many bands, and nothing else
    again = str(tmp_path / 'again.tif')
    mapped = ['map', '--model', str(fit_file), '--output', again]
    mapped += ['--chip-size', '128', '--tile-size', '100', '--labels', *job.labels]
    mapped += ['--legend', str(job.legend)]
    assert main([*mapped, '--imagery', dates['may']]) == 2
    assert (
        'may.tif has 4 bands but the imagery of the fit has 8'
        in capsys.readouterr().err
    )
    assert main([*mapped, '--stack', '--imagery', dates['may'], dates['july']]) == 0
    assert Path(again).read_bytes() == (tmp_path / 'cover.tif').read_bytes()

    # and in Python
    model = LandCoverModel.load(fit_file)
    pair = [dates['may'], dates['july']]
    array = map_array(model, pair, job.labels, chip_size=128, stack=True)
    with rasterio.open(again) as file:
        classes = file.read(1)
    inside = array != 255
    assert (array[inside] == classes[inside]).mean() > 0.999
    assert fit(pair, job.labels, 'nlcd', backbone='identity', stack=True).bands == 8


def test_bands_of_each_date_and_resuming(
    job: MapJob, dates: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = changed(
        job, imagery=(dates['both'],), bands=(4, 1, 8, 5), output=tmp_path / 'both.tif'
    )
    map_region(whole)
    stacked = changed(
        job, imagery=(dates['may'], dates['july']), bands=(4, 1), stack=True
    )
    save = TileFiles.save
    made = []

    def stop(self: TileFiles, *args: object, **arrays: object) -> None:
        if len(made) == 3:
            raise KeyboardInterrupt
        save(self, *args, **arrays)  # type: ignore[arg-type]
        made.append(args)

    with monkeypatch.context() as patch:
        patch.setattr(TileFiles, 'save', stop)
        with pytest.raises(KeyboardInterrupt):
            map_region(stacked)
    resumed = []

    def count(self: TileFiles, *args: object, **arrays: object) -> None:
        save(self, *args, **arrays)  # type: ignore[arg-type]
        resumed.append(args)

    monkeypatch.setattr(TileFiles, 'save', count)
    map_region(stacked)
    assert len(resumed) == 12 - 3
    bytes_of_whole = (tmp_path / 'both.tif').read_bytes()
    assert (tmp_path / 'cover.tif').read_bytes() == bytes_of_whole


@pytest.mark.parametrize(
    ('imagery', 'output', 'message'),
    [
        (('may', 'july'), 'folder/', 'one map of all files'),
        (('may',), 'cover.tif', 'is one file, and a stack needs several'),
    ],
)
def test_mistakes(
    imagery: tuple[str, ...],
    output: str,
    message: str,
    job: MapJob,
    dates: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = tuple(dates[name] for name in imagery)
    args = arguments(job, imagery=files, output=f'{tmp_path}/{output}')
    assert main([*args, '--stack']) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count('\n') == 1
    assert not list(tmp_path.iterdir())
