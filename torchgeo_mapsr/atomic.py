# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A finished file gets a name that no other file has, in one step."""

import errno
import os
from pathlib import Path

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
