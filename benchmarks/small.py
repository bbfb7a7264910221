# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Small areas: quarters of the real scenes, each with a fit of its own.

The default stands beside a copy of the coarse labels and two random forests. Patches of
NLCD's set are small as they are, and are fitted one by one. All are scored by the same
pixels: those with a coarse label.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from . import rivals
from .package import DEFAULT, mapsr
from .regions import TOGETHER, UNSOUND, Maps, Region, find_regions, tiny_data
from .scenes import ROWS, SLACK, TINY
from .scores import confusion_matrix, figures_of, paired_test
from .store import Record, Release, Row
from .table import Table, Trial, grid, unique

CUT = 2  # parts along a side
RIVALS = ('coarse', 'forest', 'forest20')


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """A row on a part of a scene each."""
    data = tiny_data(options.work / 'tiny') if options.tiny else options.data
    backbone = TINY if options.tiny else 'rcf'
    for seed in options.seeds:
        for whole in find_regions(data, options.sets):
            cut = 1 if whole.set in TOGETHER else CUT
            for region in whole.parts(cut, options.work / 'parts'):
                if whole.set in TOGETHER and region.name.removesuffix('-0-0').endswith(
                    UNSOUND
                ):
                    continue
                key = {'set': region.set, 'labels': region.labels, 'area': region.name}
                work = options.work / 'small' / '-'.join([*key.values(), str(seed)])
                settings = {'seed': seed, 'backbone': backbone, **DEFAULT}
                makers: dict[str, Callable[[], Maps]] = {
                    'coarse': partial(getattr, region, 'coarse'),
                    'default': partial(region.map, work, **settings),
                    'forest': partial(rivals.forest, region, seed=seed),
                    'forest20': partial(rivals.forest, region, leaf=20, seed=seed),
                }
                for row in options.rows:
                    place = key | {'row': row, 'seed': seed}
                    yield place, partial(measure, region, makers[row])


def measure(region: Region, make: Callable[[], Maps]) -> Row:
    """Score a map by the pixels that have a coarse label.

    Returns:
        ``miou``, or why the place is ``refused``.
    """
    try:
        (found,) = make()
    except mapsr.InputError as error:
        return {'refused': str(error)}
    (coarse,), (truth,) = region.coarse, region.truth
    truth = np.where(coarse >= 0, truth, -1)
    return {
        'miou': round(
            figures_of(confusion_matrix(truth, found, region.classes))['miou'], 5
        )
    }


def release_rows(records: Iterable[Record]) -> Iterator[tuple[Row, Row]]:
    """A line for each part and kind of labels: the mIoU of each row."""
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        key = {k: v for k, v in record.key.items() if k != 'row'}
        groups[tuple(map(str, key.values()))].append(record)
    for group in groups.values():
        line = {k: v for k, v in group[0].key.items() if k != 'row'}
        line |= {r.key['row']: r.figures.get('miou') for r in group}
        line['seconds'] = round(sum(r.figures['seconds'] for r in group), 1)
        yield line, group[-1].origin


def markdown(release: Release) -> str:
    """Means of each set and kind of labels, and every part where a rival is better."""
    mapped = [row for row in release.rows if row['default'] is not None]
    body = []
    kinds = unique((row['set'], row['labels']) for row in mapped)
    for name, labels in [*kinds, ('all', '')]:
        rows = [
            r
            for r in mapped
            if name == 'all' or (r['set'], r['labels']) == (name, labels)
        ]
        means = [f'{np.mean([r[k] for r in rows]):.3f}' for k in ('default', *RIVALS)]
        body.append([name, labels, str(len(rows)), *means])
    head = ['mIoU', 'labels', 'areas', *(ROWS[k] for k in ('default', *RIVALS))]
    lines = []
    for rival in RIVALS:
        gains = {
            f'{r["set"]} {r["area"]} {r["labels"]}': r['default'] - r[rival]
            for r in mapped
        }
        below = {name: gain for name, gain in gains.items() if gain < -SLACK}
        listed = ', '.join(
            f'{name} {gain:+.3f}'
            for name, gain in sorted(below.items(), key=lambda x: x[1])
        )
        verdict, p = paired_test(list(gains.values()), [0.0] * len(gains))
        lines.append(
            f'- against “{ROWS[rival]}”: {np.mean(list(gains.values())):+.3f} in the mean '
            f'({verdict} at 5 %, p {p:.2g}); below it by more than {SLACK:g} on '
            f'{len(below)} of {len(gains)}{": " + listed if listed else ""}'
        )
    refused = len(release.rows) - len(mapped)
    minutes = sum(row['seconds'] for row in release.rows) / 60
    note = (
        f'{refused} more have labels of one class, which are refused. Measured: '
        f'{release.source()}; {minutes:.0f} minutes in all.'
    )
    return '\n\n'.join([grid(head, body, left=2), '\n'.join(lines), note])


TABLE = Table(
    'small',
    'accuracy on quarters of the real scenes, beside copies of the labels and forests',
    trials,
    release_rows,
    markdown,
    sets=('openearthmap', 'chesapeake_wv', 'deepglobe', 'sentinel2_korea'),
    rows=('coarse', 'default', 'forest', 'forest20'),
)
