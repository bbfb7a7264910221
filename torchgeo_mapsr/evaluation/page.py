# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""One self-contained HTML page of a run: to look at, and to try class weights."""

import base64
import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image
from rasterio.enums import Resampling

from ..datasets.geo.areas import PixelAreas
from ..datasets.geo.assets import CATALOGUED, address_of
from ..datasets.geo.names import distinct_names
from ..datasets.imagery import Imagery
from ..datasets.labels import LabelRaster, first_code
from ..datasets.legends.crosswalk import Crosswalk
from ..datasets.legends.legend import Legend
from ..errors import InputError
from .class_maps import layer_path, map_legend
from .reweighting import class_weights

#: Pixels of a picture's longer side.
SIZE = 900

# Maps of more pixels are read from their overviews: all of their pixels take too long.
_MOST = 4e8

_NOTHING = 255


def build_page(
    reports: Sequence[Path],
    figures: Sequence[Path] = (),
    title: str | None = None,
    size: int = SIZE,
) -> str:
    """Make the page of one or more runs.

    Args:
        reports: Reports of runs (the JSON that ``map`` writes); the maps of all are shown.
        figures: JSON of ``evaluate``, ``area`` and ``change``.
        title: Title of the page.
        size: Pixels of a picture's longer side; larger maps are thinned out.

    Returns:
        HTML that needs no other file and no network.

    Raises:
        InputError: If a report or a file that it names cannot be read.
    """
    runs: list[dict[str, Any]] = []
    for path, name in zip(reports, distinct_names(reports), strict=True):
        report = _load(path)
        if 'maps' not in report or 'settings' not in report:
            raise InputError(f'{path} is no report of a map; give the JSON beside it.')
        _check(path, report)
        legend = _legend(path, report)
        views = [
            _view(path, report, entry, number, size, legend)
            for number, entry in enumerate(report['maps'])
        ]
        runs.append({'name': name, 'views': views, **_run(path, report)})
    views = [view for run in runs for view in run['views']]
    names = distinct_names([view.pop('path') for view in views])
    for view, name in zip(views, names, strict=True):
        view['name'] = name
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = [_load(path) for path in figures]
    for path, part in zip(figures, parts, strict=True):
        if not {'confusion', 'error_matrix_points', 'lr', 'window_metres'} & set(part):
            raise InputError(
                f'{path} has no figures; give what evaluate, area or change wrote with '
                '--json.'
            )
    sources = distinct_names(figures)
    parts = [{**part, 'source': s} for part, s in zip(parts, sources, strict=True)]
    content = {
        'title': title or ', '.join(view['name'] for view in views),
        'views': views,
        'runs': runs,
        'tables': _by_legend(views),
        'accuracies': [p for p in parts if 'confusion' in p],
        'areas': [p for p in parts if 'error_matrix_points' in p],
        'consistencies': [p for p in parts if 'lr' in p],
        'changes': [p for p in parts if 'window_metres' in p],
        'lightness': _lightness,
    }
    template = environment.get_template('page.html.j2')
    try:
        return template.render(content)
    except (UndefinedError, TypeError, ValueError) as error:
        if not figures:
            raise
        raise InputError(
            f'{", ".join(map(str, figures))}: something is not as evaluate, area or '
            f'change writes it ({error}).'
        ) from None


def notebook_html(report: Path, height: int = 760) -> str:
    """The page of a run in a frame, as Jupyter shows it.

    Args:
        report: The run's report.
        height: Pixels of the frame's height.
    """
    page = html.escape(build_page([report], size=600), quote=True)
    return (
        f'<iframe srcdoc="{page}" style="width:100%;height:{height}px;border:0" '
        'title="Land-cover map"></iframe>'
    )


def _load(path: Path) -> dict[str, Any]:
    """A JSON object."""
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror})') from None
    except ValueError as error:
        raise InputError(f'{path}: is no JSON ({error})') from None
    if not isinstance(content, dict):
        raise InputError(f'{path}: is no report.')
    return content


def _check(path: Path, report: Mapping[str, Any]) -> None:
    """What is shown of a report is of the kinds that ``map`` writes."""

    def texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(v, str) for v in value)

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    def whole(value: Any) -> bool:
        return number(value) and isinstance(value, int)

    def need(fits: bool, what: str) -> None:
        if not fits:
            raise InputError(
                f'{path}: {what} is not as map writes it; put the report right, or make '
                'the map again.'
            )

    settings, maps = report['settings'], report['maps']
    need(isinstance(settings, dict), 'settings')
    for part in (settings.get('scoring', {}), settings.get('fit', {})):
        need(isinstance(part, dict), 'settings')
    for name in ('imagery', 'labels', 'reweight'):
        value = _setting(report, name)
        need(value is None or isinstance(value, str) or texts(value), name)
    for name in ('legend', 'target', 'crosswalk'):
        need(isinstance(_setting(report, name), str | None), name)
    bands = _setting(report, 'bands')
    need(bands is None or (isinstance(bands, list) and all(map(whole, bands))), 'bands')
    nodata, stack = _setting(report, 'nodata'), _setting(report, 'stack')
    need(nodata in (None, 'nan', 'inf', '-inf') or number(nodata), 'nodata')
    need(isinstance(stack, bool | None), 'stack')
    for name in ('timings', 'versions'):
        need(isinstance(report.get(name, {}), dict), name)
    need(all(map(number, _all(report.get('timings', {}), 'total'))), 'timings')
    need(texts(report.get('notes', [])), 'notes')
    need(isinstance(maps, list) and bool(maps), 'maps')
    for entry in maps:
        need(isinstance(entry, dict) and isinstance(entry.get('map'), str), 'maps')
        agreement = entry.get('lr_agreement')
        need(agreement is None or number(agreement), 'lr_agreement')
        rows = entry.get('classes')
        need(isinstance(rows, list), 'classes')
        for row in rows:
            need(isinstance(row, dict) and whole(row.get('code')), 'classes')
            need(number(row.get('hectares')), 'hectares')


def _all(content: Any, name: str) -> Iterator[Any]:
    """Values of a name, however deep."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if key == name:
                yield value
            else:
                yield from _all(value, name)


def _setting(report: Mapping[str, Any], name: str) -> Any:
    """A setting of a run, wherever among the settings it stands; None without."""
    return next(_all(report['settings'], name), None)


def _locate(report: Path, name: str) -> str | Path:
    """A file of a report: where it says, or beside the report if both were moved."""
    if '://' in name or name.startswith(('/vsi', CATALOGUED)):
        # An address, or the name of a file in a catalogue: it cannot have moved.
        return name
    path = Path(name)
    for place in (path, report.parent / path, report.parent / path.name):
        if place.exists():
            return place
    raise InputError(f'{report} names {name}, which is not there.')


def _legend(path: Path, report: dict[str, Any]) -> Legend:
    """The legend of a run: the one that it names, or that of its first map."""
    target = _setting(report, 'target')
    if target:
        # The user's file may be gone; the map itself names its classes.
        with suppress(InputError):
            return Legend.load(target)
    return map_legend(_locate(path, report['maps'][0]['map']))


def _by_legend(views: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Views whose classes have the same codes and names, in the order of the views."""
    tables: dict[Any, list[dict[str, Any]]] = {}
    for view in views:
        words = tuple((item['code'], item['name']) for item in view['legend'])
        tables.setdefault(words, []).append(view)
    return list(tables.values())


def _view(
    path: Path,
    report: dict[str, Any],
    entry: dict[str, Any],
    number: int,
    size: int,
    legend: Legend,
) -> dict[str, Any]:
    """One map with everything that is shown of it."""
    map_path = Path(_locate(path, entry['map']))
    with rasterio.open(map_path) as dataset:
        full = GeoBox.from_rio(dataset)
    grid = full.zoom_out(max(1.0, max(full.shape) / size))
    thin = full.width * full.height <= _MOST
    areas = PixelAreas(grid)(slice(0, grid.height), slice(0, grid.width))
    index = legend.index(
        _read(map_path, (grid.height, grid.width), thin)[0].astype(np.int64)
    )
    view: dict[str, Any] = {
        'path': str(map_path),
        'width': grid.width,
        'height': grid.height,
        'legend': [
            {'code': c.code, 'name': c.name, 'color': list(c.color)}
            for c in legend.classes
        ],
        'classes': _png(np.where(index < 0, _NOTHING, index)),
        'hectares': _hectares(entry, legend),
        # Hectares of a pixel of each row of the picture.
        'rows': (areas.mean(1) / 1e4).tolist(),
        'whole': grid == full,
        'pixels': [full.width, full.height],
        'agreement': entry.get('lr_agreement'),
        'scores': [],
        'weights': _weights(report, legend),
        'confidence': None,
        'labels': None,
        'imagery': None,
    }
    confidence, scores = (
        layer_path(map_path, name) for name in ('confidence', 'scores')
    )
    if confidence.exists():
        view['confidence'] = _png(_read(confidence, (grid.height, grid.width), thin)[0])
    if scores.exists():
        bands = _read(scores, (grid.height, grid.width), thin)
        if len(bands) == len(legend):
            view['scores'] = [_png(band) for band in bands]
    labels = _labels(path, report, legend, grid)
    if labels is not None:
        view['labels'] = _png(np.where(labels < 0, _NOTHING, labels))
    imagery = _setting(report, 'imagery') or []
    if isinstance(imagery, str):
        imagery = [imagery]
    files = imagery if len(report['maps']) == 1 else imagery[number : number + 1]
    if files:
        located = [_locate(path, file) for file in files]
        nodata = _setting(report, 'nodata')
        try:
            opened = Imagery(
                located,
                _setting(report, 'bands'),
                None if nodata is None else float(nodata),
                bool(_setting(report, 'stack')),
            )
        except InputError as error:
            raise InputError(f'{path}: {error}') from None
        # Matplotlib is not needed before a picture is drawn.
        from .panel import imagery_picture

        view['imagery'] = _jpeg(imagery_picture(opened, grid, index >= 0))
    return view


def _weights(report: dict[str, Any], legend: Legend) -> list[float]:
    """Weights of the classes that the map was made with."""
    values = _setting(report, 'reweight') or ()
    return list(class_weights(values, legend) or [1.0] * len(legend))


def _hectares(entry: dict[str, Any], legend: Legend) -> list[float]:
    """Hectares of each class as the report has them."""
    by_code = {row['code']: row['hectares'] for row in entry['classes']}
    return [by_code.get(item.code, 0.0) for item in legend.classes]


def _read(path: Path, shape: tuple[int, int], thin: bool) -> NDArray[Any]:
    """A raster at the size of the picture, the same pixels of each layer, (B, h, w)."""
    options = {'OVERVIEW_LEVEL': 'NONE'} if thin else {}
    with rasterio.open(address_of(path), **options) as dataset:
        values: NDArray[Any] = dataset.read(
            out_shape=(dataset.count, *shape), resampling=Resampling.nearest
        )
    return values


def _labels(
    path: Path, report: dict[str, Any], legend: Legend, grid: GeoBox
) -> NDArray[np.int64] | None:
    """Coarse labels in the map's classes, -1 = none; None if the run had none."""
    names, source = _setting(report, 'labels'), _setting(report, 'legend')
    if not names or not source:
        return None
    if isinstance(names, str):
        names = [names]
    crosswalk = Crosswalk.load(source, legend, _setting(report, 'crosswalk'))
    labels = LabelRaster.open([_locate(path, name) for name in names])
    return crosswalk.index(first_code(labels, grid))


def _png(values: NDArray[Any]) -> str:
    """Bytes as a grey PNG, which a browser reads back bit by bit."""
    stream = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(stream, 'PNG', optimize=True)
    return 'data:image/png;base64,' + base64.b64encode(stream.getvalue()).decode()


def _jpeg(values: NDArray[np.uint8]) -> str:
    """A picture as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, 'JPEG', quality=82)
    return 'data:image/jpeg;base64,' + base64.b64encode(stream.getvalue()).decode()


def _lightness(share: float | None) -> str:
    """Background of a cell of a matrix: blue by its share."""
    if share is None:
        return 'transparent'
    return f'rgba(31, 119, 180, {min(max(share, 0), 1):.3f})'


def _run(path: Path, report: dict[str, Any]) -> dict[str, Any]:
    """What the page says about a run."""
    seconds = next(_all(report.get('timings', {}), 'total'), None)
    settings = report['settings']
    # Options of scoring go before those of the fit.
    scoring = {part: settings.get(part, {}) for part in ('scoring', 'fit')}
    facts = {
        'report': path.name,
        'made': report.get('created', ''),
        'version': report.get('versions', {}).get('torchgeo-mapsr', ''),
        'backbone': _setting(report, 'spec') or '',
        'score': next(filter(None, _all(scoring, 'score')), ''),
        'coarse legend': _setting(report, 'legend') or '',
        'seconds': '' if seconds is None else f'{seconds:.0f}',
    }
    calibration = next(_all(report, 'calibration'), None)
    if isinstance(calibration, Mapping) and 'description' in calibration:
        facts['confidence'] = calibration['description']
    return {
        'facts': {key: str(value) for key, value in facts.items() if value},
        'notes': list(report.get('notes', [])),
    }
