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
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from ..atomic import PART, file_digest, replacing, sync, take_name, write_text
from ..errors import InputError
from ..geopackage import check_closed
from ..models.model import LandCoverModel, is_intact
from .tile_files import TileFiles

FORMAT = 4
_NAMES = re.compile(
    r'(lock|manifest\.json|fit(_[0-9a-f]+)?\.safetensors'
    r'|\d+_\d+_\d+(_[0-9a-f]+)?\.tile|chip_\d+_\d+_\d+(_[0-9a-f]+)?\.safetensors'
    r'|out_.*)',
    re.DOTALL,
)

_SIDECAR = '.aux.xml'

# Times that a folder which others clean up is made anew, before it is taken for one that
# cannot be made.
_ATTEMPTS = 100


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of *content* as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


class WorkStore:
    """Finished tiles and the fit of one run, in a folder that outlives a crash.

    What is kept belongs to one description of work (configuration, inputs' fingerprints,
    version): opened with the same description it is resumed. Work of other descriptions
    may lie beside it in the folder and is left as it is: the description's digest is part
    of every name. One process at a time may hold the folder.

    :attr:`published` is known before the folder is entered, and nothing is touched until
    then.

    What was finished stands in a manifest beside the folder (``FOLDER.DIGEST.json``). It
    is the last file that goes: whatever a crash leaves, the same work goes on from there.

    Args:
        folder: Where the work lies, beside the output. It may be a symbolic link.
        description: Everything that the results depend on, as JSON types.
        overwrite: Whether a file that is there under a final name may be replaced though
            this work has not put it there. Otherwise :meth:`publish` refuses it, also one
            that has appeared since the run began.

    Raises:
        InputError: If another run holds the folder, or if it holds files that no run
            has put there.
    """

    def __init__(
        self, folder: Path, description: Mapping[str, Any], overwrite: bool = True
    ) -> None:
        self.folder = folder
        self.overwrite = overwrite
        self.description = {'format': FORMAT, **description}
        #: The finished tiles.
        self.tiles = TileFiles(folder.absolute(), digest(self.description))
        #: What a person should know of the work that was there; empty if nothing.
        self.notice = ''
        #: Whether earlier work is being continued.
        self.resumed = False
        #: Final names that this work has taken; it may replace them.
        self.published: list[str] = []
        #: Numbers of the images whose maps have their final names.
        self.finished: list[int] = []
        self._marks: dict[str, str] = {}
        self._of_image: dict[int, list[str]] = {}
        self._fit = ''
        self._manifest = folder.with_name(f'{folder.name}.{self.tiles.work}.json')
        self._lock = FileLock(folder / 'lock', timeout=0)
        # Known before the folder is touched: a run that is refused changes nothing.
        self._load_outputs(self._read())

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
        if self._lock.is_locked and not self._has_work():
            self.discard()
        self._lock.release()

    def _has_work(self) -> bool:
        return bool(self.published) or any(map(self._owns, self.folder.iterdir()))

    def _owns(self, path: Path) -> bool:
        """Whether a file of the folder belongs to this work."""
        work, name = self.tiles.work, PART.sub('', path.name)
        return (
            name == self.fit.name
            or name.startswith(f'out_{work}_')
            or (name.startswith('chip_') and f'_{work}.' in name)
            or name.endswith(f'_{work}.tile')
        )

    def _acquire(self) -> None:
        """Take the lock; the system drops it when a process dies."""
        for attempt in count():
            try:
                # also what a symbolic link points to and is not there
                os.makedirs(os.path.realpath(self.folder), exist_ok=True)
                names = [entry.name for entry in self.folder.iterdir()]
            except FileNotFoundError as error:
                if attempt < _ATTEMPTS:
                    continue  # another run has just cleaned up
                raise InputError(
                    f'{self.folder} cannot be made ({error.strerror}); give another '
                    '--output.'
                ) from None
            except (NotADirectoryError, FileExistsError):
                raise InputError(
                    f'{self.folder} is no folder; move it away or give another --output.'
                ) from None
            foreign = [
                name for name in names if not _NAMES.fullmatch(PART.sub('', name))
            ]
            if foreign:
                raise InputError(
                    f'{self.folder} holds files that are not from an earlier run '
                    f'({foreign[0]}); move the folder away or give another --output.'
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
        """Resume this work if there is any of it."""
        content = self._read()
        resumes = content is not None or any(map(self._owns, self.folder.iterdir()))
        if content is None and self._manifest.exists():
            self.notice = (
                f'{self._manifest.name} is damaged: finished tiles are kept, but outputs '
                'that are there are not known to be of this work.'
            )
        elif not resumes:
            self.notice = self._others()
        self.resumed = resumes
        self._load_outputs(content)
        for entry in list(self.folder.iterdir()):
            scratch = self._owns(entry) and not self.tiles.owns(entry)
            if PART.match(entry.name) or (scratch and entry != self.fit):
                entry.unlink(missing_ok=True)
        for entry in list(self._manifest.parent.iterdir()):
            if PART.match(entry.name) and entry.name.endswith(self._manifest.name):
                entry.unlink(missing_ok=True)
        self._write()

    def _load_outputs(self, content: Mapping[str, Any] | None) -> None:
        """Take over final names that still hold what this work has put there."""
        self.published, self.finished = [], []
        self._marks, self._of_image, self._fit = {}, {}, ''
        if content is None:
            return
        self._fit = content['fit']
        for name, mark in content['marks'].items():
            path = self._absolute(name)
            # One that is empty was reserved when the run was cut off.
            if not path.exists() or _mark(path) == mark or path.stat().st_size == 0:
                self.published.append(str(path))
                self._marks[name] = mark
        for image, names in content['images'].items():
            present = [
                name in self._marks and self._absolute(name).exists() for name in names
            ]
            # A map that was moved away is made again.
            if all(present):
                self.finished.append(int(image))
                self._of_image[int(image)] = names

    def _others(self) -> str:
        """Name the work of other descriptions that lies here."""
        start = f'{self.folder.name}.'
        for path in sorted(self.folder.parent.iterdir()):
            middle = path.name[len(start) : -len('.json')]
            if not path.name.startswith(start) or path.suffix != '.json':
                continue
            if path == self._manifest or not re.fullmatch('[0-9a-f]{12}', middle):
                continue
            other = _load(path)
            if other is not None:
                return (
                    f'{self.folder} keeps unfinished work of another run as well '
                    f'({_difference(other["description"], self.description)}); the '
                    'command that it is from goes on with it.'
                )
        return ''

    def _read(self) -> dict[str, Any] | None:
        """The manifest; None if there is no whole one."""
        content = _load(self._manifest)
        if content is None or content['digest'] != digest(self.description):
            return None
        return content

    def _write(self) -> None:
        content = {
            'digest': digest(self.description),
            'fit': self._fit,
            'marks': self._marks,
            'images': {str(image): names for image, names in self._of_image.items()},
            'description': self.description,
        }
        content['checksum'] = digest(content)
        write_text(self._manifest, json.dumps(content, indent=1))

    @property
    def fit(self) -> Path:
        """Where the fit of this run is kept."""
        return self.folder / f'fit_{self.tiles.work}.safetensors'

    def keep_fit(self, model: LandCoverModel) -> None:
        """Keep a fit, with its checksum.

        Args:
            model: The fit.
        """
        content = model.to_bytes()
        # The digest is written first: a fit whose digest is not known counts as none.
        self._fit = hashlib.sha256(content).hexdigest()
        self._write()
        with replacing(self.fit) as part:
            part.write_bytes(content)

    def has_fit(self) -> bool:
        """Whether an interrupted run has kept a fit, and its file as it was written."""
        if not self.fit.exists():
            return False
        if file_digest(self.fit) == self._fit and is_intact(self.fit):
            return True
        # It is damaged: without it the same fit is made again from the same inputs.
        self.fit.unlink()
        return False

    def scratch(self, name: str) -> Path:
        """A name for a file that is being put together; it keeps the suffix.

        GDAL puts a side-car file beside a raster: its name goes with the raster's.
        """
        raster = name.removesuffix(_SIDECAR)
        short = hashlib.sha256(os.fsencode(raster)).hexdigest()[:12]
        suffix = Path(raster).suffix + name[len(raster) :]
        return self.folder / f'out_{self.tiles.work}_{short}{suffix}'

    def publish(self, scratch: Path, path: Path) -> None:
        """Give a complete file its final name, in one step.

        Args:
            scratch: The file, in this folder.
            path: Its final name.

        Raises:
            InputError: If another file has that name by now, and may not be replaced, or
                a program has it open.
        """
        check_closed(path)
        sync(scratch)
        # safetensors makes files that only their owner can read
        shutil.copymode(self._manifest, scratch)
        published = str(path.absolute()) in self.published
        if published and path.exists() and path.stat().st_size:
            published = _mark(path) == self._marks[self._relative(path)]
        before = dict(self._marks)
        self._marks[self._relative(path)] = _mark(scratch)
        self._write()
        try:
            _rename(scratch, path, replace=self.overwrite or published)
        except FileExistsError:
            self._marks = before
            self._write()
            raise InputError(
                f'{path} has appeared since the run began, and nothing is overwritten: '
                'move it away and run the same command again'
            ) from None
        if str(path.absolute()) not in self.published:
            self.published.append(str(path.absolute()))

    def finish(self, image: int) -> None:
        """Remember that the map of image number *image* is published."""
        before = {name for names in self._of_image.values() for name in names}
        self._of_image[image] = [name for name in self._marks if name not in before]
        if image not in self.finished:
            self.finished.append(image)
        self._write()

    def discard(self) -> None:
        """Remove this work: it is done. That of other descriptions stays.

        The manifest goes last: cut off before, the same work is found to be finished.
        """
        if self.folder.exists():
            for entry in sorted(self.folder.iterdir()):
                if self._owns(entry) and entry != self.fit:
                    entry.unlink(missing_ok=True)
            self.fit.unlink(missing_ok=True)
            if {entry.name for entry in self.folder.iterdir()} <= {'lock'}:
                self._remove_folder()
        self._manifest.unlink(missing_ok=True)
        self._lock.release()

    def _remove_folder(self) -> None:
        """Take the empty folder away, with its lock."""
        lock = Path(self._lock.lock_file)
        if os.name == 'nt':  # no file is removed there while it is open
            self._lock.release()
        with suppress(OSError):
            lock.unlink(missing_ok=True)
        # What a symbolic link points to is emptied and left: it was made by a person.
        with suppress(OSError):
            if not self.folder.is_symlink():
                self.folder.rmdir()

    def _relative(self, path: Path) -> str:
        """A final name as the manifest has it: a folder may be renamed as a whole."""
        home = self.folder.absolute().parent
        path = path.absolute()
        return str(path.relative_to(home) if path.is_relative_to(home) else path)

    def _absolute(self, name: str) -> Path:
        return self.folder.absolute().parent / name


def _load(path: Path) -> dict[str, Any] | None:
    """A manifest that is as it was written; None if there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
        checksum = content.pop('checksum')
        return content if checksum == digest(content) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _mark(path: Path) -> str:
    """What tells a file from another under its name, without reading all of it."""
    size = path.stat().st_size
    with path.open('rb') as file:
        head = file.read(1 << 16)
        file.seek(max(size - (1 << 16), 0))
        tail = file.read()
    return f'{size} {hashlib.sha256(head + tail).hexdigest()}'


def _rename(scratch: Path, path: Path, replace: bool) -> None:
    """Give a file its final name.

    Args:
        scratch: The file.
        path: The name.
        replace: Whether a file that has the name is replaced.

    Raises:
        FileExistsError: A file has the name and is not to be replaced.
    """
    try:
        if replace:
            os.replace(scratch, path)
        else:
            take_name(scratch, path)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    # On another disk: a complete copy beside the name first.
    with replacing(path, replace) as part:
        shutil.copyfile(scratch, part)
        shutil.copymode(scratch, part)
    scratch.unlink()


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say in words which parts of two descriptions differ."""
    parts = sorted(
        f'{key}.{name}' if name else key
        for key in old.keys() | new.keys()
        for name in _differing(old.get(key), new.get(key))
    )
    return 'it differs in ' + ', '.join(parts) if parts else 'nothing differs'


def _differing(old: Any, new: Any) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = old.keys() | new.keys()
        return [name for name in names if old.get(name) != new.get(name)]
    return [] if old == new else ['']
