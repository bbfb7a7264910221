# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Fits and maps in Python, of arrays or files, with neither a job nor a Trainer."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.env import Env
from rasterio.io import MemoryFile
from torch import Tensor

from ..arguments import check_range, construct
from ..datasets.geo.opened import close_handles
from ..datasets.geo.plan import ChipIndex, Plan, default_overlap
from ..datasets.imagery import Imagery
from ..datasets.label_check import check_codes
from ..datasets.labels import LabelRaster
from ..datasets.legends.crosswalk import Crosswalk
from ..datasets.legends.legend import Legend
from ..errors import InputError, InputWarning
from ..models.backbones.create import create_backbone
from ..models.chip_model import ChipModel
from ..models.devices import device_of
from ..models.head.options import FitOptions
from ..models.model import LandCoverModel, is_intact
from ..models.networks.files import NetworkFiles
from .cog import map_codes
from .fit import fit_region
from .inputs import Inputs, check_imagery, check_prior
from .options import ComputeOptions, ScoringOptions
from .progress import Stopwatch
from .sweep import ScoredChip, sweep
from .tiles import ModelScores, TileItem

# No data in arrays of codes and of percent: an array has no tag that says another.
_NODATA = 255

T = TypeVar('T')


def fit(
    imagery: Any,
    labels: Any,
    legend: str | Legend,
    *,
    target: str | Legend = 'land-cover-4',
    crosswalk: str | Crosswalk | None = None,
    backbone: str = 'rcf',
    weights: str | None = None,
    options: FitOptions | Mapping[str, Any] | None = None,
    upsampler: str = 'bilinear',
    propagate: str = 'none',
    chip_size: int = 448,
    device: str = 'auto',
    stack: bool = False,
    calibrate: bool = True,
) -> LandCoverModel:
    """Fit a model to imagery and coarse labels of the same place.

    It is the model that ``torchgeo-mapsr map`` fits to the same rasters.

    Args:
        imagery: HR imagery: an :class:`xarray.DataArray` (band, y, x) with a CRS, an array
            (C, H, W) with its :class:`odc.geo.geobox.GeoBox`, or files.
        labels: LR labels: likewise, (y, x), in any grid and CRS.
        legend: Legend of the labels, a name, a file or a legend.
        target: Legend of the map.
        crosswalk: How the labels' classes become the map's, where there are several ways.
        backbone: Spec of the frozen features, see
            :func:`~torchgeo_mapsr.models.backbones.create.create_backbone`.
        weights: Weight file of the backbone.
        options: How the head is fitted; also as a mapping.
        upsampler: How values get from tokens to pixels: bilinear or bilateral.
        propagate: Spec of the spatial refinement.
        chip_size: Side of what the backbone sees at once, in pixels.
        device: auto, cpu or cuda:N.
        stack: Files of one place, two dates say, are bands of one image.
        calibrate: Whether the probabilities of a map are calibrated.

    Returns:
        The model.

    Raises:
        InputError: If something cannot be used, or does not fit together.

    Warns:
        InputWarning: The remarks of the fit: classes that are not mapped and why, and
            what maps may be wrong about.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from torchgeo_mapsr import fit, make_scene, map_array
        >>> folder = TemporaryDirectory()
        >>> scene = make_scene(folder.name, seed=0, size=(192, 192))
        >>> model = fit(scene.imagery, scene.labels, 'nlcd', backbone='identity')
        >>> model.target.class_names
        ('Water', 'Forest', 'Field', 'Impervious')
        >>> map_array(model, scene.imagery).shape
        (192, 192)
    """
    options = construct(FitOptions, options or {}, 'options')
    scoring = ScoringOptions(
        upsampler=upsampler, propagate=propagate, calibrate=calibrate
    )
    compute = ComputeOptions(device=device)
    with ExitStack() as opened:
        images = opened.enter_context(_imagery(imagery, stack))
        rasters = opened.enter_context(_labels(labels))
        translation = Crosswalk.load(legend, target, crosswalk)
        check_codes(rasters, translation.source, [images.geobox])
        inputs = Inputs((images,), rasters, translation.target, translation)
        frozen = create_backbone(
            backbone, images.bands, weights, inputs.integers, options.seed
        ).to(device_of(device))
        plan = _plan(images, chip_size, frozen.halo, max(frozen.strides))
        model = fit_region(
            inputs, [plan], frozen, options, scoring, compute, Stopwatch()
        )
    if model.remarks:
        warnings.warn(' '.join(model.remarks), InputWarning, stacklevel=2)
    return model


def map_array(
    model: ChipModel | str | PathLike[str] | Sequence[str | PathLike[str]],
    imagery: Any,
    labels: Any = None,
    *,
    probabilities: bool = False,
    chip_size: int = 448,
    stack: bool = False,
) -> Any:
    """Map imagery in memory.

    The classes are those that ``torchgeo-mapsr map --model`` writes.

    Args:
        model: What :func:`fit` returns, a
            :class:`~torchgeo_mapsr.models.model.LandCoverModel` that was loaded, or the
            file of one (.safetensors); the checkpoint of a network, or several, which
            are averaged.
        imagery: HR imagery, see :func:`fit`.
        labels: LR labels, which act as a prior; likewise.
        probabilities: Give the probability of every class in percent, instead of the
            code of the most probable one.
        chip_size: Side of what the backbone sees at once, in pixels.
        stack: As in :func:`fit`.

    Returns:
        Codes of the classes, (H, W) uint8, or percent, (C, H, W) uint8; 255 where there
        is no data. Of an :class:`xarray.DataArray` one with coordinates and CRS, of
        anything else an array.

    Raises:
        InputError: If the imagery cannot be used, or has other bands than the model's;
            or if a file is neither a fit nor a checkpoint.
    """
    model = _model(model)
    if _NODATA in map_codes(model.target):
        raise InputError(
            f"The legend '{model.target.name}' has a class of code {_NODATA}, which "
            'is no data in maps of arrays; give the class another code.'
        )
    with ExitStack() as opened:
        images = opened.enter_context(_imagery(imagery, stack))
        rasters: tuple[LabelRaster, ...] = ()
        if labels is not None:
            rasters = opened.enter_context(_labels(labels))
        check_imagery(model, images)
        check_prior(model, rasters, [images])
        plan = _plan(images, chip_size, model.halo, model.stride)
        values = _scored(model, images, rasters, plan, probabilities)
    return _like(values, imagery, model.target)


def _model(source: Any) -> ChipModel:
    """A model, from files where it is given by them."""
    if hasattr(source, 'probabilities') and hasattr(source, 'halo'):
        return source  # type: ignore[no-any-return]
    paths = source if isinstance(source, list | tuple) else [source]
    if not paths or not all(isinstance(path, str | PathLike) for path in paths):
        raise InputError(
            f'{type(source).__name__} is no model: map_array takes what fit() returns, '
            'the file of a fit, or checkpoints of networks.'
        )
    files = tuple(Path(path) for path in paths)
    if len(files) == 1 and _is_fit(files[0]):
        return LandCoverModel.load(files[0])
    return NetworkFiles.of(files, (), 'auto', 'fp32').open()


def _is_fit(path: Path) -> bool:
    """Whether a file is a fit, whatever its name; one that is not there is by its name."""
    if path.suffix == '.safetensors':
        return True
    try:
        return is_intact(path)
    except OSError:
        return False


def _scored(
    model: ChipModel,
    images: Imagery,
    rasters: tuple[LabelRaster, ...],
    plan: Plan,
    probabilities: bool,
) -> NDArray[np.uint8]:
    """Codes (H, W) or percent (C, H, W) of all pixels."""
    scores, watch = ModelScores(model, rasters), Stopwatch()
    tiles = plan.tiles()
    item = TileItem(0, images, plan, tiles[0])

    def read(chip: ChipIndex) -> Any:
        return scores.read(item, chip, watch)

    def score(content: Any) -> ScoredChip:
        return scores.score(content, watch)

    shape: tuple[int, ...] = plan.geobox.shape.yx
    classes = len(model.target)
    values = np.full((classes, *shape) if probabilities else shape, _NODATA, np.uint8)
    codes = map_codes(model.target)
    codes[classes:] = _NODATA
    for tile, blended in sweep(
        plan,
        tiles,
        classes,
        read,
        score,
        scores.threads,
        probabilities,
        calibration=scores.calibration,
    ):
        part = codes[blended.classes] if blended.scores is None else blended.scores
        values[..., tile.rows, tile.cols] = part
    return values


def _plan(images: Imagery, size: int, halo: int, stride: int) -> Plan:
    """Chips and tiles of one raster."""
    check_range('chip_size', size, 1, whole=True)
    overlap = default_overlap(size, halo)
    return Plan(images.geobox, size, 2048, overlap, halo, stride)


def _like(values: NDArray[np.uint8], source: Any, target: Legend) -> Any:
    """An array with the coordinates of what it was made of, to the last bit.

    Coordinates computed from the grid differ from the source's in the last digits, and
    xarray joins only what is equal.
    """
    if not hasattr(source, 'odc') and not hasattr(source, 'coords'):
        return values
    from xarray import DataArray

    places = source.odc.spatial_dims
    coordinates = {
        name: value
        for name, value in source.coords.items()
        if set(value.dims) <= set(places)
    }
    attrs: dict[str, Any] = {'nodata': 255}
    if values.ndim == 3:
        coordinates = {**coordinates, 'class': list(target.class_names)}
        like = DataArray(values, coordinates, ('class', *places), attrs=attrs)
    else:
        # CF: words apart by blanks, so that a class of several words is one
        words = ['_'.join(name.split()) for name in target.class_names]
        attrs |= {
            'flag_values': target.codes.tolist(),
            'flag_meanings': ' '.join(words),
        }
        like = DataArray(values, coordinates, places, attrs=attrs)
    return like if like.odc.crs is not None else like.odc.assign_crs(_grid(source).crs)


def _grid(array: Any) -> GeoBox:
    """Grid of an xarray object."""
    import odc.geo.xr  # noqa: F401

    grid = array.odc.geobox
    if grid is None or grid.crs is None:
        raise InputError(
            'The array has no grid with a CRS: give it one (array.odc.assign_crs), or '
            'pass (values, GeoBox).'
        )
    if grid.axis_aligned:
        for dim, name in zip(array.odc.spatial_dims, grid.dimensions, strict=True):
            even = grid.coordinates[name].values
            pixel = abs(even[-1] - even[0]) / max(len(even) - 1, 1)
            if (
                dim in array.coords
                and (abs(array[dim].values - even) > pixel / 2).any()
            ):
                raise InputError(
                    f'The coordinates {dim!r} of the array are not evenly spaced: '
                    'resample it to a grid (array.odc.reproject).'
                )
    return grid  # type: ignore[no-any-return]


@contextmanager
def _imagery(source: Any, stack: bool = False) -> Iterator[Imagery]:
    """Imagery of an array or of files."""
    if isinstance(source, Imagery):
        yield source
        return
    with _raster(source, lambda files: Imagery(files, stack=stack)) as images:
        yield images


@contextmanager
def _labels(source: Any) -> Iterator[tuple[LabelRaster, ...]]:
    """Label rasters of an array or of files."""
    if isinstance(source, LabelRaster):
        yield (source,)
        return
    with _raster(source, LabelRaster.open) as rasters:
        yield rasters


@contextmanager
def _raster(source: Any, opened: Callable[[Any], T]) -> Iterator[T]:
    """What opens files, on an array too: it is a file in memory meanwhile."""
    names: list[str] = []
    if hasattr(source, 'coords') and hasattr(source, 'dims'):
        if hasattr(source, 'data_vars'):  # a dataset: a band a variable
            places = set(source.odc.spatial_dims or ())
            bands = [n for n, v in source.data_vars.items() if places <= set(v.dims)]
            source = source[bands].to_dataarray('band')
        grid = _grid(source)
        values = source.transpose(..., *source.odc.spatial_dims).values
        bands = [dim for dim in source.dims if dim not in source.odc.spatial_dims]
        if len(bands) == 1 and bands[0] in source.coords:
            words = source.coords[bands[0]].values.tolist()
            names = words if all(isinstance(word, str) for word in words) else []
        nodata = getattr(source.odc, 'nodata', None)
        tags = {'nodata', '_FillValue', 'missing_value'}
        if values.dtype.kind == 'f' and not tags & set(source.attrs):
            # What an encoding says is of the numbers in the file; where they were
            # decoded, no data is NaN.
            nodata = None
    elif (
        isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], GeoBox)
    ):
        array = source[0].detach() if isinstance(source[0], Tensor) else source[0]
        values, grid, nodata = np.asanyarray(array), source[1], None
        if grid.crs is None:
            raise InputError(
                'The GeoBox has no CRS: GeoBox(shape, affine, crs), such as EPSG:32618.'
            )
    elif hasattr(source, 'shape') and hasattr(source, 'dtype'):
        raise InputError(
            f'An array of shape {tuple(source.shape)} has no grid; pass (values, GeoBox).'
        )
    else:
        yield opened(source)
        return
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[1:] != grid.shape.yx or not values.size:
        raise InputError(
            f'An array of shape {values.shape} does not lie on a grid of '
            f'{grid.shape.yx}; bands come first.'
        )
    if values.dtype.kind not in 'biuf':
        raise InputError(f'An array of {values.dtype} is neither imagery nor labels.')
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.dtype == np.longdouble:
        values = values.astype(np.float64)
    if nodata is not None and not _can_hold(values.dtype, nodata):
        nodata = None  # no pixel can have it
    internal = Env(GDAL_TIFF_INTERNAL_MASK=True)
    with internal, MemoryFile(ext='.tif') as memory:
        with memory.open(
            driver='GTiff',
            count=len(values),
            height=values.shape[1],
            width=values.shape[2],
            dtype=values.dtype,
            crs=str(grid.crs),
            transform=grid.affine,
            nodata=nodata,
            photometric='MINISBLACK',
        ) as file:
            file.write(np.ma.getdata(values))
            for band, name in enumerate(names, 1):
                file.set_band_description(band, name)
            if np.ma.is_masked(values):
                # as no-data values count: integers in all bands, floats in any
                hidden = np.ma.getmaskarray(values)
                every = values.dtype.kind == 'f'
                file.write_mask(~(hidden.any(0) if every else hidden.all(0)))
        try:
            yield opened(memory.name)
        finally:
            # this thread's handle on it would keep its memory
            close_handles(memory.name)


def _can_hold(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a pixel of a data type can have a value."""
    if dtype.kind == 'f':
        return True
    limits = np.iinfo(dtype)
    return bool(limits.min <= value <= limits.max and float(value).is_integer())
