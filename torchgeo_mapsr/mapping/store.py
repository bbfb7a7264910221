# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The folder of a run's unfinished work: what is in it is complete."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from ..errors import InputError
from ..models.model import is_intact
from .tile_files import TileFiles, replacing

FORMAT = 2
_NAMES = re.compile(
    r'(lock|manifest\.json|fit\.safetensors|(chip_)?\d+_\d+_\d+(_[0-9a-f]+)?\.npz'
    r'|out_.*)'
    r'(\.([0-9a-f]+\.)?part)?'
)


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of *content* as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


class WorkStore:
    """Finished tiles and the fit of one run, in a folder that outlives a crash.

    The folder belongs to one description of work (configuration, inputs' fingerprints,
    version): opened with the same description it is resumed, opened with another it is
    emptied. One process at a time may hold it.

    Args:
        folder: Where the work lies, beside the output.
        description: Everything that the results depend on, as JSON types.

    Raises:
        InputError: If another run holds the folder, or if it holds files that no run
            has put there.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.folder = folder
        self.description = {'format': FORMAT, **description}
        #: The finished tiles.
        self.tiles = TileFiles(folder.absolute(), digest(self.description))
        #: Why work that was found had to be started over; empty if it was not.
        self.notice = ''
        #: Whether earlier work is being continued.
        self.resumed = False
        #: Final names that this work has taken; it may replace them.
        self.published: list[str] = []
        #: Numbers of the images whose maps have their final names.
        self.finished: list[int] = []
        self._lock = FileLock(folder / 'lock', timeout=0)

    def __enter__(self) -> Self:
        self._acquire()
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # A run that ends before any work was kept leaves no folder behind.
        if self.folder.exists() and not self._work():
            self.discard()
        self._lock.release()

    def _work(self) -> bool:
        names = {entry.name for entry in self.folder.iterdir()}
        return bool(names - {'lock', 'manifest.json'}) or bool(self.published)

    def _acquire(self) -> None:
        """Take the lock; the system drops it when a process dies."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            names = [entry.name for entry in self.folder.iterdir()]
            strange = [name for name in names if not _NAMES.fullmatch(name)]
            if strange:
                raise InputError(
                    f'{self.folder} holds files that are not from an earlier run '
                    f'({strange[0]}); move the folder away or give another --output.'
                )
            try:
                self._lock.acquire()
            except Timeout:
                raise InputError(
                    f'Another run is writing this output (it holds {self.folder}); '
                    'wait for it or give another --output.'
                ) from None
            except FileNotFoundError:
                continue
            # A run that finished in between has taken the folder and lock file away.
            if Path(self._lock.lock_file).exists():
                return
            self._lock.release()

    def _open(self) -> None:
        """Resume the folder's work or start over."""
        path = self.folder / 'manifest.json'
        found: Any = None
        if path.exists():
            try:
                found = json.loads(path.read_text())
                reason = _difference(found['description'], self.description)
                self.resumed = found['digest'] == digest(self.description)
                self.published = list(found['published'])
                self.finished = list(found['finished'])
            except (ValueError, KeyError, TypeError, AttributeError):
                reason, self.resumed = 'its manifest is damaged', False
            if not self.resumed:
                self.notice = f'Starting over: {reason}.'
        if not self.resumed:
            self.published, self.finished = [], []
        for entry in list(self.folder.iterdir()):
            kept = (
                entry == self.fit or entry.suffix == '.json' or self.tiles.owns(entry)
            )
            if entry.name != 'lock' and not (kept and self.resumed):
                entry.unlink()
        self._write()

    def _write(self) -> None:
        content = {
            'digest': digest(self.description),
            'published': self.published,
            'finished': self.finished,
            'description': self.description,
        }
        with replacing(self.folder / 'manifest.json') as part:
            part.write_text(json.dumps(content, indent=1))

    @property
    def fit(self) -> Path:
        """Where the fit of this run is kept."""
        return self.folder / 'fit.safetensors'

    def has_fit(self) -> bool:
        """Whether an interrupted run has kept a fit, and its file as it was written."""
        if not self.fit.exists():
            return False
        if is_intact(self.fit):
            return True
        # The same fit is made again, from the same inputs.
        self.fit.unlink()
        return False

    def scratch(self, name: str) -> Path:
        """A name for a file that is being put together."""
        return self.folder / f'out_{name}'

    def publish(self, scratch: Path, path: Path) -> None:
        """Give a complete file its final name, in one step.

        Args:
            scratch: The file, in this folder.
            path: Its final name.
        """
        if str(path.absolute()) not in self.published:
            self.published.append(str(path.absolute()))
            self._write()
        with scratch.open('rb') as file:
            os.fsync(file.fileno())
        # safetensors makes files that only their owner can read
        shutil.copymode(self.folder / 'manifest.json', scratch)
        try:
            os.replace(scratch, path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with replacing(path) as part:
                shutil.copyfile(scratch, part)

    def finish(self, image: int) -> None:
        """Remember that the map of image number *image* is published."""
        self.finished.append(image)
        self._write()

    def discard(self) -> None:
        """Remove the folder: the work is done."""
        done = self.folder.with_name(f'{self.folder.name}.{os.getpid()}.done')
        # Renamed first: a run that starts now gets a new folder, not half of this one.
        self.folder.rename(done)
        shutil.rmtree(done)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say in words which parts of two descriptions differ."""
    parts = sorted(
        f'{key}.{name}' if name else key
        for key in old.keys() | new.keys()
        for name in _differing(old.get(key), new.get(key))
    )
    return 'changed since: ' + ', '.join(parts) if parts else 'nothing changed'


def _differing(old: Any, new: Any) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = old.keys() | new.keys()
        return [name for name in names if old.get(name) != new.get(name)]
    return [] if old == new else ['']
