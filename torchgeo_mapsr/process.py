# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Threads and memory of this process.

torch is imported where it is used: the command line is frugal before it is there.
"""

import ctypes
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TypeVar

S = TypeVar('S')
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
    import torch

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

    begin = None
    if each is not None:
        import torch

        begin = partial(torch.set_num_threads, each)
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


def pipeline(
    read: Callable[[S], T], work: Callable[[T], R], items: Iterable[S], threads: int
) -> Generator[R, None, None]:
    """Read items ahead, and work on several of them at once.

    Args:
        read: Reads an item, in a thread of its own.
        work: What to do with what was read.
        items: The items.
        threads: Items to work on at once, each in a thread of its own that has its
            share of torch's; one is worked on in this thread.

    Yields:
        The results in the order of the items.
    """
    if threads == 1:
        with closing(prefetch(read, items)) as reads:
            yield from map(work, reads)
        return
    import torch

    each = max(torch.get_num_threads() // threads, 1)
    with (
        torch_threads(1),
        closing(prefetch(read, items, each=1)) as reads,
        closing(prefetch(work, reads, threads, threads, each)) as results,
    ):
        yield from results


# M_ARENA_MAX of glibc's malloc.h.
_ARENAS = -8


def frugal() -> None:
    """Have this process hold little of it.

    GDAL's own cache is a share of all memory: it would grow with the raster. And the C
    library of Linux gives each thread an arena of its own, whose free memory no other
    thread uses.
    """
    os.environ.setdefault('GDAL_CACHEMAX', '16')
    # Other C libraries than glibc lack the function.
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_ARENAS, 1)


def give_back() -> None:
    """Give free memory between what is used back to the system.

    Chips come and go between what stays for a whole tile: without this, tens of
    megabytes of gaps stay as well.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
