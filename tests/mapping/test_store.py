# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import errno
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchgeo_mapsr.atomic import replacing
from torchgeo_mapsr.datasets.geo.plan import Tile
from torchgeo_mapsr.datasets.legends.legend import Legend, LegendClass
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.mapping.store import WorkStore, digest
from torchgeo_mapsr.models.backbones.create import create_backbone
from torchgeo_mapsr.models.features import FrozenBackbone
from torchgeo_mapsr.models.head.head import Head
from torchgeo_mapsr.models.head.prior import LabelPrior
from torchgeo_mapsr.models.head.probe import LinearProbe
from torchgeo_mapsr.models.model import LandCoverModel

from ..forked import Forked

WORK = {'settings': {'seed': 0, 'backbone': 'rcf'}, 'inputs': {'a.tif': 'abc'}}
TILE = Tile(1, 2, slice(0, 4), slice(4, 9))


@pytest.fixture
def model() -> LandCoverModel:
    """A fit of two classes of three bands."""
    probe, lda = (LinearProbe(torch.rand(2, 3), torch.rand(2)) for _ in range(2))
    prior = LabelPrior(torch.tensor([1, 2]), torch.eye(2), torch.ones(2) / 2, 0.5)
    legend = Legend(
        'two', (LegendClass(1, 'a', (0, 0, 0)), LegendClass(2, 'b', (9, 9, 9)))
    )
    head = Head(legend, 'probe', probe, None, lda, None, 1.0, prior)
    backbone = create_backbone('identity', 3)
    return LandCoverModel(backbone, head, FrozenBackbone.of(backbone, 3, 'uint8'))


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


def test_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that another run has just cleaned up can: it is tried again."""
    make = os.makedirs
    tries = []

    def vanish(*args: Any, **options: Any) -> None:
        tries.append(args)
        if len(tries) < 3:
            raise FileNotFoundError(errno.ENOENT, 'No such file or directory')
        make(*args, **options)

    monkeypatch.setattr(os, 'makedirs', vanish)
    with WorkStore(tmp_path / 'w', WORK) as store:
        save(store)
    assert len(tries) == 3
    monkeypatch.undo()
    # as of a folder in /proc, or on a share that is gone
    monkeypatch.setattr(os, 'makedirs', lambda *_, **__: os.stat(tmp_path / 'none'))
    with (
        pytest.raises(InputError, match=r'cannot be made \(No such file'),
        WorkStore(tmp_path / 'v', WORK),
    ):
        pass


def test_same_work_is_resumed(tmp_path: Path) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        save(store)
        assert not store.resumed
    with WorkStore(tmp_path / 'w', json.loads(json.dumps(WORK))) as store:
        assert store.resumed
        assert store.notice == ''
        assert store.tiles.has(0, TILE)


def test_other_work_is_kept_beside_it(tmp_path: Path) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        classes = save(store)
    other = {**WORK, 'settings': {'seed': 1, 'backbone': 'rcf'}}
    with WorkStore(tmp_path / 'w', other) as store:
        assert not store.resumed
        assert 'settings.seed' in store.notice
        assert 'backbone' not in store.notice
        assert not store.tiles.has(0, TILE)
        store.tiles.save(0, TILE, classes=classes + np.uint8(1))
    with WorkStore(tmp_path / 'w', WORK) as store:
        assert store.resumed
        np.testing.assert_array_equal(store.tiles.load(0, TILE, 'classes'), classes)
        store.discard()
    with WorkStore(tmp_path / 'w', other) as store:
        assert store.resumed
        assert store.tiles.load(0, TILE, 'classes').max() == 20
        store.discard()
    assert os.listdir(tmp_path) == []


def manifest(folder: Path) -> Path:
    """The one manifest beside a folder."""
    (path,) = folder.parent.glob(f'{folder.name}.*.json')
    return path


@pytest.mark.parametrize('text', ['', '{', '[]', '{"digest": 3}', 'null', 'a bit'])
def test_damaged_manifest_keeps_the_tiles(tmp_path: Path, text: str) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        save(store)
        scratch = store.scratch('map.tif')
        scratch.write_bytes(b'map')
        store.publish(scratch, tmp_path / 'map.tif')
    path = manifest(tmp_path / 'w')
    if text == 'a bit':
        text = path.read_text().replace('"settings"', '"sattings"')
    path.write_text(text)
    with WorkStore(tmp_path / 'w', WORK) as store:
        assert store.resumed
        assert 'damaged' in store.notice
        assert store.tiles.has(0, TILE)
        assert store.published == []


def test_half_written_files_are_not_resumed(tmp_path: Path) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        save(store)
        work = store.tiles.work
    half = f'.part-0123abcd-0_9_9_{work}.tile'
    for name in (half, f'.part-0123abcd-out_{work}_0abc.tif', f'out_{work}_0abc.tif'):
        (tmp_path / 'w' / name).write_bytes(b'half')
    beside = tmp_path / f'.part-0123abcd-{manifest(tmp_path / "w").name}'
    beside.write_bytes(b'half')
    with WorkStore(tmp_path / 'w', WORK) as store:
        assert store.resumed
        names = {path.name for path in store.folder.iterdir()}
    assert names - {'lock'} == {f'0_1_2_{work}.tile'}
    assert not beside.exists()


def test_every_bit_of_a_tile_is_checked(tmp_path: Path) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        save(store)
        path = store.tiles.path(0, TILE)
        content = path.read_bytes()
        rng = np.random.default_rng(0)
        for place in {
            0,
            len(content) - 1,
            *rng.integers(0, len(content), 200).tolist(),
        }:
            changed = bytearray(content)
            changed[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            assert not store.tiles.has(0, TILE)


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
        assert not store.has_fit()
        store.fit.write_bytes(b'half of a fit')
        assert not store.has_fit()
        assert not store.fit.exists()


def test_every_bit_of_a_fit_is_checked(tmp_path: Path, model: LandCoverModel) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        store.keep_fit(model)
        content = store.fit.read_bytes()
    rng = np.random.default_rng(0)
    with WorkStore(tmp_path / 'w', WORK) as store:
        assert store.resumed
        assert store.has_fit()
        kept = LandCoverModel.load(store.fit)
        assert kept is not None
        for place in {0, len(content) - 1, *rng.integers(0, len(content), 30).tolist()}:
            changed = bytearray(content)
            changed[place] ^= 1 << int(rng.integers(8))
            store.fit.write_bytes(changed)
            assert not store.has_fit()
        store.fit.write_bytes(content)
        assert store.has_fit()


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
        # it is kept for the work that it is of
        assert straggler.load(0, TILE, 'classes').max() == 1


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
    process = Forked(script)
    while process.stdout != 'saved\n':
        assert process.returncode is None, process.stderr
        time.sleep(0.01)
    with (
        pytest.raises(InputError, match='Another run'),
        WorkStore(tmp_path / 'w', WORK),
    ):
        pass
    process.kill()
    process.wait()
    with WorkStore(tmp_path / 'w', WORK) as store:
        assert store.resumed
        assert store.tiles.load(0, TILE, 'classes').sum() == 20


def fail_half_way(path: Path) -> None:
    with replacing(path) as part:
        part.write_text('half')
        raise OSError('disk full')


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'none' / 'file'
    with pytest.raises(FileNotFoundError) as error, replacing(path):
        pass
    assert error.value.filename == str(path)


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


@pytest.mark.parametrize('overwrite', [False, True])
def test_a_file_that_appears_is_not_overwritten(
    tmp_path: Path, overwrite: bool
) -> None:
    path = tmp_path / 'map.tif'
    with WorkStore(tmp_path / 'w', WORK, overwrite) as store:
        scratch = store.scratch('map.tif')
        scratch.write_bytes(b'map')
        path.write_bytes(b'thesis')
        if overwrite:
            store.publish(scratch, path)
            assert path.read_bytes() == b'map'
            return
        with pytest.raises(InputError, match=r'map\.tif has appeared'):
            store.publish(scratch, path)
        assert store.published == []
    assert path.read_bytes() == b'thesis'


def test_own_output_is_replaced_until_another_takes_its_name(tmp_path: Path) -> None:
    path = tmp_path / 'map.tif'
    for content in (b'one', b'two'):
        with WorkStore(tmp_path / 'w', WORK, overwrite=False) as store:
            scratch = store.scratch('map.tif')
            scratch.write_bytes(content)
            store.publish(scratch, path)
        assert path.read_bytes() == content
    path.write_bytes(b'thesis')
    with WorkStore(tmp_path / 'w', WORK, overwrite=False) as store:
        assert store.published == []


def test_map_that_was_moved_away_is_made_again(tmp_path: Path) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        for image, name in enumerate(('a.tif', 'b.tif')):
            scratch = store.scratch(name)
            scratch.write_text(name)
            store.publish(scratch, tmp_path / name)
            store.finish(image)
    (tmp_path / 'a.tif').rename(tmp_path / 'elsewhere.tif')
    with WorkStore(tmp_path / 'w', WORK) as store:
        assert store.finished == [1]
        assert set(store.published) == {str(tmp_path / n) for n in ('a.tif', 'b.tif')}


def test_renamed_folder_goes_on(tmp_path: Path) -> None:
    (tmp_path / 'one').mkdir()
    with WorkStore(tmp_path / 'one' / 'w', WORK) as store:
        save(store)
        scratch = store.scratch('a.tif')
        scratch.write_text('a')
        store.publish(scratch, tmp_path / 'one' / 'a.tif')
        store.finish(0)
    (tmp_path / 'one').rename(tmp_path / 'two')
    with WorkStore(tmp_path / 'two' / 'w', WORK) as store:
        assert store.resumed
        assert store.tiles.has(0, TILE)
        assert store.finished == [0]
        assert store.published == [str(tmp_path / 'two' / 'a.tif')]


@pytest.mark.parametrize('there', [False, True])
def test_folder_that_is_a_link(tmp_path: Path, there: bool) -> None:
    target = tmp_path / 'elsewhere'
    if there:
        target.mkdir()
    (tmp_path / 'w').symlink_to(target)
    with WorkStore(tmp_path / 'w', WORK) as store:
        save(store)
    with WorkStore(tmp_path / 'w', WORK) as store:
        assert store.resumed
        store.discard()
    assert os.listdir(target) == []
    assert (tmp_path / 'w').is_symlink()


def test_brackets_and_line_ends_in_names(tmp_path: Path) -> None:
    folder = tmp_path / 'a[' / 'b]'
    folder.mkdir(parents=True)
    name = 'o [bold]\n[/b].tif'
    with WorkStore(folder / 'w[x]', WORK) as store:
        store.scratch(name).write_text('half')
        save(store)
    with WorkStore(folder / 'w[x]', WORK) as store:
        assert store.resumed
        store.scratch('x' * 250 + '.tif').write_text('long')
        store.discard()
    assert os.listdir(folder) == []


def test_every_state_of_the_clean_up_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copy the folder before each file operation, and open each copy."""
    home, states = tmp_path / 'home', tmp_path / 'states'
    home.mkdir()
    states.mkdir()

    def copy_before(name: str) -> None:
        operation = getattr(os, name)

        def copying(*args: object, **kwargs: object) -> object:
            if str(home) in str(args[0]):
                shutil.copytree(home, states / str(len(os.listdir(states))))
            return operation(*args, **kwargs)

        monkeypatch.setattr(os, name, copying)

    with WorkStore(home / 'w', WORK, overwrite=False) as store:
        save(store)
        store.scratch('map.tif').write_bytes(b'map')
        for name in ('unlink', 'rmdir', 'replace', 'link', 'rename', 'remove'):
            copy_before(name)
        store.publish(store.scratch('map.tif'), home / 'map.tif')
        store.finish(0)
        store.discard()
    monkeypatch.undo()
    assert os.listdir(home) == ['map.tif']
    copies = sorted(states.iterdir(), key=lambda path: int(path.name))
    assert len(copies) >= 8
    for copy in copies:
        with WorkStore(copy / 'w', WORK, overwrite=False) as store:
            assert store.resumed
            done = (copy / 'map.tif').exists()
            assert not done or store.published == [str(copy / 'map.tif')]
            if 0 not in store.finished:
                assert store.tiles.has(0, TILE)
                store.scratch('map.tif').write_bytes(b'map')
                store.publish(store.scratch('map.tif'), copy / 'map.tif')
                store.finish(0)
            store.discard()
        assert os.listdir(copy) == ['map.tif']


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


def test_outputs_are_known_before_the_folder_is_touched(tmp_path: Path) -> None:
    with WorkStore(tmp_path / 'w', WORK) as store:
        store.scratch('a.tif').write_text('a')
        store.publish(store.scratch('a.tif'), tmp_path / 'a.tif')
    before = sorted(os.listdir(tmp_path))
    assert WorkStore(tmp_path / 'w', WORK).published == [str(tmp_path / 'a.tif')]
    assert WorkStore(tmp_path / 'w', {'other': 'work'}).published == []
    assert sorted(os.listdir(tmp_path)) == before
