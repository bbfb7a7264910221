# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Where the time of a run goes."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from time import perf_counter


class Stopwatch:
    """Seconds by stage, added up; stages of different threads may overlap.

    Sent to another process it starts there at nothing, and what it counts there comes
    back by :meth:`take` and :meth:`add`.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = Lock()
        self._start = perf_counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time of a block to a stage."""
        start = perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[stage] += perf_counter() - start

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
        return {**stages, 'total': round(perf_counter() - self._start, 3)}
