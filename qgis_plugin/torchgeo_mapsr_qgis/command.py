# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Runs the command in its own environment: progress, cancel, errors of one line.

Nothing of QGIS is imported here, so that it can be tested by any Python.
"""

import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache

#: Setting that names the command, and the variable that takes its place.
SETTING = 'TORCHGEO_MAPSR_COMMAND'

# Seconds that the command has to end by itself once it is told to stop.
_PATIENCE = 20


class CommandError(Exception):
    """The command could not do it; the text is the one line that it printed."""


class Canceled(Exception):
    """The command was stopped."""


def environment() -> dict[str, str]:
    """The process's environment without what belongs to QGIS's Python and GDAL.

    QGIS on Windows and macOS sets these for itself; another Python would load QGIS's
    modules and data instead of its own.
    """
    alien = ('PYTHONHOME', 'PYTHONPATH', 'GDAL_DATA', 'GDAL_DRIVER_PATH', 'PROJ_LIB')
    alien += ('PROJ_DATA', 'VIRTUAL_ENV')
    return {key: value for key, value in os.environ.items() if key not in alien}


def run(
    command: str,
    arguments: Sequence[str],
    progress: Callable[[str, float], None] = lambda stage, percent: None,
    log: Callable[[str], None] = lambda line: None,
    canceled: Callable[[], bool] = lambda: False,
) -> None:
    """Run the command to its end.

    Args:
        command: The command; may have arguments of its own (``python -m …``).
        arguments: What it is given.
        progress: Is told the stage and its percentage.
        log: Is told every other line.
        canceled: Whether to stop; asked twice a second.

    Raises:
        CommandError: If it fails.
        Canceled: If it was stopped. What the command has finished is kept.
    """
    parts = [command] if os.path.exists(command) else shlex.split(command)
    group = {'creationflags': 0x00000200} if sys.platform == 'win32' else {}
    try:
        process = subprocess.Popen(
            [*parts, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            encoding='utf-8',
            errors='replace',
            env=environment(),
            **group,
        )
    except OSError as error:
        raise CommandError(
            f'{command} cannot be run ({error.strerror}): name the command in Settings, '
            'Options, Processing, Providers, torchgeo-mapsr.'
        ) from None
    lines: queue.Queue = queue.Queue()
    readers = [
        threading.Thread(target=_pass_on, args=(stream, name, lines), daemon=True)
        for name, stream in (('out', process.stdout), ('err', process.stderr))
    ]
    for reader in readers:
        reader.start()
    last = ''
    stopped = False
    while any(reader.is_alive() for reader in readers) or not lines.empty():
        if canceled() and not stopped:
            stopped = True
            _stop(process)
        try:
            stream, line = lines.get(timeout=0.5)
        except queue.Empty:
            continue
        step = _step(line) if stream == 'err' else None
        if step is not None:
            progress(*step)
        elif line.strip():
            log(line)
            last = line if stream == 'err' else last
    code = process.wait()
    if stopped:
        raise Canceled('Stopped. The same parameters again go on from there.')
    if code != 0:
        message = last.partition(': ')[2] if last.startswith('torchgeo-mapsr') else last
        raise CommandError(message or f'{command} ended with exit code {code}.')


@lru_cache(maxsize=64)
def understands(command: str, verb: str, flag: str) -> bool:
    """Whether a verb of the command has an option: environments may have another version.

    Args:
        command: The command.
        verb: The verb.
        flag: The option.
    """
    parts = [command] if os.path.exists(command) else shlex.split(command)
    try:
        answer = subprocess.run(
            [*parts, verb, '--help'],
            capture_output=True,
            text=True,
            env=environment(),
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return flag in answer.stdout


def _pass_on(stream, name: str, lines: queue.Queue) -> None:
    """Hand the lines of a stream on."""
    with stream:
        for line in stream:
            lines.put((name, line.rstrip('\n')))


def _step(line: str):
    """Stage and percentage of a line of the progress stream; None for any other line."""
    if not line.startswith('{'):
        return None
    try:
        content = json.loads(line)
        done, total = float(content['done']), float(content['total'])
        return str(content['stage']), 100 * done / total if total else 0.0
    except (ValueError, KeyError, TypeError):
        return None


def _stop(process: subprocess.Popen) -> None:
    """Ask the command to stop as Ctrl-C does, and end it if it does not listen."""
    if sys.platform == 'win32':
        process.send_signal(signal.CTRL_BREAK_EVENT)
    else:
        process.send_signal(signal.SIGINT)
    timer = threading.Timer(_PATIENCE, process.kill)
    timer.daemon = True
    timer.start()
