# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Doing the next things while one is used."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

T = TypeVar('T')
R = TypeVar('R')


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Have torch compute in so many threads for this one.

    The second and further threads of torch wait busily for more to do: where other
    threads compute, they take a core from these.

    What is set in a thread holds for it, and for those that use torch for the first
    time later on: around the whole life of threads that set something themselves, this
    leaves all as it was.

    Args:
        number: Threads, at least 1.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prefetch(
    function: Callable[[T], R],
    items: Iterable[T],
    depth: int = 2,
    threads: int = 1,
    each: int | None = None,
) -> Generator[R, None, None]:
    """Results of a function in the order of its items, computed ahead in threads.

    One thread is enough to hide reading behind computing, and GDAL's handles belong to
    one thread. Several are for computing many things at once.

    Args:
        function: What to do with an item; its exceptions are raised here.
        items: What to do it with; iterated in this thread.
        depth: How many results may wait.
        threads: Threads to do it in.
        each: Threads that torch has for each of them; see :func:`torch_threads`.

    Yields:
        The results.
    """
    waiting: deque[Future[R]] = deque()

    begin = None if each is None else partial(torch.set_num_threads, each)
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
