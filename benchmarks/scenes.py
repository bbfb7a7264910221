# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Accuracy on real scenes, part by part, beside what a person would pick instead.

HR labels score maps and nothing else, but for the row that is called a bound. Every row
of this package is a map of the command, with the options that its name says.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import rivals
from .package import CANDIDATES, DEFAULT, VERSION_0_1_0
from .regions import BOUND, REAL, SETS, Maps, Region, find_regions, tiny_data
from .scores import figures_of, mean_and_spread, paired_test
from .store import Record, Release, Row
from .table import Table, Trial, grid, unique

# Pretrained backbone, as its README wants it to be used.
MOBILENET = 'timm:mobilenetv2_100?pad_type=same&mean=0.5&std=0.5&layers=0,1,2,3'
TINY = 'rcf?filters=6&colours=24&strides=1,4'

ROWS = {
    'coarse': 'coarse labels as they are (LR copy)',
    'probe': 'probe on region means',
    'cosine': 'prompts, cosine (published form)',
    'lda': 'prompts, LDA',
    'fusion': 'probe and LDA fused',
    'version-0.1.0': 'default of 0.1.0',
    'default': '**the default**',
    'left-out': '… with score and prior chosen on the other sets',
    'tokens': 'default + propagation, tokens',
    'superpixels': 'default + propagation, superpixels',
    'forest': 'random forest on the bands',
    'forest20': 'random forest, leaves of 20 pixels or more',
    'unet': 'torchgeo U-Net, ResNet-18, random init',
    'mobilenet': 'default on MobileNetV2 (ImageNet)',
    'mobilenet+rcf': 'default on MobileNetV2 + rcf',
    'bound': 'bound: probe given HR labels',
}
RIVALS = ('coarse', 'version-0.1.0', 'forest', 'forest20', 'unet')

# Rows that know no seed.
SEEDLESS = ('coarse',)

# Candidates of the leave-one-set-out row are measured with the first seed only.
CANDIDATE = 'candidate: '

# mIoU of one confusion matrix over the set, but here: per scene, then the mean.
MEAN_OF_SCENES = ('openearthmap',)

# What was asked for before any of this was measured: set, labels, mIoU of the default.
WANTED = (
    ('openearthmap', 'clean', 0.71),
    ('openearthmap', 'noisy', 0.61),
    ('openearthmap', 'nlcd', 0.63),
)
ABOVE_0_1_0 = 0.04

# What another seed may change.
SLACK = 0.01

TITLES = {REAL: ' (real NLCD, six patches)', 'real8': ' (real NLCD, all eight patches)'}
FOREST, FIELD = 1, 2

Column = tuple[str, str]


class Fit:
    """Maps of one fit: the fit is kept, and rows that need another map use it.

    Args:
        region: Scenes and coarse labels.
        work: Folder for maps and fits.
        seed: Of the fit.
        settings: What the fit is made with.
    """

    def __init__(self, region: Region, work: Path, seed: int, **settings: Any) -> None:
        self.region, self.seed, self.settings = region, seed, settings
        self.work = work / f'{region.set}-{region.name}-{region.labels}-{seed}'
        self._model: Path | None = None

    def default(self) -> Maps:
        """The map of the command with these settings."""
        model = self.work / 'fit.safetensors'
        maps = self.region.map(
            self.work, seed=self.seed, save_model=model, **self.settings
        )
        self._model = model
        return maps

    def map(self, **settings: Any) -> Maps:
        """Another map from the same fit.

        Args:
            **settings: Of scoring or propagation.
        """
        if self._model is None:
            self.default()
        return self.region.map(self.work, seed=self.seed, model=self._model, **settings)


def rows_of(
    region: Region, seed: int, options: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], Maps]]]:
    """Names of what is measured on a region, and functions that make the maps."""
    backbone = TINY if options.tiny else 'rcf'
    fit = Fit(region, options.work / 'scenes', seed, backbone=backbone, **DEFAULT)
    yield 'coarse', lambda: region.coarse
    # first, so that the other rows find its fit
    yield 'default', fit.default
    for score in ('probe', 'cosine', 'lda', 'fusion'):
        yield score, partial(fit.map, score=score, prior=0.0)
    if VERSION_0_1_0 == DEFAULT:
        yield 'version-0.1.0', fit.map
    else:
        old = Fit(
            region, options.work / 'old', seed, backbone=backbone, **VERSION_0_1_0
        )
        yield 'version-0.1.0', old.default
    for nodes in ('tokens', 'superpixels'):
        yield nodes, partial(fit.map, propagate=nodes)
    if seed == options.seeds[0]:
        for name, settings in list(CANDIDATES.items())[: 2 if options.tiny else None]:
            yield CANDIDATE + name, partial(fit.map, **settings)
    if region.labels in ('clean', REAL):  # it sees no coarse labels
        yield 'bound', lambda: _bound(region, seed, backbone, options)
    yield 'forest', lambda: rivals.forest(region, seed=seed)
    yield 'forest20', lambda: rivals.forest(region, leaf=20, seed=seed)
    if options.weights.is_file() and not options.tiny:
        spec = f'{MOBILENET}&weights={options.weights}'
        for row, name in (('mobilenet', spec), ('mobilenet+rcf', f'{spec}+rcf')):
            work = options.work / row
            yield row, Fit(region, work, seed, backbone=name, **DEFAULT).default
    steps = 2 if options.tiny else options.steps
    yield 'unet', lambda: rivals.unet(region, steps, seed)


def _bound(
    region: Region, seed: int, backbone: str, options: argparse.Namespace
) -> Maps:
    """A probe on the same features whose cells are the pixels of the HR labels.

    A bound of the method and no competitor: it sees the labels that it is scored by.
    """
    legend = region.truth_legend
    labelled = Region(region.set, BOUND, region.scenes, legend, legend)
    settings = {'seed': seed, 'backbone': backbone, 'score': 'probe', 'prior': 0.0}
    return labelled.map(options.work / 'bound', **settings)


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """A row on a region with a seed each."""
    data = tiny_data(options.work / 'tiny') if options.tiny else options.data
    regions = list(find_regions(data, options.sets))
    if options.tiny:  # one of each set
        regions = [r for r in regions if r.labels in ('nlcd', REAL)]
    for seed in options.seeds:
        for region in regions:
            for row, make in rows_of(region, seed, options):
                if row in SEEDLESS and seed != options.seeds[0]:
                    continue
                chosen = 'left-out' if row.startswith(CANDIDATE) else row
                if chosen not in options.rows:
                    continue
                key = {
                    'set': region.set,
                    'labels': region.labels,
                    'scene': region.name,
                    'row': row,
                    'seed': seed,
                }
                if row == 'unet':
                    key['steps'] = options.steps
                yield key, partial(_measure, region, make)


def _measure(region: Region, make: Callable[[], Maps]) -> Row:
    matrices = region.score(make())
    return {
        'miou': round(figures_of(sum(matrices.values()))['miou'], 5),
        'confusion': {name: m.tolist() for name, m in matrices.items()},
    }


def release_rows(records: Iterable[Record]) -> Iterator[tuple[Row, Row]]:
    """A line for each row on a column: its mIoU of each seed, and those of the scenes."""
    table: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    seconds: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    origins: dict[tuple[str, str, str], Row] = {}
    steps: dict[tuple[str, str], int] = {}
    for record in records:
        place = record.key['set'], record.key['labels'], record.key['row']
        seeds = table.setdefault(place, defaultdict(dict))
        seeds[record.key['seed']].update(record.figures['confusion'])
        seconds[place].append(record.figures['seconds'])
        origins[place] = record.origin
        steps[place[:2]] = record.key.get('steps', steps.get(place[:2], 0))
    lines = {}
    for (name, labels, row), seeds in table.items():
        lines[name, labels, row] = {
            'set': name,
            'labels': labels,
            'row': row,
            **_figures(name, list(seeds.values())),
            'seconds': round(sum(seconds[name, labels, row]), 1),
        }
        if row == 'unet':
            lines[name, labels, row]['steps'] = steps[name, labels]
    for name, row in _left_out(lines).items():
        for place in [key for key in lines if key[0] == name and key[2] == row]:
            title = row.removeprefix(CANDIDATE)
            left = (*place[:2], 'left-out')
            lines[left] = {**lines[place], 'row': 'left-out', 'chosen': title}
            origins[left] = origins[place]
    for place, line in lines.items():
        if not place[2].startswith(CANDIDATE):
            yield line, origins[place]


def _figures(name: str, seeds: list[dict[str, Any]]) -> Row:
    """Figures of a column, of each seed."""
    pooled, classes = [], []
    for matrices in seeds:
        each = [figures_of(matrix)['miou'] for matrix in matrices.values()]
        total = figures_of(np.sum(list(matrices.values()), 0))
        value = float(np.mean(each)) if name in MEAN_OF_SCENES else total['miou']
        pooled.append(round(value, 5))
        classes.append(total['iou'])
    scenes = {
        scene: [round(figures_of(matrices[scene])['miou'], 5) for matrices in seeds]
        for scene in seeds[0]
    }
    line: Row = {'miou': pooled, 'scenes': scenes}
    for title, index in (('forest', FOREST), ('field', FIELD)):
        values = [iou[index] for iou in classes]
        if None not in values:
            line[title] = [round(value, 5) for value in values]
    return line


def _left_out(lines: dict[tuple[str, str, str], Row]) -> dict[str, str]:
    """The candidate that is best in the mean of the columns of all other sets."""
    chosen = {}
    names = unique(key[0] for key in lines)
    for name in names:
        others: dict[str, list[float]] = defaultdict(list)
        for (other, _, row), line in lines.items():
            if other != name and row.startswith(CANDIDATE):
                others[row].append(line['miou'][0])
        if others:
            chosen[name] = max(others, key=lambda row: float(np.mean(others[row])))
    return chosen


def columns(release: Release) -> list[Column]:
    """Sets and kinds of labels, in the order of the sets."""
    pairs = unique((row['set'], row['labels']) for row in release.rows)
    return sorted(pairs, key=lambda pair: list(SETS).index(pair[0]))


def values_of(
    release: Release, column: Column, row: str, figure: str = 'miou'
) -> list[float]:
    """A figure of each seed; empty if it was not measured."""
    for line in release.rows:
        if (line['set'], line['labels'], line['row']) == (*column, row):
            return list(line.get(figure, []))
    return []


def scenes_of(
    release: Release, row: str, labels: str | None = None
) -> dict[tuple[str, str, str], float]:
    """MIoU of a row on each scene and kind of labels, in the mean over seeds."""
    return {
        (line['set'], line['labels'], scene): float(np.mean(values))
        for line in release.rows
        if line['row'] == row and labels in (None, line['labels'])
        for scene, values in line['scenes'].items()
    }


def checks(release: Release) -> list[tuple[str, bool]]:
    """What the default has to do, and whether it does: sentence and verdict."""
    verdicts = []
    ours = scenes_of(release, 'default')
    for row, slack in (('coarse', 0.0), ('forest', SLACK), ('forest20', SLACK)):
        other = scenes_of(release, row)
        below = [
            f'{" ".join(key)} ({ours[key]:.3f} < {other[key]:.3f})'
            for key in ours
            if key in other and ours[key] < other[key] - slack
        ]
        if other:
            allowed = f' (but for {slack:g} of seeds)' if slack else ''
            text = f'on no scene is the default below “{ROWS[row]}”{allowed}'
            verdicts.append((f'{text}{_but(below)}', not below))
    gains = [
        float(np.mean(new) - np.mean(old))
        for column in columns(release)
        if (new := values_of(release, column, 'default'))
        and (old := values_of(release, column, 'version-0.1.0'))
    ]
    if gains:
        gain = float(np.mean(gains))
        text = f'mean over columns above the default of 0.1.0: {gain:+.3f}'
        verdicts.append(
            (f'{text} (asked for: {ABOVE_0_1_0:+.2f})', gain >= ABOVE_0_1_0)
        )
    for name, labels, least in WANTED:
        values = values_of(release, (name, labels), 'default')
        if values:
            mean = float(np.mean(values))
            text = f'the default, {_title((name, labels))}: {mean:.3f}'
            verdicts.append((f'{text} (asked for: {least:.2f})', mean >= least))
    return verdicts


def tests(release: Release) -> list[list[str]]:
    """The default against each rival, by a paired test over scenes."""
    kinds = [None, *unique(row['labels'] for row in release.rows)]
    lines = []
    for rival in RIVALS:
        for kind in kinds:
            ours, other = (scenes_of(release, r, kind) for r in ('default', rival))
            # a scene counts once, whatever the number of its kinds of labels
            places: dict[tuple[str, str], list[tuple[str, str, str]]] = defaultdict(
                list
            )
            for key in ours:
                if key in other:
                    places[key[0], key[2]].append(key)
            if len(places) < 2:
                continue
            first, second = (
                [float(np.mean([row[key] for key in keys])) for keys in places.values()]
                for row in (ours, other)
            )
            verdict, p = paired_test(first, second)
            gain = f'{np.mean(first) - np.mean(second):+.3f}'
            line = [
                ROWS[rival],
                kind or 'all',
                f'{len(places)}',
                gain,
                f'{p:.3f}',
                verdict,
            ]
            lines.append(line)
    return lines


def markdown(release: Release) -> str:
    """Table, checks, tests, and where the figures come from."""
    heads = columns(release)
    body = []
    for row, title in ROWS.items():
        cells = [mean_and_spread(values_of(release, c, row)) for c in heads]
        if any(cell != '–' for cell in cells):
            body.append([title, *cells])
    parts = [grid(['mIoU', *map(_title, heads)], body)]
    classes = [
        [f'{ROWS[row]}', *(mean_and_spread(v) for v in both)]
        for row in ROWS
        for both in [
            [
                values_of(release, ('chesapeake_wv', REAL), row, f)
                for f in ('forest', 'field')
            ]
        ]
        if any(both)
    ]
    if classes:
        parts.append(grid(['IoU on the six patches', 'forest', 'field'], classes))
    parts.append(
        '\n'.join(
            f'- {"yes" if good else "**no**"}: {t}' for t, good in checks(release)
        )
    )
    head = ['the default against', 'labels', 'scenes', 'gain', 'p', 'at 5 % it is']
    parts.append(grid(head, tests(release), left=2))
    chosen = {r['set']: r['chosen'] for r in release.rows if 'chosen' in r}
    if chosen:
        text = '; '.join(f'{name}: {value}' for name, value in chosen.items())
        parts.append(f'Chosen on the other sets: {text}.')
    steps = ' or '.join(unique(f'{r["steps"]}' for r in release.rows if 'steps' in r))
    minutes = sum(row['seconds'] for row in release.rows) / 60
    parts.append(
        f'Measured: {release.source()}; {minutes:.0f} minutes in all. Forests: '
        f'{rivals.TREES} trees, {rivals.FOREST_PIXELS} pixels. U-Net: {steps} steps of '
        f'{rivals.BATCH} crops of {rivals.CROP}² pixels.'
    )
    return '\n\n'.join(parts)


def _title(column: Column) -> str:
    name, labels = column
    return f'{name}{TITLES.get(labels, f" {labels}")}'


def _but(exceptions: list[str]) -> str:
    return f', but for {", ".join(exceptions)}' if exceptions else ''


TABLE = Table(
    'scenes',
    'accuracy on real scenes, beside forests and a U-Net',
    trials,
    release_rows,
    markdown,
    sets=tuple(SETS),
    rows=tuple(ROWS),
    seeds=(0, 1, 2),
    arguments={'steps': 500},
)
