# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Scripts in processes of their own, which need not import torch anew.

A server that has imported torch, lightning, torchgeo and this package is forked for
each: a new interpreter takes 6 to 9 seconds until they are there. No thread and no
autograd has run in it, so what it forks is as good as new.
"""

import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path

METHOD = 'spawn' if os.name == 'nt' else 'forkserver'
CONTEXT = multiprocessing.get_context(METHOD)
if METHOD == 'forkserver':
    CONTEXT.set_forkserver_preload(
        [
            'torchgeo.main',
            'torchgeo_mapsr.datamodules',
            'torchgeo_mapsr.mapping.arrays',
            'torchgeo_mapsr.mapping.run',
            'torchgeo_mapsr.tasks',
            'torchgeo_mapsr.tasks.map_writer',
        ]
    )


class Forked:
    """A script that runs, much as :class:`subprocess.Popen`.

    Its folder and its environment are those of now, not of the server.

    Args:
        script: Python; it is ``__main__``.
        args: What follows in ``sys.argv``, as text.
        cwd: Folder that it runs in; this process's by default.
    """

    def __init__(
        self, script: str, *args: object, cwd: Path | str | None = None
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name)
        (self.path / 'script.py').write_text(script)
        what = [str(self.path), [str(text) for text in args]]
        self.process = CONTEXT.Process(
            target=_execute, args=(*what, str(cwd or Path.cwd()), dict(os.environ))
        )
        self.process.start()
        assert self.process.pid is not None
        self.pid: int = self.process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.exitcode

    @property
    def stdout(self) -> str:
        """What it has printed."""
        return self._read('stdout')

    @property
    def stderr(self) -> str:
        """What it has printed on standard error."""
        return self._read('stderr')

    def _read(self, name: str) -> str:
        path = self.path / name
        return path.read_text() if path.exists() else ''

    def wait(self, timeout: float = 240) -> int:
        """Wait for its end; its exit code."""
        self.process.join(timeout)
        assert self.returncode is not None, f'still running: {self.stderr}'
        return self.returncode

    def kill(self, number: int = getattr(signal, 'SIGKILL', signal.SIGTERM)) -> None:
        """Send it a signal, if it still runs."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def run_forked(script: str, *args: object, cwd: Path | str | None = None) -> Forked:
    """Run a script and wait for its end.

    Args:
        script: Python; it is ``__main__``.
        args: What follows in ``sys.argv``, as text.
        cwd: Folder that it runs in; this process's by default.
    """
    done = Forked(script, *args, cwd=cwd)
    done.wait()
    return done


def _execute(folder: str, args: list[str], cwd: str, environment: dict) -> None:
    """What the forked process does."""
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        file = os.open(f'{folder}/{name}', os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [f'{folder}/script.py', *args]
    runpy.run_path(sys.argv[0], run_name='__main__')
