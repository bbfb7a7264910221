# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Doing the next things while one is used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar('T')
R = TypeVar('R')


def prefetch(
    function: Callable[[T], R], items: Iterable[T], depth: int = 2, threads: int = 1
) -> Iterator[R]:
    """Results of a function in the order of its items, computed ahead in threads.

    One thread is enough to hide reading behind computing, and GDAL's handles belong to
    one thread. Several are for computing many things at once: each gets its share of
    torch's threads.

    Args:
        function: What to do with an item; its exceptions are raised here.
        items: What to do it with; iterated in this thread.
        depth: How many results may wait.
        threads: Threads to do it in.

    Yields:
        The results.
    """
    own = max(torch.get_num_threads() // threads, 1)
    waiting: deque[Future[R]] = deque()

    def begin() -> None:
        if threads > 1:  # what is set here is the number of this thread alone
            torch.set_num_threads(own)

    with ThreadPoolExecutor(threads, 'ahead', begin) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
