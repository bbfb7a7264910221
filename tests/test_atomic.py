# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""New names, also where there are no hard links."""

import errno
import os
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from torchgeo_mapsr import process
from torchgeo_mapsr.atomic import replacing, take_name
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.mapping.outputs import check_outputs
from torchgeo_mapsr.mapping.store import WorkStore
from torchgeo_mapsr.verbs.console import check_output


def no_links(number: int) -> object:
    def link(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return link


@pytest.fixture(params=['links', 'none on this disk', 'none on this system'])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    match request.param:
        case 'none on this disk':
            monkeypatch.setattr(os, 'link', no_links(errno.EPERM), raising=False)
        case 'none on this system':
            monkeypatch.delattr(os, 'link', raising=False)
    return request.param


@pytest.mark.usefixtures('system')
def test_a_free_name_is_taken(tmp_path: Path) -> None:
    (tmp_path / 'a').write_text('new')
    take_name(tmp_path / 'a', tmp_path / 'b')
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [('b', 'new')]


@pytest.mark.usefixtures('system')
def test_nothing_is_replaced(tmp_path: Path) -> None:
    (tmp_path / 'a').write_text('new')
    (tmp_path / 'b').write_text('old')
    with pytest.raises(FileExistsError):
        take_name(tmp_path / 'a', tmp_path / 'b')
    assert (tmp_path / 'a').read_text() == 'new'
    assert (tmp_path / 'b').read_text() == 'old'


def test_no_name_is_kept_for_a_file_that_never_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or another one: the caller knows what to do, and the name is free."""
    (tmp_path / 'a').write_text('new')
    monkeypatch.delattr(os, 'link', raising=False)
    monkeypatch.setattr(os, 'replace', no_links(errno.EXDEV))
    with pytest.raises(OSError, match='ross-device'):
        take_name(tmp_path / 'a', tmp_path / 'b')
    assert [p.name for p in tmp_path.iterdir()] == ['a']


@pytest.mark.parametrize('library', [TypeError, AttributeError, OSError])
def test_c_libraries_without_glibcs_functions(
    monkeypatch: pytest.MonkeyPatch, library: type[Exception]
) -> None:
    def load(*_: object) -> None:
        raise library

    monkeypatch.setattr('ctypes.CDLL', load)
    process.frugal()
    process.give_back()


def test_a_geopackage_that_is_open_elsewhere(tmp_path: Path) -> None:
    """SQLite would take the other program's log for the new file's."""
    path, scratch = tmp_path / 'a.gpkg', tmp_path / 'scratch'
    with replacing(path) as part:
        part.touch()
    with (
        WorkStore(tmp_path / 'work', {}) as store,
        closing(sqlite3.connect(path)) as other,
    ):
        other.execute('PRAGMA journal_mode=WAL')
        other.execute('CREATE TABLE a (b)')
        before = path.read_bytes()
        scratch.touch()
        with pytest.raises(InputError, match=r'a\.gpkg is open in another program'):
            store.publish(scratch, path)
        with pytest.raises(InputError, match='is open'), replacing(path):
            pass
        with pytest.raises(InputError, match='is open'):
            check_outputs([path], [], overwrite=True)
        with pytest.raises(InputError, match='is open'):
            check_output(path, [], overwrite=True)
        assert path.read_bytes() == before
        assert not store.published
    with replacing(path) as part:
        part.touch()
    assert not path.stat().st_size
    # opened while the new one is being written
    writing = ExitStack()
    writing.enter_context(replacing(path)).touch()
    with closing(sqlite3.connect(path)) as other:
        other.execute('PRAGMA journal_mode=WAL')
        other.execute('CREATE TABLE a (b)')
        with pytest.raises(InputError, match='is open'):
            writing.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.gpkg', 'scratch']
