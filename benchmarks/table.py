# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The scenes' table and its checks, from the results file alone.

``python -m benchmarks.table`` puts them into ``benchmarks/README.md``, and beside them
the table of speed, and the figures of ``docs/scaling.md``.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from . import continent, speed_table

HERE = Path(__file__).parent
RESULTS = HERE / 'results' / 'scenes.json'
README = HERE / 'README.md'
BEGIN, END = '<!-- table: python -m benchmarks.table -->', '<!-- end of table -->'

ROWS = {
    'coarse': 'coarse labels as they are (LR copy)',
    'probe': 'probe on region means',
    'cosine': 'prompts, cosine (published form)',
    'lda': 'prompts, LDA',
    'fusion': 'probe and LDA fused',
    'default': '**fusion + prior: the default**',
    'tokens': 'default + propagation, tokens',
    'superpixels': 'default + propagation, superpixels',
    'forest': 'random forest on the bands',
    'forest20': 'random forest, leaves of 20 pixels or more',
    'unet': 'torchgeo U-Net, ResNet-18, random init',
    'mobilenet': 'default on MobileNetV2 (ImageNet)',
    'mobilenet+rcf': 'default on MobileNetV2 + rcf',
    'bound': 'bound: probe given HR labels',
}
RIVALS = ('forest', 'forest20', 'unet')

# mIoU of one confusion matrix over the set, but here: per scene, then the mean.
MEAN_OF_SCENES = ('openearthmap',)

# Rows, the best of which counts, set, labels, and the mIoU that was asked for before any
# of this was written.
WANTED = (
    (('default',), 'openearthmap', 'clean', 0.68),
    (('default',), 'openearthmap', 'noisy', 0.55),
    (('default',), 'chesapeake_wv', 'clean', 0.43),
    (('mobilenet', 'mobilenet+rcf'), 'openearthmap', 'clean', 0.70),
)

Column = tuple[str, str]


def columns(results: dict[str, Any]) -> list[Column]:
    """Sets and kinds of labels, in the order of the results."""
    return list(dict.fromkeys(_column(key) for key in results['regions']))


def figure(results: dict[str, Any], column: Column, row: str) -> float | None:
    """The mIoU of a row on a set; None unless every region of it has that row."""
    parts = [r for k, r in results['regions'].items() if _column(k) == column]
    if not parts or any(row not in part for part in parts):
        return None
    if column[0] in MEAN_OF_SCENES:
        return float(np.mean([part[row]['miou'] for part in parts]))
    matrix = np.sum([part[row]['confusion'] for part in parts], axis=0)
    hit = np.diag(matrix)
    present = matrix.sum(1) > 0
    union = matrix.sum(0) + matrix.sum(1) - hit
    return float((hit[present] / union[present]).mean())


def checks(results: dict[str, Any]) -> list[tuple[str, bool]]:
    """What the default has to do, and whether it does: sentence and verdict."""
    found = []
    regions = {
        key: (rows['default']['miou'], rows['coarse']['miou'])
        for key, rows in results['regions'].items()
        if 'default' in rows and 'coarse' in rows
    }
    if regions:
        below = [key for key, (ours, coarse) in regions.items() if ours < coarse]
        text = 'no scene falls below its own coarse labels'
        found.append((f'{text}{_but(below)}', not below))
    for rival in RIVALS:
        pairs = [
            (column, figure(results, column, 'default'), figure(results, column, rival))
            for column in columns(results)
        ]
        known = [(c, a, b) for c, a, b in pairs if a is not None and b is not None]
        if known:
            lost = [f'{_title(c)} ({a:.3f} < {b:.3f})' for c, a, b in known if a < b]
            text = f'the default is at least as good as “{ROWS[rival]}” on every set'
            found.append((f'{text}{_but(lost)}', not lost))
    for rows, name, labels, least in WANTED:
        values = [figure(results, (name, labels), row) for row in rows]
        best = max((value for value in values if value is not None), default=None)
        if best is not None:
            titles = ' or '.join(ROWS[row].strip('*') for row in rows)
            text = f'{titles}, {_title((name, labels))}: {best:.3f}'
            found.append((f'{text} (asked for: {least:.2f})', best >= least))
    return found


def cells(results: dict[str, Any]) -> list[list[str]]:
    """The table: a header, then a line for each row that has a figure."""
    heads = columns(results)
    lines = [['mIoU', *map(_title, heads)]]
    for row, title in ROWS.items():
        values = [figure(results, column, row) for column in heads]
        if any(value is not None for value in values):
            texts = ['–' if value is None else f'{value:.3f}' for value in values]
            lines.append([title, *texts])
    return lines


def markdown(results: dict[str, Any]) -> str:
    """Table and checks, and where the figures come from."""
    head, *body = cells(results)
    lines = ['| ' + ' | '.join(head) + ' |', '|---' + '|--:' * (len(head) - 1) + '|']
    lines += ['| ' + ' | '.join(line) + ' |' for line in body]
    lines.append('')
    lines += [f'- {"yes" if good else "**no**"}: {t}' for t, good in checks(results)]
    about, settings = results['about'], results['settings']
    seconds = sum(
        row['seconds'] for rows in results['regions'].values() for row in rows.values()
    )
    commits = {
        row['commit'] for rows in results['regions'].values() for row in rows.values()
    }
    used = ', '.join(
        f'{name} {about["versions"][name]}' for name in ('python', 'torch', 'torchgeo')
    )
    unet, forest = settings['unet'], settings['forest']
    source = (
        f'Measured {about["date"]} on {about["machine"]} ({used}), commit '
        f'{", ".join(sorted(commits))}; {seconds / 60:.0f} minutes of wall time in all, '
        f'on cores that others used too. U-Net: {_steps(results)} steps of '
        f'{unet["batch"]} crops of {unet["crop"]}² pixels for each fit. Forests: '
        f'{forest["trees"]} trees, {forest["pixels"]} pixels. Bound: '
        f'{settings["bound"]["pixels"]} pixels with HR labels, scored on the same scenes.'
    )
    lines += ['', source]
    return '\n'.join(lines)


def show(results: dict[str, Any], console: Console) -> None:
    """Print table and checks."""
    head, *body = cells(results)
    table = Table(title='Agreement with high-resolution labels')
    for name in head:
        table.add_column(
            name,
            justify='left' if name == head[0] else 'right',
            no_wrap=name == head[0],
        )
    for line in body:
        table.add_row(line[0].replace('**', ''), *line[1:])
    console.print(table)
    for text, good in checks(results):
        console.print(f'{"yes" if good else "NO":>3}: {text}')


def fill(page: str, results: dict[str, Any]) -> str:
    """A page with what stands between its two marks made anew."""
    before, rest = page.split(BEGIN)
    return f'{before}{BEGIN}\n{markdown(results)}\n{END}{rest.split(END)[1]}'


def _steps(results: dict[str, Any]) -> str:
    """Steps of the U-Net's trainings; from least to most where they differ."""
    rows = [
        found['unet']['steps']
        for found in results['regions'].values()
        if 'unet' in found
    ]
    least, most = min(rows, default=0), max(rows, default=0)
    return str(most) if least == most else f'{least} to {most}'


def pages(speed: dict[str, Any]) -> dict[Path, str]:
    """Both pages with the figures of speed put in.

    Args:
        speed: Content of the results file of ``benchmarks.speed``.
    """
    table, figures = speed_table.markdown(speed), '\n'.join(continent.figures(speed))
    return {
        README: speed_table.fill(README.read_text(), table),
        continent.PAGE: speed_table.fill(
            continent.PAGE.read_text(), figures, continent.BEGIN, continent.END
        ),
    }


def _column(key: str) -> Column:
    name, _, labels = key.split('/')
    return name, labels


def _title(column: Column) -> str:
    name, labels = column
    return f'{name} (real NLCD)' if name == 'chesapeake_wv' else f'{name} {labels}'


def _but(exceptions: Sequence[str]) -> str:
    return f', but for {", ".join(exceptions)}' if exceptions else ''


def main(args: Sequence[str] | None = None) -> None:
    """Put the table into the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--results', type=Path, default=RESULTS)
    parser.add_argument('--page', type=Path, default=README)
    options = parser.parse_args(args)
    results = json.loads(options.results.read_text())
    options.page.write_text(fill(options.page.read_text(), results))
    if options.page == README and speed_table.RESULTS.exists():
        speed = json.loads(speed_table.RESULTS.read_text())
        for page, text in pages(speed).items():
            page.write_text(text)


if __name__ == '__main__':
    main()
