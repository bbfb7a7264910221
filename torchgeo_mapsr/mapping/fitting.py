# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The fit pass over some chips, and fits that were made before."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..datasets.geo.plan import Plan
from ..datasets.legends.crosswalk import Crosswalk
from ..errors import InputError
from ..models.backbones.backbone import Backbone
from ..models.backbones.create import create_backbone
from ..models.backbones.spec import parse_spec
from ..models.head.fit import FitOptions, fit_classifier
from ..models.head.head import Classifier
from ..versions import versions
from .collect import (
    LabelledChip,
    Piece,
    Place,
    Samples,
    gather,
    labelled_places,
    read_labelled,
)
from .config import MapJob
from .executor import Executor, Here, Tick
from .extractor import Extractor, Recipe
from .inputs import Inputs
from .passes import FitPass, Sight
from .prefetch import prefetch, torch_threads
from .timing import Stopwatch

# Chips that a backbone learns filters and statistics from.
_CALIBRATION = 16

# Cells after which no further chip is looked at: more change the fit little.
_CELLS = 40_000

# Pixels to draw from all chips.
_PIXELS = 100_000

# Chips that a worker looks at in a row: it reads one while it computes another.
_ROW = 4

# Cells below which the probe is solved in one thread: its steps take a millisecond, and
# threads that wait for one another at each took seven times the CPU's time.
_FEW = 2000


def make_backbone(job: MapJob, inputs: Inputs, saved: Classifier | None) -> Backbone:
    """The backbone of a job, or of a saved fit.

    Args:
        job: The job.
        inputs: What it reads.
        saved: A fit that was made before.

    Raises:
        InputError: If the backbone cannot be made, or is not the one of the fit.
    """
    dtype = _integers(inputs)
    if saved is None:
        members = [
            member.with_option('seed', str(job.seed))
            if member.kind == 'rcf' and 'seed' not in member.options
            else member
            for member in parse_spec(job.backbone)
        ]
        spec = '+'.join(map(str, members))
        return create_backbone(spec, inputs.bands, job.weights, dtype)
    made = saved.provenance['backbone']
    if made['bands'] != inputs.bands:
        raise InputError(
            f'The fit was made on imagery of {made["bands"]} bands, this has '
            f'{inputs.bands}; choose bands with --bands.'
        )
    backbone = create_backbone(made['spec'], inputs.bands, job.weights, dtype)
    backbone.load_calibration(dict(saved.calibration))
    if backbone.weights_digest() != made['weights']:
        raise InputError(
            f'The weights of the backbone {made["spec"]!r} are not those that the fit '
            'was made with; name their file with --weights.'
        )
    return backbone


def _integers(inputs: Inputs) -> str | None:
    """Data type of the imagery's files, if they hold integers."""
    return str(inputs.dtype) if inputs.dtype.kind in 'ui' else None


def sendable(job: MapJob, inputs: Inputs, extractor: Extractor) -> Extractor:
    """An extractor that other processes can make from its recipe.

    Args:
        job: The job; its device is that of the other processes.
        inputs: What the job reads.
        extractor: The extractor, calibrated.
    """
    backbone = extractor.backbone
    recipe = Recipe(
        backbone.spec,
        inputs.bands,
        _integers(inputs),
        backbone.weights_digest(),
        job.device,
        extractor.precision,
        extractor.spread,
        job.compile,
    )
    return replace(extractor, recipe=recipe)


def check_saved(saved: Classifier, inputs: Inputs) -> None:
    """Make sure that a fit that was made before makes the map that is asked for.

    Args:
        saved: The fit.
        inputs: What the job reads.

    Raises:
        InputError: If its classes are others.
    """
    if saved.target != inputs.target:
        raise InputError(
            f"The fit maps the classes of '{saved.target.name}', not of "
            f"'{inputs.target.name}'; give --target {saved.target.name}."
        )


def fit(
    job: MapJob,
    inputs: Inputs,
    plans: Sequence[Plan],
    extractor: Extractor,
    watch: Stopwatch,
    start: Callable[[int], Tick],
    executor: Executor | None = None,
) -> Classifier:
    """Look at some chips and fit a classifier.

    Args:
        job: The job.
        inputs: What it reads; with labels.
        plans: Plan of each raster.
        extractor: The backbone. It is calibrated here.
        watch: Counts the time.
        start: Starts a progress bar of so many steps; gives a function that steps it.
        executor: Looks at the chips; this process by default.

    Returns:
        The classifier, with the backbone's calibration and its provenance.

    Raises:
        InputError: If there are no usable labels.
    """
    crosswalk = inputs.crosswalk
    assert crosswalk is not None
    places = labelled_places(plans, inputs.labels, job.seed)
    backbone = extractor.backbone
    if backbone.needs_calibration:
        with watch('backbone'):
            backbone.calibrate(_sample(inputs, plans, places))
    executor = executor or Here()
    if executor.elsewhere:
        extractor = sendable(job, inputs, extractor)
    expected = min(len(places), job.max_chips)
    work = FitPass(extractor, inputs.labels, -(-_PIXELS // expected), job.seed, watch)
    sights = [Sight(inputs.images[p.image], plans[p.image], p) for p in places]
    pieces = look(executor, work, sights, job.max_chips, start(expected))
    if not pieces:
        raise InputError(
            'The labels have no data where the imagery has; check their no-data value '
            'and their place.'
        )
    with watch('probe'):
        samples = gather(pieces, crosswalk)
        with torch_threads(1 if len(samples.cells) < _FEW else torch.get_num_threads()):
            classifier = fit_classifier(
                samples.cells, samples.pixels, inputs.target, _options(job)
            )
    provenance = {
        **classifier.provenance,
        'backbone': {
            'spec': backbone.spec,
            'bands': inputs.bands,
            'channels': sum(backbone.channels),
            'weights': backbone.weights_digest(),
        },
        'chips': len(pieces),
        'labels': _label_counts(samples, crosswalk),
        'seed': job.seed,
        'versions': versions(),
    }
    return replace(
        classifier, calibration=backbone.calibration(), provenance=provenance
    )


def look(
    executor: Executor, work: FitPass, sights: Sequence[Sight], chips: int, tick: Tick
) -> list[Piece]:
    """Look at chips until enough have shown labels.

    Which they are depends on the order of *sights* alone, and not on who is faster.

    Args:
        executor: Where it is done.
        work: What is done with a chip.
        sights: The chips, in order.
        chips: Chips with labels to find, at most.
        tick: Called once for each chip that is finished.

    Returns:
        What the chips with labels say.
    """
    pieces: list[Piece] = []
    cells = 0
    while sights and len(pieces) < chips and cells < _CELLS:
        # Some may show none: then as many again are looked at as are missing.
        missing = chips - len(pieces)
        some, sights = sights[:missing], sights[missing:]
        found = executor.run(work, executor.split(some, _ROW), tick)
        with closing(found):
            for piece in found:
                if piece is None:
                    continue
                pieces.append(piece)
                cells += len(piece.codes)
                if cells >= _CELLS:
                    break
    return pieces


def _sample(
    inputs: Inputs, plans: Sequence[Plan], places: Sequence[Place]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some images and their validity, as a backbone's calibration takes them."""

    def read(place: Place) -> LabelledChip:
        image, plan = inputs.images[place.image], plans[place.image]
        return read_labelled(image, plan, place.chip, inputs.labels)

    chips = (chip for chip in prefetch(read, places) if chip.valid.any())
    for chip in islice(chips, _CALIBRATION):
        yield torch.from_numpy(chip.image), torch.from_numpy(chip.valid)


def _options(job: MapJob) -> FitOptions:
    default = FitOptions()
    return FitOptions(
        score=default.score if job.score == 'auto' else job.score,
        balance=job.class_balance,
        prior=job.prior,
        prompts=job.prompts,
        confidence_quantile=job.confidence_quantile,
        centre=job.centre,
        seed=job.seed,
        noise=job.noise,
        class_weight=job.class_weight,
    )


def _label_counts(samples: Samples, crosswalk: Crosswalk) -> dict[str, Any]:
    """How many LR cells were used, and which were not, as JSON types."""
    unknown = crosswalk.unknown(samples.codes)
    ignored = samples.codes[crosswalk.index(samples.codes) < 0]
    codes, counts = np.unique(ignored, return_counts=True)
    nothing = {*unknown, crosswalk.source.nodata}
    return {
        'legend': crosswalk.source.name,
        'target': crosswalk.target.name,
        'crosswalk': crosswalk.name,
        'reference': crosswalk.reference,
        'cells': len(samples.cells),
        'cells_used': int(samples.cells.usable.sum()),
        'cells_ignored_by_code': {
            str(code): count
            for code, count in zip(codes.tolist(), counts.tolist(), strict=True)
            if code not in nothing
        },
        'unknown_codes': {str(code): count for code, count in unknown.items()},
    }
