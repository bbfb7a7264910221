# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A map of what a catalogue lists, interrupted, and resumed with other tokens."""

from dataclasses import replace
from pathlib import Path

import pytest
import rasterio
from rasterio.warp import transform_bounds

from torchgeo_mapsr.datasets import stac
from torchgeo_mapsr.datasets.geo.aoi import AreaOfInterest
from torchgeo_mapsr.datasets.geo.plan import Tile
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.datasets.stac import resolve
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.run import map_region
from torchgeo_mapsr.mapping.tile_files import TileFiles

from ..datasets.catalogue import Catalogue, served


def test_resumed_with_another_token(
    scene: Scene, job: MapJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    from_files = map_region(replace(job, output=tmp_path / 'files' / 'cover.tif'))
    catalogue = Catalogue(scene.imagery.parent)
    for name, path in (('naip', scene.imagery), ('nlcd', scene.labels)):
        with rasterio.open(path) as dataset:
            box = transform_bounds(dataset.crs, 'EPSG:4326', *dataset.bounds)
        when = '2021-07-01T00:00:00Z'
        catalogue.add(f'{name}-1', box, when, {'image': path.name}, name)
    area = AreaOfInterest.from_bbox(catalogue.items['naip-1']['bbox'])
    with served(catalogue):

        def found(name: str) -> tuple[str, ...]:
            text = f'stac:{catalogue.url}?collections={name}'
            return resolve(text, area, '2021', tmp_path)[0]

        def run() -> None:
            stac._read_item.cache_clear()
            pair = {'imagery': found('naip'), 'labels': found('nlcd')}
            map_region(replace(job, html=True, **pair))

        made = []
        save = TileFiles.save

        def count(self: TileFiles, image: int, tile: Tile, **arrays: object) -> None:
            if len(made) == 3:
                raise KeyboardInterrupt
            save(self, image, tile, **arrays)  # type: ignore[arg-type]
            made.append((tile.row, tile.col))

        with monkeypatch.context() as patch:
            patch.setattr(TileFiles, 'save', count)
            with pytest.raises(KeyboardInterrupt):
                run()
        folder = Path(f'{job.output}.parts')
        assert len(list(folder.glob('*.npz'))) == 3
        finished = {path.name: path.stat().st_mtime_ns for path in folder.glob('*.npz')}
        catalogue.token = 'second'

        resumed = []

        def more(self: TileFiles, image: int, tile: Tile, **arrays: object) -> None:
            save(self, image, tile, **arrays)  # type: ignore[arg-type]
            resumed.append((tile.row, tile.col))

        with monkeypatch.context() as patch:
            patch.setattr(TileFiles, 'save', more)
            run()
    assert not set(made) & set(resumed)
    assert len(finished) == 3
    for name in ('cover.tif', 'cover_confidence.tif'):
        bytes_of_files = (from_files.maps[0].parent / name).read_bytes()
        assert (tmp_path / name).read_bytes() == bytes_of_files
    # no report tells a signature
    assert 'sig=' not in (tmp_path / 'cover.json').read_text()
