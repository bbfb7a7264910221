# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a person can get wrong: one line, code 2, nothing written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.main import main
from torchgeo_mapsr.mapping.config import MapJob

from .conftest import arguments

Change = Callable[[Path], None]


def edited(source: str | Path, path: Path, **changes: Any) -> str:
    """A copy of a raster with another profile, and values if *values* is given."""
    with rasterio.open(source) as dataset:
        values = changes.pop('values', dataset.read())
        profile = dataset.profile | changes
    with rasterio.open(path, 'w', **profile) as dataset:
        dataset.write(values)
    return str(path)


def mistakes(scene: Scene, folder: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Changes of a job that make it impossible, and what is said of them."""
    with rasterio.open(scene.labels) as dataset:
        shape, affine = dataset.shape, dataset.transform
    truncated = folder / 'truncated.tif'
    whole = Path(scene.imagery).read_bytes()
    truncated.write_bytes(whole[: len(whole) // 2])
    (folder / 'text.tif').write_text('not a raster')
    away = (
        affine.translation(1e6, 0) @ affine if hasattr(affine, '__matmul__') else None
    )
    away = away or affine.translation(1e6, 0) * affine
    forest = np.full((1, *shape), 41, np.uint8)
    return {
        'no overlap': (
            {'labels': (edited(scene.labels, folder / 'away.tif', transform=away),)},
            'do not overlap',
        ),
        'no CRS': (
            {'imagery': (edited(scene.imagery, folder / 'bare.tif', crs=None),)},
            'coordinate reference system',
        ),
        'truncated': ({'imagery': (str(truncated),)}, 'truncated'),
        'unreadable': ({'labels': (str(folder / 'text.tif'),)}, 'cannot be read'),
        'missing': ({'imagery': ('nowhere.tif',)}, 'nowhere.tif'),
        'legend': ({'legend': 'nlcb'}, 'nlcb'),
        'target': ({'target': 'land-cover-5'}, 'land-cover-5'),
        'backbone': ({'backbone': 'rfc'}, 'rfc'),
        'device': ({'device': 'cuda:77'}, 'cuda:77'),
        'single class': (
            {'labels': (edited(scene.labels, folder / 'one.tif', values=forest),)},
            'two classes',
        ),
        'other legend': ({'legend': 'dynamic-world'}, "'nlcd' has them"),
        'only no data': (
            {'labels': (edited(scene.labels, folder / 'no.tif', values=0 * forest),)},
            'no data',
        ),
        'chips too small': ({'chip_size': 24}, '--chip-size'),
        'bands': ({'bands': (1, 9)}, 'no band 9'),
        'no-data value': ({'nodata': -9999}, 'numbers are uint8, and none is -9999'),
        'date': ({'date': '2021'}, '--date has no effect on files'),
        'fit': ({'model': Path(scene.imagery)}, 'fit'),
    }


NAMES = [
    'no overlap',
    'no CRS',
    'truncated',
    'unreadable',
    'missing',
    'legend',
    'target',
    'backbone',
    'device',
    'single class',
    'other legend',
    'only no data',
    'chips too small',
    'bands',
    'no-data value',
    'date',
    'fit',
]


@pytest.mark.parametrize('name', NAMES)
def test_mistake(
    name: str,
    scene: Scene,
    job: MapJob,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / 'given'
    folder.mkdir()
    changes, message = mistakes(scene, folder)[name]
    target = changes.pop('target', None)
    bands = changes.pop('bands', None)
    others = {k: changes.pop(k) for k in ('nodata', 'date') if k in changes}
    args = arguments(job, **changes)
    args += ['--target', target] if target else []
    args += ['--bands', *map(str, bands)] if bands else []
    args += [f'--{name}={value}' for name, value in others.items()]
    assert main(args) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count('\n') == 1
    assert captured.out == ''
    assert [path.name for path in tmp_path.iterdir()] == ['given']


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--aoi', 'none.gpkg'], 'no such file'),
        (['--bbox', '10', '50', '11', '51'], 'outside the imagery'),
        (['--bbox', '10', '50'], 'west, south, east and north'),
        (['--aoi', 'a.gpkg', '--bbox', '1', '2', '3', '4'], 'not both'),
        (['--polygons', 'a.shp'], 'give one of these suffixes'),
        (['--reweight', 'sea=2'], 'no class'),
        (['--reweight', 'water'], 'CLASS=NUMBER'),
        (['--reweight', 'water=-1'], '0 or more'),
        (['--min-area', '-1'], 'at least 0'),
    ],
)
def test_mistaken_options(
    job: MapJob, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(job), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not Path(f'{job.output}.parts').exists()


def test_existing_output_is_kept(
    job: MapJob, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(job.output)
    output.write_text('mine')
    assert main(arguments(job)) == 2
    assert '--overwrite' in capsys.readouterr().err
    assert output.read_text() == 'mine'
    assert [path.name for path in output.parent.iterdir()] == ['cover.tif']
    assert main([*arguments(job), '--overwrite', '--quiet']) == 0
    assert capsys.readouterr().out == ''
    with rasterio.open(output) as dataset:
        assert dataset.count == 1


def test_every_mistake_is_tried(scene: Scene, tmp_path: Path) -> None:
    assert set(mistakes(scene, tmp_path)) == set(NAMES)
