# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Make a land-cover map."""

import argparse

from ..mapping.config import add_arguments, job_of
from .console import terminal

DESCRIPTION = (
    'Make a land-cover map at the resolution of imagery, with no labels but coarse '
    'ones. Interrupted, the same command goes on where it stopped.'
)

EXAMPLES = """examples:
  torchgeo-mapsr map imagery.tif --labels nlcd.tif --legend nlcd --output landcover.tif
  torchgeo-mapsr map a.tif b.tif --labels nlcd.tif --legend nlcd --output maps/
  torchgeo-mapsr map a.tif --labels nlcd.tif --legend nlcd --output landcover.tif \\
      --scores --html
  torchgeo-mapsr map a.tif --labels nlcd.tif --legend nlcd --output landcover.tif \\
      --reweight impervious=2 --min-area 500 --overwrite
  torchgeo-mapsr map a.tif --labels nlcd.tif --legend nlcd --output landcover.tif \\
      --save-model fit.safetensors
  torchgeo-mapsr map b.tif --model fit.safetensors --output b_landcover.tif

NAME.json beside the map is the report: settings, areas, agreement, and how the confidence
was calibrated. `--progress json` tells programs how far it is, on standard error.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_arguments(parser)
    parser.set_defaults(resumes=True)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    job = job_of(options)
    from ..mapping.run import map_region

    map_region(job, terminal(job.quiet), job_file=options.config)
    return 0
