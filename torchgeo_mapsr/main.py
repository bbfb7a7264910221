# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The command line."""

import argparse
import errno
import io
import itertools
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import yaml

from . import __version__
from .errors import InputError, InputWarning
from .offline import VARIABLE, forbid_network
from .process import frugal
from .verbs import VERBS

OFFLINE = '--offline'
LIGHTNING_VERBS = ('fit', 'validate', 'test', 'predict')

_EXAMPLES = """examples:
  torchgeo-mapsr demo
  torchgeo-mapsr map imagery.tif --labels nlcd.tif --legend nlcd --output landcover.tif
  torchgeo-mapsr map a.tif b.tif --labels la.tif lb.tif --legend nlcd --output maps/
  torchgeo-mapsr map c.tif --model fit.safetensors --output c_landcover.tif
  torchgeo-mapsr export landcover.tif --polygons landcover_polygons.gpkg
  torchgeo-mapsr evaluate maps/*.tif --truth truth/*.tif --truth-legend chesapeake-7
  torchgeo-mapsr sample landcover.tif --output points.gpkg
  torchgeo-mapsr area landcover.tif --points points.gpkg
  torchgeo-mapsr change map_2013.tif map_2019.tif --output change.tif
  torchgeo-mapsr report landcover.json
  torchgeo-mapsr statistics nlcd.tif --truth lc.tif --legend nlcd --output stats.yaml
  torchgeo-mapsr select maps/*.tif --minority 4 --output patches.gpkg
  torchgeo-mapsr fit --config docs/configs/pairs.yaml
  torchgeo-mapsr low2high tiles/ --output low2high/
"""

_KEPT = 'What is finished is kept: the same command again goes on from there.'
_NO_NAMES = 'embedded null byte', 'Symlink loop', "'utf-8' codec can't encode"
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def command() -> NoReturn:
    """The process of the command line: :func:`main`, and its exit code.

    What is done is done: for the tenths of a second in which libraries take themselves
    down, Ctrl-C would end it by its signal or with a traceback. And what a terminal or a
    pipe has no character for (of Windows, or of ``LANG=C``) is printed by its number.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        code = main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: Arguments; those of the process by default.

    Returns:
        The exit code: 0, 2 for what the user can put right, 130 after Ctrl-C.
    """
    frugal()
    warnings.showwarning = _show_warning
    argv = sys.argv[1:] if args is None else list(args)
    if OFFLINE in argv:
        forbid_network()
    resumes = ''
    try:
        if argv and argv[0] in LIGHTNING_VERBS:
            return _lightning([text for text in argv if text != OFFLINE])
        verb = next((text for text in argv if not text.startswith('-')), None)
        options = _parser(verb).parse_args(argv)
        vars(options).pop(
            'offline', None
        )  # acted on above, before anything is imported
        resumes = _KEPT if getattr(options, 'resumes', False) else ''
        return int(options.run(options))
    except InputError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        sys.stderr.write('\n')
        _fail(f'Stopped. {resumes}')
        return 130
    except OSError as error:
        where = f' ({error.filename})' if error.filename else ''
        full = error.errno in _DISK_FULL
        what = 'The disk is full' if full else error.strerror or str(error)
        return _fail(f'{what}{where}. {resumes}')
    except (ValueError, RuntimeError) as error:
        # What pathlib raises for names that no file can have, and, before Python 3.13,
        # for links in a circle; GDAL takes names in UTF-8 alone.
        if not str(error).startswith(_NO_NAMES):
            raise
        return _fail(f'A file cannot be named so: {error}')


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """One line for what a person gave; others' warnings as Python shows them."""
    if issubclass(category, InputWarning):
        text = f'Note: {" ".join(str(message).split())}\n'
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(text)


def _fail(message: str) -> int:
    """One line for the person, and the exit code."""
    sys.stderr.write(f'torchgeo-mapsr: {" ".join(message.split())}\n')
    return 2


def _lightning(args: list[str]) -> int:
    """Torchgeo's own verbs, with this package's classes known by their names."""
    for path in _values(args, '--config', '-c'):
        if reason := _unreadable(path):
            return _fail(f'{path}: {reason}')
    from torchgeo.main import main as torchgeo_main

    from . import datamodules, tasks  # noqa: F401
    from .models.networks.trained import read_checkpoint

    # Lightning warns that it is given arguments other than those of the process.
    message = "LightningCLI's args parameter"
    warnings.filterwarnings('ignore', message=message)
    try:
        with _arguments_as_given():
            torchgeo_main(args)
    except ValueError as error:
        # jsonargparse wraps what a constructor raises, once for each level of arguments
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        if cause is None:
            raise
        # A loader's process hands the whole traceback on as the message.
        return _fail(str(cause).rpartition('InputError: ')[2])
    except OSError as error:
        # A folder of data or a checkpoint is not there, or the disk is full.
        where = f' ({error.filename})' if error.filename else ''
        return _fail(f'{error.strerror or error}{where}')
    except Exception as error:
        # What a damaged checkpoint raises depends on where it is damaged.
        paths = [path for path in _values(args, '--ckpt_path') if os.path.isfile(path)]
        for path in paths:
            try:
                read_checkpoint(Path(path))
            except InputError as reason:
                return _fail(str(reason))
        if str(error).startswith('Error(s) in loading state_dict'):
            return _fail(
                f'{", ".join(paths)}: is of another task, or of one with other arguments '
                '(--model): its weights do not fit'
            )
        # What Trainer and Lightning refuse is said in one line, too.
        if type(error).__name__ == 'MisconfigurationException':
            return _fail(str(error))
        raise
    return 0


@contextmanager
def _arguments_as_given() -> Iterator[None]:
    """Let the command line and the YAML say what a task is, also with a checkpoint.

    Lightning 2.6 puts the arguments that a checkpoint keeps over them, without a word, and
    cannot read those of a checkpoint that was written from Python.
    """
    from lightning.pytorch.cli import LightningCLI

    name = '_parse_ckpt_path'
    before = vars(LightningCLI).get(name)
    if before is None:  # Lightning before 2.6
        yield
        return
    setattr(LightningCLI, name, lambda cli: None)
    try:
        yield
    finally:
        setattr(LightningCLI, name, before)


def _values(args: Sequence[str], *options: str) -> list[str]:
    """What is given to an option, under any of its names."""
    joined = [text.split('=', 1) for text in args if '=' in text]
    pairs = [*joined, *itertools.pairwise(args)]
    return [value for option, value in pairs if option in options]


def _unreadable(path: str) -> str:
    """Why a file is no configuration; empty if it may be one.

    jsonargparse would print all of its usage, or a traceback. It also takes a
    configuration itself in the place of a file.
    """
    if path.lstrip().startswith('{'):
        return ''
    try:
        with open(path, encoding='utf-8') as file:
            content = yaml.safe_load(file)
    except OSError as error:
        return f'cannot be read ({error.strerror})'
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        return f'is no YAML ({" ".join(str(error).split())[:200]})'
    if not isinstance(content, dict):
        return 'should hold "key: value" pairs, such as model: {class_path: …}'
    return ''


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'{self.prog}: {message} (see {self.prog} --help)\n')


def _parser(verb: str | None) -> argparse.ArgumentParser:
    """The parser of all verbs, which knows the options of one.

    Args:
        verb: The one that is asked for: no other is imported.
    """
    parser = _Parser(
        prog='torchgeo-mapsr',
        description='Land-cover maps at the resolution of imagery, from coarse labels.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=__version__)
    verbs = parser.add_subparsers(title='verbs', metavar='VERB', required=True)

    for name, text in VERBS.items():
        if name != verb:
            verbs.add_parser(name, help=text)
            continue
        module = import_module(f'.verbs.{name}', __package__)
        own = verbs.add_parser(
            name,
            help=text,
            description=module.DESCRIPTION,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # Otherwise --off would be taken for --offline, too late to have its effect.
            allow_abbrev=False,
        )
        module.add_options(own)
        own.set_defaults(run=module.run)
        # For any verb: it may be given an address, or the backbone of a hub.
        own.add_argument(
            OFFLINE,
            action='store_true',
            help=f'forbid all use of the network (also the variable {VARIABLE}=1)',
        )
    for name in LIGHTNING_VERBS:
        verbs.add_parser(
            name, help=f'Lightning: {name} a task from a YAML configuration'
        )
    return parser
