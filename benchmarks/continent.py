# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The lower 48 states on paper: what the measured figures come to.

Every number of ``docs/scaling.md`` between its marks is computed here, from the results
of :mod:`benchmarks.speed`; ``python -m benchmarks.table`` puts them there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchgeo_mapsr.datasets.geo.plan import Axis, default_overlap

PAGE = Path(__file__).parents[1] / 'docs' / 'scaling.md'
BEGIN, END = '<!-- figures: python -m benchmarks.table -->', '<!-- end of figures -->'

# What is asked for: area in km² at a metre a pixel, bands of one byte, cells of NLCD.
AREA, BANDS, CELL = 8_000_000, 4, 30.0

# The job's defaults: sides of chips and tiles, cells that a fit looks at.
CHIP, TILE, CELLS = 448, 2048, 40_000

# Halo and largest stride of ViT-S/14, and its features.
HALO, STRIDE, FEATURES = 28, 14, 384

# Area that is fitted together: about a county.
REGION = 2_500

# To finish in: days.
DAYS = 30


@dataclass(frozen=True)
class Continent:
    """Sizes of the job, before anything is timed.

    Args:
        area: km².
    """

    area: float = AREA

    @property
    def pixels(self) -> float:
        """Pixels of a metre."""
        return self.area * 1e6

    @property
    def chips(self) -> float:
        """Chips of ViT-S/14: those of a large raster, by area."""
        length = 100_000
        axis = Axis(length, CHIP, default_overlap(CHIP, HALO), HALO, STRIDE)
        return self.pixels * (len(axis.starts) / length) ** 2

    @property
    def tiles(self) -> float:
        """Tiles that are written and resumed."""
        return self.pixels / TILE**2

    @property
    def cells(self) -> float:
        """LR cells."""
        return self.pixels / CELL**2

    @property
    def regions(self) -> float:
        """Fits."""
        return self.area / REGION


def figures(results: dict[str, Any], size: Continent | None = None) -> list[str]:
    """The lines of the page.

    Args:
        results: Content of the results file of :mod:`benchmarks.speed`.
        size: What is mapped.
    """
    size = size or Continent()
    missing = [name for name in ('overhead', 'fit', 'flat') if name not in results]
    if missing:
        return [
            (
                f'Not known: {", ".join(missing)} of `python -m benchmarks.speed` not '
                'measured yet.'
            )
        ]
    overhead, flat = results['overhead'], results['flat']
    vit = overhead['tokens']['none']
    forward = vit['forward_seconds'] / vit['chips']
    # CPU time is that of all threads already.
    threads = 1 if overhead['clock'] == 'cpu' else overhead['threads']
    rcf = overhead['rcf']
    rcf_second = rcf['pass_seconds'] / (overhead['size'] / 1e3) ** 2
    side, largest = max(((int(s), r) for s, r in flat['runs'].items()))
    measured = side**2 / 1e6
    serial = largest['timings']['report'] / measured
    written = {name: n / measured for name, n in largest['bytes'].items()}
    tokens = size.pixels / STRIDE**2 * FEATURES * 2
    fit = results['fit']
    used = min(size.cells, size.regions * CELLS)

    def hours(seconds: float) -> str:
        return f'{seconds * threads / 3600:,.0f}'

    def rows(*lines: tuple[str, str, str]) -> list[str]:
        head = ['| | arithmetic | comes to |', '|---|---|--:|']
        return head + ['| ' + ' | '.join(line) + ' |' for line in lines]

    matching = forward * vit['overhead']
    lines = rows(
        ('pixels', f'{size.area:,} km² × 10⁶', _count(size.pixels)),
        (
            'imagery, not compressed',
            f'{BANDS} bands of a byte',
            _bytes(size.pixels * BANDS),
        ),
        (
            'chips of ViT-S/14',
            (
                f'{size.chips / size.area:.2f} a km² ({CHIP} pixels, overlap '
                f'{default_overlap(CHIP, HALO)})'
            ),
            _count(size.chips),
        ),
        ('tiles', f'{TILE}² pixels', _count(size.tiles)),
        (
            'decoding',
            'every chip reads its pixels',
            _bytes(size.chips * CHIP**2 * BANDS),
        ),
        ('LR cells', f'{CELL:.0f} m', _count(size.cells)),
        (
            'cells that fits look at',
            f'{size.regions:,.0f} fits of {REGION:,} km², at most {CELLS:,} each',
            f'{_count(used)} ({used / size.cells:.1%})',
        ),
    )
    lines += ['', '**Storage**', '']
    lines += rows(
        *(
            (name, f'{n / 1e3:,.0f} kB a km² (made scene)', _bytes(n * size.area))
            for name, n in written.items()
        ),
        (
            'tokens, if they were kept',
            f'{FEATURES} × 2 bytes a {STRIDE}² pixels',
            _bytes(tokens),
        ),
        (
            'features of pixels, which are never made',
            f'{FEATURES} × 4 bytes a pixel',
            _bytes(size.pixels * FEATURES * 4),
        ),
    )
    lines += ['', f'**Core hours**, at {_clock(overhead)}', '']
    lines += rows(
        (
            'backbone, ViT-S/14',
            f'{forward:.2f} s a chip × {_count(size.chips)}',
            hours(forward * size.chips),
        ),
        (
            'reading, matching, blending, writing',
            f'{vit["overhead"]:.1%} of that',
            hours(matching * size.chips),
        ),
        (
            '… with propagation on tokens',
            f'{overhead["tokens"]["tokens"]["overhead"]:.1%} of it',
            hours(forward * overhead['tokens']['tokens']['overhead'] * size.chips),
        ),
        (
            'fits: looking',
            f'{size.regions:,.0f} × {_chips_of_a_fit()} chips × {forward:.2f} s',
            hours(size.regions * _chips_of_a_fit() * forward),
        ),
        (
            'fits: solving',
            (
                f'{size.regions:,.0f} × {fit["everything_seconds"]:.1f} s '
                f'({fit["cells"]:,} cells × {fit["dimensions"]})'
            ),
            hours(size.regions * fit['everything_seconds']),
        ),
        (
            'instead: everything with `rcf`',
            f'{rcf_second:.2f} s a km²',
            hours(rcf_second * size.area),
        ),
    )
    share = serial * size.area / 86400
    need = size.area / (DAYS * 86400)
    cores = forward * (1 + vit['overhead']) * size.chips * threads / (DAYS * 86400)
    lines += [
        '',
        (
            f'In {DAYS} days: {cores:,.0f} cores, or GPUs that together map {need:.1f} km² '
            f'a second.'
        ),
        '',
        *_gpu(results.get('gpu'), size),
        '',
        *_reading(results.get('read')),
        (
            f'Reports (areas, agreement with labels): {serial:.2f} s a km² on the wall of '
            f'the machine above, in one process: {share:,.0f} days for one mosaic.'
        ),
    ]
    return lines


def _chips_of_a_fit() -> int:
    """Chips that hold the cells of a fit, each with those that it owns."""
    own = (CHIP - default_overlap(CHIP, HALO)) / CELL
    return min(round(CELLS / own**2), 64)


def _gpu(part: dict[str, Any] | None, size: Continent) -> list[str]:
    """GPU hours, where one was measured."""
    if part is None or part['device'] == 'cpu':
        return [
            (
                'GPU hours: not known. No GPU was there; `python -m benchmarks.speed gpu` '
                'measures km² a second for ViT-S and ViT-L, and this page divides by it.'
            )
        ]
    return [
        f'- {part["device"]}, {row["backbone"]}, {row["precision"]}'
        f'{", compiled" if row["compiled"] else ""}: {row["km2_a_second"]:.3g} km² a '
        f'second, {size.area / row["km2_a_second"] / 3600:,.0f} GPU hours'
        for row in part['rows']
    ]


def _reading(part: dict[str, Any] | None) -> list[str]:
    """What a process reads, which a GPU's must."""
    if part is None:
        return []
    (row,) = (r for r in part['rows'] if r['processes'] == r['threads'] == 1)
    return [
        (
            f'Reading: {row["km2_a_second"]:.3g} km² a second and process, imagery and '
            'labels on a local disk. A GPU that computes faster waits for it.'
        ),
        '',
    ]


def _clock(part: dict[str, Any]) -> str:
    kind = 'CPU time' if part['clock'] == 'cpu' else 'wall time'
    return f'{kind} with {part["threads"]} thread(s) on {part["machine"]}'


def _count(number: float) -> str:
    for unit, name in ((1e12, 'trillion'), (1e9, 'billion'), (1e6, 'million')):
        if number >= unit:
            return f'{number / unit:.1f} {name}'
    return f'{number:,.0f}'


def _bytes(number: float) -> str:
    for unit, name in ((1e15, 'PB'), (1e12, 'TB'), (1e9, 'GB')):
        if number >= unit:
            return f'{number / unit:.1f} {name}'
    return f'{number / 1e6:.1f} MB'
