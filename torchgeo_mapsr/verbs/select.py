# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Select patches of predicted maps."""

import argparse

from ..mapping.selecting import add_select_arguments
from .console import Verbs, terminal


def add(verbs: Verbs) -> None:
    """Add the verb and its options.

    Args:
        verbs: Where it is added.
    """
    parser = verbs.add_parser(
        'select',
        help='select patches of predicted maps that have minority classes',
        description='Select unlabelled patches by the share of minority classes in '
        'their predicted maps, and write their footprints for the training.',
    )
    add_select_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code.

    Args:
        options: What was parsed.
    """
    from ..mapping.selecting import select

    given = {name: value for name, value in vars(options).items() if name != 'run'}
    chosen = select(**given)
    below = int(chosen['drawn'].sum())
    terminal().print(
        f'{len(chosen)} of {chosen.attrs["candidates"]} patches: '
        f'{len(chosen) - below} have {options.threshold:.2%} of minority classes or '
        f'more, {below} are drawn from those that have less. {options.output}'
    )
    return 0
