# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Reading the next chips while one is computed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar('T')
R = TypeVar('R')


def prefetch(
    function: Callable[[T], R], items: Iterable[T], depth: int = 2
) -> Iterator[R]:
    """Results of a function in the order of its items, computed ahead in one thread.

    One thread is enough to hide reading behind computing, and GDAL's handles belong to
    one thread.

    Args:
        function: What to do with an item; its exceptions are raised here.
        items: What to do it with; iterated in this thread.
        depth: How many results may wait.

    Yields:
        The results.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix='read') as thread:
        try:
            for item in items:
                waiting.append(thread.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
