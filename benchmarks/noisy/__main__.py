# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Accuracy on a target without labels, from a source with coarse and noisy ones.

Figures are kept after each training: the same command again goes on from there, and
several with different ``--rows`` can fill one file.
"""

import argparse
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.evaluation.accuracy import Confusion, confusion

from ..origin import ROOT, about, commit
from . import table
from .rows import ROWS
from .sets import SETS, TARGET, Problem, find_problem
from .training import BACKBONE, BATCH, CROP, LEARNING_RATE, MODEL, STEPS, Setting

SEEDS = (0, 1, 2)


def run(
    output: Path,
    data: Path,
    work: Path,
    console: Console,
    sets: Sequence[str] = SETS,
    rows: Sequence[str] = tuple(ROWS),
    seeds: Sequence[int] = SEEDS,
    steps: int | None = None,
) -> dict[str, Any]:
    """Measure what is not in the results file yet.

    Args:
        output: Results file, JSON.
        data: Folder with the sets of scenes.
        work: Folder for made scenes and networks.
        console: Says what is found.
        sets: Sets to use; those of *data* that are not there are left out.
        rows: Rows to measure.
        seeds: Seeds to measure.
        steps: Steps of each training; by default those of the set.

    Returns:
        The content of the results file.
    """
    for name in sets:
        if name != 'made' and not (data / name).is_dir():
            continue
        count = steps or STEPS[name]
        for seed in seeds:
            setting: Setting | None = None
            for row in rows:
                if row in read(output)['found'].get(name, {}).get(str(seed), {}):
                    continue
                if setting is None:
                    problem = find_problem(name, seed, data, work)
                    setting = Setting(problem, seed, work, count, ROWS)
                start = time.process_time()
                maps = setting.maps(setting.network(row))
                seconds = time.process_time() - start
                found = score(setting.problem, maps) | {
                    'steps': count,
                    'seconds': round(seconds, 1),
                    'commit': commit(),
                }
                keep(output, name, seed, row, found, about() | settings())
                console.print(
                    f'{name:16} {seed} {row:12} mIoU {found["miou"]:.3f} '
                    f'minority {found["minority_iou"]:.3f} {seconds:6.1f} s'
                )
    return read(output)


def score(problem: Problem, maps: Sequence[Any]) -> dict[str, Any]:
    """Compare maps of the target with the truth: figures as JSON types."""
    legend = Legend.load(TARGET)
    parts = [
        confusion(truth, found, legend)
        for truth, found in zip(problem.target.truth, maps, strict=True)
    ]
    total: Confusion = sum(parts[1:], parts[0])
    there, matrix = total.present, total.matrix
    recall = np.diag(matrix)[there] / matrix.sum(1)[there]
    return {
        'miou': round(float(np.nanmean(total.iou[there])), 5),
        'accuracy': round(float(recall.mean()), 5),
        'minority_iou': round(float(np.nan_to_num(total.iou[problem.minority])), 5),
        'minority': problem.minority,
        'minority_share': round(float(problem.source.shares()[problem.minority]), 5),
        'confusion': matrix.tolist(),
    }


def read(path: Path) -> dict[str, Any]:
    """The results file; an empty one if there is none."""
    if not path.exists():
        return {'about': {}, 'found': {}}
    return dict(json.loads(path.read_text()))


def keep(
    path: Path, name: str, seed: int, row: str, found: Any, about: dict[str, Any]
) -> None:
    """Add a figure; other processes may add theirs at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        results = read(path)
        results['about'] = about
        rows = results['found'].setdefault(name, {}).setdefault(str(seed), {})
        rows[row] = found
        results['found'] = _ordered(results['found'])
        part = path.with_suffix('.part')
        part.write_text(json.dumps(results, indent=1) + '\n')
        part.replace(path)
    finally:
        os.close(folder)


def _ordered(found: dict[str, Any]) -> dict[str, Any]:
    """Sets, seeds and rows in the order of the table."""
    return {
        name: {
            seed: {
                row: found[name][seed][row] for row in ROWS if row in found[name][seed]
            }
            for seed in sorted(found[name], key=int)
        }
        for name in SETS
        if name in found
    }


def settings() -> dict[str, Any]:
    """What a figure depends on, beside the code."""
    return {
        'batch': BATCH,
        'crop': CROP,
        'lr': LEARNING_RATE,
        'network': f'{MODEL} {BACKBONE}',
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.noisy',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    work = Path(tempfile.gettempdir()) / 'torchgeo-mapsr-noisy'
    parser.add_argument('--data', type=Path, default=ROOT.parent / 'shared' / 'data')
    parser.add_argument('--work', type=Path, default=work, help='keeps networks')
    parser.add_argument('--output', type=Path, default=table.RESULTS)
    parser.add_argument('--sets', nargs='+', choices=SETS, default=SETS)
    parser.add_argument('--rows', nargs='+', choices=ROWS, default=tuple(ROWS))
    parser.add_argument('--seeds', nargs='+', type=int, default=SEEDS)
    parser.add_argument('--steps', type=int, help='of each training')
    o = parser.parse_args(args)
    console = Console(highlight=False, soft_wrap=True)
    results = run(o.output, o.data, o.work, console, o.sets, o.rows, o.seeds, o.steps)
    console.print(table.markdown(results))


if __name__ == '__main__':
    main()
