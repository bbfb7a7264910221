# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from scipy.stats import t as student
from sklearn.metrics import f1_score, jaccard_score, recall_score

from benchmarks import chesapeake, regions, rivals, scenes, small
from benchmarks.__main__ import TABLES, fill_pages, main, parse
from benchmarks.regions import Region
from benchmarks.scores import (
    confusion_matrix,
    figures_of,
    mean_and_spread,
    paired_test,
    seed_test,
)
from benchmarks.store import HERE, Record, Release, Store, commit
from benchmarks.table import fill, seed_grid, seed_rows
from torchgeo_mapsr import Crosswalk, InputError, MapJob, map_region
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.datasets.scene.scene import Scene

from .data.chesapeake_pairs.data import TILES, make_rasters, make_tiles

SMALL = 'rcf?filters=6&colours=24&strides=1,4'
WHERE = {
    'date': '2026-01-01',
    'machine': 'a machine',
    'versions': {'torch': '2', 'torchgeo': '0'},
    'commit': 'abc',
    'clock': 'wall',
}


def test_only_one_module_imports_the_package() -> None:
    for path in HERE.glob('*.py'):
        imports = re.search(
            r'^(from|import) torchgeo_mapsr', path.read_text(), re.MULTILINE
        )
        assert bool(imports) == (path.name == 'package.py'), path.name


def test_pages_agree_with_the_results() -> None:
    for page, text in fill_pages(list(TABLES.values())).items():
        assert page.read_text() == text, f'python -m benchmarks tables ({page.name})'


class TestStore:
    def test_goes_on_where_it_stopped(self, tmp_path: Path) -> None:
        store = Store(tmp_path / 'raw' / 'x.jsonl')
        here, elsewhere = {**WHERE, 'commit': commit()}, WHERE
        store.append(Record({'row': 'a'}, {'miou': 0.1}, here))
        store.append(Record({'row': 'b'}, {'miou': 0.2}, elsewhere))
        assert {'row': 'a'} in store
        # what another commit measured is measured again
        assert {'row': 'b'} not in store
        assert {'row': 'b'} in Store(store.path, any_commit=True)
        # a run that was killed while it wrote loses its last line only
        with store.path.open('a') as file:
            file.write('{"key": {"ro')
        assert [record.key['row'] for record in store] == ['a']
        store.append(Record({'row': 'a'}, {'miou': 0.3}, here))
        assert [record.figures['miou'] for record in store] == [0.3]
        assert len(store.path.read_text().splitlines()) == 3

    def test_last_record_of_a_key_counts(self, tmp_path: Path) -> None:
        store = Store(tmp_path / 'x.jsonl', any_commit=True)
        for value in (0.1, 0.3):
            store.append(Record({'row': 'a'}, {'miou': value}, WHERE))
        assert [record.figures['miou'] for record in store] == [0.3]
        store.discard([{'row': 'a'}])
        assert list(store) == []
        store.append(Record({'row': 'a'}, {'miou': 0.2}, WHERE))
        assert [record.figures['miou'] for record in store] == [0.2]

    def test_release_has_a_row_a_line(self, tmp_path: Path) -> None:
        other = {**WHERE, 'date': '2026-01-02'}
        release = Release.of([({'row': 'a'}, WHERE), ({'row': 'b'}, other)])
        release.save('x', tmp_path)
        assert len((tmp_path / 'x.jsonl').read_text().splitlines()) == 4
        assert Release.load('x', tmp_path) == release
        release.check_commit()
        mixed = Release.of([({}, WHERE), ({}, {**WHERE, 'commit': 'def'})])
        changed = Release.of([({}, {**WHERE, 'commit': 'abc+'})])
        for refused in (mixed, changed, Release(())):
            with pytest.raises(InputError, match='one commit'):
                refused.check_commit()


class TestScores:
    def test_figures_are_those_of_scikit_learn(self) -> None:
        rng = np.random.default_rng(0)
        truth, predicted = rng.integers(-1, 3, (2, 40, 50))
        predicted = np.where(predicted < 0, 3, predicted)
        found = figures_of(confusion_matrix(truth, predicted, 5))
        y, x = truth[truth >= 0], predicted[truth >= 0]
        labels = [0, 1, 2]
        assert found['miou'] == pytest.approx(
            jaccard_score(y, x, labels=labels, average='macro')
        )
        assert found['recall'] == pytest.approx(
            recall_score(y, x, labels=labels, average='macro')
        )
        assert found['f1'] == pytest.approx(
            f1_score(y, x, labels=labels, average='macro')
        )
        rarest = int(np.bincount(y).argmin())
        each = jaccard_score(y, x, labels=labels, average=None)
        assert found['minority_iou'] == pytest.approx(each[rarest])
        assert found['iou'][3:] == [None, None]

    def test_pixels_without_a_class_are_left_out(self) -> None:
        matrix = confusion_matrix(np.array([0, 1, -1]), np.array([0, -1, 1]), 2)
        assert matrix.tolist() == [[1, 0], [0, 0]]

    def test_seed_test_is_welchs(self) -> None:
        """By its formula, and a difference of more than one standard error is level."""
        first, second = np.array([0.70, 0.71, 0.75]), np.array([0.66, 0.69, 0.70])
        parts = [values.var(ddof=1) / 3 for values in (first, second)]
        error = sum(parts) ** 0.5
        freedom = sum(parts) ** 2 / sum(part**2 / 2 for part in parts)
        ratio = (first.mean() - second.mean()) / error
        assert ratio > 1
        p = pytest.approx(2 * student.sf(ratio, freedom))
        assert seed_test(first, second) == ('level', p)
        assert seed_test(first, second - 0.1)[0] == 'above'
        assert seed_test(second - 0.1, first)[0] == 'below'
        assert seed_test([0.5, 0.5], [0.5, 0.5])[0] == 'level'

    def test_paired_test(self) -> None:
        base = np.linspace(0.4, 0.6, 8)
        # all of eight pairs in one direction: p = 2 / 2 ** 8
        assert paired_test(base + 0.01, base) == ('above', pytest.approx(2 / 256))
        assert paired_test(base - 0.01, base)[0] == 'below'
        wavering = base + 0.01 * np.array([1, -1.1, 1.2, -1.3, 1.4, -1.5, 1.6, -1.7])
        assert paired_test(wavering, base)[0] == 'level'
        assert paired_test(base, base) == ('level', 1.0)

    def test_mean_and_spread(self) -> None:
        assert mean_and_spread([0.2, 0.3, 0.7]) == '0.400 ± 0.265'
        assert mean_and_spread([0.5]) == '0.500'
        assert mean_and_spread([0.5, 0.6]).endswith(' (2)')
        assert mean_and_spread([]) == '–'


def test_seeds_that_all_scenes_have() -> None:
    records = [
        Record(
            {'set': 'a', 'scene': scene, 'row': row, 'seed': seed},
            {'miou': base + 0.01 * seed + shift, 'seconds': 60.0},
            WHERE,
        )
        for row, base in (('low', 0.5), ('app', 0.6))
        for scene, shift in (('x', 0.0), ('y', 0.1))
        for seed in range(3)
        if (row, scene, seed) != ('app', 'y', 2)
    ]
    release = Release.of(seed_rows(records, ['miou']))
    assert [row['miou'] for row in release.rows] == [[0.55, 0.56, 0.57], [0.65, 0.66]]
    rows = {'app': ('App', None), 'low': ('Low', None), 'no': ('No', None)}
    text = seed_grid(release, rows, {'miou': 'mIoU'})
    assert text.splitlines()[0] == '|  | a mIoU |'
    assert text.splitlines()[2:] == [
        '| App | 0.655 ± 0.007 (2) |',
        '| Low | 0.560 ± 0.010 |',
    ]


def test_page_keeps_what_is_beside_the_marks() -> None:
    marks = '<!-- table x: python -m benchmarks tables -->', '<!-- end of table x -->'
    page = f'a\n{marks[0]}\nold\n{marks[1]}\nb\n'
    filled = fill(page, 'x', 'new')
    assert filled == page.replace('old', 'new')
    assert fill(filled, 'x', 'new') == filled


class TestScenes:
    def test_default_is_the_map_of_the_command(
        self, made_scene: Scene, tmp_path: Path
    ) -> None:
        folder = (made_scene.imagery.parent,)
        region = Region(
            'openearthmap', 'clean', folder, made_scene.legend, made_scene.target
        )
        job = MapJob.from_flags(
            imagery=(str(made_scene.imagery),),
            labels=(str(made_scene.labels),),
            legend=made_scene.legend,
            output=tmp_path / 'map.tif',
            backbone=SMALL,
            device='cpu',
        )
        map_region(job)
        with rasterio.open(tmp_path / 'map.tif') as file:
            expected = Legend.load(regions.TARGET).index(file.read(1).astype(np.int64))
        fit = scenes.Fit(region, tmp_path / 'work', 0, backbone=SMALL)
        np.testing.assert_array_equal(fit.default()[0], expected)
        # the same fit, opened again
        np.testing.assert_array_equal(fit.map()[0], expected)
        assert (fit.map(score='probe', prior=0.0)[0] != expected).any()

    def test_every_row_makes_a_map(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rivals, 'TREES', 10)
        options = parse(['scenes', '--tiny', '--sets', 'chesapeake_wv', '--seeds', '0'])
        options.work = tmp_path
        found = {key['row']: measure() for key, measure in scenes.trials(options)}
        rows = set(scenes.ROWS) - {'left-out', 'mobilenet', 'mobilenet+rcf'}
        assert rows < set(found)
        for row in found.values():
            # the patch that ends with -3 is fitted, and not scored
            assert set(row['confusion']) == {'made-2'}
            assert np.sum(row['confusion']['made-2']) <= 160**2
        for name in rows - {'coarse', 'unet', 'cosine'}:
            assert found[name]['miou'] > 0.25, name
        assert found['bound']['miou'] > max(
            found[name]['miou'] for name in ('coarse', 'probe', 'default')
        )
        assert found['default']['confusion'] != found['fusion']['confusion']
        assert found['default']['confusion'] != found['superpixels']['confusion']

    def test_patches_of_one_place_are_one_region(self, tmp_path: Path) -> None:
        for name in ('openearthmap/a', 'openearthmap/b', 'chesapeake_wv/a', 'x/a'):
            folder = tmp_path / name
            folder.mkdir(parents=True)
            for file in ('imagery.tif', 'lr.tif'):
                (folder / file).touch()
        (tmp_path / 'chesapeake_wv/b').mkdir()
        for file in ('imagery.tif', 'lr.tif'):
            (tmp_path / 'chesapeake_wv/b' / file).touch()
        (tmp_path / 'openearthmap/b/lr_noisy.tif').touch()
        (tmp_path / 'openearthmap/a/lr_nlcd.tif').touch()
        found = [
            (r.set, r.labels, r.name, r.legend) for r in regions.find_regions(tmp_path)
        ]
        assert found == [
            ('openearthmap', 'clean', 'a', regions.TARGET),
            ('openearthmap', 'clean', 'b', regions.TARGET),
            ('openearthmap', 'noisy', 'b', regions.TARGET),
            ('openearthmap', 'nlcd', 'a', 'nlcd'),
            ('chesapeake_wv', 'real', 'all', 'nlcd'),
        ]

    def test_parts_are_areas_of_the_scene(
        self, made_scene: Scene, tmp_path: Path
    ) -> None:
        folder = Path(made_scene.imagery).parent
        region = Region('deepglobe', 'clean', (folder,), 'nlcd', regions.TARGET)
        (image,), (truth,), (coarse,) = region.images, region.truth, region.coarse
        height, width = truth.shape[0] // 2, truth.shape[1] // 2
        names = []
        for part in region.parts(2, tmp_path):
            names.append(part.name)
            row, col = map(int, part.name.split('-')[-2:])
            rows = slice(row * height, (row + 1) * height)
            cols = slice(col * width, (col + 1) * width)
            np.testing.assert_array_equal(part.images[0], image[:, rows, cols])
            np.testing.assert_array_equal(part.truth[0], truth[rows, cols])
            np.testing.assert_array_equal(part.coarse[0], coarse[rows, cols])
        assert names == [f'{folder.name}-{r}-{c}' for r in (0, 1) for c in (0, 1)]


def test_small_areas_where_a_rival_is_better_are_named() -> None:
    figures = {
        'a-0-0': (0.5, 0.4, 0.3, 0.2),
        'a-0-1': (0.5, 0.6, 0.3, 0.506),
        'a-1-0': (None, 1.0, 1.0, 1.0),
    }
    records = [
        Record(
            {
                'set': 'deepglobe',
                'labels': 'clean',
                'area': area,
                'row': row,
                'seed': 0,
            },
            {'miou': value, 'seconds': 1.0} if value else {'refused': '', 'seconds': 0},
            WHERE,
        )
        for area, values in figures.items()
        for row, value in zip(('default', *small.RIVALS), values, strict=True)
    ]
    page = small.markdown(Release.of(small.release_rows(records)))
    assert '| deepglobe | clean | 2 | 0.500 | 0.500 | 0.300 | 0.353 |' in page
    assert 'on 1 of 2: deepglobe a-0-1 clean -0.100' in page
    assert page.count('on 0 of 2') == 2
    assert '1 more' in page


GOOD, BAD = (
    np.pad(counts, (0, 2)).tolist() for counts in ([[9, 1], [1, 9]], [[1, 1], [1, 1]])
)


def scene_records() -> list[Record]:
    """Two scenes of three sets, whose mean mIoU differs from their pooled one."""
    content: dict[tuple[str, str, str], Any] = {
        ('openearthmap', 'a', 'coarse'): BAD,
        ('openearthmap', 'b', 'coarse'): BAD,
        ('openearthmap', 'a', 'default'): GOOD,
        ('openearthmap', 'b', 'default'): BAD,
        ('deepglobe', 'a', 'coarse'): GOOD,
        ('deepglobe', 'b', 'coarse'): BAD,
        ('deepglobe', 'a', 'default'): BAD,
        ('deepglobe', 'b', 'default'): GOOD,
    }
    for name, first, second in (
        ('openearthmap', GOOD, BAD),
        ('deepglobe', GOOD, GOOD),
        ('sentinel2_korea', BAD, GOOD),
    ):
        for title, matrix in (('one', first), ('two', second)):
            content[name, 'a', f'candidate: {title}'] = matrix
    return [
        Record(
            {'set': name, 'labels': 'clean', 'scene': scene, 'row': row, 'seed': 0},
            {'confusion': {scene: matrix}, 'seconds': 60.0},
            WHERE,
        )
        for (name, scene, row), matrix in content.items()
    ]


class TestScenesTable:
    @pytest.fixture
    def release(self) -> Release:
        return Release.of(scenes.release_rows(scene_records()))

    def test_figures_are_pooled_but_for_openearthmap(self, release: Release) -> None:
        (mean,) = scenes.values_of(release, ('openearthmap', 'clean'), 'default')
        assert mean == pytest.approx((9 / 11 + 1 / 3) / 2, abs=1e-5)
        (pooled,) = scenes.values_of(release, ('deepglobe', 'clean'), 'default')
        assert pooled == pytest.approx(10 / 14, abs=1e-5)
        assert scenes.values_of(release, ('deepglobe', 'clean'), 'unet') == []

    def test_constants_are_chosen_on_the_other_sets(self, release: Release) -> None:
        rows = {row['set']: row for row in release.rows if row['row'] == 'left-out'}
        # openearthmap itself is for one, and has the choice of the others: two
        assert rows['openearthmap']['chosen'] == 'two'
        assert rows['openearthmap']['miou'] == [pytest.approx(1 / 3, abs=1e-5)]
        assert rows['sentinel2_korea']['chosen'] == 'one'
        assert not any('candidate' in row['row'] for row in release.rows)

    def test_checks_name_what_fails(self, release: Release) -> None:
        verdicts = scenes.checks(release)
        (below,) = (text for text, good in verdicts if not good and 'LR copy' in text)
        assert 'deepglobe clean a (0.333 < 0.818)' in below
        assert any('(asked for: 0.71)' in text for text, good in verdicts if not good)

    def test_tests_are_paired_over_scenes(self, release: Release) -> None:
        row = scenes.tests(release)[0]
        gains = [9 / 11 - 1 / 3, 0, 1 / 3 - 9 / 11, 9 / 11 - 1 / 3]
        assert row[:4] == [scenes.ROWS['coarse'], 'all', '4', f'{np.mean(gains):+.3f}']
        assert row[-1] == 'level'
        assert 'Chosen on the other sets' in scenes.markdown(release)


def expected_figures(root: Path, output: Path, tile: str) -> tuple[float, float]:
    """MIoU and mean of recalls in percent, by scikit-learn."""
    with rasterio.open(root) as file:
        truth = Crosswalk.load('chesapeake-7', 'land-cover-4').index(
            file.read(1).astype(np.int64)
        )
    with rasterio.open(output / f'{tile}.tif') as file:
        mapped = file.read(1).astype(np.int64) - 1
    truth, mapped = truth[truth >= 0], mapped[truth >= 0]
    labels = np.unique(truth)
    each = jaccard_score(truth, mapped, labels=labels, average='macro')
    recall = recall_score(truth, mapped, labels=labels, average='macro')
    return 100 * each, 100 * recall


class TestChesapeake:
    @pytest.fixture
    def listed(self, tmp_path: Path) -> Path:
        """A list of the West Virginian tile, and of one that is not there."""
        path = tmp_path / 'list.csv'
        name = TILES['wv-val'][0].split('/')[1]
        path.write_text(f'state,tile\nwv,{name}\nwv,m_0_ne_17_1\n')
        return path

    def options(self, tmp_path: Path, *args: object) -> Namespace:
        common = ['--backbone', SMALL, '--device', 'cpu']
        options = parse(['chesapeake', *map(str, args), *common])
        options.work = tmp_path / 'work'
        return options

    def test_tiles_of_the_list_with_both_crosswalks(
        self, tmp_path: Path, listed: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = tmp_path / 'tiles'
        make_tiles(root)
        options = self.options(tmp_path, '--root', root, '--tiles', listed)
        trials = list(chesapeake.trials(options))
        assert '1 of the 2 tiles of list.csv are there' in capsys.readouterr().out
        assert [key['crosswalk'] for key, _ in trials] == list(chesapeake.CROSSWALKS)
        records = [Record(key, {**run(), 'seconds': 1}, WHERE) for key, run in trials]
        stem = TILES['wv-val'][0]
        for record in records:
            miou, recall = expected_figures(
                root / f'{stem}_lc.tif',
                options.work / 'chesapeake' / record.key['crosswalk'] / 'wv',
                f'{stem.split("/")[1]}_naip-new',
            )
            assert record.figures['miou'] == pytest.approx(miou, abs=0.006)
            assert record.figures['recall'] == pytest.approx(recall, abs=0.006)
            assert record.figures['miou'] > 50
        release = Release.of(chesapeake.release_rows(records))
        text = chesapeake.markdown(release)
        assert '| mean | ddtm |' in text
        assert '59.64' in text
        json.dumps(release.rows)

    def test_native_cells_are_those_that_were_warped(self, tmp_path: Path) -> None:
        root = tmp_path / 'tiles'
        make_tiles(root)
        tiles = chesapeake.find_tiles(root, tmp_path / 'work')
        assert [tile.state for tile in tiles] == ['de', 'wv']
        for tile, split in zip(tiles, ('de-train', 'wv-val'), strict=True):
            with rasterio.open(tile.labels) as again:
                with rasterio.open(root / 'native' / f'{split}.tif') as native:
                    assert again.crs == native.crs
                    window = native.window(*again.bounds)
                    codes = native.read(1, window=window, boundless=True, fill_value=0)
                written = again.read(1)
            both = (written > 0) & (codes > 0)
            assert both.sum() > 20
            assert (written == codes)[both].mean() > 0.95

    def test_folders_of_rasters(self, tmp_path: Path) -> None:
        make_rasters(tmp_path / 'root' / 'here')
        args = ['--root', tmp_path / 'root', '--tiles', 'all', '--rows', 'dfc2021']
        ((key, run),) = chesapeake.trials(
            self.options(tmp_path, *args, '--bands', 1, 2, 3)
        )
        assert key['tiles'] == ['de-train', 'wv-val']
        assert run()['miou'] > 50

    def test_says_what_is_missing(
        self, tmp_path: Path, listed: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        common = ['chesapeake', '--raw', str(tmp_path / 'raw'), '--root', str(tmp_path)]
        assert main(common) == 2
        assert 'has no tiles' in capsys.readouterr().err
        make_rasters(tmp_path / 'xx')
        assert main([*common, '--tiles', str(listed)]) == 2
        assert 'None of the 2 tiles' in capsys.readouterr().err
        assert main([*common, '--tiles', 'all', '--states', 'zz']) == 2
        assert 'no tiles of zz' in capsys.readouterr().err


@pytest.mark.parametrize('args', [(), *((name,) for name in TABLES)])
def test_help_of_every_table(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse([*args, '--help'])
    assert end.value.code == 0
    assert 'usage' in capsys.readouterr().out
