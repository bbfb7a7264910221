# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Where verbs are added and what they print to."""

import argparse
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

    from ..evaluation.accuracy import Confusion

Verbs: TypeAlias = 'argparse._SubParsersAction[argparse.ArgumentParser]'


def terminal(quiet: bool = False) -> 'Console':
    """The terminal.

    Args:
        quiet: Print nothing.
    """
    from rich.console import Console

    return Console(quiet=quiet, highlight=False, soft_wrap=True)


def show_accuracy(out: 'Console', results: 'dict[str, Confusion]') -> None:
    """Print figures of merit, and what they leave out.

    Args:
        out: Where to.
        results: Confusions by their names.
    """
    from ..evaluation.report import accuracy_table

    out.print(accuracy_table(results))
    for name, result in results.items():
        if result.unmapped:
            out.print(f'{name}: no data at {result.unmapped} pixels of the truth')
        if result.unknown:
            codes = ', '.join(map(str, sorted(result.unknown)))
            out.print(f'{name}: codes of the truth not in its legend: {codes}')
