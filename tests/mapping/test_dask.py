# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Runs on Dask: real schedulers, real workers, real deaths."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import dask
import distributed
import psutil
import pytest

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.main import main
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.dask import DaskCluster, _take_gpu
from torchgeo_mapsr.mapping.progress import Stopwatch
from torchgeo_mapsr.mapping.run import map_region

from ..forked import METHOD, Forked, run_forked
from .conftest import arguments, changed


def contents(folder: Path) -> dict[str, bytes]:
    """What a job has written, but for what tells times and paths."""
    return {path.name: path.read_bytes() for path in folder.glob('cover*.tif')}


@pytest.fixture
def expected(mapped: Path) -> tuple[dict[str, bytes], bytes]:
    """Maps and fit of a run in one process."""
    maps = contents(mapped)
    del maps['cover_scores.tif']
    return maps, (mapped / 'fit.safetensors').read_bytes()


@contextmanager
def threads(workers: int) -> Iterator[str]:
    """A scheduler and workers in this process, which talk over sockets."""
    with distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        protocol='tcp',
        dashboard_address=None,
        memory_limit=0,
    ) as cluster:
        yield cluster.scheduler_address


@pytest.mark.parametrize('workers', [1, 2, 4])
def test_any_number_of_workers_gives_the_same_bytes(
    job: MapJob, expected: tuple[dict[str, bytes], bytes], tmp_path: Path, workers: int
) -> None:
    fit = tmp_path / 'fit.safetensors'
    with threads(workers) as address:
        result = map_region(
            changed(job, executor='dask', scheduler=address, save_model=fit)
        )
    assert contents(Path(job.output).parent) == expected[0]
    assert fit.read_bytes() == expected[1]
    timings = result.report['timings']
    assert {'read', 'backbone', 'probe', 'match', 'blend', 'write'} <= set(timings)
    assert not Path(f'{job.output}.parts').exists()


def test_other_users_cannot_use_the_workers() -> None:
    """A task is any code: who lacks the key of this cluster gets no answer."""
    with DaskCluster(None, workers=1) as cluster:
        client = cluster._client
        client.wait_for_workers(1)
        info = client.scheduler_info()
        worker = next(iter(info['workers'].values()))
        addresses = info['address'], next(iter(info['workers'])), worker['nanny']
        assert client.submit(os.getpid).result() != os.getpid()
        for address in addresses:
            assert address.startswith('tls://127.0.0.1:')
            plain = address.replace('tls://', 'tcp://')
            foreign = distributed.Security.temporary()
            for tried, security in ((plain, None), (address, foreign)):
                with pytest.raises(OSError, match=r'Timed out|TLS|SSL|onnect'):
                    distributed.Client(tried, security=security, timeout=2)


def test_workers_take_turns_at_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    monkeypatch.setattr('torch.cuda.set_device', taken.append)
    with (
        distributed.LocalCluster(
            n_workers=3, threads_per_worker=1, processes=False, dashboard_address=None
        ) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        for name in client.scheduler_info()['workers']:
            client.submit(_take_gpu, workers=[name], pure=False).result()
    assert sorted(taken) == [0, 0, 1]
    # Not those of a cluster that is there already, nor where there is no choice.
    assert DaskCluster(None, device='auto')._take_turns
    assert not DaskCluster(None, device='cpu')._take_turns
    assert not DaskCluster('tcp://localhost:8786', device='auto')._take_turns


@contextmanager
def processes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """A scheduler, and two workers as `dask worker` starts them, in another folder."""
    folder.mkdir()
    script = (
        'import runpy\n'
        "runpy.run_module('distributed.cli.dask_worker', run_name='__main__')"
    )
    options = ['--no-nanny', '--nthreads', '1', '--memory-limit', '0', '--no-dashboard']
    with distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        running = [Forked(script, address, *options, cwd=folder) for _ in range(2)]
        try:
            with distributed.Client(address, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=120)
                pids = list(client.run(os.getpid).values())
            yield address, pids
        finally:
            for process in running:
                process.kill(signal.SIGTERM)
            for process in running:
                process.wait()


def when_tiles(job: MapJob, count: int, action: Callable[[], None]) -> Thread:
    """Do something once so many tiles are finished."""
    folder = Path(f'{job.output}.parts')

    def wait() -> None:
        end = time.monotonic() + 240
        while len(list(folder.glob('[0-9]*.tile'))) < count:
            if time.monotonic() > end:
                return
            time.sleep(0.002)
        action()

    thread = Thread(target=wait)
    thread.start()
    return thread


def test_killed_worker_loses_nothing(
    job: MapJob,
    expected: tuple[dict[str, bytes], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Relative paths are this process's, not the workers'.
    monkeypatch.chdir(Path(job.imagery[0]).parent)
    relative = changed(
        job,
        imagery=(Path(job.imagery[0]).name,),
        labels=(Path(job.labels[0]).name,),
        executor='dask',
    )
    killed = []
    with processes(tmp_path / 'elsewhere') as (address, pids):

        def kill() -> None:
            os.kill(pids[0], signal.SIGKILL)
            killed.append(len(list(Path(f'{job.output}.parts').glob('[0-9]*.tile'))))

        thread = when_tiles(job, 3, kill)
        map_region(changed(relative, scheduler=address))
        thread.join()
    assert killed
    assert 3 <= killed[0] < 12
    assert contents(Path(job.output).parent) == expected[0]


def test_second_client_goes_on(
    job: MapJob,
    expected: tuple[dict[str, bytes], bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with threads(2) as address:
        args = [*arguments(job), '--executor', 'dask', '--scheduler', address]
        first = Forked(f'from torchgeo_mapsr.main import main\nmain({args!r})')
        when_tiles(job, 3, first.kill).join()
        first.wait()
        assert not Path(job.output).exists()
        assert main(args) == 0
    assert 'Going on' in capsys.readouterr().out
    assert contents(Path(job.output).parent) == expected[0]


def test_killed_worker_is_replaced(
    job: MapJob, expected: tuple[dict[str, bytes], bytes]
) -> None:
    """On this machine workers have nannies, which start another.

    They fork theirs here: three times to import torch anew is half of this file's time.
    """
    killed = []

    def kill() -> None:
        server = 'multiprocessing.forkserver'
        workers = [
            process
            for process in psutil.Process().children(recursive=True)
            if any(METHOD in part for part in process.cmdline())
            and (METHOD == 'spawn' or server in ' '.join(process.parent().cmdline()))
        ]
        workers[0].kill()
        killed.append(len(workers))

    # The server of forked.py is there before Dask asks for one of its own.
    run_forked('')
    thread = when_tiles(job, 3, kill)
    args = [*arguments(job), '--executor', 'dask', '--workers', '2']
    with dask.config.set({'distributed.worker.multiprocessing-method': METHOD}):
        assert main(args) == 0
    thread.join()
    assert killed == [2]
    assert contents(Path(job.output).parent) == expected[0]


def test_mistakes_on_a_worker_are_one_line(
    job: MapJob, capsys: pytest.CaptureFixture[str]
) -> None:
    with threads(1) as address:
        args = arguments(job, device='cuda:99')
        assert main([*args, '--executor', 'dask', '--scheduler', address]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith('torchgeo-mapsr: There is no')]


def test_no_scheduler(job: MapJob) -> None:
    far = changed(job, executor='dask', scheduler='tcp://127.0.0.1:9')
    short = {'distributed.comm.timeouts.connect': '300ms'}
    with (
        dask.config.set(short),
        pytest.raises(InputError, match='No Dask scheduler answers'),
    ):
        map_region(far)
    assert not Path(f'{job.output}.parts').exists()


def test_without_dask(job: MapJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, 'torchgeo_mapsr.mapping.dask', raising=False)
    monkeypatch.setitem(sys.modules, 'distributed', None)
    with pytest.raises(InputError, match='dask'):
        map_region(changed(job, executor='dask'))


@dataclass(frozen=True)
class Squares:
    """Work that fails as often as there are files to take away."""

    folder: Path
    error: int
    watch: Stopwatch = field(default_factory=Stopwatch)

    def __call__(self, items: Iterable[int], tick: Callable[[], None]) -> Iterator[int]:
        for trouble in self.folder.iterdir():
            trouble.unlink(missing_ok=True)
            raise OSError(self.error, os.strerror(self.error))
        for item in items:
            with self.watch('read'):
                tick()
            yield item**2


def test_work_is_done_in_order_and_tried_again(tmp_path: Path) -> None:
    for name in ('a', 'b'):
        (tmp_path / name).touch()
    work, ticks = Squares(tmp_path, errno.EIO), []
    with threads(2) as address, DaskCluster(address) as cluster:
        items = list(range(50))
        groups = cluster.split(items, 3)
        assert [item for group in groups for item in group] == items
        assert max(map(len, groups)) == 3
        found = list(cluster.run(work, groups, lambda: ticks.append(1)))
    assert found == [item**2 for item in items]
    assert len(ticks) == 50
    assert 'read' in work.watch.to_dict()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_stays_full(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).touch()
    with (
        threads(1) as address,
        DaskCluster(address) as cluster,
        pytest.raises(OSError, match='space') as caught,
    ):
        list(cluster.run(Squares(tmp_path, errno.ENOSPC), [[1]], lambda: None))
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'scheduler': 'tcp://a:1'}, 'need --executor dask'),
        ({'workers': 2}, 'need --executor dask'),
        ({'executor': 'dask', 'workers': 0}, 'at least 1'),
        ({'executor': 'dask', 'workers': 2, 'scheduler': 'tcp://a:1'}, 'leave out'),
        ({'executor': 'ray'}, 'one of process, dask'),
    ],
)
def test_contradictions(job: MapJob, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(job, **changes)
