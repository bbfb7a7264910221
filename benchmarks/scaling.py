# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The lower 48 states on paper: what the measured figures come to.

Every number of ``docs/scaling.md`` between its marks is computed here, from the released
table of :mod:`benchmarks.speed`.
"""

from .package import Axis, default_overlap
from .store import ROOT, Release, Row
from .table import grid

PAGE = ROOT / 'docs' / 'scaling.md'

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


# Chips of ViT-S/14 in a pixel: those of a large raster, by area.
_LENGTH = 100_000
_AXIS = Axis(_LENGTH, CHIP, default_overlap(CHIP, HALO), HALO, STRIDE)
CHIPS = (len(_AXIS.starts) / _LENGTH) ** 2


def markdown(release: Release, area: float = AREA) -> str:
    """What stands in the page."""
    paper = {row['part']: row for row in release.rows if 'paper' in row}
    missing = [name for name in ('overhead', 'fit', 'flat') if name not in paper]
    if missing:
        text = f'{", ".join(missing)} of `python -m benchmarks speed` not measured yet'
        return f'Not known: {text}.'
    overhead, fit, flat = (paper[name]['paper'] for name in ('overhead', 'fit', 'flat'))
    where = release.origins[paper['overhead']['origin']]
    # CPU time is that of all threads already.
    cpu, threads = where['clock'] == 'cpu', overhead['threads']
    cores = 1 if cpu else threads
    pixels, forward = area * 1e6, overhead['forward_seconds']
    chips, regions, cells = pixels * CHIPS, area / REGION, pixels / CELL**2
    used = min(cells, regions * CELLS)
    shared = default_overlap(CHIP, HALO)
    fitted = min(round(CELLS / ((CHIP - shared) / CELL) ** 2), 64)
    sizes = f"""
pixels | {area:,} km² × 10⁶ | {_count(pixels)}
imagery, not compressed | {BANDS} bands of a byte | {_bytes(pixels * BANDS)}
chips of ViT-S/14 | {chips / area:.2f} a km² ({CHIP} pixels, overlap {shared}) | {_count(chips)}
tiles | {TILE}² pixels | {_count(pixels / TILE**2)}
decoding | every chip reads its pixels | {_bytes(chips * CHIP**2 * BANDS)}
LR cells | {CELL:.0f} m | {_count(cells)}
cells that fits look at | {regions:,.0f} fits of {REGION:,} km², at most {CELLS:,} each | {_count(used)} ({used / cells:.1%})
"""
    storage = '\n'.join(
        f'{name} | {n / 1e3:,.0f} kB a km² (made scene) | {_bytes(n * area)}'
        for name, n in flat['bytes'].items()
    )
    storage += f"""
tokens, if kept | {FEATURES} × 2 bytes a {STRIDE}² pixels | {_bytes(2 * pixels / STRIDE**2 * FEATURES)}
features of pixels, which are never made | {FEATURES} × 4 bytes a pixel | {_bytes(pixels * FEATURES * 4)}
"""
    solving, rcf = fit['solve_seconds'], overhead['rcf_seconds']
    more, most = overhead['overhead'], overhead['overhead_tokens']

    def hours(seconds: float) -> str:
        return f'{seconds * cores / 3600:,.0f}'

    work = f"""
backbone, ViT-S/14 | {forward:.2f} s a chip × {_count(chips)} | {hours(forward * chips)}
reading, matching, blending, writing | {more:.1%} of that | {hours(forward * chips * more)}
… with propagation on tokens | {most:.1%} of it | {hours(forward * chips * most)}
fits: looking | {regions:,.0f} × {fitted} chips × {forward:.2f} s | {hours(regions * fitted * forward)}
fits: solving | {regions:,.0f} × {solving:.1f} s ({fit['size']}) | {hours(regions * solving)}
instead: everything with `rcf` | {rcf:.2f} s a km² | {hours(rcf * area)}
"""
    month, serial = DAYS * 86400, flat['report_seconds']
    need = forward * (1 + more) * chips * cores / month
    blocks = [
        _grid(sizes),
        '**Storage**',
        _grid(storage),
        (
            f'**Core hours**, at {"CPU" if cpu else "wall"} time with {threads} thread(s) on '
            f'{where["machine"]}'
        ),
        _grid(work),
        (
            f'In {DAYS} days: {need:,.0f} cores, or GPUs that together map '
            f'{area / month:.1f} km² a second.'
        ),
        _gpu(paper.get('gpu'), area),
        (
            f'Reports (areas, agreement with labels): {serial:.2f} s a km² on the wall of the '
            f'machine above, in one process: {serial * area / 86400:,.0f} days for one mosaic.'
        ),
    ]
    if 'read' in paper:
        reading = (
            f'Reading: {paper["read"]["paper"]["km2_a_second"]:.3g} km² a second and '
            'process, imagery and labels on a local disk. A GPU that computes faster '
            'waits for it.'
        )
        blocks.insert(-1, reading)
    return '\n\n'.join(blocks)


def _grid(lines: str) -> str:
    head = ['', 'arithmetic', 'comes to']
    return grid(
        head, [line.split(' | ') for line in lines.strip().splitlines()], left=2
    )


def _gpu(part: Row | None, area: float) -> str:
    """GPU hours, where one was measured."""
    if part is None:
        return (
            'GPU hours: not known. `python -m benchmarks speed --rows gpu` measures km² a '
            'second for ViT-S and ViT-L, and this page divides by it.'
        )
    rates = [(row['what'], row['km2_a_second']) for row in part['paper']]
    return '\n'.join(
        f'- {what}: {rate:.3g} km² a second, {area / rate / 3600:,.0f} GPU hours'
        for what, rate in rates
    )


_UNITS = {1e12: ('trillion', 'TB'), 1e9: ('billion', 'GB'), 1e6: ('million', 'MB')}


def _count(number: float) -> str:
    for unit, (name, _) in _UNITS.items():
        if number >= unit:
            return f'{number / unit:.1f} {name}'
    return f'{number:,.0f}'


def _bytes(number: float) -> str:
    units = {1e15: 'PB', **{unit: name for unit, (_, name) in _UNITS.items()}}
    unit = next((unit for unit in units if number >= unit), 1e6)
    return f'{number / unit:.1f} {units[unit]}'
