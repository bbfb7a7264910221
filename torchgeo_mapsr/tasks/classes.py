# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Which classes labels have, and which the map has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..arguments import construct
from ..datasets.legends.crosswalk import Crosswalk


@dataclass(frozen=True)
class Classes:
    """Legends of the labels and of the map, and the way from one to the other.

    Args:
        legend: Legend of the LR labels, a name or a file.
        target: Legend of the map.
        crosswalk: Name or file of the crosswalk between them.
        truth_legend: Legend of ``mask``, the HR labels; *target* by default.
        truth_crosswalk: Name or file of the crosswalk from it to *target*.

    >>> labels, truth = Classes('nlcd', 'land-cover-4').load()
    >>> labels.target.class_names
    ('Water', 'Forest', 'Field', 'Impervious')
    """

    legend: str = 'nlcd'
    target: str = 'land-cover-4'
    crosswalk: str | None = None
    truth_legend: str | None = None
    truth_crosswalk: str | None = None

    @classmethod
    def of(cls, value: 'Classes | Mapping[str, Any]') -> 'Classes':
        """Take legends, also those that a checkpoint has.

        Args:
            value: Legends, as an object or as a mapping.

        Raises:
            InputError: If it is something else.
        """
        return construct(cls, value, 'classes')

    def load(self) -> tuple[Crosswalk, Crosswalk]:
        """Load the crosswalks to the classes of the map.

        Returns:
            From the codes of the LR labels, and from those of the HR labels.

        Raises:
            InputError: If there is no such legend or crosswalk.
        """
        target, truth = self.target, self.truth_legend or self.target
        return (
            Crosswalk.load(self.legend, target, self.crosswalk),
            Crosswalk.load(truth, target, self.truth_crosswalk),
        )


#: Default of signatures; it is immutable.
CLASSES = Classes()
