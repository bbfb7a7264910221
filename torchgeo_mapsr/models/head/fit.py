# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""From LR cells to a head: probe, translation, prompts and the labels as a prior."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets.legends.crosswalk import Crosswalk
from ...errors import InputError
from ...process import give_back
from .cells import ROWS, CellTable
from .head import Head
from .noise import FEWEST_CELLS, DenoisedLabels, denoise, label_trust
from .options import FitOptions
from .prior import SIGMAS, LabelPrior, choose_prior, neighbour_weights
from .probe import (
    ABSENT,
    MAX_FITTED,
    STRENGTHS,
    CellSpace,
    HeldOut,
    LinearProbe,
    choose_strength,
    class_weights,
    folds_of,
    one_hot,
)
from .prompts import CosinePrompts, cluster, confident, within_class_discriminant

# L2 strength where there are too few cells to choose one: on real, noisy labels held-out
# cells choose one that is too weak rather than too strong, so it is one of the strong ones.
CAUTIOUS = 1e-2

# Strongest penalty on codes: the likelihood of codes, many of which mean much the same,
# asks for more than their translation does.
MAX_CODE_L2 = 1e-3

# The colour expert: its penalty, and pixels that it looks at. On twelve columns of real
# scenes ten times the penalty changed the mean by .000, a tenth lost .001 (.004 of noisy
# labels).
COLOUR_L2, COLOUR_PIXELS = 1e-4, 10_000

# What it weighs where prompts are chosen, and in the probe of the map. Prompts of a
# probe with a quarter were .01 below on nearly every scene. But prompts know colours
# themselves: a quarter in the map gained .003, and keeps classes that few cells stand for.
COLOUR, MAP_COLOUR = 0.5, 0.25

# Weight of the labels at prediction, and their smoothing in cells, see label_weight: of
# codes that are several classes, of single ones that are clean, and that are noisy.
SOFT, CLEAN, NOISY, SIGMA = 0.2, 1.2, 0.25, 0.5

# Power of the ratio of errors that the weight follows, and the most that the weight is:
# for codes that are several classes, and for single ones. Powers of 3 to 5 are alike for
# single ones (.003); a fourth power where errors may be shared would trust r too much.
SOFT_POWER, SOFT_MOST = 2, 1.2
HARD_POWER, HARD_MOST = 4, 1.8

# The least weight, where the imagery knows more than neighbours do. It hardly matters
# for cells of FINE pixels along a side or more. Smaller ones hold less beside their class,
# and are worth more: see label_weight.
LEAST_WEIGHT, FINE = 0.15, 25

# The least weight of single classes that denoising finds right. Where truth is sharp it
# costs .000 and .002 (two columns of OpenEarthMap); of seven of clean labels of coarse
# truth it gains .007 in the mean and .023 at most (.7: .003, .010 and .03). The fourth
# power of r alone is a gamble: the errors of four hundred cells give r to a tenth or a
# fifth, and its power to a factor of two.
RIGHT = 0.5

# Agreeing pixels that the prompts and their covariance are made from, at most. The
# covariance takes D² products a pixel: sixty thousand gave the same maps.
PROMPT_PIXELS = 20_000

# Draws of the blocks that denoising averages over: with one, the water of austin_29 noisy
# (seven cells) was lost by one seed of three, mIoU .50 for .62 and .61; with three they
# have .60 to .62, and wielkopolskie_9 noisy gains .005 to .009.
DRAWS = 3

# Part of the trust α in the denoised labels with which the composition under a label is
# what the map finds there: all of it sank a scene whose labels were very noisy.
ESTIMATED = 0.25

# Cells that a code needs to lead for a class, and to be known at all: on a Sentinel-2
# scene one cell, of which nothing was learned, was in the way of a lift and cost .14, and
# on two made ones five and seven cost .05 and .08. With ten and five, seven columns of
# real scenes that have between five and ten gain .004 in the mean (-.010 to .025); with
# ten and ten Sentinel-2 loses .035. And how far a class is lifted above the class that
# leads: with 1 four columns of NLCD's codes lost .019 in the mean and .086 at most; 1.6
# gains .002, from -.015 to .024.
LEADING, KNOWN, LEAD = 10, 5, 1.25

# Pixels that features are standardised by: their deviations are known to a percent.
MOMENT_PIXELS = 10_000

# Cells below which a class is reported as uncertain: of ten such on our scenes two
# had an IoU below .1, of fourteen of 10 to 30 cells one, whose labels are noisy.
FEW_CELLS = 10

# Labels are said to share errors where the imagery contradicts at least this part of
# them, so many times as often side by side as by chance, and this part of what lies
# beside them with their label, too; see _doubts.
CONTRADICTED, CLUSTERED, SHARED = 0.05, 1.5, 0.4

# Share of the pairs of held-out cells of two classes, one of each, that the imagery ranks
# as labelled, below which it does not tell them apart. With labels that are right the
# least of any two classes of our scenes was .74, and by noisy ones .49 to .60 were seen.
TOLD_APART = 0.6

TEMPERATURES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)


@dataclass(frozen=True, eq=False)
class _Labelled:
    """What a fit learns from: cells with a label, and pixels of them and of others.

    Args:
        table: Everything that was seen.
        label: Index of the label of each cell of the table, (N,); -1 if it has none.
        composition: Shares of the classes in what each label stands for, (K, C) double.
        mean: Mean of the features over pixels, (D,).
        scale: Their standard deviation, (D,).
        used: Cells with a label of which enough was seen, as indices, (n,).
    """

    table: CellTable
    label: Tensor
    composition: Tensor
    mean: Tensor
    scale: Tensor
    used: Tensor

    @classmethod
    def of(cls, table: CellTable, crosswalk: Crosswalk, codes: bool) -> '_Labelled':
        """Find the labels, and what standardises the features.

        Features are scaled by the standard deviation of pixels, not of region means:
        fine channels average out over a cell, and would come back as noise.
        """
        if codes:
            seen = table.code[table.seen].unique().numpy()
            matrix = crosswalk.matrix(seen)
            occurs = matrix.sum(1) > 0
            composition = torch.from_numpy(matrix[occurs])
            label = _index_of(table.code, torch.from_numpy(seen[occurs]))
        else:
            composition = torch.eye(len(crosswalk.target)).double()
            label = torch.from_numpy(crosswalk.index(table.code.numpy()))
        scale, mean = _moments(table.pixels)
        # A constant feature's deviation is rounding, whatever the units of the others.
        scale = torch.where(scale > 1e-6 * mean.abs(), scale, 1.0)
        mean, scale = mean.float(), scale.float()
        used = (table.seen & (label >= 0)).nonzero()[:, 0]
        return cls(table, label, composition, mean, scale, used)

    @property
    def features(self) -> Tensor:
        """Standardised features of the cells used, (n, D); made anew each time."""
        return self.table.features[self.used].sub_(self.mean).div_(self.scale)

    @property
    def cell_label(self) -> Tensor:
        """Label of each cell used, (n,)."""
        return self.label[self.used]

    @property
    def pixel_label(self) -> Tensor:
        """Label of the cell of each pixel, (N,); -1 if none."""
        return self.label[self.table.owner]

    def cell_of(self, pixels: Tensor) -> Tensor:
        """Which of the cells used each of some pixels lies in, (m,); -1 if in none.

        Args:
            pixels: Which, (m,).
        """
        row = torch.full((len(self.table),), -1)
        row[self.used] = torch.arange(len(self.used))
        return row[self.table.owner[pixels]]

    @property
    def place(self) -> Tensor:
        """Place of each cell used, (n, 3)."""
        return self.table.place[self.used]

    @property
    def block(self) -> Tensor:
        """Block of each cell used, (n,)."""
        return self.table.block[self.used]

    def standard(self, rows: Tensor, features: int | None = None) -> Tensor:
        """Standardised features of some pixels.

        Args:
            rows: Which, (m,).
            features: Leading features that are wanted; all by default.
        """
        part = slice(features)
        chosen = self.table.pixels[rows, part]
        return chosen.sub_(self.mean[part]).div_(self.scale[part])


def fit_head(
    table: CellTable,
    crosswalk: Crosswalk,
    options: FitOptions | None = None,
    probe: LinearProbe | None = None,
    pixel_features: int = 0,
    precise: bool = True,
) -> Head:
    r"""Fit everything after the backbone, without any HR label.

    1. A linear probe on the mean features of LR cells (MapSR, stage 1) scores
       the codes of the labels, its strength chosen by held-out blocks of cells. A probe
       of a pixel's colours alone, which sees what means over cells hide, is mixed in as
       a geometric mean: it is linear still.
    2. The crosswalk's shares Q translate codes to classes (:class:`Head`).
    3. Class prompts under a within-class covariance, from pixels where the probe and
       the LR label agree (MapSR, stage 2); a pixel of a cell of code k that is found
       to be of class c weighs Q[k, c].
    4. The shares of the classes under each code become a weak prior at prediction.

    Where each code is one class, the labels are denoised first, see
    :func:`~torchgeo_mapsr.models.head.noise.denoise`.

    Args:
        table: LR cells, and pixels of them.
        crosswalk: From their codes to the classes.
        options: How; the defaults if None.
        probe: A probe of the classes that was trained elsewhere, on features as the
            backbone gives them; step 1 is left out then.
        pixel_features: Leading features that describe a pixel alone, without its
            surroundings: the channels of a backbone's first level if its stride is 1.
            0 for none, and no colour expert.
        precise: Whether the coefficients of the probe are those of the converged
            solution, or near enough for probabilities, in less time.

    Returns:
        The head; its provenance has the counts and what was chosen.

    Raises:
        InputError: If the cells seen have fewer than two classes, or an option has no
            effect with the others.
    """
    options = options or FitOptions()
    check_options(options, crosswalk, probe is not None)
    soft = options.recipe == 'codes' and probe is None and not crosswalk.is_hard
    data = _Labelled.of(table, crosswalk, soft)
    _check(data, crosswalk)
    label, codes = data.cell_label, len(data.composition)
    weight = class_weights(label, codes, options.balance, options.class_weight)
    noise = options.noise
    if noise == 'auto':
        many = len(label) >= FEWEST_CELLS
        noise = 'denoise' if options.recipe == 'codes' and not soft and many else 'none'
    report: dict[str, Any] = {}

    blocks = len(data.block.unique())
    folds = folds_of(data.block, options.seed)
    asks_prior = options.recipe == 'classes' and options.prior is None
    l2, held = options.l2, None
    space = CellSpace.of(data.features)
    if blocks < 2:
        l2 = CAUTIOUS if l2 is None else l2
    elif l2 is None or (options.prior is None and options.score != 'cosine'):
        strengths = STRENGTHS if l2 is None else (l2,)
        held = choose_strength(
            space, label, codes, folds, weight, strengths, options.seed
        )
        l2 = held.l2
        report['held_out_loss'] = {
            f'{s:g}': round(v, 6) for s, v in held.losses.items()
        }
    report['l2'] = l2

    belief = one_hot(label, codes)
    cleaned: DenoisedLabels | None = None
    if probe is None and blocks > 1 and noise in ('sce', 'small-loss'):
        every = space.hold_out(label, codes, folds, weight, (l2,), limit=MAX_FITTED)
        weight = weight * label_trust(every.log_probability, label, codes, noise)
        weight = weight / weight.sum()
    elif probe is None and blocks > 1 and noise == 'denoise':
        around = neighbour_weights(data.place, 1.0, 2)
        first = None if held is None else held.theta
        weighing = options.balance, options.class_weight
        draws = torch.stack(
            [folds_of(data.block, options.seed + 1000 * i) for i in range(DRAWS)]
        )
        cleaned = denoise(
            space, label, codes, draws, around, l2, weighing[0], first, weighing[1]
        )
        belief, weight = cleaned.belief, cleaned.weights(*weighing)
        report['label_errors'] = round(cleaned.rate, 4)

    if probe is None:
        # What was asked for is what is taken.
        capped = soft and options.l2 is None
        strength = min(l2, MAX_CODE_L2) if capped else l2
        give_back()  # what cross-validation took
        near: HeldOut | DenoisedLabels | None = held if cleaned is None else cleaned
        start = None if near is None else near.theta
        probe = space.fit(belief, codes, strength, weight, precise, start)
        probe = probe.to(torch.float32)
    else:
        probe = probe.unscale(-data.mean / data.scale, 1 / data.scale)
        pixel_features = 0
    mapped = probe
    if options.recipe == 'codes' and pixel_features:
        expert = _colour_expert(data, belief, pixel_features, options)
        probe, mapped = (_mixed(probe, expert, share) for share in (COLOUR, MAP_COLOUR))
    translation = None
    if soft:
        translation = data.composition.float()

    # Shares of the classes in each cell, and their frequency.
    shares = belief @ data.composition
    frequency = (one_hot(label, codes) @ data.composition).mean(0).float()
    head = Head(
        target=crosswalk.target,
        score='probe',
        probe=probe.unscale(data.mean, data.scale),
        translation=translation,
        lda=probe,
        cosine=None,
        temperature=1.0,
        prior=LabelPrior(torch.zeros(0), torch.zeros(0), frequency, 0.0),
    )
    pixels = _pixels(data, head)
    if soft:
        count = torch.bincount(label, minlength=codes)
        t = lift(pixels.p, data.composition, count)
        translation = (data.composition * t).float()
        p = pixels.p * t.float()
        pixels = _Pixels(pixels.label, p / p.sum(1, keepdim=True))
        report['lift'] = [round(v, 4) for v in t.tolist()]
    # What the probes took would stay beside what prompts take.
    del space
    give_back()
    lda, cosine, temperature, present = _prompts(
        data, pixels, shares, weight, cleaned, options
    )

    classes = len(crosswalk.target)

    prior, sigma = options.prior, options.prior_sigma
    if options.score == 'cosine' or (asks_prior and held is None):
        prior = 0.0 if prior is None else prior
    if prior is None and options.recipe == 'classes' and held is not None:
        prior, sigma = _chosen_prior(data, held, frequency, weight, sigma)
    if prior is None:
        rate = None if cleaned is None else cleaned.rate
        ratio = 1.0
        if held is not None:
            ratio = error_ratio(held, label, data.place, data.composition, rate or 0.0)
            report['error_ratio'] = round(ratio, 4)
        prior = label_weight(soft, rate, ratio, table.side)
    sigma = SIGMA if sigma is None else sigma
    report |= {'prior_weight': prior, 'prior_sigma': sigma, 'pixels': len(table.pixels)}
    composition = _compositions(data, crosswalk, pixels, cleaned)
    report['cells'] = _class_counts(data, crosswalk)
    needed = options.score in ('lda', 'cosine')
    report |= _remarks(
        data, crosswalk, report['cells'], held, composition, present if needed else None
    )
    unprompted = (lda.bias.view(classes, -1)[:, 0] <= ABSENT).nonzero()[:, 0]
    return Head(
        target=crosswalk.target,
        score=options.score,
        probe=mapped.unscale(data.mean, data.scale),
        translation=translation,
        lda=lda,
        cosine=cosine,
        temperature=temperature,
        prior=LabelPrior(*composition, frequency, prior, sigma),
        unprompted=tuple(unprompted.tolist()),
        provenance={'fit': report, 'options': options.to_dict()},
    )


def check_options(
    options: FitOptions, crosswalk: Crosswalk | None = None, trained: bool = False
) -> None:
    """Refuse what would have no effect, before anything is computed.

    Args:
        options: How a head is to be fitted.
        crosswalk: From the codes of the labels to the classes, if it is known.
        trained: Whether the probe was trained elsewhere.

    Raises:
        InputError: If an option has no effect with the others.
    """
    options.check_together()
    codes = options.recipe == 'codes' and not trained
    mixed = crosswalk is not None and not crosswalk.is_hard
    if crosswalk is not None and mixed and codes and options.noise == 'denoise':
        raise InputError(
            f"noise denoise (--noise) needs codes that are one class each, and '"
            f"{crosswalk.name}' has codes of several: leave it out, or fit with recipe "
            'classes (--recipe) or a hard crosswalk (--crosswalk).'
        )
    if trained and options.noise not in ('auto', 'none'):
        raise InputError(
            f'noise {options.noise} has no effect on a probe that was trained '
            'elsewhere: leave it out.'
        )


def lift(p: Tensor, composition: Tensor, count: Tensor) -> Tensor:
    """t: how far classes are lifted that no code of LEADING cells stands for mainly.

    Where the only developed cells are of low intensity, lawns are likelier than roads
    at every pixel, and no road is mapped. Such a class is lifted as if the code that is
    purest in it, of those with KNOWN cells, led for it, by LEAD; but no further than
    until it covers the share of the pixels that the codes' compositions promise.

    Args:
        p: Probabilities of the classes of sampled pixels, without t, (N, C).
        composition: Q, (K, C).
        count: Cells of each code, (K,).

    Returns:
        (C,).
    """
    t = torch.ones(composition.shape[1]).double()
    frequency = count.double() @ composition / count.sum()
    leading = composition.argmax(1)[count >= LEADING]
    for c in range(len(t)):
        if (leading == c).any() or not (composition[:, c] > 0).any():
            continue
        # A code of a few cells stands for nothing that was learned.
        codes = count >= KNOWN if (count >= KNOWN).any() else count >= 0
        shares = composition[codes]
        purest = int(shares[:, c].argmax())
        most = LEAD * float(shares[purest].max() / shares[purest, c].clamp(min=1e-3))
        others = p.clone()
        others[:, c] = 0
        needed = (others.amax(1) / p[:, c].clamp(min=1e-12)).double().sort().values
        covered = int(float(frequency[c]) * len(p))
        enough = float(needed[min(covered, len(needed) - 1)])
        t[c] = max(1.0, min(most, enough))
    return t


def label_weight(
    soft: bool, rate: float | None, ratio: float, side: float = math.inf
) -> float:
    """What the labels weigh at prediction.

    Held-out cells cannot say what is right for pixels, and errors that neighbours share
    make labels look better than they are. So it is a fixed weight: SOFT for codes that
    are several classes; CLEAN for single ones, less what their errors ask for, and at
    least NOISY. It follows a power of the ratio of errors within limits: small where the
    imagery knows cells better than their neighbours do, which is where truth is sharp,
    and large where it is coarse. Labels that denoising finds right weigh RIGHT, at least,
    less what their errors ask for.

    The limit below grows as cells get smaller than FINE pixels along a side, with
    1 / side, as the share of their pixels does that lie at an outline. On two scenes of
    OpenEarthMap and one of Sentinel-2 with cells of 4 pixels that gains .04 to .08 by
    NLCD's codes (of which two were .08 below a copy of the labels), .03 to .09 where a
    fifth of single classes was drawn anew and .01 to .03 by clean ones, and loses up to
    .03 where a fifth of NLCD's codes is wrong in patches. With 8 and 14 pixels it gains
    .03 to 0, and loses .004 at most.

    Args:
        soft: Whether a code is several classes.
        rate: Rate of errors ν among the labels; None where it was not estimated.
        ratio: From :func:`error_ratio`.
        side: Pixels along the side of a cell.

    Returns:
        The weight.
    """
    least = LEAST_WEIGHT * max(1.0, FINE / side)
    if soft:
        weight, most = SOFT * ratio**SOFT_POWER, SOFT_MOST
    else:
        right = 0.0 if rate is None else 1 - 8 * rate
        weight, most = max(NOISY, CLEAN * right) * ratio**HARD_POWER, HARD_MOST
        least = max(least, RIGHT * right)
    return min(max(weight, least), most)


def error_ratio(
    held: HeldOut, label: Tensor, place: Tensor, composition: Tensor, rate: float = 0.0
) -> float:
    r"""How often the imagery is wrong about held-out cells, as against neighbours.

    .. math:: (e_\mathrm{imagery} - \nu) / (e_\mathrm{neighbours} - \nu)

    of the shares of cells whose main class is another: both err at least where the
    label itself is wrong.

    Args:
        held: What probes say of cells that they were not fitted to.
        label: Code of each cell, (n,).
        place: Place of each, (n, 3).
        composition: Shares of the classes in each code, (K, C).
        rate: Rate of errors ν among the labels.

    Returns:
        The ratio, over cells that have neighbours; 1 if there are none.
    """
    label = label[held.index]
    neighbours = neighbour_weights(place[held.index], 1.0, 2)
    around = torch.from_numpy(neighbours @ one_hot(label, len(composition)).numpy())
    beside = around.sum(1) > 0
    if not beside.any():
        return 1.0
    of_class = composition[label].argmax(1)
    wrong = [
        (p @ composition).argmax(1)[beside] != of_class[beside]
        for p in (held.log_probability.double().exp(), around)
    ]
    by_imagery, by_neighbours = (float(w.double().mean()) - rate for w in wrong)
    return max(by_imagery, 0.0) / max(by_neighbours, 1e-3)


def _index_of(values: Tensor, keys: Tensor) -> Tensor:
    """Place of values among ascending keys; -1 if it is none of them."""
    if not len(keys):
        return torch.full_like(values, -1, dtype=torch.int64)
    index = torch.searchsorted(keys, values).clamp(max=len(keys) - 1)
    return torch.where(keys[index] == values, index, -1)


def _moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of features, (D,) float64, of evenly spread rows."""
    some = pixels[:: max(len(pixels) // MOMENT_PIXELS, 1)]
    # From the first pixel: squares of large values would swallow small deviations.
    first = some[0]
    total = torch.zeros(pixels.shape[1]).double()
    square = torch.zeros_like(total)
    for part in some.split(512):
        shifted = part - first
        total += shifted.sum(0)
        square += shifted.square_().sum(0)
    n = len(some)
    mean = total / n
    variance = (square / n - mean.square()).clamp(min=0) * (n / max(n - 1, 1))
    return variance.sqrt(), mean + first


def _colour_expert(
    data: _Labelled, belief: Tensor, features: int, options: FitOptions
) -> LinearProbe:
    """A probe of pixels' colours: their leading features, standardised.

    A pixel is believed to be what its cell is believed to be, (n, K).
    """
    some = (data.pixel_label >= 0).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(options.seed)
    some = some[torch.randperm(len(some), generator=generator)[:COLOUR_PIXELS]]
    codes = belief.shape[1]
    of_pixel = one_hot(data.pixel_label[some], codes)
    cell = data.cell_of(some)
    of_pixel = torch.where(cell[:, None] >= 0, belief[cell.clamp(min=0)], of_pixel)
    weight = class_weights(of_pixel, codes, options.balance, options.class_weight)
    space = CellSpace.of(data.standard(some, features))
    expert = space.fit(of_pixel, codes, COLOUR_L2, weight, precise=False)
    return expert.to(torch.float32)


def _mixed(probe: LinearProbe, expert: LinearProbe, share: float) -> LinearProbe:
    """A geometric mean of two probes: log p = (1 - share) log A + share log B.

    Args:
        probe: That of cells, A.
        expert: That of pixels' colours, B, which are the leading features.
        share: What B weighs.
    """
    mixed = (1 - share) * probe.weight
    mixed[:, : expert.weight.shape[1]] += share * expert.weight
    # A code that no pixel was drawn of is left to the cells' probe, and one that no
    # cell used has is none.
    bias = torch.where(expert.bias > ABSENT, share * expert.bias, 0)
    bias = torch.where(probe.bias > ABSENT, (1 - share) * probe.bias + bias, probe.bias)
    return LinearProbe(mixed, bias)


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Pixels by what the probe says of them.

    Args:
        label: Label of the cell of each, (N,); -1 if none.
        p: Probabilities of the classes, (N, C).
    """

    label: Tensor
    p: Tensor


def _pixels(data: _Labelled, head: Head) -> _Pixels:
    """Ask the probe about all pixels."""
    parts = [
        head.decide(head.probe(part)[..., None, None])[..., 0, 0]
        for part in data.table.pixels.split(ROWS)
    ]
    return _Pixels(data.pixel_label, torch.cat(parts))


def _prompts(
    data: _Labelled,
    pixels: _Pixels,
    shares: Tensor,
    weight: Tensor,
    cleaned: DenoisedLabels | None,
    options: FitOptions,
) -> tuple[LinearProbe, CosinePrompts | None, float, Tensor]:
    """Both kinds of prompts, the temperature of the cosine, and which classes have one.

    Raises:
        InputError: No class has a prompt, and prompts alone are to score.
    """
    classes = data.composition.shape[1]
    confidence, of_class = pixels.p.max(1)
    labelled = pixels.label >= 0
    belief = data.composition[pixels.label.clamp(min=0), of_class]
    if cleaned is not None:
        owner = data.cell_of(torch.arange(len(pixels.label)))
        belief = torch.where(
            owner >= 0, cleaned.belief[owner.clamp(min=0), of_class], belief
        )
    trust = torch.where(labelled, belief, 0).float()
    keep = confident(confidence, of_class, trust > 0, options.confidence_quantile)
    chosen = keep.nonzero()[:, 0]
    if len(chosen) > PROMPT_PIXELS:
        generator = torch.Generator().manual_seed(options.seed)
        order = torch.randperm(len(chosen), generator=generator)
        chosen = chosen[order[:PROMPT_PIXELS]].sort().values
    of_class, trust = of_class[chosen], trust[chosen]
    standard = data.standard(chosen)

    arguments = of_class, classes, options.prompts, options.seed, trust
    prompts = cluster(standard, *arguments)
    lda = within_class_discriminant(standard, of_class, prompts, weight=trust)
    del standard  # or it would be there beside the features of the cells
    # Of well separated classes, what is not ABSENT may be below it until it is scaled.
    present = ~prompts[:, :, 0].isnan()
    if options.score in ('lda', 'cosine') and not present.any():
        raise InputError(
            f'No class has the pixels for {options.prompts} prompt(s), and the score '
            f'{options.score!r} has nothing else: ask for fewer (--prompts), or for less '
            'sure ones (--confidence-quantile).'
        )
    logits = lda(data.features).unflatten(1, present.shape).amax(2)
    logits = logits.masked_fill(~present[:, 0], -torch.inf)
    sharpness = 1 / _temperature(logits, shares, weight)
    bias = torch.where(present.flatten(), lda.bias * sharpness, ABSENT)
    lda = LinearProbe(lda.weight * sharpness, bias).unscale(data.mean, data.scale)
    if options.score != 'cosine':
        return lda, None, 1.0, present[:, 0]

    centre = data.mean if options.centre else torch.zeros_like(data.mean)
    unit = F.normalize(data.table.pixels[chosen] - centre, dim=1)
    cosine = CosinePrompts(cluster(unit, *arguments), centre)
    similarity = cosine.match(data.table.features[data.used])
    similarity = similarity.masked_fill(~present[:, 0], -torch.inf)
    return lda, cosine, _temperature(similarity, shares, weight), present[:, 0]


def _temperature(logits: Tensor, shares: Tensor, weight: Tensor) -> float:
    """The temperature at which logits of LR cells make their shares most likely.

    The logit of a class that cannot be predicted is -inf.
    """
    finite = logits[logits.isfinite()]
    if len(finite) < 2:
        return 1.0
    spread = float(finite.std().clamp(min=1e-6))

    def loss(temperature: float) -> float:
        # A cell of a class that cannot be predicted costs much, but not all.
        log_p = (logits / temperature).log_softmax(1).clamp(min=-30)
        return float(-(log_p.double() * shares).sum(1) @ weight)

    return min((spread * t for t in TEMPERATURES), key=loss)


def _chosen_prior(
    data: _Labelled,
    held: HeldOut,
    frequency: Tensor,
    weight: Tensor,
    sigma: float | None,
) -> tuple[float, float]:
    """Weight and smoothing of the labels by the rule of 0.1.0."""
    # A cell of which less is visible says too little about its neighbours.
    near = ((data.label >= 0) & (data.table.share >= 0.3)).nonzero()[:, 0]
    row = torch.full((len(data.table),), -1)
    row[near] = torch.arange(len(near))
    share = weight[held.index] / weight[held.index].sum()
    return choose_prior(
        held.log_probability,
        data.label[near],
        data.table.place[near],
        row[data.used[held.index]],
        frequency,
        share,
        SIGMAS if sigma is None else (sigma,),
    )


def _compositions(
    data: _Labelled,
    crosswalk: Crosswalk,
    pixels: _Pixels,
    cleaned: DenoisedLabels | None,
) -> tuple[Tensor, Tensor]:
    """Codes, and what a cell of each is believed to hold."""
    codes = data.table.code.unique()
    matrix = torch.from_numpy(crosswalk.matrix(codes.numpy()))
    occurs = matrix.sum(1) > 0
    codes, matrix = codes[occurs], matrix[occurs]
    if cleaned is not None:
        trust = cleaned.trust * ESTIMATED
        for c in range(matrix.shape[1]):
            under = pixels.label == c
            rows = matrix.argmax(1) == c
            if under.any():
                mean = pixels.p[under].double().mean(0)
                matrix[rows] = trust * mean + (1 - trust) * matrix[rows]
    return codes, matrix.float()


def _class_counts(data: _Labelled, crosswalk: Crosswalk) -> dict[str, int]:
    """Cells used of each class, as the codes are called."""
    code = data.table.code[data.used].numpy()
    index = torch.from_numpy(crosswalk.index(code))
    count = torch.bincount(index[index >= 0], minlength=len(crosswalk.target))
    return dict(zip(crosswalk.target.class_names, count.tolist(), strict=True))


def _remarks(
    data: _Labelled,
    crosswalk: Crosswalk,
    cells: dict[str, int],
    held: HeldOut | None,
    composition: tuple[Tensor, Tensor],
    prompted: Tensor | None,
) -> dict[str, list[str]]:
    """What the map may be wrong about, one sentence each, and the classes it is of.

    *prompted* is which classes have prompts, where these alone score.
    """
    remarks: list[str] = []
    unmapped: list[str] = []
    unlabelled: list[str] = []
    uncertain: list[str] = []
    code = data.table.code
    index = torch.from_numpy(crosswalk.index(code.numpy()))
    seen = data.composition[data.cell_label].sum(0) > 0
    only_cut = ~torch.isin(composition[0], code[data.used])
    for c, name in enumerate(crosswalk.target.class_names):
        cut = int((index == c).sum()) - cells[name]
        if not seen[c]:
            unmapped.append(name)
            if cut or (only_cut & (composition[1][:, c] > 0)).any():
                of = f'its {cut} cells' if cut else 'the cells that may hold some of it'
                remarks.append(
                    f'{name} is not mapped: of none of {of} was half or more seen (the edge '
                    'of the imagery or of the area cuts them, pixels without data do, or '
                    'chips that the fit did not look at); give a larger area.'
                )
            else:
                unlabelled.append(name)
        elif prompted is not None and not prompted[c]:
            unmapped.append(name)
            remarks.append(
                f'{name} is not mapped: it has no prompt, for too few pixels that agree '
                'with their label; ask for fewer prompts, or another score.'
            )
        elif cells[name] == 0:
            uncertain.append(name)
            remarks.append(
                f'{name} has no cell of its own: it is known from mixed codes alone.'
            )
        elif cells[name] < FEW_CELLS:
            uncertain.append(name)
            few = 'cell' if cells[name] == 1 else 'cells'
            remarks.append(
                f'{name} has {cells[name]} {few}: where it is mapped, and where it is '
                'missed, is uncertain.'
            )
    listed = _left_out(code, crosswalk)
    if listed:
        remarks.append(
            f'Left out by the crosswalk: {listed}; the ground there is mapped as other '
            'classes.'
        )
    if unlabelled:
        be, it = ('are', 'them') if len(unlabelled) > 1 else ('is', 'it')
        remarks.append(
            f'{", ".join(unlabelled)} {be} not mapped: no label that the fit has seen '
            f'stands for {it}.'
        )
    if held is not None:
        remarks += _doubts(data, crosswalk, held)
    return {
        'remarks': remarks,
        'unmapped': unmapped,
        'unlabelled': unlabelled,
        'uncertain': uncertain,
    }


def _left_out(code: Tensor, crosswalk: Crosswalk) -> str:
    """Cells of codes that the legend has and the crosswalk does not, as words."""
    source = crosswalk.source
    codes, counts = code.unique(return_counts=True)
    return ', '.join(
        f'{count} cells of {value} ({source.class_names[int(source.index(value))]})'
        for value, count in zip(codes.tolist(), counts.tolist(), strict=True)
        if source.index(value) >= 0 and crosswalk.index(value) < 0
    )


def _doubts(data: _Labelled, crosswalk: Crosswalk, held: HeldOut) -> list[str]:
    """What held-out cells say against the labels, one sentence each.

    Cells at the outline of a class are contradicted where labels are right, too, and lie
    together. So labels share errors only where those beside a contradicted cell that
    have its label are mostly contradicted as well. Of labels that are right .17 to .36
    were (.45 and .56 on two scenes whose truth is coarse polygons, which imagery
    contradicts by whole areas), and .41 to .72 of those whose errors are alike. Errors that
    cells have by themselves may be as many, but do not lie together.

    Returns:
        Sentences; none if there is nothing to say.
    """
    remarks = []
    label = data.cell_label[held.index]
    p = held.log_probability.double().exp() @ data.composition
    code = data.table.code[data.used][held.index]
    called = torch.from_numpy(crosswalk.index(code.numpy()))
    names = crosswalk.target.class_names
    log_p = p.clamp(min=1e-12).log()
    pairs = []
    for a, b in combinations(range(len(names)), 2):
        margin = (log_p[:, a] - log_p[:, b]).numpy()
        first, second = (np.sort(margin[(called == c).numpy()]) for c in (a, b))
        if min(len(first), len(second)) >= FEW_CELLS:
            # Mann and Whitney's count of pairs in order; half of those that are level.
            below, up_to = (second.searchsorted(first, s) for s in ('left', 'right'))
            if (below + up_to).mean() < 2 * TOLD_APART * len(second):
                pairs.append(f'{names[a]} and {names[b]}')
    if pairs:
        remarks.append(
            f'The imagery hardly tells cells labelled {"; ".join(pairs)} apart: many of '
            'these labels are wrong, or the map of these classes is.'
        )
    main = data.composition[label].argmax(1)
    wrong = (p.argmax(1) != main).double().numpy()
    if len(label) < FEWEST_CELLS or wrong.mean() < CONTRADICTED:
        return remarks
    around = neighbour_weights(data.place[held.index], 1.0, 1)
    near = around @ wrong / np.maximum(around.sum(1), 1e-9)
    ratio = float(near @ wrong / wrong.sum() / wrong.mean())
    same = one_hot(main, len(names)).numpy()
    # Beside each cell: those of its label, and of these those that are contradicted.
    beside = (same * (around @ same)).sum(1)
    shared = (same * (around @ (same * wrong[:, None]))).sum(1)
    part = float(wrong @ shared) / max(float(wrong @ beside), 1e-9)
    if ratio > CLUSTERED and part > SHARED:
        remarks.append(
            f'Cells whose label the imagery contradicts lie together ({ratio:.1f} times '
            f'as often as by chance), and {100 * part:.0f} % of those beside them with '
            'their label are contradicted, too: neighbouring labels seem to share errors.'
        )
    return remarks


def _check(data: _Labelled, crosswalk: Crosswalk) -> None:
    """A map needs two classes, and two labels to learn from."""
    shares = data.composition[data.cell_label].sum(0)
    names = np.array(crosswalk.target.class_names)
    present = names[(shares > 0).numpy()].tolist()
    if len(present) >= 2 and len(data.cell_label.unique()) >= 2:
        return
    labelled = int((crosswalk.matrix(data.table.code.numpy()).sum(1) > 0).sum())
    found_classes = f"only '{present[0]}'" if len(present) == 1 else 'no class'
    if len(present) > 1:
        found_classes = f'only the code {int(data.table.code[data.used][0])}'
    raise InputError(
        f'The labels have {found_classes} among the {len(data.used)} cells of which half '
        f'or more lies in the imagery, its data and the area ({labelled} labelled cells in '
        'all): a map needs two classes or more. Check the legend, the crosswalk and the '
        'no-data value, or give a larger area.'
    )
