# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a user can put right."""

import errno
import os


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message is one line that says what is wrong and what to do; the command line
    prints it and exits with code 2.
    """


class InputWarning(UserWarning):
    """Something that the user gave was understood by a guess, or is likely a mistake.

    The message is one line that names the file and says what to do if it is wrong.
    """


def incomplete(path: str | os.PathLike[str]) -> OSError:
    """The error of a file that a library has not written to its end.

    Args:
        path: The file.
    """
    reason = 'A file could not be written completely: the disk may be full'
    return OSError(errno.EIO, reason, os.fspath(path))
