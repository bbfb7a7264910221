# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""From samples to a classifier: probe, prompts and the weight of the prior."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets.legends.crosswalk import Crosswalk
from ...datasets.legends.legend import Legend
from ...errors import InputError
from .cells import CellTable
from .head import Head
from .label_prior import LabelPrior
from .noise import check_noise, label_trust, log_class_weights
from .options import FitOptions
from .prior import SIGMAS, choose_prior
from .probe import ABSENT, STRENGTHS, LinearProbe, class_weights, fit_probe, hold_out
from .prompts import CosinePrompts, cluster, select, within_class_discriminant
from .samples import CellSamples, PixelSamples

# L2 strength where there are too few cells to choose one.
CAUTIOUS = 1e-2

# Pixels that prompts are made from, at most.
MAX_PIXELS = 60_000

TEMPERATURES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)


def fit_head(
    table: CellTable,
    crosswalk: Crosswalk,
    options: FitOptions | None = None,
    probe: LinearProbe | None = None,
) -> Head:
    """Fit everything after the backbone, without any HR label.

    1. Features are scaled by the standard deviation of *pixels*, not of region means:
       fine channels average out over a cell, and would come back as noise.
    2. A linear probe on the mean features of whole LR cells (MapSR, stage 1), its L2
       strength chosen by held-out blocks of cells.
    3. Class prompts from the pixels where probe and LR label agree (MapSR, stage 2).
    4. The weight of the LR labels at prediction, from the same held-out cells.

    Args:
        table: LR cells, and pixels of them.
        crosswalk: From their codes to the classes.
        options: How; the defaults if None.
        probe: A probe that was trained elsewhere, on features as the backbone gives
            them; step 2 is left out then.

    Returns:
        The classifier; its provenance has the counts and what was chosen.

    Raises:
        InputError: If the whole cells have fewer than two classes, or there is no such
            score.
    """
    options = options or FitOptions()
    target = crosswalk.target
    label = torch.from_numpy(crosswalk.index(table.code.numpy()))
    cells = CellSamples(table.features, label, table.share, table.place)
    pixels = PixelSamples(table.pixels, label[table.owner])
    check_noise(options.noise, options.class_weight)
    classes = len(target)
    used = cells[cells.usable]
    count = torch.bincount(used.label, minlength=classes)
    _check(count, cells, target)

    scale, mean = torch.std_mean(pixels.features.double(), dim=0)
    # A constant feature's deviation is rounding, whatever the units of the others.
    scale = torch.where(scale > 1e-6 * mean.abs(), scale, 1.0)
    mean, scale = mean.float(), scale.float()
    features = (used.features - mean) / scale
    frequency = count / count.sum()
    codes = torch.unique(table.code[label >= 0])
    index = torch.from_numpy(crosswalk.index(codes.numpy()))
    composition = F.one_hot(index, classes).float()
    found: dict[str, Any] = {
        'cells': dict(zip(target.class_names, count.tolist(), strict=True))
    }

    strength, prior, sigma = options.l2, options.prior, options.prior_sigma
    if len(used.block.unique()) < 2:
        strength = CAUTIOUS if strength is None else strength
        prior = 0.0 if prior is None else prior
    if strength is None or prior is None:
        held = hold_out(
            features,
            used.label,
            used.block,
            classes,
            options.balance,
            options.seed,
            STRENGTHS if strength is None else (strength,),
        )
        strength = held.strength
        found['held_out_loss'] = {f'{s:g}': v for s, v in held.losses.items()}
        if prior is None:
            own = cells.usable.nonzero()[:, 0][held.index]
            prior, sigma = choose_prior(
                held.log_probability, cells, own, frequency, options.balance
            )
    sigma = SIGMAS[0] if sigma is None else sigma
    weight = class_weights(used.label, classes, options.balance)
    if options.class_weight == 'log':
        weight = log_class_weights(used.label, classes)
    if options.noise != 'none' and probe is None and len(used.block.unique()) > 1:
        weight = weight * label_trust(
            features,
            used.label,
            used.block,
            classes,
            strength,
            options.balance,
            options.seed,
            options.noise,
        )
        weight = weight / weight.sum()
    if probe is None:
        probe = fit_probe(features, used.label, classes, strength, weight)
    else:
        probe = probe.unscale(-mean / scale, 1 / scale)  # of standardised features

    lda, cosine, temperature = _prompts(
        probe, features, used.label, weight, pixels, mean, scale, options
    )
    found |= {'strength': strength, 'prior_weight': prior, 'prior_sigma': sigma}
    found['pixels'] = len(pixels)
    return Head(
        target,
        options.score,
        probe.unscale(mean, scale),
        lda,
        cosine,
        temperature,
        LabelPrior(codes, composition, frequency, prior, sigma),
        provenance={'fit': found, 'options': options.to_dict()},
    )


def _prompts(
    probe: LinearProbe,
    features: Tensor,
    label: Tensor,
    weight: Tensor,
    pixels: PixelSamples,
    mean: Tensor,
    scale: Tensor,
    options: FitOptions,
) -> tuple[LinearProbe, CosinePrompts, float]:
    """Both kinds of prompts, and the temperature of the cosine."""
    classes = len(probe.bias)
    generator = torch.Generator().manual_seed(options.seed)
    some = torch.randperm(len(pixels), generator=generator)[:MAX_PIXELS]
    raw = pixels.features[some]
    standard = (raw - mean) / scale
    chosen, of_class = select(
        probe(standard), pixels.label[some], options.confidence_quantile
    )
    raw, standard = raw[chosen], standard[chosen]

    prompts = cluster(standard, of_class, classes, options.prompts, options.seed)
    lda = within_class_discriminant(standard, of_class, prompts)
    # Of well separated classes, what is not ABSENT may be below it until it is scaled.
    known = ~prompts[:, :, 0].isnan()
    logits = lda(features).unflatten(1, known.shape).amax(2)
    logits = logits.masked_fill(~known[:, 0], -torch.inf)
    sharpness = 1 / _temperature(logits, label, weight)
    bias = torch.where(known.flatten(), lda.bias * sharpness, ABSENT)
    lda = LinearProbe(lda.weight * sharpness, bias)

    centre = mean if options.centre else torch.zeros_like(mean)
    unit = F.normalize(raw - centre, dim=1)
    published = cluster(unit, of_class, classes, options.prompts, options.seed)
    cosine = CosinePrompts(published, centre)
    similarity = cosine.match(features * scale + mean)
    return lda.unscale(mean, scale), cosine, _temperature(similarity, label, weight)


def _temperature(logits: Tensor, label: Tensor, weight: Tensor) -> float:
    """The temperature at which logits of LR cells make their labels most likely.

    The logit of a class that cannot be predicted is -inf.
    """
    finite = logits[logits.isfinite()]
    if len(finite) < 2:
        return 1.0
    spread = float(finite.std().clamp(min=1e-6))

    def loss(temperature: float) -> float:
        # A cell of a class that cannot be predicted costs much, but not all.
        log_p = (logits / temperature).log_softmax(1).clamp(min=-30)
        return float(F.nll_loss(log_p, label, reduction='none').double() @ weight)

    return min((spread * t for t in TEMPERATURES), key=loss)


def _check(count: Tensor, cells: CellSamples, target: Legend) -> None:
    """A map needs two classes."""
    present = [
        name for name, n in zip(target.class_names, count.tolist(), strict=True) if n
    ]
    if len(present) >= 2:
        return
    labelled = int((cells.label >= 0).sum())
    there = f"only '{present[0]}'" if present else 'no class'
    raise InputError(
        f'The labels have {there} among the {int(count.sum())} whole cells of the '
        f'imagery ({labelled} labelled cells in all): a map needs two classes or more. '
        'Check the legend and the crosswalk, or give a larger area.'
    )
