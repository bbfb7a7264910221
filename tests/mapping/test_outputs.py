# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.main import main
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.outputs import Outputs, check_outputs
from torchgeo_mapsr.mapping.run import map_region

from .conftest import arguments, changed, job_of


def test_file_name_is_one_mosaic(tmp_path: Path) -> None:
    outputs = Outputs.of(tmp_path / 'cover.tif', ('a.tif', 'b.tif'))
    (output,) = outputs.maps
    assert output.imagery == ('a.tif', 'b.tif')
    assert output.map == tmp_path / 'cover.tif'
    names = {path.name for path in outputs.files}
    assert names == {
        'cover.tif',
        'cover.tif.aux.xml',
        'cover.qml',
        'cover.sld',
        'cover_confidence.tif',
        'cover_confidence.qml',
        'cover_confidence.sld',
        'cover.png',
        'cover.json',
    }
    other = Outputs.of(tmp_path / 'cover.tif', ('a.tif', 'b.tif'), False, scores=True)
    more = {path.name for path in other.files}
    sure = {f'cover_confidence.{suffix}' for suffix in ('tif', 'qml', 'sld')}
    assert more == names - sure | {'cover_scores.tif'}
    assert outputs.work == tmp_path / 'cover.tif.parts'


@pytest.mark.parametrize('output', ['maps/', 'maps', 'maps.v2/', 'here.d'])
def test_folder_gets_a_map_for_each_file(tmp_path: Path, output: str) -> None:
    (tmp_path / 'here.d').mkdir()
    imagery = ('x/a.tif', 's3://bucket/b.tif?versionId=1', 'c.vrt')
    outputs = Outputs.of(f'{tmp_path}/{output}', imagery)
    folder = tmp_path / output
    assert [o.map for o in outputs.maps] == [folder / f'{n}.tif' for n in 'abc']
    assert outputs.report == folder / 'report.json'
    assert outputs.work.parent == folder


def test_names_that_clash(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='called a'):
        Outputs.of(f'{tmp_path}/maps/', ('x/a.tif', 'y/a.tif'))
    imagery = 'a.tif', 'a_confidence.tif'
    files = Outputs.of(f'{tmp_path}/maps/', imagery).files
    with pytest.raises(InputError, match='Two outputs'):
        check_outputs(files, imagery, overwrite=False)


def test_other_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'neither a \.tif file nor a folder'):
        Outputs.of(tmp_path / 'cover.png', ('a.tif',))


@pytest.mark.parametrize(
    'name', ['cover.tif', 'cover.json', 'cover_confidence.tif', 'cover.png', 'fit.st']
)
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('mine')
    files = Outputs.of(tmp_path / 'cover.tif', ('a.tif',)).files
    files += [tmp_path / 'fit.st']
    with pytest.raises(InputError, match=f'{name} exists; .*--overwrite'):
        check_outputs(files, ('a.tif',), overwrite=False)
    # This very work wrote it.
    check_outputs(files, ('a.tif',), False, ours=[str(tmp_path / name)])
    check_outputs(files, ('a.tif',), overwrite=True)


def test_one_folder_of_two_names(tmp_path: Path) -> None:
    (tmp_path / 'real').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'real')
    files = [tmp_path / 'real' / 'o.json', tmp_path / 'link' / 'o.json']
    with pytest.raises(InputError, match='Two outputs'):
        check_outputs(files, ('a.tif',), overwrite=True)


def test_a_link_that_leads_nowhere_is_there(tmp_path: Path) -> None:
    (tmp_path / 'o.tif').symlink_to(tmp_path / 'gone.tif')
    with pytest.raises(InputError, match='exists'):
        check_outputs([tmp_path / 'o.tif'], ('a.tif',), overwrite=False)


def test_scores_that_exist_matter_only_if_written(tmp_path: Path) -> None:
    (tmp_path / 'cover_scores.tif').write_text('mine')
    without, with_them = (
        Outputs.of(tmp_path / 'cover.tif', ('a.tif',), scores=scores).files
        for scores in (False, True)
    )
    check_outputs(without, ('a.tif',), overwrite=False)
    with pytest.raises(InputError, match='exists'):
        check_outputs(with_them, ('a.tif',), overwrite=False)


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    image = tmp_path / 'a.tif'
    image.write_text('imagery')
    (tmp_path / 'link').symlink_to(tmp_path)
    for output in (image, f'{tmp_path}/', tmp_path / 'link' / 'a.tif'):
        files = Outputs.of(output, (str(image),)).files
        with pytest.raises(InputError, match='is an input'):
            check_outputs(files, (str(image),), overwrite=True)


@pytest.mark.parametrize(
    'address',
    ['s3://bucket/x', 'https://host.example/x', '/vsis3/bucket/x', 'gs:/bucket/x'],
)
def test_addresses_are_refused(
    address: str,
    job: MapJob,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything starts, and without a folder that bears the name."""
    folder = Path(job.output).parent
    monkeypatch.chdir(folder)
    of_map = arguments(job)
    map_ = str(job.imagery[0])
    for args in (
        [*of_map, '--output', f'{address}.tif'],
        [*of_map, '--output', f'{address}/'],
        [*of_map, '--polygons', f'{address}.gpkg'],
        [*of_map, '--save-model', f'{address}.safetensors'],
        ['postprocess', map_, '--min-area', '9', '--output', f'{address}.tif'],
        ['change', map_, map_, '--output', f'{address}.tif'],
        ['export', map_, '--legend', 'nlcd', '--polygons', f'{address}.gpkg'],
        ['demo', address],
    ):
        assert main(args) == 2
        captured = capsys.readouterr().err
        assert 'is an address' in captured
        assert captured.count('\n') == 1
    with pytest.raises(InputError, match='is an address'):
        Outputs.of(f'{address}/', job.imagery)
    assert not list(folder.iterdir())


def test_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known before the work is done, also where the folder is yet to be made."""
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='file is no folder'):
        check_outputs([tmp_path / 'file' / 'a' / 'map.tif'], (), overwrite=True)
    locked = tmp_path / 'locked'
    locked.mkdir()
    access = os.access
    monkeypatch.setattr(os, 'access', lambda p, mode: p != locked and access(p, mode))
    check_outputs([tmp_path / 'new' / 'map.tif'], (), overwrite=False)
    with pytest.raises(InputError, match='locked cannot be written to'):
        check_outputs([tmp_path / 'm.tif', locked / 'a' / 'b.gpkg'], (), overwrite=True)


def test_layers_of_an_earlier_map_do_not_stay(job: MapJob) -> None:
    """They would be taken for the new map's."""
    map_region(changed(job, scores=True))
    output = Outputs.of(job.output, ['x.tif']).maps[0]
    assert output.scores.exists()
    plain = changed(job, confidence=False)
    with pytest.raises(InputError, match='exists'):
        map_region(plain)
    output.map.rename(output.map.with_name('kept.tif'))
    with pytest.raises(InputError, match='exists'):
        map_region(plain)
    map_region(changed(plain, overwrite=True))
    assert output.map.exists()
    for path in (output.scores, output.confidence, *output.confidence_styles):
        assert not path.exists()


@pytest.mark.parametrize('output', ['maps/cover.tif', 'maps/out/'])
def test_a_folder_that_holds_the_output(
    scene: Scene, tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the same command has written there is no imagery, finished or not."""
    folder = tmp_path / 'maps'
    folder.mkdir()
    shutil.copy(scene.imagery, folder / 'a.tif')
    job = changed(job_of(scene, tmp_path / output), imagery=(str(folder),))
    job = changed(job, output=f'{tmp_path}/{output}', backbone='identity')
    map_region(job)
    first = sorted(folder.rglob('*.tif'))
    expected = {path: path.read_bytes() for path in first}
    assert len(first) == 3
    work = folder / 'cover.tif.parts'
    work.mkdir()
    shutil.copy(first[-1], work / 'out_1_2.tif')
    assert main([*arguments(job), '--overwrite']) == 0
    assert (
        '2 rasters in the folder of the imagery are of the' in capsys.readouterr().out
    )
    assert all(path.read_bytes() == content for path, content in expected.items())
    assert main(arguments(job)) == 2
    assert 'exists; give another --output' in capsys.readouterr().err
    (folder / 'a.tif').unlink()
    assert main(arguments(job)) == 2
    assert 'only rasters that this command has written' in capsys.readouterr().err


def test_what_gdal_keeps_beside_a_raster_goes_with_it(job: MapJob) -> None:
    """Statistics and overviews of the old raster are not taken for the new one's."""
    (output,) = Outputs.of(job.output, job.imagery).maps
    output.map.parent.mkdir(exist_ok=True)
    change = output.map.with_name('change.tif')
    files = output.map, output.confidence, output.scores, change
    profile = {'driver': 'GTiff', 'height': 8, 'width': 8, 'count': 1, 'dtype': 'uint8'}
    for path in files:
        with rasterio.open(path, 'w', **profile) as dataset:
            dataset.write(np.full((1, 8, 8), 7, np.uint8))
        with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, 'r+') as dataset:
            dataset.build_overviews([2])
        with rasterio.open(path) as dataset:
            dataset.statistics(1)
        assert path.with_name(f'{path.name}.ovr').exists()
        assert path.with_name(f'{path.name}.aux.xml').exists()
    map_region(changed(job, scores=True, overwrite=True))
    images = [str(job.imagery[0])] * 2
    window = ['--window', '10', '--overwrite', '--output', str(change)]
    assert main(['change', *images, *window]) == 0
    for path in files:
        assert not path.with_name(f'{path.name}.ovr').exists()
        with rasterio.open(path) as dataset:
            values = dataset.read(1, masked=True)
            assert 'STATISTICS_MAXIMUM' not in dataset.tags(1)
            assert dataset.statistics(1).max == values.max()
