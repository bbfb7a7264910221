# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Make a land-cover map."""

import argparse
from dataclasses import MISSING
from types import NoneType
from typing import Any, get_args, get_origin

from ..mapping.config import FLAGS, MapJob
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
    """Add the options: those of FLAGS, of which imagery is positional.

    Options that are not written leave nothing behind, so that what was written can
    replace what a file says.
    """
    parser.set_defaults(resumes=True)
    groups: dict[str, Any] = {}
    absent = argparse.SUPPRESS
    for flag in FLAGS:
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        group, text = groups[flag.group], flag.help.replace('%', '%%')
        default = flag.default
        if flag.hint in (bool, bool | None):
            if default:
                text = f'{text} (default: yes)'
            action = argparse.BooleanOptionalAction
            group.add_argument(flag.option, action=action, default=absent, help=text)
            continue
        kind, several = _kind(flag.hint)
        if default not in (None, (), MISSING):
            text = f'{text} (default: {default})'
        options: dict[str, Any] = {
            'type': kind,
            'nargs': '+' if several else None,
            'help': text,
            'metavar': flag.metavar,
            'choices': flag.choices,
            'default': absent,
        }
        if flag.name == 'imagery':
            group.add_argument(flag.name, **{**options, 'nargs': '*'})
            options['help'] = 'the same, as an option'
            group.add_argument('--imagery', dest='more_imagery', **options)
        else:
            group.add_argument(flag.option, **options)
    groups['input'].add_argument(
        '--config',
        metavar='FILE',
        help='YAML with these options, or the report of a run, whose settings are taken; '
        'options that are written replace those of the file',
    )


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    job = job_of(options)
    from ..mapping.run import map_region

    map_region(job, terminal(job.quiet), job_file=options.config)
    return 0


def job_of(options: argparse.Namespace) -> MapJob:
    """The job that parsed options describe.

    Args:
        options: What a parser with :func:`add_options` has parsed.

    Raises:
        InputError: If they contradict one another.
    """
    values = {
        flag.name: getattr(options, flag.name)
        for flag in FLAGS
        if hasattr(options, flag.name)
    }
    imagery = [*values.pop('imagery', ()), *getattr(options, 'more_imagery', ())]
    if imagery:
        values['imagery'] = imagery
    if values.get('score') == 'auto':
        values['score'] = None
    if options.config is None:
        return MapJob.from_flags(**values)
    return MapJob.from_file(options.config, **values)


def _kind(hint: Any) -> tuple[Any, bool]:
    """How an argument is converted, and whether there may be several."""
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    if kinds == [float]:
        return _number, False
    return _kind(kinds[0]) if kinds else (hint, False)


def _number(text: str) -> float | None:
    """A number, or None for auto."""
    try:
        return None if text == 'auto' else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number') from None
