# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Time, calls and peak memory of a part of a process, and parts in their own process."""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from .package import Backbone

_STATUS = Path('/proc/self/status')
MEBIBYTE = 2**20
CLOCK = 'BENCHMARK_CLOCK'


class Peak:
    """Seconds, and the peak of resident memory, of a block.

    On Linux the kernel's high-water mark is set back first; elsewhere it is that of the
    whole process.
    """

    #: Resident memory before the block and its peak within, in bytes; time.
    before, peak, seconds = 0, 0, 0.0

    def __enter__(self) -> Self:
        if _STATUS.exists():
            Path('/proc/self/clear_refs').write_text('5')
        self.before = _resident('VmRSS')
        self._start = now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = now() - self._start
        self.peak = _resident('VmHWM')

    def to_dict(self) -> dict[str, float]:
        """Seconds and mebibytes."""
        return {
            'seconds': round(self.seconds, 4),
            'before_mib': round(self.before / MEBIBYTE, 1),
            'peak_mib': round(self.peak / MEBIBYTE, 1),
            'added_mib': round((self.peak - self.before) / MEBIBYTE, 1),
        }


def _resident(field: str) -> int:
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f'{field}:'):
                return int(line.split()[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == 'darwin' else used * 1024


class Forwards:
    """Counts and times the calls of backbones in a block.

    A backbone that is part of another is not counted by itself. Calls in several
    threads may overlap.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        #: When the first call began.
        self.first: float | None = None
        self._calls = threading.local()

    def __enter__(self) -> Self:
        self._hooks = (
            register_module_forward_pre_hook(self._before),
            register_module_forward_hook(self._after, always_call=True),
        )
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before(self, module: nn.Module, _: Any) -> None:
        if isinstance(module, Backbone):
            calls = self._calls
            calls.depth = getattr(calls, 'depth', 0) + 1
            if calls.depth == 1:
                calls.start = now()
                self.first = calls.start if self.first is None else self.first

    def _after(self, module: nn.Module, *_: Any) -> None:
        if isinstance(module, Backbone):
            self._calls.depth -= 1
            if not self._calls.depth:
                self.seconds.append(now() - self._calls.start)


def now() -> float:
    """The time, when all that a GPU was given to do is done.

    With ``cpu`` in the variable BENCHMARK_CLOCK it is the CPU time of all threads of
    this process, which others on the machine change little.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time() if clock() == 'cpu' else time.perf_counter()


def clock() -> str:
    """Which time counts: that on the wall, or that of the CPU."""
    return os.environ.get(CLOCK, 'wall')


def alone(function: str, *args: Any) -> dict[str, Any]:
    """Call a function of a module of this folder in a process of its own."""
    command = [sys.executable, '-m', 'benchmarks.measure', function, json.dumps(args)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f'{function} failed: {done.stderr}')
    return dict(json.loads(done.stdout.splitlines()[-1]))


def ratio(above: Tensor | float, below: Tensor | float) -> float:
    """A quotient with three digits."""
    return float(f'{float(above) / float(below):.3g}')


def call(function: str, *args: Any) -> dict[str, Any]:
    """What :func:`alone` does in its process."""
    module, _, name = function.partition('.')
    result = getattr(import_module(f'benchmarks.{module}'), name)(*args)
    return dict(json.loads(json.dumps(result)))


if __name__ == '__main__':
    print(json.dumps(call(sys.argv[1], *json.loads(sys.argv[2]))))
