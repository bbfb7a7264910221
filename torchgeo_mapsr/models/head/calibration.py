# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A confidence of 80 % that is right 80 times in a hundred, without any HR label."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from scipy.optimize import brentq
from torch import Tensor

from ...datasets.legends.crosswalk import Crosswalk
from ...errors import InputError
from ...process import give_back
from .cells import ROWS, CellTable, spread
from .fit import fit_head
from .head import Head
from .neighbours import row_of
from .options import FitOptions
from .prior import LabelPrior, evidence, reach_of
from .probe import folds_of

# Least probability, so that powers of 0 and products of it stay numbers.
_LEAST = 1e-6

# Share of the held-out pixels that a fit is surest of: what they disagree with is mostly
# the labels' own errors. Without this, labels of which a third was drawn at random made
# the error of the confidence four times as large as it was before.
_SUREST = 0.2

# Share of the pixels that disagree with their held-out cell and are right to: a cell has
# one label, and pixels of other classes. Without it the accuracy of 17 of 25 maps of real
# scenes was above the share. Leaving one of four sets of scenes out, the others chose .3
# three times and .1 once; with .3 to .4, the error of a scene grew where a third of the
# labels was drawn at random.
_RIGHTLY = 0.25

# Where held-out cells are mapped as labelled more seldom than the model is sure of its
# classes, it becomes so much of the way less sure. The share is too low there still: what
# the labels add to a map is not in it. All of the way, the calibration error of scenes
# with labels that are right was more than twice as large on DeepGlobe; less than half is
# too little for a fit of few cells, which really is too sure.
_DOWNWARD = 0.5

# Temperatures that are looked at: what needs others has another fault. With .1 the error
# of two noisy scenes was .014 and .025 larger.
_COLDEST, _HOTTEST = 0.2, 50.0

# A third of the cells is held out, in blocks: errors of coarse maps are alike over
# neighbours, and single cells would be predicted by those around them.
_PARTS = 3

# Pixels of the cells that are fitted to, and of those that are held out, at most: all of
# a large fit's would take another 170 MB.
_FITTED, _HELD_OUT = 20_000, 10_000

# Pixels whose probabilities stand for the map's: their mean confidence is known to half
# a percent, and a fit's file grows by some ten kilobytes a class.
_PIXELS = 2000


@dataclass(frozen=True, eq=False)
class Calibration:
    """Makes probabilities as sure as they should be.

    p' ∝ p^(1/T): temperature scaling (Guo et al. 2017, section 4.2). The best class stays
    the best.

    Args:
        temperature: T, above 1 if the probabilities are too sure.
        description: How it was found, for people.

    >>> import torch
    >>> Calibration(2.0).apply(torch.tensor([0.9, 0.1])).round(decimals=2).tolist()
    [0.75, 0.25]
    """

    temperature: float = 1.0
    description: str = 'not calibrated'

    @property
    def is_identity(self) -> bool:
        """Whether probabilities stay as they are."""
        return self.temperature == 1

    def apply(self, probabilities: Tensor) -> Tensor:
        """Calibrate probabilities.

        Args:
            probabilities: Probability of each class, (C, …); whatever adds up to one.

        Returns:
            The same shape and data type, adding up to one.
        """
        if self.is_identity:
            return probabilities
        scores = probabilities.clamp(min=_LEAST).pow_(1 / self.temperature)
        return scores.div_(scores.sum(0))

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, for a report."""
        return {
            'temperature': round(self.temperature, 4),
            'description': self.description,
        }


def fit_temperature(
    probabilities: Tensor,
    agreement: float,
    pixels: int,
    ceiling: float = 1.0,
    downward: float = 1.0,
    rightly: float = 0.0,
) -> Calibration:
    """Find the temperature from LR cells that a fit has not seen. No HR label is needed.

    The mean confidence of the map becomes the share of pixels in held-out cells that
    are mapped as the cell is labelled, divided by what that share is where the fit is
    surest: labels that are wrong here and there are wrong there, too. Two things make it
    differ from the accuracy still, and they pull against each other: a pixel may rightly
    differ from its cell, of which a part can be allowed for, and map and label may make
    the same mistake. In cells that a fit *has* seen, and whose labels are its prior, the
    share is .94 to .98 whatever the accuracy: it says nothing. What that did on real
    scenes stands in docs/evaluate.md.

    Args:
        probabilities: Of a sample of the map's pixels, (C, n): what is to be calibrated,
            prior and all.
        agreement: Share of the pixels of held-out cells whose class, by a fit that has
            not seen these cells, is the one that the cell is labelled as.
        pixels: Number of these pixels.
        ceiling: That share of the pixels that the fit is surest of.
        downward: How much of the way the mean confidence goes to that share where the
            share is lower, 0 to 1.
        rightly: Share of the pixels that disagree with their cell and are right to.

    Returns:
        The calibration; it changes nothing where there is no held-out pixel.
    """
    if not pixels or not probabilities.numel():
        return Calibration(description='not calibrated: no coarse cell was held out')
    values = probabilities.double()

    def confidence(log_temperature: float) -> float:
        calibration = Calibration(math.exp(log_temperature))
        return float(calibration.apply(values).amax(0).mean())

    share = agreement / max(ceiling, 1e-9)
    share += rightly * max(1 - share, 0.0)
    above = max(confidence(0.0) - share, 0.0)
    # Not above what no temperature reaches, nor below an even draw.
    target = min(max(share + (1 - downward) * above, 1 / len(values) + 0.01), 0.999)

    def excess(log_temperature: float) -> float:
        return confidence(log_temperature) - target

    low, high = math.log(_COLDEST), math.log(_HOTTEST)
    if excess(low) <= 0:
        root = low
    elif excess(high) >= 0:
        root = high
    else:
        root = float(brentq(excess, low, high, xtol=1e-4))
    temperature = math.exp(root)
    description = (
        f'temperature {temperature:.2f}: of {pixels} pixels in coarse cells that a fit '
        f'had not seen, {100 * agreement:.1f} % were mapped as their cell is labelled, '
        f'and {100 * ceiling:.1f} % where that fit was surest'
    )
    return Calibration(temperature, description)


@dataclass(frozen=True, eq=False)
class CalibrationSample:
    """What a calibration is found from, however a fit is used afterwards.

    The score and the weight of the labels may be others at prediction than they were at
    the fit: so a fit keeps the probabilities of some pixels by each of its scores, and
    what the labels say of them, rather than one temperature.

    Args:
        probabilities: Of some pixels, without the labels, by the name of each score,
            (n, C) float32.
        evidence: What the LR labels add to their logarithms at weight one, (n, C)
            float32.
        agreement: Share of the pixels of held-out cells whose class, by a fit that has
            not seen these cells, is that of the cell's label; by the name of each score.
        ceiling: That share of the pixels that this fit is surest of.
        pixels: Number of these pixels.
    """

    probabilities: Mapping[str, Tensor]
    evidence: Tensor
    agreement: Mapping[str, float]
    ceiling: Mapping[str, float]
    pixels: int

    @classmethod
    def of(
        cls,
        table: CellTable,
        crosswalk: Crosswalk,
        head: Head,
        options: FitOptions,
        pixel_features: int = 0,
    ) -> Self | None:
        """Fit to two thirds of the cells, and look at the others.

        Args:
            table: LR cells, and pixels of them.
            crosswalk: From their codes to the classes.
            head: What was fitted to all of them.
            options: How.
            pixel_features: See :func:`~torchgeo_mapsr.models.head.fit.fit_head`.

        Returns:
            The sample; None if there are too few cells or classes to hold some out.
        """
        label = torch.from_numpy(crosswalk.index(table.code.numpy()))
        fold = folds_of(table.block, options.seed, _PARTS)
        held = (fold == 0) & (label >= 0)
        inside = spread(held[table.owner], _HELD_OUT)
        rest = table.subset(fold != 0, _FITTED)
        if not len(inside) or not len(rest.pixels):
            return None
        fit = head.provenance['fit']
        chosen: dict[str, Any] = {
            'l2': fit['l2'],
            'prior': fit['prior_weight'],
            'prior_sigma': fit['prior_sigma'],
        }
        if options.noise == 'auto':
            chosen['noise'] = 'denoise' if 'label_errors' in fit else 'none'
        settings = FitOptions(**{**options.to_dict(), **chosen})
        give_back()  # what the first fit took
        try:
            other = fit_head(
                rest, crosswalk, settings, None, pixel_features, precise=False
            )
        except InputError:
            # Two classes are not left.
            return None
        expected = label[table.owner[inside]]
        agreement: dict[str, float] = {}
        ceiling: dict[str, float] = {}
        for score, scorer in other.by_score().items():
            parts = [scorer.classify(table.pixels[i]) for i in inside.split(ROWS)]
            confidence, classes = torch.cat(parts).max(1)
            agrees = (classes == expected).double()
            agreement[score] = float(agrees.mean())
            surest = confidence.argsort(descending=True, stable=True)
            surest = surest[: max(round(_SUREST * len(inside)), 1)]
            ceiling[score] = float(agrees[surest].mean())
        generator = torch.Generator().manual_seed(options.seed)
        order = torch.randperm(len(table.pixels), generator=generator)
        some = order[:_PIXELS].sort().values
        features = table.pixels[some]
        return cls(
            {score: h.classify(features) for score, h in head.by_score().items()},
            evidence_at(table, table.owner[some], head.prior, generator),
            agreement,
            ceiling,
            len(inside),
        )

    def calibration(self, score: str, prior: float) -> Calibration:
        """The calibration of a score under a weight of the labels.

        Args:
            score: What scores a pixel.
            prior: Weight of the labels.
        """
        if score not in self.probabilities:
            return Calibration(description=f'not calibrated: no sample of {score}')
        p = self.probabilities[score]
        if prior > 0:
            p = (p.clamp(min=1e-30).log() + prior * self.evidence).softmax(1)
        return fit_temperature(
            p.T,
            self.agreement[score],
            self.pixels,
            self.ceiling[score],
            downward=_DOWNWARD,
            rightly=_RIGHTLY,
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and JSON types."""
        tensors = {f'p.{score}': p for score, p in self.probabilities.items()}
        fields = {
            'agreement': dict(self.agreement),
            'ceiling': dict(self.ceiling),
            'pixels': self.pixels,
        }
        return {**tensors, 'evidence': self.evidence}, fields

    @classmethod
    def from_state(
        cls, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]
    ) -> Self:
        """The way back from :meth:`state`.

        Args:
            tensors: The tensors.
            fields: The JSON types.
        """
        scores = fields['agreement']
        return cls(
            {score: tensors[f'p.{score}'] for score in scores},
            tensors['evidence'],
            scores,
            fields['ceiling'],
            fields['pixels'],
        )


def evidence_at(
    table: CellTable, owner: Tensor, prior: LabelPrior, generator: torch.Generator
) -> Tensor:
    """What the labels of a table say at random places of its cells.

    :meth:`LabelPrior.evidence` from the cells alone: cells are smoothed by a Gaussian
    and interpolated between their centres. Cells that no chip has shown are left out of
    the means, as they are labelled like any other.

    Args:
        table: LR cells.
        owner: Cell that each place lies in, (n,).
        prior: The labels' composition and smoothing.
        generator: Draws the places.

    Returns:
        (n, C) float32.
    """
    reach = reach_of(prior.sigma)
    steps = torch.arange(-reach, reach + 1)
    gauss = torch.exp(-(steps.double() ** 2) / (2 * prior.sigma**2))
    gauss = gauss / gauss.sum()
    # Along each axis: neighbours from -reach - 1 to reach + 1, and the weight of each.
    position = torch.rand(len(owner), 2, generator=generator, dtype=torch.float64) - 0.5
    first = position.floor()
    share = position - first
    around = torch.arange(-reach - 1, reach + 2)
    weight = torch.zeros(len(owner), 2, len(around), dtype=torch.float64)
    for corner in (0, 1):
        amount = share if corner else 1 - share
        for step, value in zip(steps.tolist(), gauss.tolist(), strict=True):
            index = first.long() + corner + step + reach + 1
            weight.scatter_add_(2, index[..., None], (amount * value)[..., None])
    code = torch.searchsorted(prior.codes, table.code).clamp(max=len(prior.codes) - 1)
    labelled = prior.codes[code] == table.code
    composition = prior.composition[code].double() * labelled[:, None]
    place = table.place
    shares = torch.zeros(len(owner), composition.shape[1], dtype=torch.float64)
    support, total = torch.zeros(2, len(owner), dtype=torch.float64)
    for i, down in enumerate(around.tolist()):
        for j, right in enumerate(around.tolist()):
            neighbour = place[owner] + torch.tensor([0, down, right])
            row = torch.from_numpy(row_of(place.numpy(), neighbour.numpy()))
            exists = row >= 0
            w = torch.where(exists, weight[:, 0, i] * weight[:, 1, j], 0)
            shares += w[:, None] * composition[row.clamp(min=0)]
            support += w * labelled[row.clamp(min=0)]
            total += w
    total = total.clamp(min=1e-9)
    parts = (shares / total[:, None]).T.float(), (support / total).float()
    added = evidence(*parts, prior.frequency).T
    # A pixel whose own cell has no label gets nothing.
    return torch.where(labelled[owner][:, None], added, 0.0).contiguous()
