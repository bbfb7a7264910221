# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Measure joint statistics."""

import argparse
from pathlib import Path

from ..errors import InputError
from .console import (
    check_json,
    check_output,
    json_option,
    output_path,
    overwrite_option,
    terminal,
    write_json,
)

DESCRIPTION = (
    'Mean and standard deviation of the shares of high-resolution classes in the cells '
    'of each coarse class, as MatchedStatistics wants them (its argument statistics).'
)

EXAMPLES = """examples:
  torchgeo-mapsr statistics nlcd.tif --truth lc.tif --legend nlcd \\
      --truth-legend chesapeake-7 --output here.yaml
  torchgeo-mapsr evaluate map.tif --labels nlcd.tif --labels-legend nlcd \\
      --statistics here.yaml
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
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
    overwrite_option(parser, 'a file that exists')
    json_option(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from ..datasets.legends.crosswalk import Crosswalk
    from ..datasets.legends.legend import Legend
    from ..datasets.measured import measure_statistics
    from ..evaluation.report import statistics_table

    legends = options.legend, options.target, options.truth_legend, options.crosswalk
    inputs = [
        *options.labels,
        *options.truth,
        *(name for name in legends if name and Path(name).is_file()),
    ]
    check_output(options.output, inputs, options.overwrite)
    if options.output.suffix not in {'.yaml', '.yml'}:
        raise InputError(f'{options.output} is no YAML file; name it NAME.yaml.')
    check_json(options, [*inputs, options.output])
    with output_path(options.output, inputs, options.overwrite) as scratch:
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
        statistics.save(scratch)
    terminal().print(statistics_table(statistics))
    write_json(options, statistics.to_dict(), [*inputs, options.output])
    return 0
