# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a job reads, opened and checked."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import file_digest
from ..datasets.geo.aoi import AreaOfInterest
from ..datasets.geo.grid import crop
from ..datasets.geo.vector import split_layer
from ..datasets.imagery import Imagery
from ..datasets.label_check import check_codes
from ..datasets.labels import LabelRaster
from ..datasets.legends.crosswalk import Crosswalk
from ..datasets.legends.legend import Legend
from ..errors import InputError, InputWarning
from ..models.backbones.spec import parse_spec
from ..models.chip_model import ChipModel
from ..models.model import LandCoverModel
from ..versions import versions
from .cog import map_codes
from .config import MapJob, may_be_search
from .outputs import Outputs

# Pixels along a side of the middle of a raster, where its values are looked at.
_LOOKED_AT = 256

# A raster is of another unit if in all bands its values vary so many times as much as those
# of a fit, or the largest is below such a share of their deviation. Of 16 real scenes of
# four sensors none varied 1.7 times as much as another of its sensor, and the largest value
# was four deviations of the other or more.
_WIDER, _LOWER = 8.0, 0.25


@dataclass(frozen=True)
class Inputs:
    """Imagery, labels and legends of a job.

    Args:
        images: Imagery of each map.
        labels: LR labels, one raster for each distinct grid.
        target: Legend of the map.
        crosswalk: From the labels' legend to *target*; None without labels.
    """

    images: tuple[Imagery, ...]
    labels: tuple[LabelRaster, ...]
    target: Legend
    crosswalk: Crosswalk | None

    @classmethod
    def open(cls, job: MapJob, outputs: Outputs) -> 'tuple[Inputs, Outputs]':
        """Open everything that a job names.

        Args:
            job: The job.
            outputs: Its outputs, which say which files belong to one map.

        Returns:
            The inputs, and the outputs of those maps that the job's area touches.

        Raises:
            InputError: If something cannot be read, or does not fit together.
        """
        target = Legend.load(job.target)
        map_codes(target)  # refuses legends whose codes a map could not hold
        crosswalk = None
        if job.legend is not None:
            crosswalk = Crosswalk.load(job.legend, target, job.crosswalk)
        images = tuple(
            Imagery(o.imagery, job.bands, job.nodata, job.stack) for o in outputs.maps
        )
        area = area_of(job)
        if area is not None:
            images, touched = _within(images, area)
            outputs = outputs.only(touched)
        first = images[0]
        for image in images[1:]:
            image.check_bands(first.bands, first.descriptions, first.paths[0])
            image.check_pixels(first.pixel_size, first.paths[0])
        labels = LabelRaster.open(job.labels) if job.labels else ()
        if crosswalk is not None and labels:
            grids = [image.geobox for image in images]
            check_codes(labels, crosswalk.source, grids)
        return cls(images, labels, target, crosswalk), outputs

    @property
    def bands(self) -> int:
        """Bands of the imagery."""
        return self.images[0].bands

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type that holds the values of all imagery."""
        return np.result_type(*(image.dtype for image in self.images))

    @property
    def integers(self) -> str | None:
        """Data type of the imagery's files, if they hold integers."""
        return str(self.dtype) if self.dtype.kind in 'ui' else None

    def files(self, job: MapJob) -> list[str | Path]:
        """Every file that is read.

        Args:
            job: The job that was opened.
        """
        return [
            *(path for image in self.images for path in image.files),
            *(path for raster in self.labels for path in raster.files),
            *(path for _, path in _named(job)),
            *([] if job.aoi is None else [split_layer(job.aoi)[0]]),
        ]

    def describe(self, job: MapJob) -> dict[str, Any]:
        """All that a map depends on, as JSON types: the key of unfinished work.

        Args:
            job: The job that was opened.
        """
        files = {
            f'{name} {Path(value).name}': file_digest(Path(value))
            for name, value in _named(job)
            if Path(value).is_file()
        }
        sources: list[Imagery | LabelRaster] = [*self.images, *self.labels]
        # By their names alone: a folder that was renamed is the same work.
        files |= {
            f'{number} {" ".join(map(os.path.basename, source.paths))}': (
                source.fingerprint()
            )
            for number, source in enumerate(sources)
        }
        used = {name: versions()[name] for name in ('torchgeo-mapsr', 'torch')}
        settings = job.to_dict(results_only=True)
        for name in ('legend', 'target', 'crosswalk'):
            if settings[name] is not None:
                settings[name] = Path(settings[name]).name
        return {'settings': settings, 'inputs': files, 'versions': used}


def _within(
    images: Sequence[Imagery], area: AreaOfInterest
) -> tuple[tuple[Imagery, ...], list[int]]:
    """Imagery of the maps that an area touches, and which these are.

    Raises:
        InputError: There is none.
    """
    parts: dict[int, Imagery] = {}
    reason: InputError | None = None
    for number, image in enumerate(images):
        try:
            parts[number] = image.within(area)
        except InputError as error:
            reason = reason or error
    if reason is not None and not parts:
        raise reason
    return tuple(parts.values()), list(parts)


def _named(job: MapJob) -> list[tuple[str, str | Path]]:
    """What a job names besides rasters and areas, each with what it is.

    What there may be several of is numbered: two checkpoints may have one name, and
    their order matters.
    """
    members = parse_spec(job.backbone.spec)
    named = {
        'weights': job.backbone.weights,
        'model': job.model,
        'legend': job.legend,
        'target': job.target,
        'crosswalk': job.crosswalk,
        **{f'weights {i}': m.options.get('weights') for i, m in enumerate(members)},
        **{f'checkpoint {i}': path for i, path in enumerate(job.checkpoint)},
    }
    return [(name, value) for name, value in named.items() if value is not None]


def area_of(job: MapJob) -> AreaOfInterest | None:
    """The area of a job, if it has one.

    Args:
        job: The job.

    Raises:
        InputError: If it cannot be read.
    """
    if job.aoi is not None:
        return AreaOfInterest.open(job.aoi)
    return AreaOfInterest.from_bbox(job.bbox) if job.bbox else None


def searched(job: MapJob) -> MapJob:
    """The job with names of files in place of searches in a catalogue.

    Medians of several dates are made here, beside the output, and kept.

    Args:
        job: The job.

    Raises:
        InputError: If a search finds nothing, the legend of what it finds is not
            known, or a date is given without one.
    """
    if not any(map(may_be_search, (*job.imagery, *job.labels))):
        if job.date is not None:
            raise InputError(
                '--date has no effect on files; leave it out (of a Zarr cube: '
                'cube.zarr:variable@DATE).'
            )
        return job
    from ..datasets.stac import resolve

    area = area_of(job)
    assert area is not None
    folder = Path(job.output)
    folder = folder.parent if folder.suffix else folder
    results: dict[str, tuple[str, ...]] = {}
    legend = job.legend
    for name in ('imagery', 'labels'):
        files: list[str] = []
        for text in getattr(job, name):
            if may_be_search(text):
                names, classes = resolve(
                    text, area, job.date, folder, job.stack and name == 'imagery'
                )
                files += names
                legend = legend or (classes if name == 'labels' else None)
            else:
                files.append(text)
        results[name] = tuple(files)
    if results['labels'] and legend is None:
        raise InputError('Give the legend of the labels with --legend.')
    return replace(
        job,
        legend=legend,
        imagery=results['imagery'],
        labels=results['labels'],
        date=None,
    )


def check_imagery(model: ChipModel, images: Imagery) -> None:
    """Make sure that imagery is of the kind that a model was made for.

    Args:
        model: What maps the imagery.
        images: The imagery, of which the middle is looked at.

    Raises:
        InputError: It has bands of another number, or in another order.

    Warns:
        InputWarning: Bands have other names than those of the fit, pixels are much larger
            or smaller, or the values are of another unit: the map would be of one class
            or two.
    """
    if model.bands is not None:
        images.check_bands(
            model.bands, model.descriptions, 'the imagery of the fit', choose=True
        )
    if model.halo:  # what looks at single pixels sees no texture
        images.check_pixels(model.pixel_size, 'the imagery of the fit')
    if not isinstance(model, LandCoverModel):
        return
    row, col = (max(size // 2 - _LOOKED_AT // 2, 0) for size in images.geobox.shape)
    box = row, col, row + _LOOKED_AT, col + _LOOKED_AT
    values, valid = images.read(crop(images.geobox, box))
    seen = values[:, valid]
    if not seen.size:
        return
    dtype, what = model.origin.dtype, ''
    if dtype is not None:
        largest = np.iinfo(dtype).max
        if seen.min() >= 0 and seen.max() <= 1 and (seen % 1 > 0).any():
            what = 'values of 0 to 1'
        elif seen.max() > largest:
            what = f'values above {largest}'
    if not what and len(model.spread) == len(seen):
        spread, deviation = np.array(model.spread), seen.std(axis=1, dtype=np.float64)
        # A lake varies little, but its values lie within those of a fit to land.
        if (deviation > _WIDER * spread).all() or (
            np.abs(seen).max(axis=1) < spread / 2
        ).all():
            what = (
                f'values with a deviation of {deviation[0]:.3g} where those of the fit '
                f'had {spread[0]:.3g}'
            )
    if what:
        warnings.warn(
            f'The fit was made from imagery of {dtype or "fractions"}, and this has '
            f'{what}: give it as the fit had it, or the map is wrong',
            InputWarning,
            stacklevel=2,
        )


def check_prior(
    model: ChipModel,
    labels: Sequence[LabelRaster],
    images: Sequence[Imagery],
    legend: Legend | None = None,
) -> None:
    """Make sure that labels say something to a fit that uses them.

    Args:
        model: What maps the imagery.
        labels: Labels of the imagery, if there are any.
        images: The imagery.
        legend: What their codes mean, where that is known.

    Raises:
        InputError: They have no cell there whose code the fit knows, or are of another
            legend.
    """
    if not labels or not model.uses_labels or not isinstance(model, LandCoverModel):
        return
    path = labels[0].paths[0]
    advice = 'leave --labels (labels) out, or give --prior 0 to compare with them alone'
    fitted = model.report.get('labels', {}).get('legend')
    if legend is not None and fitted not in (None, legend.name):
        raise InputError(
            f"{path}: the fit learned the codes of '{fitted}', and these labels are of "
            f"'{legend.name}'; {advice}"
        )
    known = set(model.head.prior.codes.tolist())
    grids = [image.geobox for image in images]
    if not any(known & raster.count_codes(grids)[0].keys() for raster in labels):
        raise InputError(
            f'{path}: has no cell in the imagery with a code that the fit knows, so that '
            f'labels would have no effect; {advice}'
        )
