# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The whole job: paths in, maps and a report out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from ..datasets.geo.plan import Plan, default_overlap
from ..datasets.geo.raster import open_rasters
from ..errors import InputError
from ..evaluation.consistency import MapSummary, summarise
from ..evaluation.report import area_table, run_report
from ..models.head.head import Classifier
from .config import MapJob
from .executor import Executor, Here
from .extractor import Extractor, band_spread, device_of
from .fitting import check_saved, fit, make_backbone, sendable
from .inputs import Inputs, file_digest
from .model import Fitted, Model
from .network import Checkpoints, NetworkModel
from .outputs import Outputs
from .passes import Draft, MapPass, chips_of
from .publish import publish
from .store import WorkStore
from .tile_files import replacing
from .timing import Stopwatch

# Tiles that a worker makes in a row: each hands chips on to the next.
_ROW = 4


@dataclass(frozen=True)
class MapResult:
    """What a job has made.

    Args:
        maps: The class maps.
        report: Content of the report.
        report_path: Where it is.
    """

    maps: tuple[Path, ...]
    report: dict[str, Any]
    report_path: Path


def map_region(job: MapJob, console: Console | None = None) -> MapResult:
    """Make land-cover maps of a region.

    A fit pass looks at some chips, a map pass at all. Finished tiles and the fit are
    kept beside the output until the end; interrupted, the same job goes on from them.

    Args:
        job: What to do.
        console: Where progress and a summary go; nowhere by default.

    Returns:
        What was made.

    Raises:
        InputError: If something that was given cannot be used. Nothing is overwritten.
        OSError: If something cannot be written.
    """
    job = job.located()
    console = console or Console(quiet=True)
    watch = Stopwatch()
    with watch('read'):
        files = [file.path for file in open_rasters(job.imagery)]
        outputs = Outputs.of(job, files)
        inputs = Inputs.open(job, outputs)
        description = inputs.describe(job)
    run = _Run(job, inputs, outputs, _executor_of(job), console, watch)
    with WorkStore(outputs.work, description) as store:
        outputs.check(job, store.published)
        if store.notice:
            console.print(store.notice)
        if store.resumed:
            console.print(f'Going on with the work in {store.folder}.')
        return run(store)


@dataclass(frozen=True)
class _Run:
    """A job with everything that is open while it runs."""

    job: MapJob
    inputs: Inputs
    outputs: Outputs
    executor: Executor
    console: Console
    watch: Stopwatch

    def __call__(self, store: WorkStore) -> MapResult:
        with self._bar() as bar, self.executor:
            model: Model | NetworkModel
            if self.job.checkpoint:
                model, plans = self._networks()
            else:
                model, plans = self._model(store, bar)
            if isinstance(model, Model) and self.job.save_model is not None:
                scratch = store.scratch(self.job.save_model.name)
                model.classifier.save(scratch)
                self.job.save_model.parent.mkdir(parents=True, exist_ok=True)
                store.publish(scratch, self.job.save_model)
            self._sweep(store, model, plans, bar)
        summaries = {}
        for number, output in enumerate(self.outputs.maps):
            if number in store.finished:
                with self.watch('report'):
                    summary = self._summary(output.map)
            else:
                summary = publish(
                    store,
                    number,
                    output,
                    plans[number],
                    self.inputs,
                    self.job.bands,
                    self.watch,
                )
                store.finish(number)
            summaries[str(output.map)] = summary
        report = run_report(
            self.job.to_dict(), model.provenance, summaries, self.watch.to_dict()
        )
        scratch = store.scratch(self.outputs.report.name)
        text = json.dumps(report, indent=1)
        scratch.write_text(text + '\n')
        store.publish(scratch, self.outputs.report)
        store.discard()
        self._tell(summaries, model)
        maps = tuple(output.map for output in self.outputs.maps)
        return MapResult(maps, json.loads(text), self.outputs.report)

    def _model(self, store: WorkStore, bar: Progress) -> tuple[Model, tuple[Plan, ...]]:
        """Fit a model, or take the job's or that of an interrupted run."""
        job, inputs = self.job, self.inputs
        # Workers have devices of their own.
        device = device_of('cpu' if self.executor.elsewhere else job.device)
        saved = store.kept_fit()
        if saved is None and job.model is not None:
            saved = Classifier.load(job.model)
        if saved is not None:
            check_saved(saved, inputs)
        with self.watch('backbone'):
            backbone = make_backbone(job, inputs, saved).to(device)
            if job.compile:
                backbone.compile()
        plans = self._plans(backbone.halo, max(backbone.strides))
        spread = None
        if job.upsampler == 'bilateral':
            with self.watch('read'):
                spread = band_spread(inputs.images, plans)
        extractor = Extractor(backbone, device, job.precision, spread)
        start = _starter(bar, 'Fit')
        classifier = saved or fit(
            job, inputs, plans, extractor, self.watch, start, self.executor
        )
        if not store.fit.exists():
            with replacing(store.fit) as part:
                classifier.save(part)
        fitted = Fitted(
            store.fit.absolute(),
            file_digest(store.fit),
            job.score,
            job.prior,
            job.propagate,
        )
        if self.executor.elsewhere:
            extractor = sendable(job, inputs, extractor)
        # As it was written: products with the same numbers in another memory layout
        # differ in their last bits, and workers and later runs read the file.
        classifier = fitted.load()
        return fitted.use(extractor, classifier, inputs, self.watch), plans

    def _networks(self) -> tuple[NetworkModel, tuple[Plan, ...]]:
        """Load the job's networks."""
        job = self.job
        # Workers have devices of their own.
        here = 'cpu' if self.executor.elsewhere else job.device
        with self.watch('network'):
            checkpoints = Checkpoints.of(
                job.checkpoint, job.ensemble_weights, job.device, job.precision
            )
            model = checkpoints.make(self.watch, here)
        model.check(self.inputs)
        return model, self._plans(model.trained.halo, model.trained.stride)

    def _plans(self, halo: int, stride: int) -> tuple[Plan, ...]:
        """Chips and tiles of each raster.

        Args:
            halo: Pixels at a chip's border that lack context.
            stride: Pixels that chips are aligned to.
        """
        job = self.job
        overlap = job.overlap or default_overlap(job.chip_size, halo)
        return tuple(
            Plan(image.geobox, job.chip_size, job.tile_size, overlap, halo, stride)
            for image in self.inputs.images
        )

    def _sweep(
        self,
        store: WorkStore,
        model: Model | NetworkModel,
        plans: Sequence[Plan],
        bar: Progress,
    ) -> None:
        """The map pass: make and keep all tiles that are not there yet."""
        drafts = [
            Draft(number, self.inputs.images[number], plan, tile)
            for number, plan in enumerate(plans)
            if number not in store.finished
            for tile in plan.tiles()
            if not store.tiles.has(number, tile)
        ]
        groups = self.executor.split(drafts, _ROW)
        tick = _starter(bar, 'Map')(sum(map(chips_of, groups)))
        work = MapPass(
            model, self.inputs.target, store.tiles, self.job.confidence, self.job.scores
        )
        for _ in self.executor.run(work, groups, tick):
            pass

    def _summary(self, path: Path) -> MapSummary:
        inputs = self.inputs
        return summarise(path, inputs.target, inputs.labels, inputs.crosswalk)

    def _bar(self) -> Progress:
        """Progress bars on a terminal, nothing elsewhere."""
        return Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('chips'),
            TimeRemainingColumn(),
            console=self.console,
            disable=self.console.quiet or not self.console.is_terminal,
        )

    def _tell(
        self, summaries: dict[str, MapSummary], model: Model | NetworkModel
    ) -> None:
        """Say what was made."""
        labels = model.provenance.get('labels', {})
        for code, count in labels.get('unknown_codes', {}).items():
            self.console.print(
                f'Note: {count} cells of the labels have code {code}, which the legend '
                f"'{labels['legend']}' does not have; they were ignored."
            )
        self.console.print(area_table(list(summaries.values())))
        for path in summaries:
            self.console.print(f'Map: {path}')
        self.console.print(f'Report: {self.outputs.report}')


def _starter(bar: Progress, name: str) -> Callable[[int], Callable[[], None]]:
    """A function that starts a bar of so many steps, and gives one that steps it."""

    def start(total: int) -> Callable[[], None]:
        task = bar.add_task(name, total=total)
        return lambda: bar.advance(task)

    return start


def _executor_of(job: MapJob) -> Executor:
    """The executor that a job asks for.

    Args:
        job: The job.

    Raises:
        InputError: If it needs what is not installed.
    """
    if job.executor == 'process':
        return Here()
    try:
        from .dask import DaskCluster
    except ModuleNotFoundError as error:
        if error.name not in {'dask', 'distributed'}:
            raise
        raise InputError(
            "--executor dask needs Dask: pip install 'torchgeo-mapsr[dask]'"
        ) from None
    return DaskCluster(job.scheduler, job.workers, job.device)
