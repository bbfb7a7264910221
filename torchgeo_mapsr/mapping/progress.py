# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Where the time of a run goes, and how far it is."""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any, Self, TextIO


class Stopwatch:
    """Seconds by stage, added up; stages of different threads may overlap.

    Sent to another process it starts there at nothing, and what it counts there comes
    back by :meth:`take` and :meth:`add`.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = Lock()
        self._start = time.perf_counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time of a block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[stage] += time.perf_counter() - start

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what another stopwatch has taken."""
        with self._lock:
            for stage, part in seconds.items():
                self._seconds[stage] += part

    def take(self) -> dict[str, float]:
        """Seconds by stage since the last time; they are forgotten here."""
        with self._lock:
            seconds = dict(self._seconds)
            self._seconds.clear()
        return seconds

    def __reduce__(self) -> tuple[type['Stopwatch'], tuple[()]]:
        return Stopwatch, ()

    def to_dict(self) -> dict[str, float]:
        """Seconds by stage, and in total since the start."""
        with self._lock:
            stages = {name: round(s, 3) for name, s in self._seconds.items()}
        return {**stages, 'total': round(time.perf_counter() - self._start, 3)}


# Seconds between two lines of a stage, at least.
_PAUSE = 0.2


class JsonProgress:
    """Writes ``{"stage": "Map", "done": 3, "total": 12}``, as rich's Progress draws bars.

    The first and the last step of a stage are always written; steps between are not
    written faster than somebody can read them. It may be used by several threads.

    Args:
        stream: Where lines go; standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._stages: list[tuple[str, int]] = []
        self._done: list[int] = []
        self._written: list[float] = []
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def add_task(self, description: str, total: float | None = None) -> int:
        """Begin a stage.

        Args:
            description: Its name.
            total: Its steps.

        Returns:
            Its number.
        """
        with self._lock:
            self._stages.append((description, round(total or 0)))
            self._done.append(0)
            self._written.append(-_PAUSE)
            self._write(len(self._stages) - 1)
            return len(self._stages) - 1

    def advance(self, task_id: Any, advance: float = 1) -> None:
        """Count steps of a stage.

        Args:
            task_id: Number of the stage.
            advance: Steps.
        """
        with self._lock:
            self._done[task_id] += round(advance)
            self._write(task_id)

    def _write(self, number: int) -> None:
        (stage, total), done = self._stages[number], self._done[number]
        now = time.monotonic()
        if 0 < done < total and now - self._written[number] < _PAUSE:
            return
        self._written[number] = now
        self._stream.write(
            json.dumps({'stage': stage, 'done': done, 'total': total}) + '\n'
        )
        self._stream.flush()
