# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Maps of an area: cropped, masked, and nothing outside read."""

import json
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from odc.geo.geobox import GeoBox

from torchgeo_mapsr.datasets.geo.raster import RasterFile
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.main import main
from torchgeo_mapsr.mapping.config import MapJob

from .conftest import arguments, changed


@pytest.fixture
def fields(scene: Scene, tmp_path: Path) -> tuple[Path, shapely.Geometry]:
    """A field with a yard in it and a second one, in degrees."""
    with rasterio.open(scene.imagery) as dataset:
        left, top, crs = dataset.bounds.left, dataset.bounds.top, dataset.crs
    outline = shapely.Polygon(
        [
            (left + 20.3, top - 20.1),
            (left + 200.7, top - 40.9),
            (left + 80.2, top - 220.6),
        ],
        [[(left + 80, top - 60), (left + 100, top - 60), (left + 90, top - 80)]],
    )
    second = shapely.box(left + 220.4, top - 300.2, left + 270.9, top - 250.6)
    frame = geopandas.GeoDataFrame(geometry=[outline, second], crs=crs)
    frame.to_crs(4326).to_file(tmp_path / 'fields.gpkg')
    return tmp_path / 'fields.gpkg', shapely.union_all([outline, second])


def test_a_map_of_fields(
    job: MapJob,
    fields: tuple[Path, shapely.Geometry],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path, outline = fields
    polygons = tmp_path / 'cover_polygons.gpkg'
    args = [*arguments(job), '--aoi', str(path), '--polygons', str(polygons)]
    assert main([*args, '--progress', 'json', '--prior', '0']) == 0
    with rasterio.open(job.output) as dataset:
        codes = dataset.read(1)
        grid = GeoBox.from_rio(dataset)
    rows, cols = np.indices(codes.shape) + 0.5
    inside = shapely.contains_xy(outline, *grid.pix2wld(cols, rows))
    # the fields were written in degrees
    assert ((codes > 0) != inside).sum() <= 2
    assert codes.shape[0] < 300
    report = json.loads((tmp_path / 'cover.json').read_text())
    hectares = report['maps'][0]['hectares']
    assert hectares == pytest.approx(outline.area / 1e4, rel=0.01)
    frame = geopandas.read_file(polygons, layer='cover_polygons')
    assert frame.hectares.sum() == pytest.approx(hectares, rel=2e-3)
    assert shapely.area(frame.union_all()) == pytest.approx((codes > 0).sum())
    for name in ('cover.qml', 'cover.sld', 'cover_confidence.qml'):
        assert (tmp_path / name).exists()
    lines = [json.loads(x) for x in capfd.readouterr().err.splitlines() if x[0] == '{']
    last = {line['stage']: (line['done'], line['total']) for line in lines}
    assert last['Map'][0] == last['Map'][1] > 0
    assert 'Fit' in last


def test_the_file_of_a_layer_is_not_written_over(
    job: MapJob,
    fields: tuple[Path, shapely.Geometry],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, _ = fields
    before = path.read_bytes()
    args = [*arguments(job), '--aoi', f'{path}:fields', '--polygons', str(path)]
    assert main([*args, '--overwrite']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'{path} is an input' in line
    assert path.read_bytes() == before


def test_nothing_far_from_the_area_is_read(
    job: MapJob, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rasterio.open(scene.imagery) as dataset:
        left, bottom = dataset.bounds.left, dataset.bounds.bottom
        crs, height = dataset.crs, dataset.height
    box = geopandas.GeoDataFrame(
        geometry=[shapely.box(left, bottom, left + 290, bottom + 150)], crs=crs
    )
    path = Path(job.output).with_name('corner.geojson')
    box.to_crs(4326).to_file(path)
    windows = []
    read: Callable[..., np.ndarray] = RasterFile.read

    def noted(
        self: RasterFile, bands: object, rows: slice, cols: slice, **more: object
    ) -> np.ndarray:
        if self.path == str(scene.imagery):
            windows.append(rows.start)
        return read(self, bands, rows, cols, **more)

    from torchgeo_mapsr.mapping.inputs import Inputs

    # what is opened looks at samples of the whole file
    opened = Inputs.open

    def open_quietly(*args: object) -> object:
        inputs = opened(*args)  # type: ignore[arg-type]
        monkeypatch.setattr(RasterFile, 'read', noted)
        return inputs

    monkeypatch.setattr(Inputs, 'open', open_quietly)
    assert main([*arguments(job), '--aoi', str(path), '--quiet']) == 0
    assert windows
    # chips of 128 pixels that touch the area begin no higher than that
    assert min(windows) >= height - 150 - 4


def test_files_beside_the_area_get_no_map(
    job: MapJob, scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a folder of files those are mapped that the area touches."""
    tiles = tmp_path / 'tiles'
    tiles.mkdir()
    with rasterio.open(scene.imagery) as dataset:
        values, profile = dataset.read(), dataset.profile
        bounds, transform = dataset.bounds, dataset.transform
    for name, left in (('west', 0), ('east', 145)):
        place = transform * transform.translation(left, 0)
        options = profile | {'width': 145, 'transform': place}
        with rasterio.open(tiles / f'{name}.tif', 'w', **options) as file:
            file.write(values[:, :, left : left + 145])
    area = geopandas.GeoDataFrame(
        geometry=[
            shapely.box(bounds.left, bounds.bottom, bounds.left + 90, bounds.top)
        ],
        crs=profile['crs'],
    )
    area.to_file(tmp_path / 'area.gpkg')
    args = arguments(changed(job, imagery=(str(tiles),), output=f'{tmp_path}/maps/'))
    assert main([*args, '--aoi', str(tmp_path / 'area.gpkg')]) == 0
    assert '1 of 2 files of imagery lie outside the area' in capsys.readouterr().out
    assert sorted(path.stem for path in (tmp_path / 'maps').glob('*.tif')) == [
        'west',
        'west_confidence',
    ]
    report = json.loads((tmp_path / 'maps' / 'report.json').read_text())
    assert [Path(m['map']).name for m in report['maps']] == ['west.tif']


def test_a_search_needs_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    args = ['map', '--imagery', 'naip', '--labels', 'worldcover', '--date', '2021']
    assert main([*args, '--output', 'a.tif']) == 2
    assert 'naip is a search: say where' in capsys.readouterr().err
