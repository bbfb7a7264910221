# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Make a page to look at."""

import argparse
from pathlib import Path

from .console import (
    check_json,
    json_option,
    output_path,
    overwrite_option,
    terminal,
    working,
    write_json,
)

DESCRIPTION = (
    'Make one self-contained HTML file of one or more runs: swipe between imagery, '
    'coarse labels, map and confidence, areas and figures, and sliders that weigh the '
    'classes live. It needs no network and no other file.'
)

EXAMPLES = """examples:
  torchgeo-mapsr report landcover.json
  torchgeo-mapsr report maps/report.json --output maps.html
  torchgeo-mapsr report 2013.json 2019.json --output both.html --title 'Two years'
  torchgeo-mapsr report landcover.json --figures accuracy.json areas.json change.json

Figures are what evaluate, area and change write with --json. With `map --scores` the page
has a slider for each class: `postprocess --reweight` does to the map what a slider shows.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        'reports', nargs='+', type=Path, metavar='MAP.json', help='reports of runs'
    )
    parser.add_argument(
        '--output',
        type=Path,
        metavar='FILE',
        help='page to write (default: MAP.html beside the first report)',
    )
    overwrite_option(parser, 'a page that exists')
    parser.add_argument(
        '--figures',
        nargs='+',
        type=Path,
        default=[],
        metavar='FILE',
        help='JSON of evaluate, area and change',
    )
    parser.add_argument('--title', help='title of the page')
    parser.add_argument(
        '--size',
        type=int,
        default=900,
        metavar='PIXELS',
        help='longer side of the pictures; larger maps are thinned out '
        '(default: %(default)s)',
    )
    json_option(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from ..errors import InputError
    from ..evaluation.page import build_page

    if options.size < 64:
        raise InputError('--size is at least 64 pixels.')
    output = options.output or options.reports[0].with_suffix('.html')
    if output.suffix not in {'.html', '.htm'}:
        raise InputError(f'--output {output} is not a .html file.')
    console = terminal()
    inputs = [*options.reports, *options.figures]
    check_json(options, [*inputs, output])
    with (
        output_path(output, inputs, options.overwrite) as scratch,
        working(console, 'Making the page'),
    ):
        page = build_page(options.reports, options.figures, options.title, options.size)
        scratch.write_text(page, encoding='utf-8')
    size = output.stat().st_size
    console.print(f'Page: {output} ({size / 1e6:.1f} MB)')
    content = {
        'page': str(output),
        'bytes': size,
        'reports': [str(path) for path in options.reports],
        'figures': [str(path) for path in options.figures],
    }
    write_json(options, content, [*inputs, output])
    return 0
