# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import scaling, speed
from benchmarks.measure import Forwards, Peak, alone, call
from benchmarks.published import Published, matched, published_map, upsampled
from benchmarks.store import Release
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.backbones.concat import Concat
from torchgeo_mapsr.models.backbones.identity import Identity
from torchgeo_mapsr.models.head.prompts import CosinePrompts
from torchgeo_mapsr.models.tokens.tokens import Tokens

VIT = 'timm:test_vit?weights=random'


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class TestPublished:
    def test_graph_is_that_of_its_definition(self) -> None:
        """Every pair of pixels by itself, in numpy."""
        how = Published(window=6, neighbours=5, sigma=0.1)
        features = random(6, 4, 3)
        found = how.system(features).toarray()
        x = features.flatten(0, 1).double().numpy()
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        n = len(x)
        a = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                if i != j:
                    here, there = np.array(divmod(i, 4)), np.array(divmod(j, 4))
                    distance = ((here - there) / 6) ** 2
                    a[i, j] = max(x[i] @ x[j], 0) ** 3 * np.exp(-distance.sum() / 0.1)
            a[i, np.argsort(a[i])[:-5]] = 0
        a = (a + a.T) / 2
        d = a.sum(1)
        expected = np.eye(n) - 0.95 * a / np.sqrt(d[:, None] * d)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_windows_are_solved_one_by_one(self) -> None:
        how = Published(window=5, neighbours=4, sigma=0.5, iterations=100)
        features, scores = random(7, 5, 3), random(7, 5, 2)
        found = how.propagate(features, scores)
        low, high = scores.amin((0, 1)), scores.amax((0, 1))
        seeds = (scores - low) / (high - low)
        for rows in (slice(0, 5), slice(5, 7)):
            system = torch.from_numpy(how.system(features[rows]).toarray()).float()
            expected = torch.linalg.solve(system, seeds[rows].flatten(0, 1))
            torch.testing.assert_close(
                found[rows].flatten(0, 1), expected, atol=1e-4, rtol=1e-4
            )

    def test_matching_is_that_of_token_space(self) -> None:
        tokens = Tokens((random(1, 5, 3, 4), random(1, 2, 12, 14)), (5, 1), (12, 14))
        prompts = random(3, 7)
        dense = matched(upsampled(tokens), prompts).permute(2, 0, 1)
        short = CosinePrompts(prompts[:, None], torch.zeros(7)).match_tokens(tokens)
        torch.testing.assert_close(dense, short[0], atol=1e-5, rtol=1e-5)
        absent = prompts.index_fill(0, torch.tensor(1), torch.nan)
        found = published_map(tokens, absent, None)
        assert set(np.unique(found)) == {0, 2}
        np.testing.assert_array_equal(found == 2, dense[2] > dense[0])


class TestMeasure:
    def test_backbones_within_backbones_count_once(self) -> None:
        backbone, image = Concat([Identity(3), Identity(3)]), torch.zeros(1, 3, 8, 8)
        with Forwards() as forwards:
            for _ in range(3):
                backbone(image)
            nn.Identity()(image)
        backbone(image)
        assert len(forwards.seconds) == 3
        assert forwards.first is not None

    def test_peak_is_that_of_the_block(self) -> None:
        # Of the system itself: malloc may have that much left over from other tests.
        with Peak() as large, mmap.mmap(-1, 2**26) as memory:
            for _ in range(2**6):
                memory.write(bytes(2**20))
        with Peak() as small, mmap.mmap(-1, 2**10) as memory:
            memory.write(bytes(2**10))
        assert large.to_dict()['added_mib'] > 60
        assert small.to_dict()['added_mib'] < 30

    def test_what_runs_alone_fails_aloud(self) -> None:
        with pytest.raises(RuntimeError, match='nowhere'):
            alone('measure.nowhere')


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts in this process: to import everything anew takes the longest.

    With the smallest network that there is, once at a time.
    """
    monkeypatch.setattr(speed, 'alone', call)
    monkeypatch.setattr(speed, 'AT_A_TIME', 1)
    for name in ('VIT', 'VIT_TINY'):
        monkeypatch.setattr(speed, name, VIT)
    monkeypatch.setitem(speed.TINY['overhead'], 'spec', VIT)


@pytest.mark.usefixtures('together')
@pytest.mark.parametrize('part', ['overhead', 'published', 'fit', 'whole', 'gpu'])
def test_parts_run_anywhere(tmp_path: Path, part: str) -> None:
    figures = speed.PARTS[part](tmp_path, **speed.TINY[part])
    assert figures['lines']
    for line in figures['lines']:
        assert set(line) == {'what', 'asked', 'text', 'good'}
    good = {line['what']: line['good'] for line in figures['lines']}
    if part == 'published':
        assert good['largest difference of the two matchings']
    if part == 'fit':
        assert good['calls of the backbone in a fit / chips that it looked at']


def test_version_0_1_0_is_exported(tmp_path: Path) -> None:
    try:
        place = speed.exported(tmp_path, speed.FIRST)
    except InputError:
        pytest.skip('the history of the repository is not here')
    # A module that is no more.
    assert (place / 'torchgeo_mapsr/mapping/plan.py').exists()
    assert speed.exported(tmp_path, speed.FIRST) == place
    with pytest.raises(InputError, match='cannot be read by git'):
        speed.exported(tmp_path, 'no-such-commit')


@pytest.mark.usefixtures('together')
def test_reading_alone(tmp_path: Path) -> None:
    found = speed.measure_read(tmp_path, 512, rounds=1)
    assert len(found['lines']) == 3
    # Chips of 448 add at most 364 x 364 pixels.
    rate = float(found['lines'][0]['text'].split()[0])
    assert found['paper']['km2_a_second'] == pytest.approx(rate * 0.364**2, rel=0.02)


def test_lines_are_judged_by_what_was_asked_for() -> None:
    share = speed.line('x', 0.123, '.1%', ('≤', 0.15), ' (note)')
    assert share == {
        'what': 'x',
        'asked': '≤ 15%',
        'text': '12.3% (note)',
        'good': True,
    }
    late = speed.line('x', 7.5, '.2f s', ('<', 5))
    assert (late['asked'], late['text'], late['good']) == ('< 5 s', '7.50 s', False)
    assert speed.line('x', 3.0)['good'] is None


WHERE = {
    'date': '2026-01-01',
    'machine': 'a machine',
    'versions': {'torch': '2', 'torchgeo': '0'},
    'commit': 'abc',
    'clock': 'cpu',
}


def made_release(*parts: str) -> Release:
    """Figures of a machine that never was."""
    paper: dict[str, dict[str, Any]] = {
        'overhead': {
            'threads': 2,
            'forward_seconds': 1.0,
            'overhead': 0.2,
            'overhead_tokens': 0.3,
            'rcf_seconds': 2.0,
        },
        'fit': {'solve_seconds': 2.0, 'size': '10 cells × 3'},
        'flat': {'report_seconds': 0.25, 'bytes': {'map': 5e4, 'confidence': 2.5e5}},
        'read': {'km2_a_second': 13.0},
    }
    rows = [{'part': name, 'paper': paper[name]} for name in parts or paper]
    rows.append({'part': 'fit', **speed.line('probe', 9.0, '.0f s', ('<', 5))})
    return Release.of((row, WHERE) for row in rows)


class TestPages:
    def test_what_is_missing_is_said(self) -> None:
        text = speed.markdown(made_release())
        assert '| probe | < 5 s | 9 s | **no** |' in text
        assert 'Not measured yet: overhead, published, accuracy, whole' in text
        assert scaling.markdown(made_release('read')).startswith('Not known: overhead')

    def test_hours_on_paper(self) -> None:
        text = scaling.markdown(made_release(), area=1000)
        lines = text.splitlines()
        # Chips of 448 pixels share 84 and are aligned to 14: 364 apart.
        assert 363 <= scaling.CHIPS**-0.5 <= 364
        chips = 1e9 * scaling.CHIPS
        # CPU time is that of both threads already.
        (row,) = (line for line in lines if line.startswith('| backbone'))
        hours = float(row.split('|')[-2].replace(',', ''))
        assert hours == pytest.approx(chips / 3600, abs=0.5)
        (row,) = (line for line in lines if 'instead' in line)
        assert float(row.split('|')[-2]) == pytest.approx(1000 * 2 / 3600, abs=0.5)
        (row,) = (line for line in lines if line.startswith('| map '))
        assert '50.0 MB' in row
        (row,) = (line for line in lines if line.startswith('| LR cells'))
        assert f'{1e9 / 900 / 1e6:.1f} million' in row
        assert any(line.startswith('Reading: 13 km² a second') for line in lines)
