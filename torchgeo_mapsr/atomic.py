# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Whole files: written under a temporary name until they are, and known by a digest."""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from .geopackage import check_closed

#: What the temporary name of a file that is being written starts with; its own follows.
#: Hidden, so that what reads a folder meanwhile does not take it.
PART = re.compile(r'\A(\.part-[0-9a-f]{8}-)+')

#: What os.link raises where there are no hard links, and both it and os.replace for
#: another disk.
NO_LINKS = {
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.ENOSYS,
    errno.EMLINK,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
}


@contextmanager
def replacing(path: Path, overwrite: bool = True) -> Iterator[Path]:
    """A temporary name beside a file, which becomes the file's when the block succeeds.

    The bytes are on the disk before the name is: after a crash, what is called *path*
    is complete or is what it was before. Several processes may write *path* at a time,
    each under a temporary name of its own: the last one stays.

    Args:
        path: The file.
        overwrite: Whether a file that has the name by then is replaced.

    Yields:
        The name to write to; what is there after an error is removed.

    Raises:
        FileExistsError: The name is taken, and is not to be replaced.
        FileNotFoundError: There is no such folder.
        InputError: It is a GeoPackage that is open, see
            :func:`~torchgeo_mapsr.geopackage.check_closed`.
    """
    check_closed(path)
    if not path.parent.is_dir():  # named as it was given, without the temporary name
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    part = part_of(path)
    try:
        yield part
        sync(part)
        check_closed(path)
        if overwrite:
            os.replace(part, path)
        else:
            take_name(part, path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step; see :func:`replacing`.

    Args:
        path: The file.
        text: Its content.
    """
    with replacing(path) as part:
        part.write_text(text, encoding='utf-8')


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Args:
        path: The file.
    """
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def part_of(path: Path) -> Path:
    """A new temporary name beside a file: it keeps the suffix, which tells the format.

    Args:
        path: The file.
    """
    # a character takes up to 4 of the 255 bytes of a name
    name = path.name
    if len(os.fsencode(name)) > 240:
        name = path.stem[:50] + path.suffix[:8]
    return path.with_name(f'.part-{uuid4().hex[:8]}-{name}')


def sync(path: Path) -> None:
    """Put the bytes of a file on the disk.

    Args:
        path: The file.
    """
    # Windows refuses fsync for a file that is open for reading only.
    with path.open('r+b') as file:
        os.fsync(file.fileno())


def take_name(scratch: Path, path: Path) -> None:
    """Give a finished file a name, and replace nothing.

    A hard link does so in one step. Where there are none (some network disks and sticks,
    Python on some systems), an empty file keeps the name until the finished one takes its
    place.

    Args:
        scratch: The file, in the same file system; gone afterwards.
        path: Its name.

    Raises:
        FileExistsError: Another file has the name.
        OSError: The name cannot be given.
    """
    # Not on every system: os.link is missing there altogether.
    link = getattr(os, 'link', None)
    if link is not None:
        try:
            link(scratch, path)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in NO_LINKS or error.errno == errno.EXDEV:
                raise
        else:
            scratch.unlink()
            return
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    try:
        os.replace(scratch, path)
    except BaseException:
        path.unlink()
        raise
