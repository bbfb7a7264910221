# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Choose the chips of Low2High."""

import argparse
from pathlib import Path

from .console import check_json, json_option, seed_option, terminal, write_json

DESCRIPTION = (
    'Choose chips of the CVPR 2019 Chesapeake tiles that show several classes, and '
    'divide them into splits (Workman et al. 2023). It writes an index; pixels stay in '
    'the tiles. Interrupted, the same command goes on.'
)

EXAMPLES = """examples:
  torchgeo-mapsr low2high chesapeake/ --output low2high/
  torchgeo-mapsr low2high chesapeake/ --output low2high/ --size 256 --json chips.json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument('root', type=Path, metavar='ROOT', help='folder of the tiles')
    parser.add_argument(
        '--output',
        type=Path,
        required=True,
        metavar='DIR',
        help='where to put the index',
    )
    parser.add_argument(
        '--size',
        type=int,
        default=512,
        help='height and width of a chip, in pixels (default: %(default)s)',
    )
    parser.add_argument(
        '--layer',
        choices=('naip-new', 'naip-old'),
        default='naip-new',
        help='imagery (default: %(default)s)',
    )
    parser.add_argument(
        '--crosswalk',
        metavar='NAME|FILE',
        help='how NLCD becomes the four classes, where there are several ways',
    )
    seed_option(parser, 'of the splits; ')
    json_option(parser)
    parser.set_defaults(resumes=True)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from rich.progress import track

    from ..datasets.low2high_index import build_index

    check_json(options, [options.root, options.output])
    console = terminal()
    counts = build_index(
        options.root,
        options.output,
        options.size,
        options.layer,
        options.crosswalk,
        options.seed,
        lambda tiles: track(tiles, 'tiles', console=console),
    )
    listed = ', '.join(f'{name} {count}' for name, count in counts.items())
    console.print(f'{options.output}: {sum(counts.values())} chips ({listed})')
    write_json(options, {'chips': counts}, [options.root, options.output])
    return 0
