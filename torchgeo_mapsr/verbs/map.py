# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Make a land-cover map."""

import argparse

from ..mapping.config import add_arguments, job_of
from .console import Verbs, terminal


def add(verbs: Verbs) -> None:
    """Add the verb and its options.

    Args:
        verbs: Where it is added.
    """
    parser = verbs.add_parser(
        'map',
        help='make a land-cover map from imagery and coarse labels',
        description='Make a land-cover map at the resolution of imagery, with no labels '
        'but coarse ones. Interrupted, the same command goes on where it stopped.',
    )
    add_arguments(parser)
    parser.set_defaults(run=run, resumes=True)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code.

    Args:
        options: What was parsed.
    """
    job = job_of(options)
    from ..mapping.run import map_region

    map_region(job, terminal(job.quiet), job_file=options.config)
    return 0
