# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How a head is fitted; importable without torch, which takes seconds."""

from dataclasses import asdict, dataclass
from typing import Any

from ...arguments import Range, check_choice, check_range, plain
from ...errors import InputError

RECIPES = ('codes', 'classes')
SCORES = ('fusion', 'probe', 'lda', 'cosine')
NOISE = ('auto', 'none', 'denoise', 'sce', 'small-loss')
CLASS_WEIGHTS = ('power', 'log')

#: Values of the fields of :class:`FitOptions` that are words.
CHOICES = {
    'recipe': RECIPES,
    'score': SCORES,
    'noise': NOISE,
    'class_weight': CLASS_WEIGHTS,
}

#: Widest smoothing of the labels, in LR cells: chips have a margin of three such.
MAX_SIGMA = 1.0

#: Least and largest value of its fields that are numbers.
RANGES: dict[str, Range] = {
    'balance': (0, 2),
    'l2': (1e-12, 1e6),
    'prior': (0, 100),
    'prior_sigma': (0.05, MAX_SIGMA),
    'prompts': (1, 1000),
    'confidence_quantile': (0, 1),
    'seed': (0, 2**32 - 1),
    'max_chips': (1, 10**9),
    'max_pixels': (100, 10**9),
    'calibration_chips': (1, 10**9),
}


def check_field(field: str, value: Any, name: str) -> None:
    """Make sure that an option is in its range, or one of its words.

    Args:
        field: The field of :class:`FitOptions`.
        value: Its value; None for what a fit chooses.
        name: What the user calls it.

    Raises:
        InputError: If it is not.
    """
    if field in CHOICES:
        check_choice(name, value, CHOICES[field])
    if field in RANGES:
        whole = FitOptions.__annotations__[field] is int
        check_range(name, value, *RANGES[field], whole=whole)
    if field == 'confidence_quantile' and value == 1:
        raise InputError(f'{name} must be below 1.')


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a head is fitted.

    Args:
        recipe: What is learned: ``codes``, the codes of the labels, translated by the
            crosswalk's shares, with denoising where codes are single classes; or
            ``classes``, the classes that the codes are called (version 0.1.0).
        score: What scores a pixel: ``fusion`` of probe and discriminant, ``probe``,
            ``lda``, or ``cosine``, the published form, which has no prior.
        balance: Cells weigh by (cells of their class) ** -balance: 0 weighs cells
            equally and 1 classes.
        l2: L2 strength of the probe; none to choose it by held-out LR cells.
        prior: Weight of the LR labels at prediction; none for the recipe's.
        prior_sigma: Smoothing of the LR labels at prediction, in their cells, at most
            1; none for the recipe's.
        prompts: Prompts a class.
        confidence_quantile: Only pixels at or above this quantile of their class's
            confidence make prompts; 0 for all that agree with their label.
        centre: Whether cosine similarity is seen from the mean of all features; for
            the score ``cosine``.
        seed: Seed of folds, clusters and draws.
        noise: What is done about wrong labels: ``denoise``, ``sce`` or ``small-loss``,
            which lessen the weight of doubtful cells, ``none``, or ``auto``: denoise
            where the recipe is ``codes`` and each code is one class.
        class_weight: How classes weigh: ``power``, by balance; or ``log``, W of Dong et
            al. 2023, eq. 3, which leaves no choice of balance.
        max_chips: Chips that a fit looks at, at most.
        max_pixels: Pixels that are drawn from all chips, at most.
        calibration_chips: Chips that a backbone learns its statistics from, at most.

    Raises:
        InputError: If a value is out of range.

    >>> FitOptions(score='cosine').score
    'cosine'
    """

    recipe: str = 'codes'
    score: str = 'fusion'
    balance: float = 0.5
    l2: float | None = None
    prior: float | None = None
    prior_sigma: float | None = None
    prompts: int = 1
    confidence_quantile: float = 0.0
    centre: bool = False
    seed: int = 0
    noise: str = 'auto'
    class_weight: str = 'power'
    max_chips: int = 64
    max_pixels: int = 100_000
    calibration_chips: int = 16

    def __post_init__(self) -> None:
        """Check the values; what is kept are plain ones."""
        for name in (*CHOICES, *RANGES):
            check_field(name, getattr(self, name), name)
            object.__setattr__(self, name, plain(getattr(self, name)))
        check_choice('centre', self.centre, (True, False))

    def check_together(self) -> None:
        """Make sure that each option has an effect with the others.

        Apart from making them, since the command names the score last.

        Raises:
            InputError: If one has none.
        """
        if self.class_weight == 'log' and self.balance != FitOptions.balance:
            raise InputError(
                'balance (--class-balance) has no effect with class_weight log '
                '(--class-weight): leave one of them out.'
            )
        if self.centre and self.score != 'cosine':
            raise InputError(
                f'centre (--centre) has no effect on the score {self.score}: leave it '
                'out, or give score cosine (--score).'
            )

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON types."""
        return asdict(self)
