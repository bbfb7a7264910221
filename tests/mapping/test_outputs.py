# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.outputs import Outputs


def job(output: str | Path, *imagery: str, **settings: Any) -> MapJob:
    return MapJob.from_flags(
        imagery=imagery or ('a.tif',),
        labels=('lr.tif',),
        legend='nlcd',
        output=output,
        **settings,
    )


def test_file_name_is_one_mosaic(tmp_path: Path) -> None:
    this = job(tmp_path / 'cover.tif', 'a.tif', 'b.tif')
    outputs = Outputs.of(this, this.imagery)
    (output,) = outputs.maps
    assert output.imagery == ('a.tif', 'b.tif')
    assert output.map == tmp_path / 'cover.tif'
    names = {path.name for path in outputs.files(this)}
    assert names == {
        'cover.tif',
        'cover.tif.aux.xml',
        'cover_confidence.tif',
        'cover.png',
        'cover.json',
    }
    assert outputs.work == tmp_path / 'cover.tif.parts'


@pytest.mark.parametrize('output', ['maps/', 'maps', 'maps.v2/', 'here.d'])
def test_folder_gets_a_map_for_each_file(tmp_path: Path, output: str) -> None:
    (tmp_path / 'here.d').mkdir()
    imagery = ('x/a.tif', 's3://bucket/b.tif?versionId=1', 'c.vrt')
    outputs = Outputs.of(job(f'{tmp_path}/{output}', *imagery), imagery)
    folder = tmp_path / output
    assert [o.map for o in outputs.maps] == [folder / f'{n}.tif' for n in 'abc']
    assert outputs.report == folder / 'report.json'
    assert outputs.work.parent == folder


def test_names_that_clash(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='called a'):
        Outputs.of(
            job(f'{tmp_path}/maps/', 'x/a.tif', 'y/a.tif'), ('x/a.tif', 'y/a.tif')
        )
    this = job(f'{tmp_path}/maps/', 'a.tif', 'a_confidence.tif')
    with pytest.raises(InputError, match='Two outputs'):
        Outputs.of(this, this.imagery).check(this)


def test_other_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'neither a \.tif file nor a folder'):
        Outputs.of(job(tmp_path / 'cover.png'), ('a.tif',))


@pytest.mark.parametrize(
    'name', ['cover.tif', 'cover.json', 'cover_confidence.tif', 'cover.png', 'fit.st']
)
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('mine')
    settings = {'save_model': tmp_path / 'fit.st'}
    this = job(tmp_path / 'cover.tif', **settings)
    outputs = Outputs.of(this, this.imagery)
    with pytest.raises(InputError, match=f'{name} exists; .*--overwrite'):
        outputs.check(this)
    outputs.check(this, ours=[str(tmp_path / name)])  # this very work wrote it
    outputs.check(job(tmp_path / 'cover.tif', overwrite=True, **settings))


def test_scores_that_exist_matter_only_if_written(tmp_path: Path) -> None:
    (tmp_path / 'cover_scores.tif').write_text('mine')
    this = job(tmp_path / 'cover.tif')
    Outputs.of(this, this.imagery).check(this)
    this = job(tmp_path / 'cover.tif', scores=True)
    with pytest.raises(InputError, match='exists'):
        Outputs.of(this, this.imagery).check(this)


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    image = tmp_path / 'a.tif'
    image.write_text('imagery')
    (tmp_path / 'link').symlink_to(tmp_path)
    for output in (image, f'{tmp_path}/', tmp_path / 'link' / 'a.tif'):
        this = job(output, str(image), overwrite=True)
        with pytest.raises(InputError, match='is an input'):
            Outputs.of(this, this.imagery).check(this)
