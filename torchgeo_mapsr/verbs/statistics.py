# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Measure joint statistics."""

import argparse
from pathlib import Path

from ..errors import InputError
from . import VERBS
from .console import Verbs, check_json, json_option, terminal, write_json

_EXAMPLES = """examples:
  torchgeo-mapsr statistics nlcd.tif --truth lc.tif --legend nlcd \\
      --truth-legend chesapeake-7 --output here.yaml
  torchgeo-mapsr evaluate map.tif --labels nlcd.tif --labels-legend nlcd \\
      --statistics here.yaml
"""


def add(verbs: Verbs) -> None:
    """Add the verb and its options.

    Args:
        verbs: Where it is added.
    """
    parser = verbs.add_parser(
        'statistics',
        help=VERBS['statistics'],
        description='Mean and standard deviation of the shares of high-resolution '
        'classes in the cells of each coarse class, as MatchedStatistics wants '
        'them (its argument parser).',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'labels', nargs='+', metavar='LABELS', help='coarse labels; any grid and CRS'
    )
    parser.add_argument(
        '--truth',
        nargs='+',
        required=True,
        metavar='FILE',
        help='high-resolution labels of the same place; any grid and CRS',
    )
    parser.add_argument(
        '--legend', required=True, metavar='NAME|FILE', help='legend of the labels'
    )
    parser.add_argument(
        '--target',
        default='land-cover-4',
        metavar='NAME|FILE',
        help='legend of the high-resolution classes (default: %(default)s)',
    )
    parser.add_argument(
        '--truth-legend',
        metavar='NAME|FILE',
        help='legend of the truth (default: that of --target)',
    )
    parser.add_argument(
        '--crosswalk',
        metavar='NAME|FILE',
        help='how the truth’s classes become those, where there are several ways',
    )
    parser.add_argument(
        '--output', type=Path, required=True, metavar='FILE', help='YAML file to write'
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace a file that exists'
    )
    json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code.

    Args:
        options: What was parsed.
    """
    from ..datasets.legends.crosswalk import Crosswalk
    from ..datasets.legends.legend import Legend
    from ..datasets.legends.measured import measure_statistics
    from ..evaluation.report import statistics_table

    if options.output.exists() and not options.overwrite:
        raise InputError(
            f'{options.output} exists; give another --output, or --overwrite.'
        )
    inputs = [*options.labels, *options.truth, options.output]
    check_json(options, inputs)
    crosswalk = Crosswalk.load(
        options.truth_legend or options.target, options.target, options.crosswalk
    )
    statistics = measure_statistics(
        options.labels,
        options.truth,
        Legend.load(options.legend),
        crosswalk,
        options.output.stem,
    )
    statistics.save(options.output)
    terminal().print(statistics_table(statistics))
    write_json(options, statistics.to_dict(), inputs)
    return 0
