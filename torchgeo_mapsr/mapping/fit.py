# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The fit pass: some chips are looked at, and a model is fitted to their LR cells."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

from torch import Tensor

from ..datasets.chip import Chip, read_chip
from ..datasets.geo.plan import ChipIndex, Plan
from ..datasets.imagery import Imagery
from ..datasets.labelled_chips import LabelledChips
from ..datasets.labels import LabelRaster
from ..errors import InputError
from ..models.backbones.backbone import Backbone
from ..models.devices import chips_at_once, device_of, device_of_module
from ..models.features import FrozenBackbone, band_spread, calibration_part, extract
from ..models.head.cells import MAX_CELLS, Cells
from ..models.head.fit import check_options
from ..models.head.options import FitOptions
from ..models.model import LandCoverModel, fit_model
from ..process import give_back, pipeline, prefetch
from .executor import Executor, Here, Tick
from .inputs import Inputs
from .options import ComputeOptions, ScoringOptions
from .progress import Stopwatch

# Chips that a worker looks at in a row: it reads one while it computes another.
_ROW = 4


@dataclass(frozen=True)
class FitItem:
    """A chip to look at, with all that is needed to read it.

    Args:
        image: Number of its raster.
        imagery: The raster.
        plan: The raster's plan.
        chip: The chip.
    """

    image: int
    imagery: Imagery
    plan: Plan
    chip: ChipIndex


@dataclass(frozen=True)
class FitPass:
    """Looks at chips: features of the LR cells under each.

    Args:
        origin: What the backbone is made from.
        labels: LR labels.
        pixels: Pixels to draw from a chip, at most.
        seed: Seed of the draws.
        watch: Counts the time.
        device: Name of the device, looked for where chips are looked at.
        precision: Arithmetic of the backbone.
        spread: Standard deviation of each band, if upsampling is to be guided.
        backbone: The backbone, where this stays in the process that made it.
    """

    origin: FrozenBackbone
    labels: tuple[LabelRaster, ...]
    pixels: int
    seed: int
    watch: Stopwatch
    device: str = 'cpu'
    precision: str = 'fp32'
    spread: tuple[float, ...] | None = None
    backbone: Backbone | None = None

    def __call__(
        self, items: Iterable[FitItem], tick: Callable[[], None]
    ) -> Iterator[Cells]:
        """Yield what each chip shows."""
        backbone = self.backbone or _opened(self.origin, self.device)
        device = device_of_module(backbone)

        def look(chip: Chip) -> Cells:
            with self.watch('backbone'):
                image = chip.image.to(device)
                tokens = extract(backbone, image, self.precision, self.spread)
            with self.watch('probe'):
                return Cells.of(tokens, chip, self.pixels, self.seed)

        threads = chips_at_once(device)
        with closing(pipeline(self._read, look, items, threads)) as results:
            for cells in results:
                if len(cells):
                    tick()
                yield cells

    def _read(self, item: FitItem) -> Chip:
        with self.watch('read'):
            plan, chip = item.plan, item.chip
            own = plan.own(chip)
            return read_chip(
                item.imagery, plan.crop(chip), self.labels, own=own, number=item.image
            )


_backbones: dict[tuple[str, int, str, str], Backbone] = {}


def _opened(origin: FrozenBackbone, device: str) -> Backbone:
    """A backbone, made once in a worker for all that it looks at."""
    key = origin.spec, origin.bands, origin.digest, device
    if key not in _backbones:
        _backbones.clear()
        _backbones[key] = origin.make().to(device_of(device))
    return _backbones[key]


def fit_region(
    inputs: Inputs,
    plans: Sequence[Plan],
    backbone: Backbone,
    options: FitOptions,
    scoring: ScoringOptions,
    compute: ComputeOptions,
    watch: Stopwatch,
    start: Callable[[int], Tick] = lambda total: lambda: None,
    executor: Executor | None = None,
) -> LandCoverModel:
    """Look at some chips of a region and fit a model.

    Args:
        inputs: Imagery, labels and legends.
        plans: Plan of each raster.
        backbone: The backbone, on its device. It is calibrated here.
        options: How the head is fitted.
        scoring: How pixels will be scored.
        compute: Where and how numbers are computed.
        watch: Counts the time.
        start: Starts a progress bar of so many steps; gives a function that steps it.
        executor: Looks at the chips; this process by default.

    Returns:
        The model.

    Raises:
        InputError: If there are no usable labels.
    """
    crosswalk = inputs.crosswalk
    assert crosswalk is not None
    if scoring.score is not None:
        options = replace(options, score=scoring.score)
    if scoring.prior is not None:
        options = replace(options, prior=scoring.prior)
    check_options(options, crosswalk)
    labels = [inputs.labels] * len(plans)
    chips = LabelledChips(plans, labels, options.seed)

    def items() -> Iterator[FitItem]:
        for image, chip in chips:
            yield FitItem(image, inputs.images[image], plans[image], chip)

    guided = scoring.upsampler == 'bilateral'
    with watch('backbone'):
        some = list(_images(items(), options.calibration_chips))
        if not some:
            for image in inputs.images:
                image.check_data()
        if backbone.needs_calibration:
            backbone.calibrate(some)
        # For any upsampler: a later map with this fit may choose the bilateral one.
        spread = band_spread(some)
    first = inputs.images[0]
    origin = FrozenBackbone.of(
        backbone, inputs.bands, inputs.integers, first.descriptions, first.pixel_size
    )
    executor = executor or Here()
    expected = min(len(chips), options.max_chips)
    work = FitPass(
        origin,
        inputs.labels,
        -(-options.max_pixels // expected),
        options.seed,
        watch,
        compute.device,
        compute.precision,
        spread if guided else None,
        None if executor.elsewhere else backbone,
    )
    parts = look(executor, work, items(), options.max_chips, start(expected))
    if not parts:
        for image in inputs.images:
            image.check_data()
        raise InputError(
            'The labels have no data where the imagery has; check their no-data value '
            'and their place.'
        )
    with watch('probe'):
        # The sums of pieces are as large as the pixels, and not needed any more.
        table = Cells.merge(parts).table()
        give_back()
        model = fit_model(
            table,
            crosswalk,
            backbone,
            origin,
            options,
            scoring.upsampler or 'bilinear',
            spread,
            scoring.propagate or 'none',
            compute.precision,
            calibrate=scoring.calibrate is not False,
        )
        # Memory of the fit goes back before the map pass begins.
        del table
        give_back()
        return model


def look(
    executor: Executor, work: FitPass, items: Iterable[FitItem], chips: int, tick: Tick
) -> list[Cells]:
    """Look at chips until enough have shown labels.

    Which they are depends on the order of *items* alone, and not on who is faster.

    Args:
        executor: Where it is done.
        work: What is done with a chip.
        items: The chips, in order.
        chips: Chips with labels to find, at most.
        tick: Called once for each chip that is finished.

    Returns:
        What the chips with labels show.
    """
    parts: list[Cells] = []
    cells = 0
    rest = iter(items)
    while len(parts) < chips and cells < MAX_CELLS:
        # Some chips may show no cell: then as many more are looked at as are missing.
        some = list(islice(rest, chips - len(parts)))
        if not some:
            break
        with closing(executor.run(work, executor.split(some, _ROW), tick)) as results:
            for part in results:
                if not len(part):
                    continue
                parts.append(part)
                cells += len(part)
                if cells >= MAX_CELLS:
                    break
    return parts


def _images(items: Iterable[FitItem], count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Some images and their validity, as a backbone's calibration takes them."""

    def read(item: FitItem) -> Chip:
        return read_chip(item.imagery, item.plan.crop(item.chip), number=item.image)

    chips = (chip for chip in prefetch(read, items) if chip.valid.any())
    for chip in islice(chips, count):
        yield calibration_part(chip.image, chip.valid, count)
