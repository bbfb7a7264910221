# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How a head is fitted."""

from dataclasses import asdict, dataclass
from typing import Any

from ...errors import InputError

_RANGES = {
    'balance': (0, 1),
    'confidence_quantile': (0, 1),
    'prompts': (1, 10_000),
    'max_chips': (1, 10**9),
    'max_pixels': (1, 10**9),
    'calibration_chips': (1, 10**6),
}


def check_range(field: str, value: Any, name: str) -> None:
    """Make sure that an option is in its range.

    Args:
        field: The field of :class:`FitOptions`.
        value: Its value.
        name: What the user calls it.

    Raises:
        InputError: If it is not.
    """
    if field not in _RANGES:
        return
    low, high = _RANGES[field]
    if not low <= value <= high:
        raise InputError(f'{name} must be between {low} and {high}, not {value}.')
    if field == 'confidence_quantile' and value == high:
        raise InputError(f'{name} must be below {high}.')


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a classifier is fitted.

    Args:
        score: See :class:`~torchgeo_mapsr.models.head.head.Head`.
        balance: Cells weigh by (cells of their class) ** -balance: 0 weighs cells
            equally and 1 classes. Half way was best for mean IoU on all development
            scenes.
        l2: L2 strength of the probe; None to choose it by held-out LR cells.
        prior: Weight of the LR labels at prediction; None to choose it likewise.
        prior_sigma: Smoothing of the LR labels at prediction, in their cells. It is
            chosen together with the weight; half a cell where that is given.
        prompts: Prompts a class.
        confidence_quantile: See :func:`~torchgeo_mapsr.models.head.prompts.select`.
        centre: Whether cosine similarity is seen from the mean of all features.
        seed: Seed of folds and clusters.
        noise: How cells whose label seems wrong weigh less, see
            :func:`~torchgeo_mapsr.models.head.noise.label_trust`: none, sce or small-loss.
        class_weight: How classes weigh: power, by *balance*; or log, W of Dong et al.
            2023, eq. 3.
        max_chips: Chips that a fit looks at, at most.
        max_pixels: Pixels of all these that it keeps, at most.
        calibration_chips: Chips that a backbone learns filters and statistics from.

    Raises:
        InputError: If a value is out of its range.
    """

    score: str = 'fusion'
    balance: float = 0.5
    l2: float | None = None
    prior: float | None = None
    prior_sigma: float | None = None
    prompts: int = 1
    confidence_quantile: float = 0.0
    centre: bool = False
    seed: int = 0
    noise: str = 'none'
    class_weight: str = 'power'
    max_chips: int = 64
    max_pixels: int = 100_000
    calibration_chips: int = 16

    def __post_init__(self) -> None:
        for name in _RANGES:
            check_range(name, getattr(self, name), name)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON types.

        Those that came later are left out where they change nothing: a fit is the same
        file as before.
        """
        told = asdict(self)
        nothing = {'noise': 'none', 'class_weight': 'power', 'prior_sigma': None}
        for name, value in nothing.items():
            if told[name] == value:
                del told[name]
        return told
