# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Joint statistics: how much of each HR class an LR cell of a class holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from ...atomic import write_text
from ...errors import InputError
from . import catalog
from .legend import Legend, code_of


def class_counts(
    mask_region: ArrayLike, hr_index: ArrayLike, cells: int, classes: int
) -> NDArray[np.int64]:
    """Count the HR pixels of each class in each LR cell.

    Args:
        mask_region: Cell of each pixel, 1 to *cells*, 0 outside, of shape (H, W).
        hr_index: Class index of each pixel, -1 where unlabelled, of shape (H, W).
        cells: Number of cells, n.
        classes: Number of HR classes, C.

    Returns:
        Counts of shape (n, C).
    """
    region, index = np.asarray(mask_region), np.asarray(hr_index)
    labelled = (region > 0) & (index >= 0)
    flat = (region[labelled] - 1) * classes + index[labelled]
    return np.bincount(flat, minlength=cells * classes).reshape(cells, classes)


@dataclass(frozen=True, eq=False)
class JointStatistics:
    """Mean and standard deviation of HR class shares within LR cells of each class.

    η and ρ in Malkin et al. 2019, Label super-resolution networks, ICLR, §3 and Table 4.
    Rows follow the source legend; a class that never occurred has frequency 0 and NaN.

    Args:
        name: Name of the statistics.
        source: LR legend, L classes.
        target: HR legend, C classes.
        mean: Mean share, of shape (L, C).
        std: Standard deviation of the share, of shape (L, C).
        frequency: Share of cells with the class, of shape (L,).
        reference: What they were measured on.
    """

    name: str
    source: Legend
    target: Legend
    mean: NDArray[np.float64] = field(repr=False)
    std: NDArray[np.float64] = field(repr=False)
    frequency: NDArray[np.float64] = field(repr=False)
    reference: str = ''

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the statistics that ship."""
        return catalog.names('statistics')

    @classmethod
    def load(cls, name: str | Path) -> 'JointStatistics':
        """Load statistics.

        A class of the file has either the mean and the standard deviation of the HR
        classes' shares, in their order, or a description: ``shares``, bounds by HR code,
        see :func:`~torchgeo_mapsr.datasets.legends.statistics.described_shares`.

        Args:
            name: One of :meth:`names`, or the path of a .yaml or .json file.

        Returns:
            The statistics.

        Raises:
            InputError: If there are none of that name, or a field is missing or wrong.
        """
        content = catalog.read('statistics', name)
        try:
            source = Legend.load(content['source'])
            target = Legend.load(content['target'])
            shape = len(source), len(target)
            mean, std = np.full(shape, np.nan), np.full(shape, np.nan)
            frequency = np.zeros(len(source))
            for code, row in content['classes'].items():
                i = int(source.index(code_of(code)))
                if i < 0:
                    raise ValueError(f"code {code} is not in legend '{source.name}'")
                if 'shares' in row:
                    mean[i], std[i] = _described(row['shares'], target)
                    frequency[i] = row.get('frequency', 1 / len(content['classes']))
                    continue
                mean[i], std[i] = row['mean'], row['std']
                frequency[i] = row['frequency']
        except InputError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"{name}: statistics are 'source', 'target' and 'classes' of code: "
                f"'frequency', 'mean' and 'std', or 'shares' of HR code: bounds; "
                f'check {error}'
            ) from error
        return cls(
            str(content.get('name') or Path(name).stem),
            source,
            target,
            mean,
            std,
            frequency,
            ' '.join(str(content.get('reference', '')).split()),
        )

    @classmethod
    def estimate(
        cls,
        source: Legend,
        target: Legend,
        lr_index: ArrayLike,
        counts: ArrayLike,
        share: ArrayLike | None = None,
        name: str = 'estimated',
        reference: str = '',
    ) -> 'JointStatistics':
        """Estimate statistics from LR cells with HR labels.

        Cells without an LR class or without an HR label are left out. Several scenes
        are one estimate of their concatenated cells.

        Args:
            source: LR legend, L classes.
            target: HR legend, C classes.
            lr_index: LR class index of each cell, -1 where unlabelled, of shape (n,).
            counts: HR pixels by class in each cell, of shape (n, C).
            share: Visible share of each cell, its weight, of shape (n,); by default 1.
            name: Name for the statistics.
            reference: What they are measured on.

        Returns:
            The statistics.
        """
        index, pixels = np.asarray(lr_index), np.asarray(counts, dtype=np.float64)
        labelled = pixels.sum(axis=1)
        used = (index >= 0) & (labelled > 0)
        index, labelled, pixels = index[used], labelled[used], pixels[used]
        weight = np.ones(len(index)) if share is None else np.asarray(share)[used]

        def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
            total = np.bincount(index, weight * values, minlength=len(source))
            return total.astype(np.float64)

        total = sums(np.ones(len(index)))
        portion = pixels / labelled[:, None]
        # a class without a cell gets NaN, and that without a warning
        per_class = np.where(total > 0, total, np.nan)[:, None]
        mean = np.stack([sums(column) for column in portion.T], -1) / per_class
        # E[x²] − E[x]², which rounding may leave just under 0
        square = np.stack([sums(column**2) for column in portion.T], -1) / per_class
        variance = np.maximum(square - mean**2, 0)
        frequency = total / total.sum() if total.any() else total
        return cls(name, source, target, mean, np.sqrt(variance), frequency, reference)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types: legends by name or whole, and classes that occur by code."""
        shipped = Legend.names()
        content: dict[str, Any] = {'name': self.name}
        for key, legend in (('source', self.source), ('target', self.target)):
            is_shipped = legend.name in shipped and Legend.load(legend.name) == legend
            content[key] = legend.name if is_shipped else legend.to_dict()
        content['reference'] = self.reference
        content['classes'] = {
            code: {
                'frequency': self.frequency[i].item(),
                'mean': self.mean[i].tolist(),
                'std': self.std[i].tolist(),
            }
            for i, code in enumerate(self.source.codes.tolist())
            if self.frequency[i] > 0
        }
        return content

    def save(self, path: str | Path) -> None:
        """Write the statistics to a YAML file that :meth:`load` reads.

        Args:
            path: File to write.
        """
        text = yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None)
        write_text(Path(path), text)

    def missing(self, codes: ArrayLike) -> tuple[int, ...]:
        """Codes of LR classes that have no statistics.

        Args:
            codes: Codes of cells, of any shape; those that the source legend does not
                have are no classes.

        Returns:
            The codes without a row, ascending.
        """
        index = np.unique(self.source.index(codes))
        index = index[index >= 0]
        absent = index[np.isnan(self.mean[index]).any(axis=1)]
        return tuple(self.source.codes[absent].tolist())

    def proportions(self, codes: ArrayLike) -> NDArray[np.float64]:
        """Expected share of each HR class in LR cells.

        Args:
            codes: Codes of the source legend, of any shape (…).

        Returns:
            Shares of shape (…, C), rows summing to 1; NaN for codes without statistics.
        """
        # published tables are rounded: their rows sum to 1 give or take 0.01
        rows = self.mean / self.mean.sum(axis=1, keepdims=True)
        rows = np.vstack([rows, np.full(len(self.target), np.nan)])
        return rows[self.source.index(codes)]

    def posterior(self, portion: ArrayLike, floor: float = 0.02) -> NDArray[np.float64]:
        """Probability of each LR class of a cell, given its shares of HR classes.

        Bayes' rule with the frequencies as prior and Malkin et al. 2019, eq. 5, as
        likelihood: P(l | x) ∝ f_l ∏_c N(x_c; η_lc, ρ_lc²).

        Args:
            portion: Shares of the HR classes, of shape (n, C).
            floor: Least standard deviation.

        Returns:
            Probabilities of shape (n, L); 0 for classes without statistics.
        """
        occurs = self.frequency > 0
        std = np.maximum(self.std[occurs], floor)
        offset = np.asarray(portion)[:, None, :] - self.mean[occurs]
        log = np.log(self.frequency[occurs]) - np.log(std).sum(axis=1)
        log = log - 0.5 * ((offset / std) ** 2).sum(axis=-1)
        likelihood = np.exp(log - log.max(axis=1, keepdims=True))
        result = np.zeros((len(likelihood), len(self.source)))
        result[:, occurs] = likelihood / likelihood.sum(axis=1, keepdims=True)
        return result


def _described(
    shares: Mapping[Any, Sequence[float]], target: Legend
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and standard deviations of bounds by HR code."""
    bounds = {}
    for code, (least, most) in shares.items():
        index = int(target.index(code_of(code)))
        if index < 0:
            raise ValueError(f"code {code} is not in legend '{target.name}'")
        bounds[index] = (float(least), float(most))
    return described_shares(bounds, len(target))


Interval = tuple[float, float]


def described_shares(
    intervals: Mapping[int, Interval], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the shares that a description allows.

    A share between two bounds is taken to be uniform, so it has the mean (a + b) / 2
    and the standard deviation (b − a) / √12 (Malkin et al. 2019, appendix F). What they
    leave of the cell, R = 1 − Σ cᵢ, belongs to the m classes without bounds; it is
    split among them evenly distributed over all ways to do so (flat Dirichlet), so that
    each has

        mean E[R] / m        variance 2 E[R²] / (m (m + 1)) − (E[R] / m)²

    In the paper's example of medium intensity, impervious is uniform in 0.5 .. 0.8,
    forest and field share the rest, and water is about 0.

    Args:
        intervals: Least and largest share by class index.
        classes: Number of HR classes, C.

    Returns:
        Means and standard deviations, of shape (C,).

    Raises:
        InputError: The bounds are none, or leave less or more than nothing.
    """
    low, high = np.zeros(classes), np.zeros(classes)
    described = np.zeros(classes, dtype=bool)
    for index, (least, most) in intervals.items():
        if not 0 <= least <= most <= 1:
            raise InputError(
                f'a share lies between two bounds of 0 to 1, not {least} and {most}'
            )
        low[index], high[index], described[index] = least, most, True
    mean, variance = (low + high) / 2, (high - low) ** 2 / 12

    left, rest = 1 - mean.sum(), ~described
    if left < -0.01 or (left > 0.01 and not rest.any()):
        raise InputError(
            f'the middles of the described shares add up to {1 - left:.2f}; they may not '
            'exceed 1, and have to reach it where no class is left without bounds'
        )
    left, m = max(left, 0.0), int(rest.sum())
    if m:
        square = left**2 + variance.sum()
        mean[rest] = left / m
        variance[rest] = 2 * square / (m * (m + 1)) - (left / m) ** 2
    return mean, np.sqrt(variance)
