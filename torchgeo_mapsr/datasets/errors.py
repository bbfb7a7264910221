# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""torchgeo's exceptions, as one line that says what to do."""

from torchgeo import datasets

from ..errors import InputError


class DatasetNotFoundError(datasets.DatasetNotFoundError, InputError):
    """The files of a dataset are not where they were looked for.

    Both kinds of error at once: ``except torchgeo.datasets.DatasetNotFoundError`` takes
    it, and the command line prints its one line.

    Args:
        message: What is missing, and where to get it.
    """

    def __init__(self, message: str) -> None:
        # torchgeo's takes the dataset, and makes a message of its root or paths.
        FileNotFoundError.__init__(self, message)


class RGBBandsMissingError(InputError, datasets.RGBBandsMissingError):
    """Red, green and blue are not among the bands that were read.

    Args:
        message: Which are missing, and what to show in their place.
    """

    def __init__(self, message: str) -> None:
        ValueError.__init__(self, message)
