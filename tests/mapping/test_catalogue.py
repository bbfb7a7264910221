# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Maps of what a catalogue lists: interrupted and resumed with other tokens, and of dates."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import rasterio
from rasterio.warp import transform_bounds

from torchgeo_mapsr.datasets.geo.assets import forget
from torchgeo_mapsr.datasets.geo.plan import Tile
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.main import main
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.run import map_region
from torchgeo_mapsr.mapping.tile_files import TileFiles

from ..datasets.catalogue import Catalogue, served
from .conftest import arguments


def test_resumed_with_another_token(
    scene: Scene, job: MapJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    catalogue = Catalogue(scene.imagery.parent)
    for name, path in (('naip', scene.imagery), ('nlcd', scene.labels)):
        with rasterio.open(path) as dataset:
            box = transform_bounds(dataset.crs, 'EPSG:4326', *dataset.bounds)
        when = '2021-07-01T00:00:00Z'
        catalogue.add(f'{name}-1', box, when, {'image': path.name}, name)
    bbox = catalogue.items['naip-1']['bbox']
    from_files = map_region(
        replace(job, output=tmp_path / 'files' / 'cover.tif', bbox=tuple(bbox))
    )
    with served(catalogue):

        def search(name: str) -> str:
            return f'stac:{catalogue.url}?collections={name}'

        args = arguments(
            job, imagery=(search('naip'),), labels=(search('nlcd'),), bbox=tuple(bbox)
        )
        args += ['--bbox', *map(str, bbox), '--date', '2021', '--html']

        def run() -> int:
            forget()
            return main(args)

        made = []
        save = TileFiles.save

        def count(self: TileFiles, image: int, tile: Tile, **arrays: object) -> None:
            if len(made) == 3:
                raise KeyboardInterrupt
            save(self, image, tile, **arrays)  # type: ignore[arg-type]
            made.append((tile.row, tile.col))

        with monkeypatch.context() as patch:
            patch.setattr(TileFiles, 'save', count)
            assert run() == 130
        folder = Path(f'{job.output}.parts')
        assert len(list(folder.glob('[0-9]*.tile'))) == 3
        finished = {
            path.name: path.stat().st_mtime_ns for path in folder.glob('[0-9]*.tile')
        }
        catalogue.token = 'second'

        resumed = []

        def more(self: TileFiles, image: int, tile: Tile, **arrays: object) -> None:
            save(self, image, tile, **arrays)  # type: ignore[arg-type]
            resumed.append((tile.row, tile.col))

        with monkeypatch.context() as patch:
            patch.setattr(TileFiles, 'save', more)
            assert run() == 0
        # the report names the files that were found, and is a job of them
        again = tmp_path / 'again.tif'
        report = str(tmp_path / 'cover.json')
        assert main(['map', '--config', report, '--output', str(again)]) == 0
        assert again.read_bytes() == (tmp_path / 'cover.tif').read_bytes()
    assert not set(made) & set(resumed)
    assert len(finished) == 3
    for name in ('cover.tif', 'cover_confidence.tif'):
        bytes_of_files = (from_files.maps[0].parent / name).read_bytes()
        assert (tmp_path / name).read_bytes() == bytes_of_files
    # no report tells a signature
    assert 'sig=' not in (tmp_path / 'cover.json').read_text()


def test_dates_of_a_search_are_a_stack(
    scene: Scene, job: MapJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One search that finds two dates, or two searches, as of the two files."""
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    folder = tmp_path / 'served'
    folder.mkdir()
    with rasterio.open(scene.imagery) as dataset:
        box = transform_bounds(dataset.crs, 'EPSG:4326', *dataset.bounds)
        values, profile = dataset.read(), dataset.profile
    catalogue = Catalogue(folder)
    files = []
    for year, content in (('2019', values[::-1]), ('2021', values)):
        files.append(str(folder / f'{year}.tif'))
        with rasterio.open(files[-1], 'w', **profile) as dataset:
            dataset.write(content)
        when = f'{year}-07-01T00:00:00Z'
        catalogue.add(f'naip-{year}', box, when, {'image': f'{year}.tif'}, 'naip')
    newest_first = tuple(reversed(files))
    ways = {'files': newest_first}
    with served(catalogue):
        search = f'stac:{catalogue.url}?collections=naip'
        ways['one'] = (f'{search}&datetime=2018/2022',)
        ways['two'] = (f'{search}&datetime=2021', f'{search}&datetime=2019')
        made = {}
        for name, imagery in ways.items():
            output = tmp_path / name / 'cover.tif'
            args = arguments(job, imagery=imagery, output=output, bbox=box)
            args += ['--bbox', *map(str, box), '--stack']
            assert main(args) == 0
            made[name] = output.read_bytes()
    assert made['one'] == made['two'] == made['files']
    report = json.loads((tmp_path / 'one' / 'cover.json').read_text())
    (names,) = report['bands'].values()
    assert len(names) == 2 * len(values)
