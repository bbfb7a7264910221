# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Verbs of the command line, one a file: their options, and what they do.

What a verb needs is imported when it runs: torch takes seconds, and ``--help`` and a
mistyped option should not.
"""

from . import (
    area,
    change,
    demo,
    evaluate,
    export,
    low2high,
    map,
    postprocess,
    report,
    sample,
    select,
    statistics,
)

#: In the order of ``--help``.
VERBS = (
    map,
    export,
    demo,
    evaluate,
    sample,
    area,
    change,
    report,
    postprocess,
    statistics,
    low2high,
    select,
)

__all__ = ('VERBS',)
