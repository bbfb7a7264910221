# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import threading
from collections.abc import Iterator

import pytest
import torch

from torchgeo_mapsr.mapping.progress import Stopwatch
from torchgeo_mapsr.process import prefetch


@pytest.mark.parametrize('count', [0, 1, 2, 7])
def test_results_are_in_order(count: int) -> None:
    assert list(prefetch(str, range(count))) == [str(i) for i in range(count)]


def test_one_thread_works_ahead_but_not_far() -> None:
    begun: list[int] = []
    threads = set()

    def work(item: int) -> int:
        begun.append(item)
        threads.add(threading.current_thread())
        return item

    results = prefetch(work, range(100), depth=2)
    assert next(results) == 0
    assert next(results) == 1
    results.close()
    assert len(begun) <= 2 + 2
    assert len(threads) == 1
    assert threads != {threading.current_thread()}


def test_errors_arrive_where_the_result_would() -> None:
    def work(item: int) -> float:
        return 1 / (3 - item)

    results = prefetch(work, range(9))
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_items_are_taken_when_they_are_needed() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(50):
            taken.append(item)
            yield item

    results = prefetch(str, items(), depth=3)
    next(results)
    results.close()
    assert len(taken) == 4


def test_stopwatch_adds_up_and_counts_failures() -> None:
    watch = Stopwatch()
    for _ in range(3):
        with watch('read'):
            pass
    with pytest.raises(OSError, match='full'), watch('write'):
        raise OSError('full')
    seconds = watch.to_dict()
    assert set(seconds) == {'read', 'write', 'total'}
    assert seconds['total'] >= seconds['read'] >= 0


def test_threads_compute_alone_and_in_order() -> None:
    before = torch.get_num_threads()
    at_once = threading.Barrier(3, timeout=30)

    def work(item: int) -> tuple[int, int]:
        at_once.wait()  # all three, or none
        return item, torch.get_num_threads()

    results = list(prefetch(work, range(9), depth=3, threads=3))
    assert results == [(item, 1) for item in range(9)]
    assert torch.get_num_threads() == before
