# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from tests.data.chesapeake_pairs.data import TILES, make_rasters, make_tiles
from torchgeo_mapsr.datamodules import Low2HighDataModule
from torchgeo_mapsr.datasets import ChesapeakePairs, Low2High, low2high_index
from torchgeo_mapsr.datasets.low2high_index import (
    SPLITS,
    Low2HighChip,
    build_index,
    divide,
)
from torchgeo_mapsr.datasets.query import ChipQuery
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.main import main
from torchgeo_mapsr.samplers import ChipSampler, FitSampler

SIZE = 64


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('tiles')
    make_tiles(root, size=384)
    return root


@pytest.fixture(scope='module')
def index(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    index = tmp_path_factory.mktemp('index')
    counts = tmp_path_factory.mktemp('figures') / 'counts.json'
    args = ['low2high', str(root), '--output', str(index), '--size', '64']
    assert main([*args, '--json', str(counts)]) == 0
    chips = json.loads(counts.read_text())['chips']
    assert sum(chips.values()) == len(chips_of(index)) > 0
    return index


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return np.asarray(file.read(1)).astype(int)


def chips_of(index: Path) -> list[dict[str, str]]:
    with (index / 'chips.csv').open() as file:
        return list(csv.DictReader(file))


class TestIndex:
    def test_holds_the_diverse_chips(self, root: Path, index: Path) -> None:
        """By the rule as the paper words it, chip by chip."""
        nlcd = {0: 0, 11: 1, 41: 2, 82: 3, 23: 4}
        wanted, seen = set(), 0
        for stem, *_ in TILES.values():
            cover = read(root / f'{stem}_lc.tif')
            cover = np.where(cover == 15, 0, np.minimum(cover, 4))
            coarse = np.vectorize(nlcd.get)(read(root / f'{stem}_nlcd.tif'))
            for row in range(0, 384, SIZE):
                for col in range(0, 384, SIZE):
                    part = (slice(row, row + SIZE), slice(col, col + SIZE))
                    for labels in (cover[part], coarse[part]):
                        known = labels[labels > 0]
                        count = Counter(known.tolist())
                        share = max(count.values(), default=0) / max(known.size, 1)
                        full = known.size >= 0.99 * labels.size
                        if not (full and len(count) >= 3 and share <= 0.75):
                            break
                    else:
                        wanted.add((stem, row, col))
                    seen += 1
        found = {(c['tile'], int(c['row']), int(c['col'])) for c in chips_of(index)}
        assert found == wanted
        assert 10 < len(wanted) < seen - 10

    def test_splits_are_shares_of_each_state(self) -> None:
        chips = [
            Low2HighChip(state, f'{state}_1m/x', row, 0)
            for state, count in (('md', 200), ('de', 40))
            for row in range(count)
        ]
        found = list(divide(chips, seed=0))
        counts = Counter((chip.state, chip.split) for chip in found)
        for (state, split), count in counts.items():
            total = {'md': 200, 'de': 40}[state]
            assert count == SPLITS[split] * total / 100
        where = {(c.tile, c.row): c.split for c in found}
        again = {(c.tile, c.row): c.split for c in divide(chips[::-1], seed=0)}
        assert again == where
        other = {(c.tile, c.row): c.split for c in divide(chips, seed=1)}
        assert other != where
        rows = [c.row for c in found if c.state == 'md' and c.split == 'test']
        assert max(rows) - min(rows) > 50

    def test_goes_on_where_it_stopped(
        self, root: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done: list[str] = []

        def interrupted(tiles: Any) -> Any:
            yield tiles[0]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_index(root, tmp_path / 'i', SIZE, progress=interrupted)
        with pytest.raises(InputError, match=r'no finished index \(chips.csv\)'):
            Low2High(root, tmp_path / 'i')
        diverse = low2high_index._diverse

        def watched(*args: Any) -> Any:
            done.append(args[0][0][0].paths[0])
            return diverse(*args)

        monkeypatch.setattr(low2high_index, '_diverse', watched)
        build_index(root, tmp_path / 'i', SIZE)
        assert len(done) == 1
        for name in ('chips.csv', 'low2high.json'):
            made = (tmp_path / 'i' / name).read_bytes()
            assert made == (index / name).read_bytes()

    def test_same_command_again(
        self, root: Path, index: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = {p: p.stat().st_mtime_ns for p in index.rglob('*')}
        args = ['low2high', str(root), '--output', str(index), '--size', '64']
        assert main(args) == 0
        assert {p: p.stat().st_mtime_ns for p in index.rglob('*')} == before
        assert f'{len(chips_of(index))} chips (train ' in capsys.readouterr().out
        assert main([*args, '--seed', '1']) == 2
        assert 'made with other seed' in capsys.readouterr().err
        assert {p: p.stat().st_mtime_ns for p in index.rglob('*')} == before

    def test_mistakes(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / 'full').mkdir()
        (tmp_path / 'full' / 'thesis.txt').touch()
        with pytest.raises(InputError, match='is not empty'):
            build_index(root, tmp_path / 'full', SIZE)
        with pytest.raises(InputError, match='size must be 1 or more, not 0'):
            build_index(root, tmp_path / 'a', 0)
        with pytest.raises(InputError, match='no chip of 512 × 512'):
            build_index(root, tmp_path / 'a', 512)
        with pytest.raises(InputError, match='has no Chesapeake tiles'):
            build_index(tmp_path / 'full', tmp_path / 'b', SIZE)
        make_rasters(tmp_path / 'rasters')
        with pytest.raises(InputError, match='is made of the CVPR 2019 tiles'):
            build_index(tmp_path / 'rasters', tmp_path / 'c', SIZE)
        make_tiles(tmp_path / 'lacking')
        (tmp_path / 'lacking' / f'{TILES["wv-val"][0]}_lc.tif').unlink()
        with pytest.raises(InputError, match='has no HR labels beside it'):
            build_index(tmp_path / 'lacking', tmp_path / 'd', SIZE)


class TestDataset:
    @pytest.mark.parametrize('content', ['', '{"size": 6', '[]', '3', '{"size": 64}'])
    def test_settings_that_are_none(
        self,
        root: Path,
        index: Path,
        tmp_path: Path,
        content: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (tmp_path / 'chips.csv').write_bytes((index / 'chips.csv').read_bytes())
        (tmp_path / 'low2high.json').write_text(content)
        with pytest.raises(InputError, match='is no index of Low2High'):
            Low2High(root, tmp_path)
        args = ['low2high', str(root), '--output', str(tmp_path), '--size', '64']
        assert main(args) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert 'index' in line

    def test_a_tile_that_is_damaged(
        self, root: Path, index: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(index, tmp_path / 'index')
        tile = next((tmp_path / 'index' / 'tiles').iterdir())
        for content in ('', '[[1]]', '3'):
            tile.write_text(content)
            with pytest.raises(InputError, match='is damaged'):
                build_index(root, tmp_path / 'index', SIZE)

    def test_chips_are_those_of_the_tiles(self, root: Path, index: Path) -> None:
        data, chips = Low2High(root, index), chips_of(index)
        assert len(data.tiles) == len(chips)
        tiles = {p.imagery.paths[0]: p for p in ChesapeakePairs(root).pairs}
        for which in (0, len(chips) - 1):
            chip = chips[which]
            row, col = int(chip['row']), int(chip['col'])
            sample = data[data.query(data.tiles[which])]
            path = root / f'{chip["tile"]}_naip-new.tif'
            with rasterio.open(path) as file:
                whole = file.read()
            part = whole[:, row : row + SIZE, col : col + SIZE]
            np.testing.assert_array_equal(sample['image'], part)
            window = data.tiles[which]
            expected = tiles[str(path)].sample(ChipQuery(0, window))
            for key in ('lr_label', 'mask_region', 'lr_pixels'):
                assert torch.equal(sample[key], expected[key])
            # cells of 30 m, and not of a pixel
            assert sample['mask_region'].unique().numel() <= 25
            assert set(sample['mask'].unique().tolist()) <= {1, 2, 3, 4}

    def test_splits_and_states(self, root: Path, index: Path) -> None:
        parts = [Low2High(root, index, split) for split in SPLITS]
        counts = Counter(chip['split'] for chip in chips_of(index))
        assert [len(p.tiles) for p in parts] == [counts[split] for split in SPLITS]
        corners = [str(tile) for part in parts for tile in part.tiles]
        assert len(set(corners)) == len(corners) == sum(counts.values())
        virginia = Low2High(root, index, states=('wv',))
        assert {str(t.crs) for t in virginia.tiles} == {'EPSG:26917'}

    def test_mistakes(self, root: Path, index: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no split 'dev'; splits are train, val"):
            Low2High(root, index, 'dev')
        with pytest.raises(InputError, match='states are de, wv'):
            Low2High(root, index, states=('md',))
        with pytest.raises(InputError, match='torchgeo-mapsr low2high ROOT'):
            Low2High(root, tmp_path)
        (tmp_path / 'low2high.json').write_text(json.dumps({'layer': 'naip-new'}))
        (tmp_path / 'chips.csv').write_text('a,b\n1,2\n')
        with pytest.raises(InputError, match='is no index of Low2High'):
            Low2High(root, tmp_path)

    def test_other_tiles(self, root: Path, index: Path, tmp_path: Path) -> None:
        make_tiles(tmp_path, size=96)
        folder = TILES['wv-val'][0].split('/')[0]
        (tmp_path / folder).rename(tmp_path / folder.replace('2014', '2011'))
        with pytest.raises(InputError, match='has no tile wv_1m_2014'):
            Low2High(tmp_path, index)


class TestDataModule:
    @pytest.fixture(scope='class')
    def module(self, root: Path, index: Path) -> Low2HighDataModule:
        module = Low2HighDataModule(
            str(root), str(index), test_split='held-out', patch_size=48, batch_size=2
        )
        for stage in ('fit', 'test'):
            module.setup(stage)
        return module

    def test_each_stage_has_its_split(
        self, root: Path, index: Path, module: Low2HighDataModule
    ) -> None:
        for stage, split in (('train', 'train'), ('val', 'val'), ('test', 'held-out')):
            expected = Low2High(root, index, split).tiles
            assert getattr(module, f'{stage}_dataset').tiles == expected
        # chips of 64 hold four overlapping ones of 48
        assert len(module.test_sampler) == 4 * len(Low2High(root, index, 'held-out'))

    def test_training_draws_from_all_states(self, module: Low2HighDataModule) -> None:
        sampler = module.train_sampler
        assert isinstance(sampler, ChipSampler)
        assert len(sampler) == len(module.train_dataset.tiles)
        batch = next(iter(module.train_dataloader()))
        assert batch['image'].shape == (2, 4, 48, 48)
        assert batch['mask_region'].max() <= batch['lr_label'][0].numel()


def test_a_fit_looks_at_the_chips_of_its_split(root: Path, index: Path) -> None:
    """And not at every chip of every tile that one of them is cut from."""
    for split in ('train', 'val', 'test'):
        chips = Low2High(root, index, split)
        sampler = FitSampler(chips, SIZE)
        assert not chips.is_whole
        assert len(sampler) < len(FitSampler(ChesapeakePairs(root), SIZE))
        assert all(chips.meets(query) for query in sampler)
