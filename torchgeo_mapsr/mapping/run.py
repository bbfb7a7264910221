# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The whole job: paths in, maps and a report out."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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

from ..atomic import file_digest
from ..datasets.geo.names import list_rasters
from ..datasets.geo.plan import Plan, default_overlap
from ..datasets.imagery import Imagery
from ..datasets.labels import LabelRaster
from ..errors import InputError
from ..evaluation.consistency import MapSummary, summarise
from ..evaluation.page import build_page, notebook_html
from ..evaluation.report import area_table, map_notes, run_report
from ..evaluation.reweighting import class_weights
from ..models.backbones.backbone import Backbone
from ..models.backbones.create import create_backbone
from ..models.backbones.spec import is_asked_for
from ..models.chip_model import ChipModel
from ..models.devices import device_of, device_of_module
from ..models.model import LandCoverModel
from ..models.model_file import ModelFile
from ..models.networks.files import NetworkFiles
from .config import MapJob
from .executor import Executor, Here, Tick
from .fit import fit_region
from .inputs import Inputs, check_imagery, check_prior, searched
from .options import BackboneOptions
from .outputs import Outputs, check_outputs, without_outputs
from .progress import JsonProgress, Stopwatch
from .publish import publish, publish_polygons
from .store import WorkStore
from .tile_files import TileFiles
from .tiles import ChipScores, MapPass, MapTiles, ModelScores, TileItems

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

    def _repr_html_(self) -> str:
        """The page of the run, as Jupyter shows it."""
        return notebook_html(self.report_path)


def map_region(
    job: MapJob, console: Console | None = None, job_file: str | Path | None = None
) -> MapResult:
    """Make land-cover maps of a region.

    A fit pass looks at some chips, a map pass at all. Finished tiles and the fit are
    kept beside the output until the end; interrupted, the same job goes on from them.

    Args:
        job: What to do.
        console: Where progress and a summary go; nowhere by default.
        job_file: File that the job was read from, which is never written over.

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
        job = searched(job)
        found = list_rasters(job.imagery)
        files = without_outputs(found, job.output, job.imagery)
        if not files:
            raise InputError(
                f'{job.imagery[0]}: holds only rasters that this command has written; '
                'give the imagery.'
            )
        outputs = Outputs.of(
            job.output, files, job.confidence, job.scores, job.html, job.polygons
        )
        if job.stack and len(outputs.maps[0].imagery) < len(files):
            raise InputError(
                '--stack makes one map of all files: give a .tif after --output.'
            )
        several = len(outputs.maps)
        inputs, outputs = Inputs.open(job, outputs)
        description = inputs.describe(job)
    executor = _executor_of(job)
    store = WorkStore(outputs.work, description, overwrite=job.overwrite)
    # Everything is checked before the folder of the work is touched.
    check_outputs(
        [*outputs.taken, *([] if job.save_model is None else [job.save_model])],
        [*inputs.files(job), *([] if job_file is None else [job_file])],
        job.overwrite,
        store.published,
    )
    if len(files) < len(found):
        console.print(
            f'{len(found) - len(files)} rasters in the folder of the imagery are of the '
            'output, and are not taken for imagery.',
            markup=False,
        )
    if len(outputs.maps) < several:
        console.print(
            f'{several - len(outputs.maps)} of {several} files of imagery lie outside '
            'the area, and get no map.',
            markup=False,
        )
    for image in inputs.images:
        # What may be larger than meant: the files of a mosaic may lie far apart.
        if len(image.paths) > 1:
            console.print(f'Imagery: {image}', markup=False)
    run = Run(
        outputs,
        inputs,
        store.tiles,
        watch,
        _weights(job, inputs),
        job.postprocess.min_area,
    )
    source = _source(job, run, executor)
    with store:
        if store.notice:
            console.print(store.notice, markup=False)
        if store.resumed:
            console.print(f'Going on with the work in {store.folder}.', markup=False)
        return _make(job, run, store, source, executor, console)


@dataclass(frozen=True)
class Run:
    """Maps in the making: what the command and the prediction writer have in common.

    Args:
        outputs: What will be written.
        inputs: Imagery, labels and legends.
        tiles: Finished tiles.
        watch: Counts the time.
        weights: Weight of each class when the best is taken; no weights by default.
        min_area: Minimum mapping unit in square metres; 0 for none.
    """

    outputs: Outputs
    inputs: Inputs
    tiles: TileFiles
    watch: Stopwatch
    weights: tuple[float, ...] = ()
    min_area: float = 0.0

    def plans(
        self, size: int, tile_size: int, overlap: int | None, halo: int, stride: int
    ) -> tuple[Plan, ...]:
        """Chips and tiles of each raster.

        Args:
            size: Side of a chip, in pixels.
            tile_size: Side of a tile, in pixels.
            overlap: Pixels that chips share; None for what *halo* needs.
            halo: Pixels at a chip's border that lack context.
            stride: Pixels that chips start at multiples of.
        """
        if overlap is None:
            overlap = default_overlap(size, halo)
        return tuple(
            Plan(image.geobox, size, tile_size, overlap, halo, stride)
            for image in self.inputs.images
        )

    def items(self, plans: Sequence[Plan], done: Iterable[int] = ()) -> TileItems:
        """Tiles that are still to be made.

        Args:
            plans: Plan of each raster.
            done: Numbers of rasters whose maps are there.
        """
        finished = set(done)
        there = self.tiles.places()
        maps = []
        for number, plan in enumerate(plans):
            if number in finished:
                continue
            tiles = plan.tiles()
            if number in there:
                tiles = tiles.without(self.tiles.finished(number, tiles))
            maps.append(MapTiles(number, self.inputs.images[number], tiles))
        return TileItems(maps)

    def make_tiles(
        self,
        scores: ChipScores,
        items: TileItems,
        executor: Executor | None = None,
        start: Callable[[int], Tick] = lambda total: lambda: None,
    ) -> None:
        """Make tiles and keep them.

        Args:
            scores: Where the probabilities of chips come from.
            items: The tiles.
            executor: Where they are made; this process by default.
            start: Starts a progress bar of so many steps; gives a function that steps
                it.
        """
        executor = executor or Here()
        groups = executor.split(items, _ROW)
        tick = start(sum(group.chip_count for group in groups))
        outputs = self.outputs
        work = MapPass(
            scores,
            self.inputs.target,
            self.tiles,
            outputs.confidence,
            # A minimum mapping unit decides later which class a patch gets, and its
            # confidence is looked up in the scores then.
            outputs.scores or (outputs.confidence and self.min_area > 0),
            self.watch,
            self.weights,
        )
        for _ in executor.run(work, groups, tick):
            pass

    def publish(
        self,
        store: WorkStore,
        plans: Sequence[Plan],
        settings: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> tuple[dict[str, MapSummary], dict[str, Any]]:
        """Put the maps together, give all files their names, and report.

        Args:
            store: The folder of the unfinished work.
            plans: Plan of each raster.
            settings: What was asked for, as JSON types.
            provenance: Where the model comes from, as JSON types.

        Returns:
            What each map holds, and the report.
        """
        summaries = {}
        for number, output in enumerate(self.outputs.maps):
            if number in store.finished:
                with self.watch('report'):
                    summary = self._summary(output.map)
                # A run that goes on may ask for them for the first time.
                if self.outputs.polygons is not None:
                    publish_polygons(
                        store,
                        self.outputs.polygons,
                        output.map,
                        self.inputs.target,
                        output.confidence if self.outputs.confidence else None,
                        self.watch,
                    )
            else:
                summary = publish(
                    store,
                    self.outputs,
                    number,
                    plans[number],
                    self.inputs,
                    self.watch,
                    self.min_area,
                )
                store.finish(number)
            summaries[str(output.map)] = summary
        notes = map_notes(provenance, list(summaries.values()))
        timings = self.watch.to_dict()
        report = run_report(settings, provenance, summaries, timings, notes)
        report['bands'] = {
            str(output.map): image.band_names
            for output, image in zip(self.outputs.maps, self.inputs.images, strict=True)
        }
        report['nodata'] = {
            str(output.map): image.sources_of_nodata()
            for output, image in zip(self.outputs.maps, self.inputs.images, strict=True)
        }
        scratch = store.scratch(self.outputs.report.name)
        text = json.dumps(report, indent=1)
        scratch.write_text(text + '\n')
        store.publish(scratch, self.outputs.report)
        if self.outputs.html:
            with self.watch('report'):
                page = store.scratch(self.outputs.page.name)
                page.write_text(build_page([self.outputs.report]), encoding='utf-8')
            store.publish(page, self.outputs.page)
        store.discard()
        return summaries, json.loads(text)

    def _summary(self, path: Path) -> MapSummary:
        inputs = self.inputs
        return summarise(path, inputs.target, inputs.labels, inputs.crosswalk)


def _source(
    job: MapJob, run: Run, executor: Executor
) -> Backbone | LandCoverModel | NetworkFiles:
    """What a job maps with, as far as it is known before anything was fitted.

    Raises:
        InputError: If it cannot be made, or does not map what is asked for.
    """
    inputs, compute, weights = run.inputs, job.compute, job.backbone.weights
    # Workers have devices of their own.
    device = device_of('cpu' if executor.elsewhere else compute.device)
    if job.checkpoint:
        files = NetworkFiles.of(
            job.checkpoint, job.ensemble_weights, compute.device, compute.precision
        )
        with run.watch('network'):
            opened = (files.on('cpu') if executor.elsewhere else files).open()
        check_model(opened, inputs, job.target)
        return files
    with run.watch('backbone'):
        if job.model is not None:
            model = LandCoverModel.load(job.model, device, weights)
            used = model.with_options(**asdict(job.scoring))
            check_model(used, inputs, job.target)
            spec = job.backbone.spec
            if spec != BackboneOptions.spec and not is_asked_for(
                spec, model.origin.spec
            ):
                raise InputError(
                    f'{job.model} was fitted on the backbone {model.origin.spec!r}: '
                    'leave out --backbone.'
                )
            return model
        return create_backbone(
            job.backbone.spec, inputs.bands, weights, inputs.integers, job.seed
        ).to(device)


def _make(
    job: MapJob,
    run: Run,
    store: WorkStore,
    source: Backbone | LandCoverModel | NetworkFiles,
    executor: Executor,
    console: Console,
) -> MapResult:
    """Fit, map and publish."""
    with _bar(console, job.progress) as bar, executor:
        model: ChipModel
        file: ModelFile | NetworkFiles
        if isinstance(source, NetworkFiles):
            file = source
            model = (source.on('cpu') if executor.elsewhere else source).open()
            plans = _plans(job, run, model.halo, model.stride)
        else:
            model, file, plans = _fit(job, run, store, source, executor, bar)
            if job.save_model is not None:
                scratch = store.scratch(job.save_model.name)
                scratch.write_bytes(store.fit.read_bytes())
                job.save_model.parent.mkdir(parents=True, exist_ok=True)
                store.publish(scratch, job.save_model)
        scores = ModelScores(file if executor.elsewhere else model, run.inputs.labels)
        items = run.items(plans, store.finished)
        run.make_tiles(scores, items, executor, _starter(bar, 'Map'))
    _check_unchanged(run.inputs)
    summaries, report = run.publish(store, plans, job.to_dict(), model.provenance)
    _tell(console, run, summaries, model, report['notes'])
    if job.polygons is not None:
        console.print(f'Polygons: {job.polygons}', markup=False)
    maps = tuple(output.map for output in run.outputs.maps)
    return MapResult(maps, report, run.outputs.report)


def _fit(
    job: MapJob,
    run: Run,
    store: WorkStore,
    source: Backbone | LandCoverModel,
    executor: Executor,
    bar: Progress | JsonProgress,
) -> tuple[LandCoverModel, ModelFile, tuple[Plan, ...]]:
    """Fit a model, or take the job's or that of an interrupted run."""
    compute, weights = job.compute, job.backbone.weights
    backbone = source if isinstance(source, Backbone) else source.backbone
    device = device_of_module(backbone)
    if compute.compile:
        backbone.compile()
    plans = _plans(job, run, backbone.halo, max(backbone.strides))
    if not store.has_fit():
        model = source
        if isinstance(model, Backbone):
            model = fit_region(
                run.inputs,
                plans,
                backbone,
                replace(job.fit, seed=job.seed),
                job.scoring,
                compute,
                run.watch,
                _starter(bar, 'Fit'),
                executor,
            )
        store.keep_fit(model)
    file = ModelFile(
        store.fit.absolute(),
        file_digest(store.fit),
        compute.device if executor.elsewhere else str(device),
        compute.precision,
        weights,
        compute.compile,
        tuple(asdict(job.scoring).items()),
    )
    # As it was written: products with the same numbers in another memory layout
    # differ in their last bits, and workers and later runs read the file.
    return replace(file, device=str(device)).open(backbone), file, plans


def _check_unchanged(inputs: Inputs) -> None:
    """Make sure that what was mapped is what is there now.

    Raises:
        InputError: If a file has changed since the run began.
    """
    sources: list[Imagery | LabelRaster] = [*inputs.images, *inputs.labels]
    for source in sources:
        for name in source.changed():
            raise InputError(
                f'{name} has changed while it was mapped; nothing was published. Give '
                'the same command again: it starts over with the file as it is now.'
            )


def _plans(job: MapJob, run: Run, halo: int, stride: int) -> tuple[Plan, ...]:
    """Chips and tiles of each raster."""
    chips = job.chips
    return run.plans(chips.size, chips.tile_size, chips.overlap, halo, stride)


def _weights(job: MapJob, inputs: Inputs) -> tuple[float, ...]:
    """Weight of each class when the best is taken; none by default."""
    if not job.postprocess.reweight:
        return ()
    return class_weights(job.postprocess.reweight, inputs.target)


def check_model(model: ChipModel, inputs: Inputs, target: str) -> None:
    """Make sure that a model makes the map that is asked for.

    Args:
        model: The model.
        inputs: What is to be mapped.
        target: How the map's legend was called.

    Raises:
        InputError: If its classes, bands or labels are others.
    """
    if model.target != inputs.target:
        raise InputError(
            f"The model maps the classes of '{model.target.name}', not of "
            f"'{target}'; give --target {model.target.name}."
        )
    for image in inputs.images[:8]:  # of thousands of files it would take minutes
        check_imagery(model, image)
    legend = None if inputs.crosswalk is None else inputs.crosswalk.source
    check_prior(model, inputs.labels, inputs.images, legend)


def _bar(console: Console, kind: str) -> Progress | JsonProgress:
    """Progress bars on a terminal, or lines for programs."""
    if kind == 'json':
        return JsonProgress()
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('chips'),
        TimeRemainingColumn(),
        console=console,
        disable=console.quiet or not console.is_terminal,
    )


def _tell(
    console: Console,
    run: Run,
    summaries: Mapping[str, MapSummary],
    model: ChipModel,
    notes: Sequence[str],
) -> None:
    """Say what was made."""
    labels = model.provenance.get('labels', {})
    for code, count in labels.get('unknown_codes', {}).items():
        console.print(
            f'Note: {count} cells of the labels have code {code}, which the legend '
            f"'{labels['legend']}' does not have; they were ignored.",
            markup=False,
        )
    console.print(area_table(list(summaries.values())))
    for note in notes:
        console.print(f'Note: {note}', markup=False)
    if run.outputs.confidence:
        console.print(f'Confidence: {model.calibration.description}.', markup=False)
    for path in summaries:
        console.print(f'Map: {path}', markup=False)
    console.print(f'Report: {run.outputs.report}', markup=False)
    if run.outputs.html:
        console.print(f'Page: {run.outputs.page}', markup=False)


def _starter(bar: Progress | JsonProgress, name: str) -> Callable[[int], Tick]:
    """A function that starts a bar of so many steps, and gives one that steps it."""

    def start(total: int) -> Tick:
        task: Any = bar.add_task(name, total=total)
        return lambda: bar.advance(task)

    return start


def _executor_of(job: MapJob) -> Executor:
    """The executor that a job asks for.

    Args:
        job: The job.

    Raises:
        InputError: If it needs what is not installed.
    """
    compute = job.compute
    if compute.executor == 'process':
        return Here()
    try:
        from .dask import DaskCluster
    except ModuleNotFoundError as error:
        if error.name not in {'dask', 'distributed'}:
            raise
        raise InputError(
            "--executor dask needs Dask: pip install 'torchgeo-mapsr[dask]'"
        ) from None
    return DaskCluster(compute.scheduler, compute.workers, compute.device)
