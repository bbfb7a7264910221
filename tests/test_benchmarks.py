# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rich.console import Console
from sklearn.metrics import jaccard_score, recall_score

from benchmarks import chesapeake, regions, scenes, table, tiles
from benchmarks.ours import Ours
from benchmarks.regions import Region
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.run import map_region

from .data.chesapeake_pairs.data import TILES, make_rasters, make_tiles

SMALL = 'rcf?filters=6&colours=24&strides=1,4'


@pytest.fixture
def region(made_scene: Scene) -> Region:
    """The made scene, as if it were one of a set."""
    folder = (made_scene.imagery.parent,)
    return Region('openearthmap', 'clean', folder, made_scene.legend, made_scene.target)


@pytest.fixture
def data(made_scene: Scene, tmp_path: Path) -> Path:
    """A set with one scene; codes 1 to 4 mean the same in the set's legend."""
    folder = tmp_path / 'data' / 'chesapeake_wv' / 'made'
    folder.mkdir(parents=True)
    for path in (made_scene.imagery, made_scene.labels, made_scene.truth):
        shutil.copy(path, folder)
    return tmp_path / 'data'


class TestScenes:
    def test_default_is_the_map_of_the_command(
        self, region: Region, tmp_path: Path
    ) -> None:
        ours = Ours(region, SMALL)
        job = MapJob.from_flags(
            imagery=region.imagery_paths,
            labels=region.label_paths,
            legend=region.legend,
            output=tmp_path / 'map.tif',
            backbone=SMALL,
            device='cpu',
        )
        map_region(job)
        with rasterio.open(tmp_path / 'map.tif') as file:
            expected = Legend.load(regions.TARGET).index(file.read(1).astype(np.int64))
        np.testing.assert_array_equal(ours.default()[0], expected)

    def test_every_row_makes_a_map(
        self, region: Region, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ours = Ours(region, SMALL)
        monkeypatch.setattr(scenes, 'Ours', lambda *_: ours)
        rows = dict(scenes.rows_of(region, Path(__file__), steps=2))
        assert set(rows) == set(table.ROWS)
        found = {name: scenes.measure(region, make) for name, make in rows.items()}
        for row in found.values():
            assert np.sum(row['confusion']) + row['unmapped'] == region.truth[0].size
            assert set(row['scenes']) == {region.scenes[0].name}
        for name in set(found) - {'coarse', 'unet', 'cosine'}:
            assert found[name]['miou'] > 0.3, name
        assert found['bound']['miou'] > max(
            found[name]['miou'] for name in ('coarse', 'probe', 'default')
        )
        assert found['default']['confusion'] != found['fusion']['confusion']
        assert found['default']['confusion'] != found['superpixels']['confusion']

    def test_goes_on_where_it_stopped(self, data: Path, tmp_path: Path) -> None:
        output, quiet = tmp_path / 'results' / 'scenes.json', Console(quiet=True)
        first = scenes.run(data, output, quiet, rows=['coarse'])
        (key,) = first['regions']
        assert key == 'chesapeake_wv/made/clean'
        # A figure that is there is not measured again.
        first['regions'][key]['coarse']['miou'] = 0.125
        output.write_text(json.dumps(first))
        second = scenes.run(data, output, quiet, rows=['coarse', 'forest20'])
        assert second['regions'][key]['coarse']['miou'] == 0.125
        assert second['regions'][key]['forest20']['miou'] > 0.2
        assert json.loads(output.read_text()) == second
        scenes.forget(output, ['chesapeake_wv'], ['coarse'])
        third = scenes.run(data, output, quiet, rows=['coarse'])
        assert third['regions'][key]['coarse']['miou'] != 0.125
        assert third['regions'][key]['forest20'] == second['regions'][key]['forest20']

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
        found = [(r.key, len(r.scenes)) for r in regions.find_regions(tmp_path)]
        assert found == [
            ('openearthmap/a/clean', 1),
            ('openearthmap/b/clean', 1),
            ('openearthmap/b/noisy', 1),
            ('chesapeake_wv/all/clean', 2),
        ]


def made_results() -> dict[str, Any]:
    """Two scenes whose mean mIoU differs from their pooled one."""

    def row(matrix: list[list[int]], miou: float) -> dict[str, Any]:
        return {'confusion': matrix, 'miou': miou, 'seconds': 60.0, 'commit': 'abc'}

    good, bad = row([[9, 1], [1, 9]], 9 / 11), row([[1, 1], [1, 1]], 1 / 3)
    return {
        'about': {
            'date': '2026-01-01',
            'machine': 'a machine',
            'versions': {'python': '3', 'torch': '2', 'torchgeo': '0'},
        },
        'settings': {
            'unet': {'batch': 2, 'crop': 3},
            'forest': {'trees': 4, 'pixels': 5},
            'bound': {'pixels': 6},
        },
        'regions': {
            'openearthmap/a/clean': {'coarse': bad, 'default': good, 'forest': bad},
            'openearthmap/b/clean': {'coarse': bad, 'default': bad, 'forest': good},
            'deepglobe/a/clean': {'coarse': good, 'default': bad},
            'deepglobe/b/clean': {
                'coarse': bad,
                'default': good,
                'unet': {**bad, 'steps': 7},
            },
        },
    }


class TestTable:
    def test_figures_are_pooled_but_for_openearthmap(self) -> None:
        results = made_results()
        mean = table.figure(results, ('openearthmap', 'clean'), 'default')
        assert mean == pytest.approx((9 / 11 + 1 / 3) / 2)
        pooled = table.figure(results, ('deepglobe', 'clean'), 'default')
        assert pooled == pytest.approx(10 / 14)
        assert table.figure(results, ('deepglobe', 'clean'), 'unet') is None

    def test_checks_name_what_fails(self) -> None:
        verdicts = dict(table.checks(made_results()))
        below = 'no scene falls below its own coarse labels, but for deepglobe/a/clean'
        assert verdicts[below] is False
        forest = (
            f'the default is at least as good as “{table.ROWS["forest"]}” on every set'
        )
        assert verdicts[forest] is True
        assert any(not good and '(asked for: 0.68)' in text for text, good in
                   verdicts.items())  # fmt: skip

    def test_page_agrees_with_the_results(self) -> None:
        results = json.loads(table.RESULTS.read_text())
        page = table.README.read_text()
        assert table.fill(page, results) == page


def expected_figures(root: Path, output: Path, tile: str) -> tuple[float, float]:
    """MIoU and mean of recalls in percent, by scikit-learn."""
    with rasterio.open(root) as file:
        truth = Crosswalk.load('chesapeake-7', 'land-cover-4').index(
            file.read(1).astype(np.int64)
        )
    with rasterio.open(output / f'{tile}.tif') as file:
        mapped = file.read(1).astype(np.int64) - 1
    known = truth >= 0
    truth, mapped = truth[known], mapped[known]
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

    def test_tiles_of_the_list_with_both_crosswalks(
        self, tmp_path: Path, listed: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root, output = tmp_path / 'tiles', tmp_path / 'out'
        make_tiles(root)
        args = ['--root', str(root), '--output', str(output), '--tiles', str(listed)]
        args += ['--backbone', SMALL, '--device', 'cpu']
        content = chesapeake.main(args)
        printed = ' '.join(capsys.readouterr().out.split())
        assert '1 of the 2 tiles of list.csv are there' in printed
        assert 'crosswalk ddtm' in printed
        assert 'crosswalk dfc2021' in printed
        assert '59.64' in printed
        assert '66.52' in printed
        stem = TILES['wv-val'][0]
        for name in chesapeake.CROSSWALKS:
            (state,) = content['crosswalks'][name]
            assert state == 'wv'
            figures = content['crosswalks'][name]['wv']
            miou, recall = expected_figures(
                root / f'{stem}_lc.tif',
                output / name / 'wv',
                f'{stem.split("/")[1]}_naip-new',
            )
            assert figures['mIoU'] == pytest.approx(miou)
            assert figures['mean recall (OA)'] == pytest.approx(recall)
            assert figures['mIoU'] > 50
        assert json.loads((output / 'figures.json').read_text()) == content

        # What is finished is not mapped again, unless the settings are others.
        made = output / 'ddtm' / 'wv' / 'report.json'
        before = made.stat().st_mtime_ns
        assert chesapeake.main(args)['crosswalks'] == content['crosswalks']
        assert made.stat().st_mtime_ns == before
        chesapeake.main([*args, '--score', 'probe', '--crosswalk', 'ddtm'])
        assert made.stat().st_mtime_ns > before

    def test_native_cells_are_those_that_were_warped(self, tmp_path: Path) -> None:
        root = tmp_path / 'tiles'
        make_tiles(root)
        found = tiles.find_tiles(root, tmp_path / 'work')
        assert [tile.state for tile in found] == ['de', 'wv']
        for tile, split in zip(found, ('de-train', 'wv-val'), strict=True):
            with rasterio.open(tile.labels) as again:
                with rasterio.open(root / 'native' / f'{split}.tif') as native:
                    assert again.crs == native.crs
                    window = native.window(*again.bounds)
                    codes = native.read(1, window=window, boundless=True, fill_value=0)
                mine = again.read(1)
            both = (mine > 0) & (codes > 0)
            assert both.sum() > 20
            assert (mine == codes)[both].mean() > 0.95

    def test_folders_of_rasters(self, tmp_path: Path) -> None:
        make_rasters(tmp_path / 'root' / 'here')
        args = ['--root', str(tmp_path / 'root'), '--output', str(tmp_path / 'out')]
        args += ['--tiles', 'all', '--crosswalk', 'dfc2021', '--backbone', SMALL]
        content = chesapeake.main([*args, '--device', 'cpu', '--bands', '1', '2', '3'])
        here = content['crosswalks']['dfc2021']['here']
        assert here['tiles'] == ['de-train', 'wv-val']
        assert here['mIoU'] > 50

    def test_says_what_is_missing(self, tmp_path: Path, listed: Path) -> None:
        args = ['--root', str(tmp_path), '--output', str(tmp_path / 'out')]
        with pytest.raises(ValueError, match='has no tiles'):
            chesapeake.main(args)
        make_rasters(tmp_path / 'xx')
        with pytest.raises(ValueError, match='None of the 2 tiles'):
            chesapeake.main([*args, '--tiles', str(listed)])
        with pytest.raises(ValueError, match='no tiles of zz'):
            chesapeake.main([*args, '--tiles', 'all', '--states', 'zz'])
