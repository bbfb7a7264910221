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
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from . import rivals
from .package import CANDIDATES, COSINE, DEFAULT, VERSION_0_1_0
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
        self.path = self.work / 'fit.safetensors'
        self._fitted = False

    def default(self) -> Maps:
        """The map of the command with these settings."""
        settings = {'seed': self.seed, 'save_model': self.path, **self.settings}
        maps = self.region.map(self.work, **settings)
        self._fitted = True
        return maps

    def map(self, **settings: Any) -> Maps:
        """Another map from the same fit."""
        if not self._fitted:
            self.default()
        return self.region.map(self.work, seed=self.seed, model=self.path, **settings)


def rows_of(
    region: Region, seed: int, options: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], Maps]]]:
    """Names of what is measured on a region, and functions that make the maps."""
    backbone = TINY if options.tiny else 'rcf'

    def fit_of(row: str, backbone: str = backbone, **settings: Any) -> Fit:
        work = options.work / 'fits' / row
        return Fit(region, work, seed, backbone=backbone, **settings)

    fit = fit_of('default', **DEFAULT)
    yield 'coarse', lambda: region.coarse
    # first, so that the other rows find its fit
    yield 'default', fit.default
    for score in ('probe', 'lda', 'fusion'):
        yield score, partial(fit.map, score=score, prior=0.0)
    for row, settings in (('cosine', COSINE), ('version-0.1.0', VERSION_0_1_0)):
        yield row, fit_of(row, **settings).default
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
            yield row, fit_of(row, name, **DEFAULT).default
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
    settings['noise'] = 'none'  # HR labels are right
    return labelled.map(options.work / 'bound', **settings)


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """A row on a region with a seed each."""
    data = tiny_data(options.work / 'tiny') if options.tiny else options.data
    regions = list(find_regions(data, options.sets))
    if options.tiny:  # one of each set
        regions = [r for r in regions if r.labels in ('nlcd', REAL)]
    for seed, region in product(options.seeds, regions):
        for row, make in rows_of(region, seed, options):
            name = 'left-out' if row.startswith(CANDIDATE) else row
            if name in options.rows and (
                row not in SEEDLESS or seed == options.seeds[0]
            ):
                key = {'set': region.set, 'labels': region.labels, 'scene': region.name}
                key |= {'row': row, 'seed': seed}
                key |= {'steps': options.steps} if row == 'unet' else {}
                yield key, partial(_measure, region, make)


def _measure(region: Region, make: Callable[[], Maps]) -> Row:
    matrices = region.score(make())
    miou = round(figures_of(sum(matrices.values()))['miou'], 5)
    return {'miou': miou, 'confusion': {k: m.tolist() for k, m in matrices.items()}}


def release_rows(records: Iterable[Record]) -> Iterator[tuple[Row, Row]]:
    """A line for each row on a column: its mIoU of each seed, and those of the scenes."""
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        key = record.key
        groups[key['set'], key['labels'], key['row']].append(record)
    lines = {place: _line(*place, group) for place, group in groups.items()}
    for name, row in _left_out(lines).items():
        for place in [key for key in lines if key[0] == name and key[2] == row]:
            chosen = {'row': 'left-out', 'chosen': row.removeprefix(CANDIDATE)}
            left = (*place[:2], 'left-out')
            lines[left], groups[left] = lines[place] | chosen, groups[place]
    for place, line in lines.items():
        if not place[2].startswith(CANDIDATE):
            yield line, groups[place][-1].origin


def _line(name: str, labels: str, row: str, group: list[Record]) -> Row:
    """Figures of a row on a column, of each seed."""
    seeds: dict[int, dict[str, Any]] = defaultdict(dict)
    for record in group:
        seeds[record.key['seed']].update(record.figures['confusion'])
    each = [{k: figures_of(m)['miou'] for k, m in s.items()} for s in seeds.values()]
    totals = [figures_of(np.sum(list(s.values()), 0)) for s in seeds.values()]
    miou = [total['miou'] for total in totals]
    if name in MEAN_OF_SCENES:
        miou = [float(np.mean(list(scenes.values()))) for scenes in each]
    line: Row = {'set': name, 'labels': labels, 'row': row, 'miou': _rounded(miou)}
    line['scenes'] = {scene: _rounded([s[scene] for s in each]) for scene in each[0]}
    for title, index in (('forest', FOREST), ('field', FIELD)):
        values = [total['iou'][index] for total in totals]
        line |= {} if None in values else {title: _rounded(values)}
    line['seconds'] = round(sum(record.figures['seconds'] for record in group), 1)
    steps = [record.key['steps'] for record in group if 'steps' in record.key]
    return line | ({'steps': steps[-1]} if steps else {})


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(value, 5) for value in values]


def _left_out(lines: dict[tuple[str, str, str], Row]) -> dict[str, str]:
    """The candidate that is best in the mean of the columns of all other sets."""
    chosen = {}
    for name in unique(key[0] for key in lines):
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


def scenes_of(release: Release, row: str) -> pandas.Series:
    """MIoU of a row by set, labels and scene, in the mean over seeds."""
    return pandas.Series(
        {
            (line['set'], line['labels'], scene): float(np.mean(values))
            for line in release.rows
            if line['row'] == row
            for scene, values in line['scenes'].items()
        },
        dtype=float,
    )


def _beside(release: Release, row: str) -> pandas.DataFrame:
    """MIoU of the default and of another row, on the scenes that both have."""
    parts = {'ours': scenes_of(release, 'default'), 'other': scenes_of(release, row)}
    if any(part.empty for part in parts.values()):
        return pandas.DataFrame(columns=list(parts), dtype=float)
    return pandas.DataFrame(parts).dropna()


def checks(release: Release) -> list[tuple[str, bool]]:
    """What the default has to do, and whether it does: sentence and verdict."""
    verdicts = []
    for row, slack in (('coarse', 0.0), ('forest', SLACK), ('forest20', SLACK)):
        both = _beside(release, row)
        if both.empty:
            continue
        lower = both[both.ours < both.other - slack]
        below = ', '.join(
            f'{" ".join(place)} ({ours:.3f} < {other:.3f})'
            for place, ours, other in lower.itertuples()
        )
        allowed = f' (but for {slack:g} of seeds)' if slack else ''
        text = f'on no scene is the default below “{ROWS[row]}”{allowed}'
        verdicts.append((f'{text}, but for {below}' if below else text, not below))
    new, old = (
        [values_of(release, column, row) for column in columns(release)]
        for row in ('default', 'version-0.1.0')
    )
    gains = [np.mean(a) - np.mean(b) for a, b in zip(new, old, strict=True) if a and b]
    wanted = [((name, labels), least) for name, labels, least in WANTED]
    if gains:
        text = f'mean over columns above the default of 0.1.0: {np.mean(gains):+.3f}'
        good = float(np.mean(gains)) >= ABOVE_0_1_0
        verdicts.append((f'{text} (asked for: {ABOVE_0_1_0:+.2f})', good))
    for column, least in wanted:
        if values := values_of(release, column, 'default'):
            text = f'the default, {_title(column)}: {np.mean(values):.3f}'
            good = float(np.mean(values)) >= least
            verdicts.append((f'{text} (asked for: {least:.2f})', good))
    return verdicts


def tests(release: Release) -> list[list[str]]:
    """The default against each rival, by a paired test over scenes."""
    kinds = [None, *unique(row['labels'] for row in release.rows)]
    lines = []
    for rival, kind in product(RIVALS, kinds):
        both = _beside(release, rival)
        if kind and len(both):
            both = both[both.index.get_level_values(1) == kind]
        # a scene counts once, whatever the number of its kinds of labels
        both = both.groupby(level=[0, 2]).mean() if len(both) else both
        if len(both) > 1:
            verdict, p = paired_test(both.ours, both.other)
            gain = f'{both.ours.mean() - both.other.mean():+.3f}'
            text = [ROWS[rival], kind or 'all', f'{len(both)}', gain, f'{p:.3f}']
            lines.append([*text, verdict])
    return lines


def markdown(release: Release) -> str:
    """Table, checks, tests, and where the figures come from."""
    heads = columns(release)
    rows = {
        title: [mean_and_spread(values_of(release, c, row)) for c in heads]
        for row, title in ROWS.items()
    }
    real, figures = ('chesapeake_wv', REAL), ('forest', 'field')
    classes = {
        title: [mean_and_spread(values_of(release, real, row, f)) for f in figures]
        for row, title in ROWS.items()
    }
    parts = []
    for head, body in (
        (['mIoU', *map(_title, heads)], rows),
        (['IoU on the six patches', *figures], classes),
    ):
        measured = [[k, *v] for k, v in body.items() if any(cell != '–' for cell in v)]
        parts += [grid(head, measured)] if measured else []
    verdicts = checks(release)
    parts.append(
        '\n'.join(f'- {"yes" if good else "**no**"}: {t}' for t, good in verdicts)
    )
    head = ['the default against', 'labels', 'scenes', 'gain', 'p', 'at 5 % it is']
    parts.append(grid(head, tests(release), left=2))
    chosen = {r['set']: r['chosen'] for r in release.rows if 'chosen' in r}
    if chosen:
        text = '; '.join(f'{name}: {value}' for name, value in chosen.items())
        parts.append(f'Chosen on the other sets: {text}.')
    steps = ' or '.join(unique(f'{r["steps"]}' for r in release.rows if 'steps' in r))
    minutes = sum(row['seconds'] for row in release.rows) / 60
    network = f' U-Net: {steps} steps of {rivals.BATCH} crops of {rivals.CROP}² pixels.'
    parts.append(
        f'Measured: {release.source()}; {minutes:.0f} minutes in all. Forests: '
        f'{rivals.TREES} trees, {rivals.FOREST_PIXELS} pixels.{network if steps else ""}'
    )
    return '\n\n'.join(parts)


def _title(column: Column) -> str:
    name, labels = column
    return f'{name}{TITLES.get(labels, f" {labels}")}'


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
