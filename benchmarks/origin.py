# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Where figures come from: machine, versions, commit."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from torchgeo_mapsr.versions import versions

ROOT = Path(__file__).parents[1]


def about() -> dict[str, Any]:
    """Date, machine and versions, as JSON types."""
    return {
        'date': datetime.now(UTC).date().isoformat(),
        'machine': f'{_processor()}, {torch.get_num_threads()} thread(s) of torch',
        'versions': versions(),
    }


@cache
def commit() -> str:
    """The commit that this runs at; marked if the package or this folder differs."""

    def git(*args: str) -> str:
        found = subprocess.run(
            ['git', '-C', str(ROOT), *args], capture_output=True, text=True, check=False
        )
        return found.stdout.strip()

    changed = git('status', '--porcelain', '--', 'torchgeo_mapsr', 'benchmarks/*.py')
    return (git('rev-parse', '--short', 'HEAD') or 'unknown') + '+' * bool(changed)


def _processor() -> str:
    """Name of the processor, where it can be found."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(':')[1].strip() for line in lines if 'model name' in line]
    return names[0] if names else platform.machine()
