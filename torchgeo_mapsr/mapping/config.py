# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Everything that a mapping job can be told: its own fields, and options of its stages.

The command line, job files (:mod:`.job_file`), the digest that resuming depends on, and
the report all read these: :data:`FLAGS` says what each field is called on the command
line.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from ..arguments import check_choice, check_local, construct
from ..errors import InputError
from ..models.backbones.spec import map_option
from ..models.head.options import (
    CLASS_WEIGHTS,
    NOISE,
    RANGES,
    RECIPES,
    SCORES,
    FitOptions,
    check_field,
)
from .options import (
    BackboneOptions,
    ChipOptions,
    ComputeOptions,
    PostprocessOptions,
    ScoringOptions,
)

PRECISIONS = ('fp32', 'bf16', 'fp16')
EXECUTORS = ('process', 'dask')

# Far more than any raster or machine has, and far below where integers overflow.
_MOST = 2**31 - 1

# Fields that say how labels are read and weighed: of no effect without labels.
_OF_LABELS = {'legend', 'crosswalk', 'scoring.prior'}

_RANGES: dict[str, tuple[float, float]] = {
    'chips.size': (1, _MOST),
    'chips.tile_size': (1, _MOST),
    'chips.overlap': (0, _MOST),
    'scoring.prior': RANGES['prior'],
    'seed': RANGES['seed'],
    'bands': (1, _MOST),
    'bbox': (-360, 360),
    'ensemble_weights': (1e-9, 1e9),
    'postprocess.min_area': (0, 1e12),
    'compute.workers': (1, 4096),
}


@dataclass(frozen=True, kw_only=True)
class MapJob:
    """A land-cover map to be made.

    Args:
        imagery: HR rasters, each a path that rasterio opens; one path will do.
        output: The map (one mosaic), or a folder (a map for each file of imagery).
        labels: LR label rasters, or one; may be left out if *model* is given.
        legend: Legend of the labels, a name or a file.
        target: Legend of the map.
        crosswalk: How the labels' classes become the map's, a name or a file.
        bands: Bands of the imagery, from 1.
        nodata: Value of imagery pixels without data.
        stack: Files of one place, two dates say, are bands of one image instead of a
            mosaic.
        overwrite: Replace outputs that exist.
        confidence: Write the probability of the mapped class.
        scores: Write the probability of every class.
        save_model: Where to keep the fit.
        quiet: Print nothing but errors.
        model: A fit that was kept.
        checkpoint: Checkpoints of trained networks, which map in place of a fit.
        ensemble_weights: Weight of each checkpoint.
        seed: Seed of everything random.
        aoi: A file of polygons that the map is cropped to; a layer's name may follow
            after a colon.
        bbox: West, south, east and north in degrees, in place of *aoi*.
        date: A year or a date, for imagery and labels that are searches in a catalogue.
        polygons: Where polygons of the map are written.
        html: Write a page to look at, NAME.html beside the report.
        progress: How progress is told: bar (on a terminal) or json (a line a step, on
            standard error).
        backbone: The frozen features; a spec will do.
        fit: How it is fitted.
        scoring: How pixels are scored.
        chips: What is looked at at once.
        compute: Where numbers are computed.
        postprocess: What is done to the classes.

    Raises:
        InputError: If the fields contradict one another, or are out of range.

    Examples:
        >>> job = MapJob(imagery='naip.tif', labels='nlcd.tif', legend='nlcd',
        ...              output='landcover.tif')
        >>> job.imagery, job.chips.size
        (('naip.tif',), 448)
    """

    imagery: tuple[str, ...]
    output: str | Path
    labels: tuple[str, ...] = ()
    legend: str | None = None
    target: str = 'land-cover-4'
    crosswalk: str | None = None
    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    stack: bool = False
    overwrite: bool = False
    confidence: bool = True
    scores: bool = False
    save_model: Path | None = None
    quiet: bool = False
    model: Path | None = None
    checkpoint: tuple[Path, ...] = ()
    ensemble_weights: tuple[float, ...] = ()
    seed: int = 0
    aoi: str | None = None
    bbox: tuple[float, ...] | None = None
    date: str | None = None
    polygons: Path | None = None
    html: bool = False
    progress: str = 'bar'
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    fit: FitOptions = field(default_factory=FitOptions)
    scoring: ScoringOptions = field(default_factory=ScoringOptions)
    chips: ChipOptions = field(default_factory=ChipOptions)
    compute: ComputeOptions = field(default_factory=ComputeOptions)
    postprocess: PostprocessOptions = field(default_factory=PostprocessOptions)

    def __post_init__(self) -> None:
        self._coerce()
        for flag in FLAGS:
            check_value(flag.path, value_at(self, flag.path), flag.option)
        self._check_together()

    def _coerce(self) -> None:
        """One path stands for a tuple, a spec for a backbone, a mapping for options."""
        for name in ('imagery', 'labels', 'checkpoint'):
            value = getattr(self, name)
            if isinstance(value, str | os.PathLike):
                value = (value,)
            if value is None:
                value = ()
            kind = Path if name == 'checkpoint' else os.fspath
            object.__setattr__(self, name, tuple(map(kind, value)))  # type: ignore[arg-type]
        for name in ('model', 'save_model', 'polygons'):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(value))
        if isinstance(self.backbone, str):
            object.__setattr__(self, 'backbone', BackboneOptions(spec=self.backbone))
        for name, kind in STAGES.items():
            options = construct(kind, getattr(self, name), name)
            object.__setattr__(self, name, options)

    def _check_together(self) -> None:
        """Refuse fields that contradict one another, or have no effect."""
        compute = self.compute
        if compute.executor != 'dask' and (compute.scheduler or compute.workers):
            raise InputError('--scheduler and --workers need --executor dask.')
        if compute.scheduler and compute.workers:
            raise InputError(
                'A --scheduler has workers of its own; leave out --workers.'
            )
        if not self.imagery or not all(self.imagery):
            raise InputError('Give at least one file of imagery.')
        if self.output is None or not os.fspath(self.output):
            raise InputError('--output is empty; name a .tif file or a folder.')
        for path in (self.output, self.polygons, self.save_model):
            if path is not None:
                check_local(path)
        if not self.labels and self.model is None and not self.checkpoint:
            raise InputError(
                'Give coarse labels with --labels, a saved fit with --model, or a '
                'trained network with --checkpoint.'
            )
        if self.checkpoint and (self.model or self.save_model):
            raise InputError(
                '--checkpoint maps with a trained network, which has no fit: leave out '
                '--model and --save-model.'
            )
        for flag in FLAGS if self.model else ():
            if (
                flag.path.startswith('fit.')
                and value_at(self, flag.path) != flag.default
            ):
                raise InputError(
                    f'{flag.option} has no effect on a fit that is kept; leave it out '
                    'with --model.'
                )
        if not self.model and not self.checkpoint:
            score = self.scoring.score or self.fit.score
            replace(self.fit, score=score).check_together()
        for flag in FLAGS if self.checkpoint else ():
            if flag.of_fits and value_at(self, flag.path) != flag.default:
                raise InputError(
                    f'{flag.option} has no effect on a trained network; leave it out '
                    'with --checkpoint.'
                )
        for flag in FLAGS if not self.labels else ():
            if flag.path in _OF_LABELS and value_at(self, flag.path) != flag.default:
                raise InputError(
                    f'{flag.option} has no effect without --labels; leave it out.'
                )
        if self.fit.seed not in (0, self.seed):
            raise InputError('fit.seed has no effect in a job; set its seed (--seed).')
        for name in ('score', 'prior'):
            if getattr(self.fit, name) != getattr(FitOptions(), name):
                raise InputError(f'fit.{name} is scoring.{name} in a job; set that.')
        if self.ensemble_weights and not self.checkpoint:
            raise InputError('--ensemble-weights needs --checkpoint.')
        if self.aoi and self.bbox:
            raise InputError('Give --aoi or --bbox, not both.')
        if self.polygons is not None:
            from .polygons import format_of

            format_of(self.polygons)
        searches = [n for n in (*self.imagery, *self.labels) if may_be_search(n)]
        if searches and not (self.aoi or self.bbox):
            raise InputError(
                f'{searches[0]} is a search: say where, with --aoi or --bbox.'
            )
        if self.labels and self.legend is None and not may_be_search(self.labels[0]):
            raise InputError('Give the legend of the labels with --legend.')

    @classmethod
    def from_flags(cls, **values: Any) -> 'MapJob':
        """A job by the names of the command line.

        Args:
            **values: Values of :data:`FLAGS` by their names, such as ``chip_size``.

        Raises:
            InputError: If they contradict one another.
        """
        return cls.from_paths(_by_path(values))

    @classmethod
    def from_paths(cls, values: Mapping[str, Any]) -> 'MapJob':
        """A job by where its values are.

        Args:
            values: Values by names joined by dots, such as ``chips.size``.

        Raises:
            InputError: If they contradict one another, or the output is missing.
        """
        if 'output' not in values:
            raise InputError('Say where the map goes: --output, a .tif or a folder.')
        nested: dict[str, Any] = {'imagery': ()}
        for path, value in values.items():
            stage, _, name = path.rpartition('.')
            (nested.setdefault(stage, {}) if stage else nested)[name] = (
                tuple(value) if isinstance(value, list) else value
            )
        for name, kind in STAGES.items():
            if isinstance(nested.get(name), dict):
                nested[name] = kind(**nested[name])
        return cls(**nested)

    @classmethod
    def from_file(cls, path: str | Path, **values: Any) -> 'MapJob':
        """A job that a file describes, as ``--config`` reads it.

        Args:
            path: A YAML or JSON file with the fields of this class, nested as they are;
                or the report of a run, whose settings are taken.
            **values: Values of :data:`FLAGS` by their names, in place of the file's.

        Raises:
            InputError: If the file cannot be read, or holds what a job has not; the line
                names the key.
        """
        from .job_file import Schema, read_job

        names = {flag.name: flag.path for flag in FLAGS}
        schema = Schema(cls, STAGES, names, check_value)
        return cls.from_paths(_merged(read_job(path, schema), _by_path(values)))

    def located(self) -> 'MapJob':
        """The same job with absolute paths of what is on this machine.

        Workers may have another working directory, and the same work is to be known
        again from another one.
        """
        weights = self.backbone.weights
        files: dict[str, Any] = {
            name: _absolute(getattr(self, name))
            for name in ('legend', 'target', 'crosswalk')
            if Path(getattr(self, name) or '').suffix
        }
        return replace(
            self,
            **files,
            imagery=tuple(map(_absolute, self.imagery)),
            labels=tuple(map(_absolute, self.labels)),
            backbone=BackboneOptions(
                spec=map_option(self.backbone.spec, 'weights', _absolute),
                weights=None if weights is None else _absolute(weights),
            ),
            model=None if self.model is None else self.model.absolute(),
            checkpoint=tuple(path.absolute() for path in self.checkpoint),
            aoi=None if self.aoi is None else _absolute(self.aoi),
        )

    def to_dict(self, *, results_only: bool = False) -> dict[str, Any]:
        """The settings as JSON types, nested as they are.

        Args:
            results_only: Only those whose values decide what the map is.
        """
        settings: dict[str, Any] = json_types(self)
        for flag in FLAGS if results_only else ():
            if not flag.result:
                stage, _, name = flag.path.rpartition('.')
                del (settings[stage] if stage else settings)[name]
        return settings


#: Fields of :class:`MapJob` that are dataclasses.
STAGES: dict[str, Any] = {
    'backbone': BackboneOptions,
    'fit': FitOptions,
    'scoring': ScoringOptions,
    'chips': ChipOptions,
    'compute': ComputeOptions,
    'postprocess': PostprocessOptions,
}


@dataclass(frozen=True)
class Flag:
    """What a field is called on the command line.

    Args:
        name: Name of the flag, with underscores.
        path: Where its value is in :class:`MapJob`.
        group: Heading in ``--help``.
        help: What it does.
        metavar: Name of its value.
        choices: Allowed values.
        result: Whether its value decides what the map is. Files do by their content.
        of_fits: Whether it is about a fit, which trained networks do not have.
    """

    name: str
    path: str
    group: str
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    result: bool = True
    of_fits: bool = False

    @property
    def option(self) -> str:
        """As it is written."""
        return '--' + self.name.replace('_', '-')

    @property
    def default(self) -> Any:
        """The value where nothing is said; MISSING where something must be."""
        stage, _, name = self.path.rpartition('.')
        item = next(f for f in fields(STAGES.get(stage, MapJob)) if f.name == name)
        if item.default_factory is not MISSING:
            return item.default_factory()
        return item.default

    @property
    def hint(self) -> Any:
        """Type of the value."""
        stage, _, name = self.path.rpartition('.')
        return get_type_hints(STAGES.get(stage, MapJob))[name]


def _fit(name: str, field_name: str, help: str, **more: Any) -> Flag:
    """A flag of the fit."""
    return Flag(name, f'fit.{field_name}', 'fit', help, of_fits=True, **more)


#: Every option of ``torchgeo-mapsr map``, in the order of its help.
FLAGS = (
    Flag('imagery', 'imagery', 'input',
         'HR imagery: files, folders, .zip, .zarr (or x.zarr:variable), or searches in a '
         'catalogue', 'IMAGERY', result=False),
    Flag('labels', 'labels', 'input',
         'coarse label rasters, in any grid and CRS, of a part of the imagery or all',
         'FILE', result=False),
    Flag('legend', 'legend', 'input',
         'legend of the labels: nlcd, worldcover, dynamic-world, io-lulc, corine (codes '
         'of three digits), corine-grid (1 to 44), chesapeake-7, openearthmap, '
         'five-billion-pixels, land-cover-4 or a YAML or JSON file', 'NAME|FILE'),
    Flag('aoi', 'aoi', 'input',
         'polygons that the map is cropped to: .gpkg, .geojson, .parquet, .shp or .fgb '
         '(file.gpkg:layer)', 'FILE', result=False),
    Flag('bbox', 'bbox', 'input',
         'west, south, east and north in degrees, in place of --aoi', 'DEGREES',
         result=False),
    Flag('date', 'date', 'input',
         'year or date of imagery and labels that are searches in a catalogue', 'DATE',
         result=False),
    Flag('target', 'target', 'input', 'legend of the map', 'NAME|FILE'),
    Flag('crosswalk', 'crosswalk', 'input',
         'how the labels’ classes become the map’s, if there are several: definitions '
         '(shares by the definitions of nlcd, worldcover, dynamic-world, corine or '
         'openearthmap), cover, scenes, ddtm, dfc2021, chesapeake, malkin2019, '
         'nlcd-descriptions or a file',
         'NAME|FILE'),
    Flag('bands', 'bands', 'input',
         'bands of the imagery to use, from 1 (default: all but alpha)', 'N'),
    Flag('nodata', 'nodata', 'input',
         'value of imagery pixels without data (default: what the files say)', 'VALUE'),
    Flag('stack', 'stack', 'input',
         'use files of one place, two dates say, as bands of one image in place of a '
         'mosaic; --bands are those of each file'),
    Flag('output', 'output', 'output',
         'the map, a .tif; or a folder, which gets a map for each file of imagery',
         'PATH', result=False),
    Flag('polygons', 'polygons', 'output',
         'write polygons of the map too: .gpkg, .fgb, .parquet or .pmtiles', 'FILE',
         result=False),
    Flag('html', 'html', 'output',
         'write a page to look at too, NAME.html: map, imagery, areas; with --scores a '
         'slider for each class', result=False),
    Flag('reweight', 'postprocess.reweight', 'output',
         'multiply the scores of classes before the best is taken, by name or code: '
         'impervious=2 water=0.5', 'CLASS=WEIGHT'),
    Flag('min_area', 'postprocess.min_area', 'output',
         'minimum mapping unit: smaller patches, in square metres, go to the class '
         'around them', 'M2'),
    Flag('overwrite', 'overwrite', 'output', 'replace outputs that exist', result=False),
    Flag('confidence', 'confidence', 'output',
         'write NAME_confidence.tif: probability of the mapped class, 0–100'),
    Flag('scores', 'scores', 'output',
         'write NAME_scores.tif: probability of every class, 0–100'),
    Flag('save_model', 'save_model', 'output',
         'keep the fit, to map other imagery with --model', 'FILE', result=False),
    Flag('quiet', 'quiet', 'output', 'print nothing but errors', result=False),
    Flag('progress', 'progress', 'output',
         'bar: on a terminal; json: one object a line on standard error',
         choices=('bar', 'json'), result=False),
    Flag('backbone', 'backbone.spec', 'model',
         'frozen features: rcf, identity (embedding rasters), timm:NAME?options, '
         'torchgeo:WEIGHTS, or several joined by +', 'SPEC', of_fits=True),
    Flag('weights', 'backbone.weights', 'model',
         'weights of the backbone, .safetensors or .pth', 'FILE', result=False),
    Flag('model', 'model', 'model',
         'a fit kept with --save-model, and its backbone; needs no labels', 'FILE',
         result=False),
    Flag('checkpoint', 'checkpoint', 'model',
         'map with a network that a task of this package has trained, in place of a '
         'fit; of several the probabilities are averaged', 'FILE', result=False),
    Flag('ensemble_weights', 'ensemble_weights', 'model',
         'weight of each checkpoint (default: all alike)', 'WEIGHT'),
    Flag('score', 'scoring.score', 'model',
         'what scores a pixel; fusion: the mean of probe and lda; cosine: the published '
         'form, without a prior (default: as the fit says, or fusion)',
         choices=('auto', *SCORES), of_fits=True),
    Flag('prior', 'scoring.prior', 'model',
         'weight of the coarse labels at prediction, or auto (default: auto)', 'WEIGHT',
         of_fits=True),
    Flag('upsampler', 'scoring.upsampler', 'model',
         'how scores get from tokens to pixels: bilinear or bilateral (default: as the '
         'fit says, or bilinear)', choices=('bilinear', 'bilateral'), of_fits=True),
    Flag('propagate', 'scoring.propagate', 'model',
         'spatial refinement: none, tokens, superpixels, pixels or published, with options as in '
         'superpixels?neighbours=100&alpha=0.5 (default: as the fit says, or none)',
         'SPEC', of_fits=True),
    Flag('calibrate', 'scoring.calibrate', 'model',
         'calibrate confidence and scores by coarse cells that a fit has not seen; the '
         'classes stay the same (default: as the fit says, or on)', of_fits=True),
    _fit('prompts', 'prompts', 'prompts per class (k-means)', metavar='N'),
    _fit('confidence_quantile', 'confidence_quantile',
         'build prompts above this quantile of the probe’s confidence', metavar='Q'),
    _fit('centre', 'centre', 'centre the features before prompts are matched'),
    _fit('class_balance', 'balance',
         '0: every coarse cell counts alike in the fit, 1: every class', metavar='0..2'),
    _fit('class_weight', 'class_weight',
         'how classes weigh in the fit; power: by --class-balance, log: 1 / log(1 + '
         'share)', choices=CLASS_WEIGHTS),
    _fit('recipe', 'recipe',
         'what the fit learns; codes: the labels’ own codes, translated by what they '
         'hold; classes: the classes that they are called', choices=RECIPES),
    _fit('noise', 'noise',
         'how coarse cells whose label seems wrong weigh less in the fit; denoise: by '
         'what neighbours and imagery say, sce: by symmetric cross entropy, small-loss: '
         'not at all, auto: denoise where each code is one class', choices=NOISE),
    _fit('max_chips', 'max_chips', 'chips that the fit looks at, at most', metavar='N'),
    Flag('chip_size', 'chips.size', 'computing', 'side of what the backbone sees at once',
         'PIXELS'),
    Flag('overlap', 'chips.overlap', 'computing',
         'what chips share (default: what the backbone needs)', 'PIXELS'),
    Flag('tile_size', 'chips.tile_size', 'computing',
         'side of what is written, and resumed, at once', 'PIXELS'),
    Flag('device', 'compute.device', 'computing', 'auto, cpu or cuda:N', 'DEVICE',
         result=False),
    Flag('precision', 'compute.precision', 'computing', 'arithmetic of the backbone',
         choices=PRECISIONS),
    Flag('compile', 'compute.compile', 'computing',
         'compile the backbone (torch.compile): for long runs on a GPU', of_fits=True),
    Flag('seed', 'seed', 'computing', 'random seed', 'N'),
    Flag('executor', 'compute.executor', 'computing',
         'where chips are computed: in this process, or by the workers of Dask',
         choices=EXECUTORS, result=False),
    Flag('scheduler', 'compute.scheduler', 'computing',
         'scheduler of a Dask cluster that sees the same files, tcp://HOST:8786 '
         '(default: workers on this machine)', 'ADDRESS', result=False),
    Flag('workers', 'compute.workers', 'computing',
         'Dask workers on this machine (default: one a core, or one a GPU)', 'N',
         result=False),
)  # fmt: skip


def value_at(job: MapJob, path: str) -> Any:
    """A value of a job by where it is.

    Args:
        job: The job.
        path: Names joined by dots.
    """
    value: Any = job
    for name in path.split('.'):
        value = getattr(value, name)
    return value


def check_value(path: str, value: Any, name: str) -> None:
    """Make sure that a value is one of its words, finite, and in its range.

    Args:
        path: Where it is in :class:`MapJob`, names joined by dots.
        value: The value, or a tuple of them.
        name: What the user calls it.

    Raises:
        InputError: If it is not.
    """
    flag = next((flag for flag in FLAGS if flag.path == path), None)
    if flag is not None and flag.choices and value is not None:
        check_choice(name, value, flag.choices)
    text = flag is not None and flag.hint in (str, str | None)
    if text and not isinstance(value, str | os.PathLike | None):
        raise InputError(f'{name} must be a word, not {type(value).__name__}.')
    stage, _, field_name = path.rpartition('.')
    if stage == 'fit':
        check_field(field_name, value, name)
    low, high = _RANGES.get(path, (-math.inf, math.inf))
    for number in value if isinstance(value, tuple | list) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        # A no-data value may be NaN or infinite: files declare such. Integers are
        # finite, and may be larger than a float.
        if isinstance(number, float) and path != 'nodata' and not math.isfinite(number):
            raise InputError(f'{name} must be a number, not {number}.')
        if number < low:
            raise InputError(f'{name} must be at least {low:g}.')
        if number > high:
            raise InputError(f'{name} must be at most {high:g}.')


def _by_path(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of flags by where they are in a job, checked."""
    flags = {flag.name: flag for flag in FLAGS}
    unknown = [name for name in values if name not in flags]
    if unknown:
        raise TypeError(f'no such option: {", ".join(unknown)}')
    for name, value in values.items():
        check_value(flags[name].path, value, flags[name].option)
    return {flags[name].path: value for name, value in values.items()}


def _merged(values: Mapping[str, Any], instead: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a job, some of them replaced; an area replaces the other kind of area."""
    areas = {'aoi', 'bbox'}
    dropped = areas if areas & set(instead) else set()
    rest = {path: value for path, value in values.items() if path not in dropped}
    return rest | dict(instead)


def may_be_search(text: str) -> bool:
    """Whether a text is a search in a catalogue rather than a path.

    Args:
        text: A path, ``stac:…`` or a shorthand such as ``naip``.
    """
    if text.startswith('stac:'):
        return True
    # Most texts are paths, which are recognised without an import.
    if os.path.exists(text) or {'.', '/', os.sep} & set(text.partition('?')[0]):
        return False
    from ..datasets.stac import is_search

    return is_search(text)


def _absolute(path: str) -> str:
    """An absolute path of what is there; anything else is a URL or a name of GDAL's."""
    if os.path.exists(path):
        return os.path.abspath(path)
    file = path
    while ':' in file:  # before a layer, or a variable and a time, of a file
        file = file.rpartition(':')[0]
        if os.path.exists(file):
            return os.path.abspath(file) + path[len(file) :]
    return path


def json_types(value: Any) -> Any:
    """A setting as JSON types; what is none of them as text.

    Args:
        value: A setting, or settings in mappings, sequences and dataclasses.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return json_types(asdict(value))
    if isinstance(value, Mapping):
        return {name: json_types(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [json_types(item) for item in value]
    if value is None or isinstance(value, str | int | bool):
        return value
    # JSON has no number that is not finite; a job file takes the text.
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)
