# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Compare maps with HR labels."""

import argparse
import json
from pathlib import Path

from ..errors import InputError
from .console import Verbs, show_accuracy, terminal


def add(verbs: Verbs) -> None:
    """Add the verb and its options.

    Args:
        verbs: Where it is added.
    """
    parser = verbs.add_parser(
        'evaluate',
        help='compare maps with high-resolution labels',
        description='Accuracy, IoU of each class, mIoU and FWIoU from one confusion '
        'matrix pooled over all files. Where there is no data, nothing is compared.',
    )
    parser.add_argument('maps', nargs='+', metavar='MAP', help='class maps')
    parser.add_argument(
        '--truth',
        nargs='+',
        required=True,
        metavar='FILE',
        help='high-resolution labels: one a map, in the same order; any grid and CRS',
    )
    parser.add_argument(
        '--legend',
        default='land-cover-4',
        metavar='NAME|FILE',
        help='legend of the maps (default: %(default)s)',
    )
    parser.add_argument(
        '--truth-legend',
        metavar='NAME|FILE',
        help='legend of the truth (default: that of the maps)',
    )
    parser.add_argument(
        '--target',
        metavar='NAME|FILE',
        help='legend in which they are compared (default: that of the maps)',
    )
    parser.add_argument(
        '--crosswalk',
        metavar='NAME|FILE',
        help='how the truth’s classes become those, where there are several ways',
    )
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='write the figures to a file too'
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code.

    Args:
        options: What was parsed.
    """
    from ..datasets.legends.crosswalk import Crosswalk
    from ..evaluation.accuracy import compare

    if len(options.maps) != len(options.truth):
        raise InputError(
            f'There are {len(options.maps)} maps and {len(options.truth)} files of '
            'truth; give one file of truth for each map, in the same order.'
        )
    target = options.target or options.legend
    map_crosswalk = Crosswalk.load(options.legend, target)
    truth_crosswalk = Crosswalk.load(
        options.truth_legend or options.legend, target, options.crosswalk
    )
    parts = [
        compare(path, truth, map_crosswalk, truth_crosswalk)
        for path, truth in zip(options.maps, options.truth, strict=True)
    ]
    total = sum(parts[1:], parts[0])
    if options.json is not None:
        content = {'crosswalk': truth_crosswalk.name, **total.to_dict()}
        options.json.write_text(json.dumps(content, indent=1) + '\n')
    show_accuracy(terminal(), {'map': total})
    return 0
