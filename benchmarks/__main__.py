# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""One command line for all tables: ``python -m benchmarks NAME``."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from . import (
    calibration,
    chesapeake,
    coverage,
    faults,
    frozen_noise,
    large,
    noisy,
    scenes,
    small,
    speed,
    training,
)
from .measure import clock
from .package import mapsr
from .regions import SHARED
from .store import RAW, RESULTS, Release
from .table import Table

TABLES: dict[str, Table] = {
    module.TABLE.name: module.TABLE
    for module in (
        scenes, small, training, speed, chesapeake, noisy, frozen_noise, calibration, coverage, faults,
        large,
    )
}  # fmt: skip

_ABOUT = """Measures the tables of benchmarks/README.md and of some pages of docs/.

What a run measures is kept after each row, in a folder that git ignores: the same command
again goes on from there, and several with different --rows can run side by side. Rows of
another commit do not count. With --release, the table goes into benchmarks/results and
into the pages once everything is measured."""
_WEIGHTS = SHARED / 'weights' / 'mobilenetv2_100_imagenet.safetensors'


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks',
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest='name', metavar='NAME', required=True)
    for name, table in TABLES.items():
        text = sys.modules[table.trials.__module__].__doc__
        verb = verbs.add_parser(
            name,
            help=table.about.replace('%', '%%'),
            description=(text or '').replace('%', '%%'),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_options(verb, table)
    pages = verbs.add_parser('tables', help='put the released tables into the pages')
    pages.add_argument(
        '--check', action='store_true', help='change nothing; 1 if stale'
    )
    return parser.parse_args(args)


def _add_options(parser: argparse.ArgumentParser, table: Table) -> None:
    add = parser.add_argument
    add('--data', type=Path, default=SHARED / 'data', help='sets of real scenes')
    add('--weights', type=Path, default=_WEIGHTS, help='of MobileNetV2')
    add('--raw', type=Path, default=RAW, help='keeps what was measured')
    add('--work', type=Path, help='for what is made on the way (default: RAW/work)')
    if table.sets:
        add('--sets', nargs='+', choices=table.sets, default=list(table.sets))
    if table.rows:
        rows = list(table.rows)
        add('--rows', nargs='+', choices=rows, default=rows, help='only these')
    add('--seeds', nargs='+', type=int, default=list(table.seeds))
    never = float('inf')
    add('--seconds', type=float, default=never, help='begin nothing after so long')
    add('--again', action='store_true', help='measure anew what was chosen')
    add('--any-commit', action='store_true', help='rows of other commits count')
    add('--release', action='store_true', help='then write the table and the pages')
    add('--mixed', action='store_true', help='release rows of several commits')
    add('--tiny', action='store_true', help='whether it runs, in seconds; no figures')
    text = (
        'cpu: CPU time of all threads, with OMP_NUM_THREADS=1, or waiting threads count'
    )
    add('--clock', choices=('wall', 'cpu'), default=clock(), help=text)
    for name, default in (table.arguments or {}).items():
        several = isinstance(default, tuple)
        kind = type(default[0] if several else default)
        add(f'--{name}', type=kind, default=default, nargs='+' if several else None)


def fill_pages(tables: Sequence[Table], results: Path = RESULTS) -> dict[Path, str]:
    """The pages with the released tables in them."""
    pages: dict[Path, str] = {}
    for table in tables:
        table.fill(pages, Release.load(table.name, results))
    return pages


def main(args: Sequence[str] | None = None) -> int:
    """Measure a table, or fill the pages.

    Returns:
        The exit code.
    """
    options = parse(args)
    console = Console(highlight=False, soft_wrap=True)
    if options.name == 'tables':
        pages = fill_pages(list(TABLES.values()))
        stale = [page for page, text in pages.items() if page.read_text() != text]
        for page in stale:
            console.print(f'{"stale" if options.check else "filled"}: {page}')
            if not options.check:
                page.write_text(pages[page])
        return int(options.check and bool(stale))
    table = TABLES[options.name]
    try:
        if options.tiny:
            with tempfile.TemporaryDirectory() as scratch:
                options.raw = options.work = Path(scratch)
                options.seeds = options.seeds[:1]
                table.measure(options, console)
                console.print(table.markdown(table.release(options.raw, True, True)))
            return 0
        options.work = options.work or options.raw / 'work'
        table.measure(options, console)
        if options.release:
            release = table.release(options.raw, options.any_commit, options.mixed)
            release.save(table.name)
            for page, text in fill_pages([table]).items():
                page.write_text(text)
    except mapsr.InputError as error:
        print(f'benchmarks: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
