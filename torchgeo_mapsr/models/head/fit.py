# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""From LR cells to a head: probe, translation, prompts and the labels as a prior."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets.legends.crosswalk import Crosswalk
from ...errors import InputError
from .cells import CellTable
from .head import Head
from .label_prior import LabelPrior
from .noise import DenoisedLabels, denoise, label_trust, log_class_weights
from .options import FitOptions
from .prior import choose_prior, neighbour_weights
from .probe import (
    ABSENT,
    MAX_HELD_OUT,
    STRENGTHS,
    CellSpace,
    HeldOut,
    LinearProbe,
    class_weights,
    fit_probe,
    folds_of,
    one_hot,
)
from .prompts import CosinePrompts, cluster, confident, within_class_discriminant

# L2 strength where there are too few cells to choose one.
CAUTIOUS = 1e-2

# Strongest penalty on codes: the likelihood of codes, many of which mean much the same,
# asks for more than their translation does.
MAX_CODE_L2 = 1e-3

# The colour expert: what it weighs, its penalty, and pixels that it looks at.
COLOUR, COLOUR_L2, COLOUR_PIXELS = 0.25, 1e-4, 20_000

# Weight of the labels at prediction, and their smoothing, unless a fit says otherwise.
PRIOR, SIGMA = 0.2, 0.5

# Agreeing pixels that the prompts and their covariance are made from, at most. The
# covariance takes D² products a pixel: sixty thousand gave the same maps.
PROMPT_PIXELS = 20_000

# Whole cells that a code needs to lead for a class.
LEADING = 5

# Rows that are standardised at once: a copy of all of them would double the memory.
ROWS = 8192

TEMPERATURES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)


@dataclass(frozen=True, eq=False)
class _Labelled:
    """What a fit learns from: whole cells with a label, and pixels of all cells.

    Args:
        table: Everything that was seen.
        label: Index of the label of each cell of the table, (N,); -1 if it has none.
        composition: Shares of the classes in what each label stands for, (K, C) double.
        mean: Mean of the features over pixels, (D,).
        scale: Their standard deviation, (D,).
        used: Whole cells with a label, as indices, (n,).
        features: Their standardised features, (n, D).
    """

    table: CellTable
    label: Tensor
    composition: Tensor
    mean: Tensor
    scale: Tensor
    used: Tensor
    features: Tensor

    @classmethod
    def of(cls, table: CellTable, crosswalk: Crosswalk, codes: bool) -> '_Labelled':
        """Find the labels, and standardise the features.

        Features are scaled by the standard deviation of pixels, not of region means:
        fine channels average out over a cell, and would come back as noise.
        """
        if codes:
            whole = table.code[table.whole].unique().numpy()
            matrix = crosswalk.matrix(whole)
            there = matrix.sum(1) > 0
            composition = torch.from_numpy(matrix[there])
            label = _index_of(table.code, torch.from_numpy(whole[there]))
        else:
            composition = torch.eye(len(crosswalk.target)).double()
            label = torch.from_numpy(crosswalk.index(table.code.numpy()))
        scale, mean = _moments(table.pixels)
        # A constant feature's deviation is rounding, whatever the units of the others.
        scale = torch.where(scale > 1e-6 * mean.abs(), scale, 1.0)
        mean, scale = mean.float(), scale.float()
        used = (table.whole & (label >= 0)).nonzero()[:, 0]
        features = (table.features[used] - mean) / scale
        return cls(table, label, composition, mean, scale, used, features)

    @property
    def target(self) -> Tensor:
        """Label of each whole cell, (n,)."""
        return self.label[self.used]

    @property
    def pixel_label(self) -> Tensor:
        """Label of the cell of each pixel, (N,); -1 if none."""
        return self.label[self.table.owner]

    @property
    def place(self) -> Tensor:
        """Place of each whole cell, (n, 3)."""
        return self.table.place[self.used]

    @property
    def block(self) -> Tensor:
        """Block of each whole cell, (n,)."""
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
) -> Head:
    r"""Fit everything after the backbone, without any HR label.

    1. A linear probe on the mean features of whole LR cells (MapSR, stage 1) scores
       the codes of the labels, its strength chosen by held-out blocks of cells. Where a
       code is several classes, a probe of a pixel's colours alone is mixed in, as a
       weighted geometric mean: it is linear still.
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

    Returns:
        The head; its provenance has the counts and what was chosen.

    Raises:
        InputError: If the whole cells have fewer than two classes.
    """
    options = options or FitOptions()
    soft = options.recipe == 'codes' and probe is None and not _one_class(crosswalk)
    data = _Labelled.of(table, crosswalk, soft)
    _check(data, crosswalk)
    label, codes = data.target, len(data.composition)
    weight = class_weights(label, codes, options.balance)
    if options.class_weight == 'log':
        weight = log_class_weights(label, codes)
    noise = options.noise
    if noise == 'auto':
        noise = 'denoise' if options.recipe == 'codes' and not soft else 'none'
    report: dict[str, Any] = {}

    blocks = len(data.block.unique())
    folds = folds_of(data.block, options.seed)
    asks_prior = options.recipe == 'classes' and options.prior is None
    l2, held = options.l2, None
    space = CellSpace.of(data.features)
    if blocks < 2:
        l2 = CAUTIOUS if l2 is None else l2
    elif l2 is None or (asks_prior and options.score != 'cosine'):
        strengths = STRENGTHS if l2 is None else (l2,)
        some, held = _hold_out(space, label, codes, folds, weight, strengths, options)
        l2 = held.l2
        report['held_out_loss'] = {
            f'{s:g}': round(v, 6) for s, v in held.losses.items()
        }
    report['l2'] = l2

    belief = one_hot(label, codes)
    cleaned: DenoisedLabels | None = None
    if probe is None and blocks > 1 and noise in ('sce', 'small-loss'):
        every = space.hold_out(label, codes, folds, weight, (l2,))
        weight = weight * label_trust(every.log_probability, label, codes, noise)
        weight = weight / weight.sum()
    elif probe is None and blocks > 1 and noise == 'denoise':
        around = neighbour_weights(data.place, 1.0, 2)
        cleaned = denoise(space, label, codes, folds, around, l2, options.balance)
        belief, weight = cleaned.target, cleaned.weights(options.balance)
        report['label_errors'] = round(cleaned.rate, 4)

    if probe is None:
        strength = min(l2, MAX_CODE_L2) if soft else l2
        probe = space.fit(belief, codes, strength, weight)
        if soft and pixel_features:
            probe = _with_colour(probe, data, pixel_features, options.seed)
    else:
        probe = probe.unscale(-data.mean / data.scale, 1 / data.scale)
    translation = None
    if soft:
        count = torch.bincount(label, minlength=codes)
        translation = data.composition * lift(data.composition, count)
        translation = translation.float()

    # Shares of the classes in each whole cell, and their frequency.
    shares = belief @ data.composition
    frequency = (one_hot(label, codes) @ data.composition).mean(0).float()
    head = Head(
        crosswalk.target,
        'probe',
        probe.unscale(data.mean, data.scale),
        translation,
        probe,
        None,
        1.0,
        LabelPrior(torch.zeros(0), torch.zeros(0), frequency, 0.0),
    )
    pixels = _pixels(data, head, options)
    lda, cosine, temperature = _prompts(data, pixels, shares, weight, cleaned, options)

    prior, sigma = options.prior, options.prior_sigma
    if options.score == 'cosine' or (asks_prior and held is None):
        prior = 0.0 if prior is None else prior
    if prior is None and options.recipe == 'classes' and held is not None:
        prior, sigma = _chosen_prior(data, held, some, frequency, weight)
    prior = PRIOR if prior is None else prior
    sigma = SIGMA if sigma is None else sigma
    report |= {'prior_weight': prior, 'prior_sigma': sigma, 'pixels': len(table.pixels)}
    composition = _compositions(data, crosswalk, pixels, soft, cleaned)
    report['cells'] = _class_counts(data, crosswalk)
    return Head(
        crosswalk.target,
        options.score,
        head.probe,
        translation,
        lda,
        cosine,
        temperature,
        LabelPrior(*composition, frequency, prior, sigma),
        provenance={'fit': report, 'options': options.to_dict()},
    )


def lift(composition: Tensor, count: Tensor) -> Tensor:
    """t: how far classes are lifted that no code stands for mainly.

    Args:
        composition: Q, (K, C).
        count: Whole cells of each code, (K,).

    Returns:
        (C,).
    """
    t = torch.ones(composition.shape[1]).double()
    leading = composition.argmax(1)[count >= LEADING]
    for c in range(len(t)):
        if (leading == c).any() or not (composition[:, c] > 0).any():
            continue
        purest = int(composition[:, c].argmax())
        t[c] = 1.25 * composition[purest].max() / composition[purest, c]
    return t


def _index_of(values: Tensor, keys: Tensor) -> Tensor:
    """Place of values among ascending keys; -1 if it is none of them."""
    index = torch.searchsorted(keys, values).clamp(max=len(keys) - 1)
    return torch.where(keys[index] == values, index, -1)


def _one_class(crosswalk: Crosswalk) -> bool:
    """Whether every code is one class."""
    return crosswalk.is_hard


def _moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of features, (D,) float64."""
    total = torch.zeros(pixels.shape[1]).double()
    first = pixels[0].double()
    square = torch.zeros_like(total)
    for part in pixels.split(ROWS):
        # From the first pixel: squares of large values would swallow small deviations.
        shifted = part.double() - first
        total += shifted.sum(0)
        square += shifted.square().sum(0)
    n = len(pixels)
    mean = total / n
    variance = (square / n - mean.square()).clamp(min=0) * (n / max(n - 1, 1))
    return variance.sqrt(), mean + first


def _hold_out(
    space: CellSpace,
    label: Tensor,
    classes: int,
    folds: Tensor,
    weight: Tensor,
    strengths: tuple[float, ...],
    options: FitOptions,
) -> tuple[Tensor, HeldOut]:
    """Hold out cells, a bounded number of them; also says which."""
    some = torch.arange(len(label))
    if len(some) > MAX_HELD_OUT:
        generator = torch.Generator().manual_seed(options.seed)
        some = torch.randperm(len(some), generator=generator)[:MAX_HELD_OUT]
        some = some.sort().values
        space = CellSpace(space.x[some], space.basis)
    held = space.hold_out(label[some], classes, folds[some], weight[some], strengths)
    return some, held


def _with_colour(
    probe: LinearProbe, data: _Labelled, features: int, seed: int
) -> LinearProbe:
    """Mix a probe with one of pixels' colours: log p = .75 log A + .25 log B."""
    label = data.pixel_label
    some = (label >= 0).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    some = some[torch.randperm(len(some), generator=generator)[:COLOUR_PIXELS]]
    codes = len(probe.bias)
    weight = class_weights(label[some], codes, 0.5)
    colours = data.standard(some, features)
    expert = fit_probe(colours, label[some], codes, COLOUR_L2, weight)
    mixed = (1 - COLOUR) * probe.weight
    mixed[:, :features] += COLOUR * expert.weight
    # A code that no pixel was drawn of is left to the cells' probe.
    bias = torch.where(expert.bias > ABSENT, COLOUR * expert.bias, 0)
    return LinearProbe(mixed, (1 - COLOUR) * probe.bias + bias)


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Pixels by what the probe says of them.

    Args:
        label: Label of the cell of each, (N,); -1 if none.
        p: Probabilities of the classes, (N, C).
    """

    label: Tensor
    p: Tensor


def _pixels(data: _Labelled, head: Head, options: FitOptions) -> _Pixels:
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
) -> tuple[LinearProbe, CosinePrompts | None, float]:
    """Both kinds of prompts, and the temperature of the cosine."""
    classes = data.composition.shape[1]
    confidence, of_class = pixels.p.max(1)
    known = pixels.label >= 0
    belief = data.composition[pixels.label.clamp(min=0), of_class]
    if cleaned is not None:
        row = torch.full((len(data.table),), -1)
        row[data.used] = torch.arange(len(data.used))
        owner = row[data.table.owner]
        belief = torch.where(
            owner >= 0, cleaned.target[owner.clamp(min=0), of_class], belief
        )
    trust = torch.where(known, belief, 0).float()
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
    lda = within_class_discriminant(standard, of_class, prompts, trust)
    # Of well separated classes, what is not ABSENT may be below it until it is scaled.
    there = ~prompts[:, :, 0].isnan()
    logits = lda(data.features).unflatten(1, there.shape).amax(2)
    logits = logits.masked_fill(~there[:, 0], -torch.inf)
    sharpness = 1 / _temperature(logits, shares, weight)
    bias = torch.where(there.flatten(), lda.bias * sharpness, ABSENT)
    lda = LinearProbe(lda.weight * sharpness, bias).unscale(data.mean, data.scale)
    if options.score != 'cosine':
        return lda, None, 1.0

    centre = data.mean if options.centre else torch.zeros_like(data.mean)
    unit = F.normalize(data.table.pixels[chosen] - centre, dim=1)
    cosine = CosinePrompts(cluster(unit, *arguments), centre)
    similarity = cosine.match(data.table.features[data.used])
    similarity = similarity.masked_fill(~there[:, 0], -torch.inf)
    return lda, cosine, _temperature(similarity, shares, weight)


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
    data: _Labelled, held: HeldOut, some: Tensor, frequency: Tensor, weight: Tensor
) -> tuple[float, float]:
    """Weight and smoothing of the labels by the rule of 0.1.0."""
    # A cell of which less is visible says too little about its neighbours.
    near = ((data.label >= 0) & (data.table.share >= 0.3)).nonzero()[:, 0]
    row = torch.full((len(data.table),), -1)
    row[near] = torch.arange(len(near))
    share = weight[some] / weight[some].sum()
    return choose_prior(
        held.log_probability,
        data.label[near],
        data.table.place[near],
        row[data.used[some]],
        frequency,
        share,
    )


def _compositions(
    data: _Labelled,
    crosswalk: Crosswalk,
    pixels: _Pixels,
    soft: bool,
    cleaned: DenoisedLabels | None,
) -> tuple[Tensor, Tensor]:
    """Codes, and what a cell of each is believed to hold."""
    codes = data.table.code.unique()
    matrix = torch.from_numpy(crosswalk.matrix(codes.numpy()))
    there = matrix.sum(1) > 0
    codes, matrix = codes[there], matrix[there]
    if cleaned is not None:
        trust = cleaned.trust * ESTIMATED
        for c in range(matrix.shape[1]):
            under = pixels.label == c
            rows = matrix.argmax(1) == c
            if under.any():
                mean = pixels.p[under].double().mean(0)
                matrix[rows] = trust * mean + (1 - trust) * matrix[rows]
    return codes, matrix.float()


# Part of the denoised trust α that the composition under a label may be estimated with.
ESTIMATED = 0.25


def _class_counts(data: _Labelled, crosswalk: Crosswalk) -> dict[str, int]:
    """Whole cells of each class, as the codes are called."""
    code = data.table.code[data.used].numpy()
    index = torch.from_numpy(crosswalk.index(code))
    count = torch.bincount(index[index >= 0], minlength=len(crosswalk.target))
    return dict(zip(crosswalk.target.class_names, count.tolist(), strict=True))


def _check(data: _Labelled, crosswalk: Crosswalk) -> None:
    """A map needs two classes, and two labels to learn from."""
    shares = data.composition[data.target].sum(0)
    names = np.array(crosswalk.target.class_names)
    present = names[(shares > 0).numpy()].tolist()
    if len(present) >= 2 and len(data.target.unique()) >= 2:
        return
    labelled = int((data.label >= 0).sum())
    there = f"only '{present[0]}'" if len(present) == 1 else 'no class'
    if len(present) > 1:
        there = f'only the code {int(data.table.code[data.used][0])}'
    raise InputError(
        f'The labels have {there} among the {len(data.used)} whole cells of the '
        f'imagery ({labelled} labelled cells in all): a map needs two classes or more. '
        'Check the legend and the crosswalk, or give a larger area.'
    )
