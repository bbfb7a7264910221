# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Work on the workers of a Dask cluster."""

import logging
import os
import pickle
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import dask
import torch
from dask.system import CPU_COUNT
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker
from distributed.security import Security

from ..errors import InputError
from ..offline import check_online, is_this_machine
from ..versions import versions
from .executor import Executor, Group, Groups, Tick, Work

T = TypeVar('T')
R = TypeVar('R')

# Groups that wait at each worker: the next one is there when one is done.
_AHEAD = 3

# How often a group is tried again after an error, such as a file system's hiccup. That
# a worker dies is counted apart from that, by Dask (distributed.scheduler
# .allowed-failures).
_RETRIES = 2

# How long work waits for a worker: a cluster on this machine does not get new ones.
_ALONE = '60s'


class DaskCluster(Executor):
    """The workers of a Dask cluster, which see the same files under the same names.

    Groups of items are tasks. A task that fails is tried again, and so is one whose
    worker died, on another worker.

    Args:
        scheduler: Address of a scheduler; workers on this machine if None.
        workers: Number of workers on this machine; one a core by default, or one a GPU
            if that is the device. They take turns at several GPUs.
        device: Name of the device that workers use.
    """

    elsewhere = True

    def __init__(
        self, scheduler: str | None, workers: int | None = None, device: str = 'cpu'
    ) -> None:
        self._scheduler = scheduler
        gpus = 0 if device == 'cpu' else torch.cuda.device_count()
        self._workers = workers or gpus or CPU_COUNT
        # Workers of another cluster are given their GPUs there.
        self._take_turns = scheduler is None and gpus > 1

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            security: Security | None = None
            if self._scheduler is None:
                security = _keys()
                cluster = _local(self._workers, security)
                address = stack.enter_context(cluster).scheduler_address
            else:
                address = self._scheduler
                if not is_this_machine(urlsplit(address).hostname):
                    check_online(f'The Dask scheduler {address}')
            try:
                self._client = stack.enter_context(
                    Client(address, security=security, set_as_default=False)
                )
            except (OSError, ValueError) as error:
                raise InputError(
                    f'No Dask scheduler answers at {address}: {error}'
                ) from None
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def split(self, items: Group, most: int) -> Groups[Group]:
        """Groups of a few items, so that every worker gets several."""
        return Groups(items, min(max(len(items) // (4 * self._slots()), 1), most))

    def run(
        self, work: Work[T, R], groups: Iterable[T], tick: Tick
    ) -> Generator[R, None, None]:
        """Do work on the workers.

        Raises:
            InputError: If workers cannot do it, for reasons that the user can change.
            ConnectionError: If the scheduler is gone.
        """
        waiting: deque[Future[Any]] = deque()
        rest = iter(groups)
        sent, expected = pickle.dumps(work), versions()
        try:
            while True:
                room = _AHEAD * self._slots() - len(waiting)
                for _, group in zip(range(room), rest, strict=False):
                    future = self._client.submit(
                        _do,
                        sent,
                        pickle.dumps(group),
                        expected,
                        self._take_turns,
                        key=f'{type(work).__name__}-{uuid4().hex}',
                        retries=_RETRIES,
                    )
                    waiting.append(future)
                if not waiting:
                    return
                result = _result(waiting.popleft())
                work.watch.add(result.seconds)
                for _ in range(result.chips):
                    tick()
                yield from result.results
        finally:
            if waiting:
                self._client.cancel(list(waiting), force=True)

    def _slots(self) -> int:
        """Tasks that run at a time; one if the workers are still to come."""
        return max(sum(self._client.nthreads().values()), 1)


class _Done(NamedTuple):
    """What a task brings back."""

    results: list[Any]
    chips: int
    seconds: dict[str, float]


def _do(
    work: bytes, group: bytes, expected: Mapping[str, str], take_turns: bool
) -> _Done | InputError:
    """Work on a group of items, in a worker.

    Both come pickled: Dask's scheduler unpickles what it is sent, and is not to make
    the models that work brings along.

    Returns:
        What was done, or a mistake of the user's: to try again would not help.
    """
    local = versions()
    for name in ('torchgeo-mapsr', 'torch'):
        if local[name] != expected[name]:
            return InputError(
                f'A Dask worker has {name} {local[name]}, and this process '
                f'{expected[name]}; install the same.'
            )
    if take_turns:
        _take_gpu()
    chips = 0

    def tick() -> None:
        nonlocal chips
        chips += 1

    try:
        task: Work[Any, Any] = pickle.loads(work)
        results = list(task(pickle.loads(group), tick))
    except InputError as error:
        return error
    return _Done(results, chips, task.watch.take())


def _take_gpu() -> None:
    """Have the workers of this machine, which are numbered, take turns at its GPUs."""
    torch.cuda.set_device(int(get_worker().name) % torch.cuda.device_count())


def _result(future: Future[Any]) -> _Done:
    """What a task has brought back; what it raised is raised here."""
    try:
        result: _Done | InputError = future.result()
    except KilledWorker as error:
        raise InputError(
            f'Dask workers died again and again at the same tiles ({error.last_worker}); '
            'did their memory suffice? Give fewer --workers, or a smaller --tile-size.'
        ) from None
    except CancelledError:
        raise ConnectionError('The Dask scheduler is gone') from None
    except ModuleNotFoundError as error:
        raise InputError(f'A Dask worker cannot import a module: {error}') from None
    if isinstance(result, InputError):
        raise result
    return result


def _keys() -> Security:
    """A certificate for one cluster: who lacks its key is not talked to.

    A task is any code. Without this, every user of this machine could send one to the
    open port of the scheduler, or of a worker, and it would run as who started the
    command.

    Raises:
        InputError: The package that makes certificates is not installed.
    """
    try:
        return Security.temporary()
    except ImportError:
        raise InputError(
            'Workers on this machine need the package cryptography, which keeps other '
            "users out: pip install 'torchgeo-mapsr[dask]'"
        ) from None


def _local(workers: int, security: Security) -> LocalCluster:
    """A cluster on this machine, a context."""
    threads = str(max(CPU_COUNT // workers, 1))
    names = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')
    settings: dict[str, Any] = {
        f'distributed.nanny.pre-spawn-environ.{name}': os.environ.get(name, threads)
        for name in names
    }
    settings['distributed.scheduler.no-workers-timeout'] = _ALONE
    with dask.config.set(settings):
        return LocalCluster(
            n_workers=workers,
            security=security,
            host='127.0.0.1',
            threads_per_worker=1,
            # No limit: tasks keep nothing that Dask could move out of memory.
            memory_limit=0,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
