# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from sklearn.metrics import accuracy_score, precision_score, recall_score

from benchmarks import coverage, faults
from benchmarks.store import Release


class TestFaults:
    def test_states_are_those_before_each_operation(self, tmp_path: Path) -> None:
        states: list[list[str]] = []
        with faults.before_writes(lambda: states.append(os.listdir(tmp_path))):
            (tmp_path / 'a').write_text('x')
            (tmp_path / 'a').rename(tmp_path / 'b')
            (tmp_path / 'b').read_text()
            (tmp_path / 'b').unlink()
        assert states == [[], ['a'], ['b']]
        (tmp_path / 'a').write_text('x')
        assert len(states) == 3

    def test_resumed_states_have_the_same_bytes(self, tmp_path: Path) -> None:
        folder = faults.make_folder(tmp_path, faults.SMALL)
        states = faults.crash_states(folder)
        assert len(states) > 10
        assert faults.recovers(states[len(states) // 2], folder / 'reference') == ''
        # another map is not taken for the same
        changed = states[0]
        assert faults.recovers(changed, folder / 'reference') == ''
        (changed / 'map.tif').write_bytes(b'other')
        assert faults.recovers(changed, folder / 'reference') == 'other bytes'

    def test_there_are_enough_bad_inputs(self, tmp_path: Path) -> None:
        folder = faults.make_folder(tmp_path, faults.SMALL)
        names = [name for name, _ in faults.bad_inputs(folder)]
        assert len(names) >= faults.ASKED['bad input'][1]
        assert len(set(names)) == len(names)

    def test_clean_is_one_line(self) -> None:
        assert faults.is_clean(2, 'torchgeo-mapsr: no such file\n')
        assert not faults.is_clean(1, 'torchgeo-mapsr: no such file\n')
        assert not faults.is_clean(2, 'Traceback\ntorchgeo-mapsr: x\n')
        assert not faults.is_clean(2, '')

    def test_table(self) -> None:
        where = {'commit': 'a', 'date': '', 'machine': '', 'clock': 'wall'}
        where |= {'versions': {'torch': '', 'torchgeo': ''}}  # type: ignore[dict-item]
        rows = [
            {'kind': 'bad input', 'tried': 300, 'failures': ['one', 'two']},
            {'kind': 'random kill', 'tried': 200, 'failures': ['late']},
        ]
        text = faults.markdown(Release.of((row, where) for row in rows))
        assert '| bad input | 300 | 99.3% | 99% of at least 300: yes |' in text
        assert '| random kill | 200 | 99.5% | 100% of at least 200: **no** |' in text
        assert '- random kill: `late`' in text


class TestCoverage:
    def test_map_and_truth_differ_where_it_was_meant(self, tmp_path: Path) -> None:
        path, truth = coverage.map_with_errors(tmp_path, 200, rare=False)
        with rasterio.open(path) as file:
            classes = file.read(1)
        wrong = classes != truth
        assert set(np.unique(classes)) == {1, 2, 3, 4}
        assert 0.1 < wrong.mean() < 0.2
        np.testing.assert_allclose(
            np.bincount(truth.ravel())[1:] / truth.size,
            [0.05, 0.4, 0.4, 0.15],
            atol=0.001,
        )
        values = coverage.true_values(path, truth)
        assert values['area, Water'] == pytest.approx(0.05 * truth.size / 100, abs=1)
        y, x = truth.ravel(), classes.ravel()
        assert values['overall accuracy'] == pytest.approx(accuracy_score(y, x))
        for name, score in (('user', precision_score), ('producer', recall_score)):
            (expected,) = score(y, x, labels=[2], average=None)
            assert values[f'{name}’s accuracy, Forest'] == pytest.approx(expected)

    def test_intervals_of_a_sample(self, tmp_path: Path) -> None:
        for strata in coverage.STRATA:
            rare = strata == 'class-rare'
            path, truth = coverage.map_with_errors(tmp_path, 100, rare)
            row = coverage.sample_covers(path, truth, strata, 0)
            assert set(row['covers']) == set(coverage.true_values(path, truth))
            # of 13 intervals of 95 %, hardly any fails more than a few
            assert sum(row['covers'].values()) >= 9

    @pytest.mark.parametrize(
        ('covered', 'verdict'), [(950, 'yes'), (900, '**no**'), (990, 'wide')]
    )
    def test_table(self, covered: int, verdict: str) -> None:
        where = {'commit': 'a', 'date': '', 'machine': '', 'clock': 'wall'}
        where |= {'versions': {'torch': '', 'torchgeo': ''}}  # type: ignore[dict-item]
        row = {'strata': 'class', 'figure': 'area', 'samples': 1000, 'points': 300}
        row |= {'covered': covered}
        text = coverage.markdown(Release.of([(row, where)]))
        assert f'{covered / 10:.1f}% | 93 to 97 % {verdict}' in text
