# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from torchgeo_mapsr.datasets.geo.plan import Tile
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.mapping.store import WorkStore, digest
from torchgeo_mapsr.mapping.tile_files import replacing

WORK = {'settings': {'seed': 0, 'backbone': 'rcf'}, 'inputs': {'a.tif': 'abc'}}
TILE = Tile(1, 2, slice(0, 4), slice(4, 9))


def save(store: WorkStore) -> np.ndarray:
    classes = np.arange(20, dtype=np.uint8).reshape(4, 5)
    store.tiles.save(0, TILE, classes=classes, scores=np.stack([classes, classes]))
    return classes


def test_tiles_come_back(tmp_path: Path) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        assert not store.tiles.has(0, TILE)
        classes = save(store)
        assert store.tiles.has(0, TILE)
        assert not store.tiles.has(1, TILE)
        np.testing.assert_array_equal(store.tiles.load(0, TILE, 'classes'), classes)
        assert store.tiles.load(0, TILE, 'scores').shape == (2, 4, 5)
        assert store.tiles.names(0, TILE) == {'classes', 'scores'}


def test_same_work_is_resumed(tmp_path: Path) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        save(store)
        store.fit.write_bytes(b'fit')
        assert not store.resumed
    with WorkStore(tmp_path / 'w', json.loads(json.dumps(WORK))) as store:
        assert store.resumed
        assert store.notice == ''
        assert store.tiles.has(0, TILE)
        assert store.fit.read_bytes() == b'fit'


def test_other_work_starts_over_and_says_why(tmp_path: Path) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        save(store)
        store.fit.write_bytes(b'fit')
    other = {**WORK, 'settings': {'seed': 1, 'backbone': 'rcf'}}
    with WorkStore(tmp_path / 'w', other) as store:
        assert not store.resumed
        assert 'settings.seed' in store.notice
        assert 'backbone' not in store.notice
        assert not store.tiles.has(0, TILE)
        assert not store.fit.exists()


@pytest.mark.parametrize('text', ['', '{', '[]', '{"digest": 3}', 'null'])
def test_damaged_manifest_starts_over(tmp_path: Path, text: str) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        save(store)
    (tmp_path / 'w' / 'manifest.json').write_text(text)
    with WorkStore(tmp_path / 'w', WORK) as store:
        assert not store.resumed
        assert 'damaged' in store.notice
        assert not store.tiles.has(0, TILE)
        save(store)
    with WorkStore(tmp_path / 'w', WORK) as store:
        assert store.resumed


def test_half_written_files_are_not_resumed(tmp_path: Path) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        store.fit.write_bytes(b'fit')
    (tmp_path / 'w' / '0_1_2.npz.part').write_bytes(b'half')
    (tmp_path / 'w' / 'out_map.tif').write_bytes(b'half')
    with WorkStore(tmp_path / 'w', WORK) as store:
        assert store.resumed
        assert not store.tiles.has(0, TILE)
        names = {path.name for path in store.folder.iterdir()}
    assert names - {'lock'} == {'manifest.json', 'fit.safetensors'}


@pytest.mark.parametrize('damage', ['cut', 'empty', 'middle', 'other shape'])
def test_damaged_tile_is_no_tile(tmp_path: Path, damage: str) -> None:
    """As a file system may leave it that lost its power."""
    with WorkStore(tmp_path / 'w', WORK) as store:
        noise = np.random.default_rng(0).integers(0, 256, (4, 5), np.uint8)
        store.tiles.save(0, TILE, classes=noise)
        path = store.tiles.path(0, TILE)
        content = path.read_bytes()
        if damage == 'cut':
            path.write_bytes(content[: len(content) // 2])
        elif damage == 'empty':
            path.write_bytes(b'')
        elif damage == 'middle':
            middle = len(content) // 3
            path.write_bytes(content[:middle] + b'XX' + content[middle + 2 :])
        else:
            store.tiles.save(0, TILE, classes=np.zeros((4, 4), np.uint8))
        if damage != 'other shape':
            with pytest.raises(OSError, match='damaged'):
                store.tiles.load(0, TILE, 'classes')
            path.write_bytes(content[:50])
        assert not store.tiles.has(0, TILE)
        store.tiles.save(0, TILE, classes=noise)
        assert store.tiles.has(0, TILE)


def test_damaged_fit_is_no_fit(tmp_path: Path) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        assert store.kept_fit() is None
        store.fit.write_bytes(b'half of a fit')
        assert store.kept_fit() is None
        assert not store.fit.exists()


def test_straggler_of_other_work_is_not_among_the_tiles(tmp_path: Path) -> None:
    """A worker that was thought to be dead still writes to the folder."""
    with WorkStore(tmp_path / 'w', WORK) as store:
        straggler = store.tiles
    with WorkStore(tmp_path / 'w', {**WORK, 'settings': {'seed': 1}}) as store:
        straggler.save(0, TILE, classes=np.ones((4, 5), np.uint8))
        assert not store.tiles.has(0, TILE)
        save(store)
    with WorkStore(tmp_path / 'w', {**WORK, 'settings': {'seed': 1}}) as store:
        assert store.resumed
        assert store.tiles.load(0, TILE, 'classes').max() == 19
        assert not straggler.has(0, TILE)


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / 'tile'
    with replacing(path) as one, replacing(path) as two:
        one.write_text('one')
        two.write_text('two')
        assert one != two
    assert path.read_text() == 'one'
    assert os.listdir(tmp_path) == ['tile']


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / 'w').mkdir()
    (tmp_path / 'w' / 'thesis.docx').write_text('mine')
    with (
        pytest.raises(InputError, match=r'thesis\.docx'),
        WorkStore(tmp_path / 'w', WORK),
    ):
        pass
    assert (tmp_path / 'w' / 'thesis.docx').read_text() == 'mine'


def test_second_run_is_refused(tmp_path: Path) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        save(store)
        with (
            pytest.raises(InputError, match='Another run'),
            WorkStore(tmp_path / 'w', {'other': 'work'}),
        ):
            pass
        assert store.tiles.has(0, TILE)


def test_killed_run_leaves_finished_tiles_and_no_lock(tmp_path: Path) -> None:
    script = f"""
import numpy as np, sys, time
from pathlib import Path
from torchgeo_mapsr.datasets.geo.plan import Tile
from torchgeo_mapsr.mapping.store import WorkStore
store = WorkStore(Path({str(tmp_path / 'w')!r}), {WORK!r}).__enter__()
store.tiles.save(0, Tile(1, 2, slice(0, 4), slice(4, 9)), classes=np.ones((4, 5), 'uint8'))
print('saved', flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b'saved'
    with (
        pytest.raises(InputError, match='Another run'),
        WorkStore(tmp_path / 'w', WORK),
    ):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with WorkStore(tmp_path / 'w', WORK) as store:
        assert store.resumed
        assert store.tiles.load(0, TILE, 'classes').sum() == 20


def fail_half_way(path: Path) -> None:
    with replacing(path) as part:
        part.write_text('half')
        raise OSError('disk full')


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / 'file'
    path.write_text('old')
    with pytest.raises(OSError, match='full'):
        fail_half_way(path)
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['file']


def test_publish_and_discard(tmp_path: Path) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        scratch = store.scratch('map.tif')
        scratch.write_bytes(b'map')
        store.publish(scratch, tmp_path / 'map.tif')
        store.finish(0)
    assert (tmp_path / 'map.tif').read_bytes() == b'map'
    with WorkStore(tmp_path / 'w', WORK) as store:
        assert store.published == [str(tmp_path / 'map.tif')]
        assert store.finished == [0]
        store.discard()
    assert os.listdir(tmp_path) == ['map.tif']


def test_digest_does_not_depend_on_order() -> None:
    assert digest({'a': 1, 'b': 2}) == digest({'b': 2, 'a': 1})
    assert digest({'a': 1}) != digest({'a': 2})


def test_nothing_kept_leaves_nothing_behind(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match='single class'),
        WorkStore(tmp_path / 'w', WORK),
    ):
        raise InputError('single class')
    assert os.listdir(tmp_path) == []


def test_publish_to_another_file_system(tmp_path: Path) -> None:
    other = Path('/dev/shm')
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip('there is only one file system')
    target = other / f'torchgeo-mapsr-{os.getpid()}'
    try:
        with WorkStore(tmp_path / 'w', WORK) as store:
            store.scratch('fit').write_bytes(b'fit')
            store.publish(store.scratch('fit'), target)
        assert target.read_bytes() == b'fit'
    finally:
        target.unlink()
