# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Class weights at prediction: scores times a weight a class, and the best class anew."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import check_numbers
from ..datasets.legends.legend import Legend
from ..errors import InputError
from .class_maps import NO_PERCENT
from .named_classes import parse_named


def class_weights(values: Iterable[str], legend: Legend) -> tuple[float, ...]:
    """Read what ``--reweight`` was given.

    Args:
        values: ``CLASS=WEIGHT`` each, the class by its name or code.
        legend: The classes.

    Returns:
        A weight for each class, 1 where none is given; nothing if all are 1.

    Raises:
        InputError: If one cannot be read, or is none (:func:`check_weights`).

    >>> class_weights(['impervious=2'], Legend.load('land-cover-4'))
    (1.0, 1.0, 1.0, 2.0)
    """
    weights = [1.0] * len(legend)
    for index, weight in parse_named(values, legend, '--reweight').items():
        weights[index] = weight
    check_weights(weights, legend, '--reweight')
    return tuple(weights) if set(weights) != {1.0} else ()


def check_weights(
    weights: Sequence[float], legend: Legend, name: str = 'weights'
) -> None:
    """Make sure that there is a weight for each class, and a class that can be the best.

    Args:
        weights: A weight for each class.
        legend: The classes.
        name: What the user calls them.

    Raises:
        InputError: If there are more or fewer, one is no number, infinite or below 0, or
            none is above 0.
    """
    if len(weights) != len(legend):
        raise InputError(
            f'{name} has {len(weights)} numbers for the {len(legend)} classes of the '
            f"legend '{legend.name}'."
        )
    check_numbers(name, list(weights), 0)
    if not any(weights):
        raise InputError(f'{name}: one class at least has a weight above 0.')


def reweighted(
    scores: NDArray[np.uint8], index: NDArray[np.int64], weights: ArrayLike
) -> NDArray[np.int64]:
    """Choose classes by weighted scores.

    The sliders of Malkin et al. 2019, appendix E: argmax_c w_c s_c. Scores are whole
    percentages, so that two may be equal: then the class that is mapped stays if it is
    among the best, otherwise the first of them is taken. With weights of 1 a map is
    therefore left as it is, and the page of `report` (the same rule in JavaScript, in
    the same double precision) gives the same pixels.

    Args:
        scores: Percentages as NAME_scores.tif holds them, (C, H, W); 255 = no data.
        index: Class index that is mapped, (H, W); -1 = no data.
        weights: Weight of each class, 0 or more, (C,).

    Returns:
        Class index, (H, W); -1 where the map or the scores have no data.

    >>> scores = np.array([[[60]], [[40]]], np.uint8)
    >>> reweighted(scores, np.array([[0]]), [1, 2]).item()
    1
    """
    weight = np.asarray(weights, np.float64)[:, None, None]
    values = scores * weight
    best = values.argmax(0)
    top = np.take_along_axis(values, best[None], 0)[0]
    mapped = np.clip(index, 0, len(scores) - 1)
    unchanged = np.take_along_axis(values, mapped[None], 0)[0] == top
    result = np.where(unchanged, mapped, best)
    missing = (index < 0) | (scores == NO_PERCENT).any(0)
    return np.where(missing, -1, result)
