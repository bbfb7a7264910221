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
from ...process import give_back
from .cells import ROWS, CellTable
from .head import Head
from .label_weight import SIGMA, SIGMAS, choose_prior, error_ratio, label_weight
from .labelled import Labelled
from .neighbours import neighbour_weights
from .noise import FEWEST_CELLS, DenoisedLabels, denoise, label_trust
from .options import FitOptions
from .prior import LabelPrior
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
from .remarks import class_counts, remarks_of

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

TEMPERATURES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)


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
    data = Labelled.of(table, crosswalk, soft)
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
    report['cells'] = class_counts(data, crosswalk)
    needed = options.score in ('lda', 'cosine')
    report |= remarks_of(
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


def _colour_expert(
    data: Labelled, belief: Tensor, features: int, options: FitOptions
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


def _pixels(data: Labelled, head: Head) -> _Pixels:
    """Ask the probe about all pixels."""
    parts = [
        head.decide(head.probe(part)[..., None, None])[..., 0, 0]
        for part in data.table.pixels.split(ROWS)
    ]
    return _Pixels(data.pixel_label, torch.cat(parts))


def _prompts(
    data: Labelled,
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
    data: Labelled,
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
    data: Labelled,
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


def _check(data: Labelled, crosswalk: Crosswalk) -> None:
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
