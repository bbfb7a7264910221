# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Accuracy on real scenes, part by part, beside what a person would pick instead.

HR labels score maps and nothing else, but for the row that is called a bound.
Figures are kept after each row: the same command again goes on from there, and several
with different ``--rows`` can fill one file.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from . import rivals
from .origin import ROOT, about, commit
from .ours import BOUND_PIXELS, BOUND_STRENGTH, Maps, Ours
from .regions import SETS, Region, find_regions
from .table import RESULTS, ROWS, show

# Pretrained backbone, as its README wants it to be used.
MOBILENET = 'timm:mobilenetv2_100?pad_type=same&mean=0.5&std=0.5&layers=0,1,2,3'

Row = tuple[str, Callable[[], Maps]]


def rows_of(region: Region, weights: Path, steps: int) -> Iterator[Row]:
    """What is measured on a region: names, and functions that make the maps.

    Args:
        region: Scenes and coarse labels.
        weights: Weight file of the pretrained backbone.
        steps: Steps of the U-Net's training.
    """
    ours = cache(partial(Ours, region))
    pretrained = f'{MOBILENET}&weights={weights}'
    yield 'coarse', lambda: region.coarse
    for score in ('probe', 'cosine', 'lda', 'fusion'):
        yield score, lambda score=score: ours().part(score)
    yield 'default', lambda: ours().default()
    for nodes in ('tokens', 'superpixels'):
        yield nodes, lambda nodes=nodes: ours().propagated(nodes)
    if region.labels == 'clean':  # it sees no coarse labels
        yield 'bound', lambda: ours().bound()
    yield 'forest', lambda: rivals.forest(region)
    yield 'forest20', lambda: rivals.forest(region, leaf=20)
    if weights.is_file():
        yield 'mobilenet', lambda: Ours(region, pretrained).default()
        yield 'mobilenet+rcf', lambda: Ours(region, f'{pretrained}+rcf').default()
    yield 'unet', lambda: rivals.unet(region, steps)


def measure(region: Region, make: Callable[[], Maps]) -> dict[str, Any]:
    """Make maps and score them.

    Args:
        region: Scenes and their HR labels.
        make: Makes the maps. What it does first for other rows too counts as its time.

    Returns:
        Figures, as JSON types.
    """
    start = time.perf_counter()
    maps = make()
    seconds = time.perf_counter() - start
    parts = region.score(maps)
    total = sum(list(parts.values())[1:], next(iter(parts.values())))
    return {
        'miou': round(total.miou, 5),
        'iou': [None if np.isnan(v) else round(float(v), 5) for v in total.iou],
        'accuracy': round(total.accuracy, 5),
        'unmapped': total.unmapped,
        'scenes': {name: round(part.miou, 5) for name, part in parts.items()},
        'confusion': total.matrix.tolist(),
        'seconds': round(seconds, 1),
        'commit': commit(),
    }


def run(
    data: Path,
    output: Path,
    console: Console,
    sets: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    weights: Path = Path('none'),
    steps: int = 64,
) -> dict[str, Any]:
    """Measure what is not in the results file yet.

    Args:
        data: Folder with the sets of scenes.
        output: Results file, JSON.
        console: Says what is found.
        sets: Sets to use; all by default.
        rows: Rows to measure; all by default.
        weights: Weight file of the pretrained backbone.
        steps: Steps of the U-Net's training.

    Returns:
        The content of the results file.
    """
    results = _read(output)
    for region in find_regions(data, sets):
        for name, make in rows_of(region, weights, steps):
            done = name in _read(output)['regions'].get(region.key, {})
            if done or (rows and name not in rows):
                continue
            found = measure(region, make)
            if name == 'unet':
                found['steps'] = steps
            console.print(
                f'{region.key:40} {name:14} {found["miou"]:.3f} {found["seconds"]:6.1f} s'
            )
            # Read again: another process may have written meanwhile.
            results = _read(output)
            results['regions'].setdefault(region.key, {})[name] = found
            results['about'] = about()
            results['settings'] = _settings()
            _write(output, results)
    return results


def forget(path: Path, sets: Iterable[str], rows: Iterable[str]) -> None:
    """Take figures out of the results file.

    Args:
        path: Results file.
        sets: Sets to look at.
        rows: Rows to take out.
    """
    results = _read(path)
    for key, found in results['regions'].items():
        if key.split('/')[0] in sets:
            for row in rows:
                found.pop(row, None)
    _write(path, results)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {'about': {}, 'settings': {}, 'regions': {}}
    return dict(json.loads(path.read_text()))


def _write(path: Path, results: dict[str, Any]) -> None:
    """In the order of sets, by a rename: the file is whole at any time."""
    order = list(SETS)
    regions = results['regions'].items()
    results['regions'] = dict(
        sorted(regions, key=lambda r: (order.index(r[0].split('/')[0]), _labels(r[0])))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f'.{os.getpid()}.part')
    part.write_text(json.dumps(results, indent=1) + '\n')
    part.replace(path)


def _labels(key: str) -> tuple[str, str]:
    _, scene, labels = key.split('/')
    return labels, scene


def _settings() -> dict[str, Any]:
    return {
        'unet': {
            'batch': rivals.BATCH,
            'crop': rivals.CROP,
            'lr': rivals.LEARNING_RATE,
        },
        'forest': {'trees': rivals.TREES, 'pixels': rivals.FOREST_PIXELS},
        'bound': {'pixels': BOUND_PIXELS, 'strength': BOUND_STRENGTH},
        'pretrained': MOBILENET,
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.scenes',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared = ROOT.parent / 'shared'
    name = 'mobilenetv2_100_imagenet.safetensors'
    parser.add_argument('--data', type=Path, default=shared / 'data')
    parser.add_argument('--weights', type=Path, default=shared / 'weights' / name)
    parser.add_argument('--output', type=Path, default=RESULTS)
    parser.add_argument('--sets', nargs='+', choices=SETS)
    parser.add_argument('--rows', nargs='+', choices=ROWS)
    parser.add_argument('--steps', type=int, default=64, help='of the U-Net')
    parser.add_argument(
        '--again',
        action='store_true',
        help='forget these rows first, measure them anew',
    )
    options = parser.parse_args(args)
    if options.again:
        forget(options.output, options.sets or SETS, options.rows or ROWS)
    console = Console(highlight=False, soft_wrap=True)
    results = run(
        options.data,
        options.output,
        console,
        options.sets,
        options.rows,
        options.weights,
        options.steps,
    )
    show(results, console)


if __name__ == '__main__':
    main()
