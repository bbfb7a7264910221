# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import speed_gpu, speed_overhead, speed_read, speed_table, table
from benchmarks.continent import AREA, Continent, figures
from benchmarks.measure import Forwards, Peak, alone
from benchmarks.published import Published, matched, published_map, upsampled
from torchgeo_mapsr.models.backbones.concat import Concat
from torchgeo_mapsr.models.backbones.identity import Identity
from torchgeo_mapsr.models.head.prompts import CosinePrompts
from torchgeo_mapsr.models.tokens.tokens import Tokens

RCF = 'rcf?filters=4&colours=8&strides=1,4'


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
            alone('speed_flat.nowhere')


def test_overhead_and_gpu_parts_run_anywhere(tmp_path: Path) -> None:
    spec = 'timm:test_vit?weights=random'
    found = speed_overhead.measure(tmp_path, 512, spec, RCF)
    assert found['tokens']['none']['chips'] == 4
    assert found['rcf']['chips'] == 4
    for nodes in ('tokens', 'superpixels'):
        row = found['tokens'][nodes]
        assert row['stages']['propagate'] > 0
        assert row['stages']['blend'] > 0
        assert row['steps'] == sorted(row['steps_rounds'])[1] > 0
    (row,) = speed_gpu.measure(tmp_path, 512, (spec,), ('bf16',), (False,), repeats=1)[
        'rows'
    ]
    assert row['precision'] == 'bf16'
    assert row['share_of_bare'] > 0


def test_reading_alone(tmp_path: Path) -> None:
    found = speed_read.measure(tmp_path, 512, rounds=1)
    assert [(row['processes'], row['threads']) for row in found['rows']] == [
        (1, 1),
        (1, 2),
        (2, 1),
    ]
    # Chips of 448 add at most 364 x 364 pixels.
    for row in found['rows']:
        assert row['km2_a_second'] == pytest.approx(
            row['chips_a_second'] * 0.364**2, rel=0.01
        )


def made_results() -> dict[str, Any]:
    """Figures of a machine that never was."""
    about = {
        'date': '2026-01-01',
        'machine': 'a machine',
        'versions': {'torch': '2'},
        'commit': 'abc',
        'clock': 'cpu',
    }
    part = {
        'chips': 10,
        'pass_seconds': 12.0,
        'forward_seconds': 10.0,
        'one_at_a_time_seconds': 11.0,
        'overhead': 0.2,
        'steps': 0.1,
        'steps_rounds': [0.1, 0.1, 0.2],
        'rounds': [0.2, 0.1, 0.3],
    }
    rcf = {
        'pass_seconds': 8.0,
        'times_bare': 1.4,
        'times_in_parts': 2.0,
        'rounds': [1.4],
    }
    run = {
        'seconds': 4.0,
        'peak_mib': 500.0,
        'timings': {'report': 1.0},
        'bytes': {'map': 2e5, 'confidence': 1e6},
    }
    return {
        'overhead': {
            **about,
            'size': 2000,
            'device': 'cpu',
            'threads': 2,
            'tokens': {name: part for name in ('none', 'tokens', 'superpixels')},
            'rcf': rcf,
        },
        'read': {
            **about,
            'rows': [
                {
                    'processes': 1,
                    'threads': 1,
                    'chips_a_second': 100.0,
                    'km2_a_second': 13.0,
                }
            ],
        },
        'fit': {
            **about,
            'cells': 10,
            'dimensions': 3,
            'pixels': 20,
            'probe_seconds': 1.0,
            'everything_seconds': 2.0,
            'calls': {'fit_and_map': 7, 'map': 4, 'chips_of_the_fit': 3},
        },
        'flat': {
            **about,
            'runs': {'1000': run, '2000': {**run, 'seconds': 16.0, 'peak_mib': 560.0}},
            'memory_range': 0.12,
            'exponent': 1.0,
            'exponent_of_largest': 1.0,
        },
    }


STEPS = 'matching, blending, writing / forwards of ViT-S/14'
WHOLE = 'whole command from the first forward on, likewise'


class TestPages:
    def test_pages_agree_with_the_results(self) -> None:
        results = json.loads(speed_table.RESULTS.read_text())
        for page, text in table.pages(results).items():
            assert page.read_text() == text

    def test_verdicts(self) -> None:
        kinds = 'no propagation', 'propagation, tokens', 'propagation, superpixels'
        found = {text.split(':')[0]: good for text, good in
                 speed_table.checks(made_results())}  # fmt: skip
        assert found == {
            **{f'{STEPS}, {name}': True for name in kinds},
            **{f'{WHOLE}, {name}': False for name in kinds},
            '`rcf`': True,
            'probe of 10 cells × 3': True,
            'calls of the backbone in a fit / chips that it looked at': True,
            'range of peak memory over sizes': False,
            'exponent of time over area': True,
        }
        text = speed_table.markdown(made_results())
        assert 'no GPU figure exists yet' in text
        assert '100 chips/s, 13 km²/s' in text
        assert 'Not measured yet: published, accuracy.' in text

    def test_sizes_on_paper(self) -> None:
        size = Continent()
        assert size.area == AREA == 8_000_000
        assert size.pixels == 8e12
        assert size.cells == pytest.approx(8e12 / 900)
        # Chips of 448 pixels share 84 and are aligned to 14: 336 or 350 apart.
        apart = (size.pixels / size.chips) ** 0.5
        assert 336 <= apart <= 352

    def test_hours_on_paper(self) -> None:
        size = Continent(area=1000)
        lines = figures(made_results(), size)
        # CPU time is that of both threads already.
        hours = size.chips * 1.0 / 3600
        assert f'| backbone, ViT-S/14 | 1.00 s a chip × {size.chips:,.0f} |' in (
            '\n'.join(lines)
        )
        (row,) = (line for line in lines if line.startswith('| backbone'))
        assert float(row.split('|')[-2].replace(',', '')) == pytest.approx(
            hours, abs=0.5
        )
        (row,) = (line for line in lines if 'instead' in line)
        assert float(row.split('|')[-2]) == pytest.approx(1000 * 8 / 4 / 3600, abs=0.5)
        (row,) = (line for line in lines if line.startswith('| map '))
        assert '50.0 MB' in row
        assert any(line.startswith('Reading: 13 km² a second') for line in lines)
        assert figures({})[0].startswith('Not known: overhead, fit, flat')
