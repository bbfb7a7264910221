# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Select patches of predicted maps that have minority classes."""

import argparse
from pathlib import Path

from .console import (
    check_json,
    finite,
    json_option,
    legend_option,
    seed_option,
    terminal,
    write_json,
)

DESCRIPTION = (
    'Select unlabelled patches by the share of minority classes in their predicted '
    'maps, and write their footprints for the training. The confidence and scores that '
    'lie beside a map are left out.'
)

EXAMPLES = """examples:
  torchgeo-mapsr select maps/*.tif --minority 4 --output patches.gpkg
  torchgeo-mapsr select maps/*.tif --labels source/*.tif --output patches.gpkg
  torchgeo-mapsr select maps/*.tif --minority 14 16 24 --output patches.gpkg \\
      --patch-size 512 --threshold 0.02 --fraction equal --json patches.json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        'maps', nargs='+', metavar='MAP', help='class maps of unlabelled imagery'
    )
    rare = parser.add_mutually_exclusive_group(required=True)
    rare.add_argument(
        '--minority',
        nargs='+',
        metavar='CLASS',
        help='minority classes, by name or code',
    )
    rare.add_argument(
        '--labels',
        nargs='+',
        metavar='FILE',
        help='labels of the source, in the classes of the maps: those below one percent '
        'of them are the minority',
    )
    legend_option(
        parser,
        'legend of the maps, for names of classes (default: what the maps say, or '
        'land-cover-4)',
    )
    parser.add_argument(
        '--output',
        type=Path,
        required=True,
        metavar='FILE',
        help='footprints of the selected patches, .gpkg or .parquet',
    )
    parser.add_argument(
        '--patch-size',
        type=int,
        default=256,
        metavar='PIXELS',
        help='height and width of a patch, in pixels of the maps (default: %(default)s)',
    )
    parser.add_argument(
        '--threshold',
        type=float,
        default=0.01,
        metavar='SHARE',
        help='share of minority classes from which on every patch is selected '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--fraction',
        type=_fraction,
        default=0.5,
        metavar='SHARE',
        help='of the patches below it that have a minority class, how many are drawn; '
        'equal: as many as reach it (default: %(default)s)',
    )
    seed_option(parser)
    json_option(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from ..evaluation.selection import select_footprints

    inputs = [*options.maps, options.output]
    check_json(options, inputs)
    others = {'run', 'json'}
    settings = {
        name: value for name, value in vars(options).items() if name not in others
    }
    chosen = select_footprints(**settings)
    below = int(chosen['drawn'].sum())
    terminal().print(
        f'{len(chosen)} of {chosen.attrs["candidates"]} patches: '
        f'{len(chosen) - below} have {options.threshold:.2%} of minority classes or '
        f'more, {below} are drawn from those that have less. {options.output}'
    )
    figures = {'patches': chosen.attrs['candidates'], 'selected': len(chosen)}
    write_json(options, {**figures, 'drawn': below}, inputs)
    return 0


def _fraction(text: str) -> float | None:
    """A number, or None for equal."""
    return None if text == 'equal' else finite(text)
