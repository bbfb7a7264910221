# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from odc.geo.geobox import GeoBox
from torch import Tensor
from torchgeo_mapsr.models.head.samples import CellSamples, PixelSamples

from torchgeo_mapsr.datasets.geo.region import region_map
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.backbones.create import create_backbone
from torchgeo_mapsr.models.head.fit import CAUTIOUS, FitOptions, fit_classifier
from torchgeo_mapsr.models.head.head import SCORES, Classifier
from torchgeo_mapsr.models.head.prior import choose_prior, evidence, label_shares
from torchgeo_mapsr.models.head.probe import (
    ABSENT,
    STRENGTHS,
    LinearProbe,
    fit_probe,
    hold_out,
)
from torchgeo_mapsr.models.head.prompts import cluster, select
from torchgeo_mapsr.models.tokens.tokens import Tokens

TARGET = Legend.load('land-cover-4')
PIXELS = 60  # a cell


class Blobs:
    """A landscape of Gaussian pixels in cells; each class has a mean, all a covariance.

    A cell's label is its most frequent class, which has 70 % of it at least. Cells in
    squares of *patch* share theirs.
    """

    def __init__(
        self,
        side: int = 15,
        d: int = 6,
        apart: float = 1.2,
        classes: tuple[int, ...] = (0, 1, 2, 3),
        wrong: float = 0.0,
        patch: int = 1,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        mix = rng.normal(size=(d, d))
        self.means = apart * rng.normal(size=(4, d)) @ mix.T
        self.covariance = mix @ mix.T
        self.units = 10.0 ** rng.uniform(-2, 3, d)
        n = side * side
        label = rng.choice(classes, (side, side))
        label = label.repeat(patch, 0).repeat(patch, 1)[:side, :side].ravel()
        purity = rng.uniform(0.7, 1, n)
        other = rng.choice(classes, (n, PIXELS))
        own = rng.random((n, PIXELS)) < purity[:, None]
        self.truth = np.where(own, label[:, None], other)
        x = self.means[self.truth] + rng.normal(size=(n, PIXELS, d)) @ mix.T
        self.x = x
        features = torch.from_numpy(x * self.units).float()
        said = np.where(rng.random(n) < wrong, rng.choice(classes, n), label)
        rows, cols = np.divmod(np.arange(n), side)
        self.cells = CellSamples(
            features.mean(1),
            torch.from_numpy(said),
            torch.ones(n),
            torch.from_numpy(np.stack([0 * rows, rows, cols], 1)),
        )
        self.pixels = PixelSamples(
            features.flatten(0, 1), torch.from_numpy(said.repeat(PIXELS))
        )

    def bayes(self) -> float:
        """Accuracy of the classifier that knows means and covariance."""
        x = self.x.reshape(-1, self.x.shape[-1])
        residual = x[:, None] - self.means
        inverse = np.linalg.inv(self.covariance)
        distance = np.einsum('nci,ij,ncj->nc', residual, inverse, residual)
        return float((distance.argmin(1) == self.truth.ravel()).mean())

    def accuracy(self, classifier: Classifier) -> float:
        found = predict(classifier, self.pixels.features).argmax(1)
        return float((found.numpy() == self.truth.ravel()).mean())


def predict(classifier: Classifier, features: Tensor) -> Tensor:
    """Probabilities (n, C) of features (n, D), as the pixels of a strip."""
    strip = Tokens((features.T[None, :, None],), (1,), (1, len(features)))
    return classifier.probabilities(strip)[0, :, 0].T


@pytest.fixture(scope='module')
def blobs() -> Blobs:
    return Blobs()


@pytest.mark.parametrize('score', SCORES)
def test_pixels_are_told_apart_nearly_as_well_as_can_be(
    blobs: Blobs, score: str
) -> None:
    """From labels of cells alone, in features of any unit."""
    best = blobs.bayes()
    assert 0.75 < best < 0.98
    made = fit_classifier(
        blobs.cells, blobs.pixels, TARGET, FitOptions(score=score, prior=0)
    )
    # Pixels that agree with a probe are not quite like all of their class; and cosine
    # of features in mixed units is what it is: above chance.
    least = {'lda': best - 0.05, 'fusion': best - 0.06, 'probe': best - 0.12}
    assert best >= blobs.accuracy(made) > least.get(score, 0.3)


def test_wrong_labels_are_seen_through() -> None:
    noisy = Blobs(apart=2, wrong=0.3, seed=1)
    made = fit_classifier(noisy.cells, noisy.pixels, TARGET, FitOptions(prior=0))
    labels = float((noisy.pixels.label.numpy() == noisy.truth.ravel()).mean())
    assert labels < 0.75
    assert noisy.accuracy(made) > max(noisy.bayes() - 0.1, labels + 0.1)


def test_units_of_features_do_not_matter(blobs: Blobs) -> None:
    factor = 10.0 ** torch.tensor([3.0, -3, 0, 1, -1, 2])
    shift = torch.tensor([0.0, 1, -5, 0, 2, 0]) * blobs.pixels.features.std(0)

    def moved(x: Tensor) -> Tensor:
        return (x + shift) * factor

    plain = fit_classifier(blobs.cells, blobs.pixels, TARGET, FitOptions(prior=0))
    other = fit_classifier(
        replace(blobs.cells, features=moved(blobs.cells.features)),
        replace(blobs.pixels, features=moved(blobs.pixels.features)),
        TARGET,
        FitOptions(prior=0),
    )
    x = blobs.pixels.features[:500]
    torch.testing.assert_close(
        predict(other, moved(x)), predict(plain, x), atol=0.02, rtol=0
    )


def test_parts_are_what_their_functions_make(blobs: Blobs) -> None:
    """Probe and cosine prompts, put together by hand from the same samples."""
    made = fit_classifier(
        blobs.cells, blobs.pixels, TARGET, FitOptions(strength=1e-3, prior=0.25)
    )
    x = blobs.pixels.features.double()
    scale, mean = x.std(0).float(), x.mean(0).float()
    count = torch.bincount(blobs.cells.label).double()
    weight = count[blobs.cells.label] ** -0.5
    probe = fit_probe(
        (blobs.cells.features - mean) / scale,
        blobs.cells.label,
        4,
        1e-3,
        weight / weight.sum(),
    )
    standard = (blobs.pixels.features - mean) / scale
    torch.testing.assert_close(
        made.probe(blobs.pixels.features), probe(standard), atol=1e-3, rtol=1e-3
    )
    index, of_class = select(probe(standard), blobs.pixels.label)
    unit = F.normalize(blobs.pixels.features[index], dim=1)
    torch.testing.assert_close(
        made.cosine.prompts, cluster(unit, of_class, 4, 1, 0), atol=1e-4, rtol=1e-4
    )
    assert not made.cosine.centre.any()
    assert made.prior_weight == 0.25
    torch.testing.assert_close(made.frequency, (count / count.sum()).float())


def test_temperatures_make_cells_most_likely(blobs: Blobs) -> None:
    """Of all that are tried; not at an end, where others might be better."""
    made = fit_classifier(
        blobs.cells, blobs.pixels, TARGET, FitOptions(score='cosine', prior=0)
    )
    weight = torch.bincount(blobs.cells.label).double()[blobs.cells.label] ** -0.5

    def loss(temperature: float) -> float:
        scores = made.cosine.match(blobs.cells.features) / temperature
        each = F.cross_entropy(scores, blobs.cells.label, reduction='none')
        return float(each.double() @ weight / weight.sum())

    # The neighbours on the list are a third to a half away.
    for factor in (0.6, 1.7):
        assert loss(made.temperature) < loss(made.temperature * factor)


def test_options_reach_the_prompts(blobs: Blobs) -> None:
    options = FitOptions(
        strength=1e-3, prior=0, prompts=3, confidence_quantile=0.5, centre=True
    )
    made = fit_classifier(blobs.cells, blobs.pixels, TARGET, options)
    assert made.cosine.prompts.shape == (4, 3, 6)
    assert made.lda.weight.shape == (12, 6)
    mean = blobs.pixels.features.mean(0)
    torch.testing.assert_close(made.cosine.centre, mean, atol=0, rtol=1e-4)
    for score in SCORES:
        assert blobs.accuracy(replace(made, score=score)) > 0.5
    assert made.provenance['options']['prompts'] == 3


def test_balance_favours_rare_classes() -> None:
    rare = Blobs(side=18, apart=0.5, classes=(0, 0, 0, 0, 0, 0, 1), seed=2)
    shares = []
    for balance in (0.0, 0.5, 1.0):
        made = fit_classifier(
            rare.cells,
            rare.pixels,
            TARGET,
            FitOptions(score='probe', balance=balance, strength=1e-3, prior=0),
        )
        found = predict(made, rare.pixels.features).argmax(1)
        shares.append(float((found == 1).double().mean()))
    assert shares[0] < shares[1] < shares[2]


def test_a_trained_probe_takes_the_place_of_the_solved_one(blobs: Blobs) -> None:
    options = FitOptions(strength=1e-3, prior=0)
    solved = fit_classifier(blobs.cells, blobs.pixels, TARGET, options)
    given = fit_classifier(blobs.cells, blobs.pixels, TARGET, options, solved.probe)
    x = blobs.pixels.features[:300]
    torch.testing.assert_close(predict(given, x), predict(solved, x), atol=5e-3, rtol=0)
    # One that says nothing is used as it is.
    silent = LinearProbe(torch.zeros(4, 6), torch.tensor([1.0, 0, 0, 0]))
    given = fit_classifier(blobs.cells, blobs.pixels, TARGET, options, silent)
    torch.testing.assert_close(given.probe.bias, silent.bias)
    found = predict(replace(given, score='probe'), x)
    assert (found.argmax(1) == 0).all()
    # Nothing agrees with it but class 0: that has the only prompt.
    assert given.cosine.prompts.isnan().all((1, 2)).tolist() == [False, *[True] * 3]


def test_deterministic(blobs: Blobs) -> None:
    options = FitOptions(prompts=2)
    torch.manual_seed(1)
    a = fit_classifier(blobs.cells, blobs.pixels, TARGET, options)
    torch.manual_seed(2)
    b = fit_classifier(blobs.cells, blobs.pixels, TARGET, options)
    assert a.provenance == b.provenance
    assert torch.equal(a.probe.weight, b.probe.weight)
    assert torch.equal(a.lda.weight, b.lda.weight)
    assert torch.equal(a.lda.bias, b.lda.bias)
    assert torch.equal(a.cosine.prompts, b.cosine.prompts)
    assert (a.temperature, a.prior_weight) == (b.temperature, b.prior_weight)


def test_samples_are_not_changed(blobs: Blobs) -> None:
    before = [
        t.clone()
        for samples in (blobs.cells, blobs.pixels)
        for t in vars(samples).values()
    ]
    fit_classifier(blobs.cells, blobs.pixels, TARGET, FitOptions(strength=1e-3))
    after = [
        t for samples in (blobs.cells, blobs.pixels) for t in vars(samples).values()
    ]
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b)


def test_provenance(blobs: Blobs, tmp_path: Path) -> None:
    """What was chosen, in JSON types: it comes back from a file as it was."""
    cells = replace(blobs.cells, share=torch.full((225,), 0.5))
    cells.share[20:] = 1
    made = fit_classifier(cells, blobs.pixels, TARGET)
    fit = made.provenance['fit']
    assert fit['cells'] == {
        name: int((cells.label[20:] == i).sum())
        for i, name in enumerate(TARGET.class_names)
    }
    assert fit['pixels'] == len(blobs.pixels)
    assert fit['strength'] in STRENGTHS
    assert fit['prior_weight'] == made.prior_weight
    losses = fit['held_out_loss']
    assert [float(s) for s in losses] == list(STRENGTHS)
    assert min(losses, key=losses.get) == f'{fit["strength"]:g}'
    assert made.provenance['options']['score'] == 'fusion'
    assert json.loads(json.dumps(made.provenance)) == made.provenance
    made.save(tmp_path / 'fit.safetensors')
    assert Classifier.load(tmp_path / 'fit.safetensors').provenance == made.provenance


def test_cells_that_are_cut_or_unlabelled_have_no_say(blobs: Blobs) -> None:
    """In the probe, that is; they may be neighbours, and their pixels may be prompts."""
    generator = torch.Generator().manual_seed(0)
    spoilt = torch.rand(225, generator=generator) < 0.2
    share = torch.where(spoilt, 0.9, 1.0)
    cut = replace(blobs.cells, share=share)
    wild = replace(
        cut,
        features=torch.where(
            spoilt[:, None], torch.tensor(torch.nan), blobs.cells.features
        ),
    )
    none = replace(
        blobs.cells, label=torch.where(spoilt, -1, blobs.cells.label), share=share
    )
    options = FitOptions(strength=1e-3, prior=0)
    a, b, c = (
        fit_classifier(cells, blobs.pixels, TARGET, options)
        for cells in (cut, wild, none)
    )
    assert torch.equal(a.probe.weight, b.probe.weight)
    assert torch.equal(a.probe.weight, c.probe.weight)
    assert sum(a.provenance['fit']['cells'].values()) == int((~spoilt).sum())


def test_weight_of_the_labels_is_chosen_from_held_out_cells() -> None:
    """From the cells that were held out, and not from others of the same number."""
    blobs = Blobs(side=18, apart=0.1, patch=6, seed=1)
    generator = torch.Generator().manual_seed(0)
    cut = torch.rand(324, generator=generator) < 0.4
    cells = replace(
        blobs.cells,
        label=torch.where(cut, 3 - blobs.cells.label, blobs.cells.label),
        share=torch.where(cut, 0.95, 1.0),
    )
    options = FitOptions(seed=3)
    made = fit_classifier(cells, blobs.pixels, TARGET, options)

    x = blobs.pixels.features.double()
    std, mean = torch.std_mean(x, dim=0)
    used = cells[~cut]
    held = hold_out(
        (used.features - mean.float()) / std.float(),
        used.label,
        used.block,
        4,
        0.5,
        seed=3,
    )
    assert made.provenance['fit']['strength'] == held.strength
    weight, sigma = choose_prior(
        held.log_probability,
        cells,
        (~cut).nonzero()[:, 0],
        torch.bincount(used.label, minlength=4) / len(used),
        0.5,
    )
    assert weight > 0.1
    assert (made.prior_weight, made.prior_sigma) == (weight, sigma)


def test_one_block_is_too_little_to_choose_by() -> None:
    small = Blobs(side=3)
    made = fit_classifier(small.cells, small.pixels, TARGET)
    fit = made.provenance['fit']
    assert (fit['strength'], fit['prior_weight']) == (CAUTIOUS, 0.0)
    assert 'held_out_loss' not in fit
    assert predict(made, small.pixels.features).isfinite().all()
    told = fit_classifier(
        small.cells, small.pixels, TARGET, FitOptions(strength=1e-4, prior=0.5)
    )
    fit = told.provenance['fit']
    assert (fit['strength'], fit['prior_weight']) == (1e-4, 0.5)


@pytest.mark.parametrize('score', SCORES)
def test_classes_with_hardly_a_pixel(score: str) -> None:
    """Class 3 has one cell and no pixel in the draw, class 1 none at all."""
    blobs = Blobs(side=9, classes=(0, 2), seed=3)
    label = blobs.cells.label.clone()
    label[40] = 3
    made = fit_classifier(
        replace(blobs.cells, label=label), blobs.pixels, TARGET, FitOptions(score=score)
    )
    assert made.present.tolist() == [True, False, True, True]
    assert made.lda.bias[[1, 3]].tolist() == [ABSENT, ABSENT]
    assert math.isfinite(made.temperature)
    found = predict(made, 10 * blobs.pixels.features)
    assert found.isfinite().all()
    assert not (found.argmax(1) == 1).any()


def test_a_cell_that_prompts_cannot_explain_leaves_the_temperature_alone() -> None:
    """Its class has no prompt: it costs the same at any temperature."""
    blobs = Blobs(side=9, apart=0.4, classes=(0, 2), wrong=0.4, seed=3)
    label = blobs.cells.label.clone()
    label[40] = 3
    options = FitOptions(score='lda', strength=1e-3, prior=0)
    plain, odd = (
        predict(
            fit_classifier(cells, blobs.pixels, TARGET, options), blobs.pixels.features
        )
        for cells in (blobs.cells, replace(blobs.cells, label=label))
    )
    assert 0.7 < plain.amax(1).mean() < 0.95
    torch.testing.assert_close(
        odd.amax(1).mean(), plain.amax(1).mean(), atol=0.04, rtol=0
    )


@pytest.mark.parametrize('score', SCORES)
def test_no_class_has_pixels_enough_for_a_prompt(score: str) -> None:
    blobs = Blobs(side=6, classes=(0, 1), seed=4)
    few = PixelSamples(blobs.pixels.features[::500], blobs.pixels.label[::500])
    assert len(few) < 10
    made = fit_classifier(blobs.cells, few, TARGET, FitOptions(score=score))
    found = predict(made, blobs.pixels.features)
    assert found.isfinite().all()
    if score in ('probe', 'fusion'):
        assert blobs.accuracy(made) > 0.6


def test_classes_that_are_very_far_apart() -> None:
    """Discriminants are millions then: below what stands for absent, unless scaled."""
    blobs = Blobs(apart=300.0)
    assert blobs.bayes() == 1
    for score in ('lda', 'fusion', 'probe'):
        made = fit_classifier(
            blobs.cells, blobs.pixels, TARGET, FitOptions(score=score, prior=0)
        )
        assert blobs.accuracy(made) > 0.99


def test_classes_in_a_line_that_are_very_far_apart() -> None:
    """The same, where a class in the middle is told by its bias alone."""
    label = torch.arange(900) // 10 % 4
    noise = torch.randn(900, 1, generator=torch.Generator().manual_seed(0))
    x = label[:, None] + 1e-3 * noise
    rows, cols = torch.arange(90) // 10, torch.arange(90) % 10
    cells = CellSamples(
        x.view(90, 10, 1).mean(1),
        label[::10],
        torch.ones(90),
        torch.stack([0 * rows, rows, cols], 1),
    )
    made = fit_classifier(
        cells, PixelSamples(x, label), TARGET, FitOptions(score='lda', strength=1e-5)
    )
    assert (predict(made, x).argmax(1) == label).double().mean() > 0.99


def test_features_that_do_not_vary(blobs: Blobs) -> None:
    def widen(x: Tensor) -> Tensor:
        constant = torch.tensor([0.0, 7.0]).expand(len(x), 2)
        return torch.cat([x, constant], 1)

    made = fit_classifier(
        replace(blobs.cells, features=widen(blobs.cells.features)),
        replace(blobs.pixels, features=widen(blobs.pixels.features)),
        TARGET,
        FitOptions(prior=0),
    )
    plain = fit_classifier(blobs.cells, blobs.pixels, TARGET, FitOptions(prior=0))
    assert made.probe.weight.isfinite().all()
    x = blobs.pixels.features
    same = predict(made, widen(x)).argmax(1) == predict(plain, x).argmax(1)
    assert same.double().mean() > 0.98


def test_fewer_than_two_classes(blobs: Blobs) -> None:
    one = replace(blobs.cells, label=torch.full_like(blobs.cells.label, 1))
    with pytest.raises(InputError, match=r"only 'Forest' among the 225 whole cells"):
        fit_classifier(one, blobs.pixels, TARGET)
    none = replace(blobs.cells, label=torch.full_like(blobs.cells.label, -1))
    with pytest.raises(InputError, match=r'no class.*0 labelled cells'):
        fit_classifier(none, blobs.pixels, TARGET)
    cut = replace(blobs.cells, share=torch.full((225,), 0.9))
    with pytest.raises(InputError, match=r'no class among the 0 whole.*225 labelled'):
        fit_classifier(cut, blobs.pixels, TARGET)


def test_made_scene_from_end_to_end(made_scene: Scene) -> None:
    """rcf, NLCD labels, no HR label: better than the labels, and better with both."""
    with rasterio.open(made_scene.imagery) as file:
        image = torch.from_numpy(file.read().astype(np.float32))
        grid = GeoBox(file.shape, file.transform, str(file.crs))
    with rasterio.open(made_scene.truth) as file:
        truth = torch.from_numpy(file.read(1).astype(np.int64)) - 1
    crosswalk = Crosswalk.load('nlcd', 'land-cover-4')
    labels = LabelRaster.open([made_scene.labels])

    backbone = create_backbone('rcf?filters=12&colours=48', 4)
    backbone.calibrate([(image, torch.ones(image.shape[1:], dtype=torch.bool))])
    tokens = backbone(image[None])
    region = region_map(grid, labels[0].geobox)
    index = torch.from_numpy(
        crosswalk.index(labels[0].read(region.rows, region.cols).ravel())
    )
    mask = torch.from_numpy(region.mask_region)
    means, _ = tokens.pool(mask[None], len(index))
    rows, cols = torch.arange(len(index)) // region.window[3], torch.arange(len(index))
    cols = cols % region.window[3]
    cells = CellSamples(
        means[0],
        index,
        torch.from_numpy(region.share),
        torch.stack([0 * rows, rows, cols], 1),
    )
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(mask.numel(), (8000,), generator=generator)
    draw = draw[mask.flatten()[draw] > 0]
    width = mask.shape[1]
    pixels = PixelSamples(
        tokens.gather(0 * draw, draw // width, draw % width),
        index[mask.flatten()[draw] - 1],
    )
    made = fit_classifier(cells, pixels, crosswalk.target)

    def score(classes: Tensor) -> float:
        """Mean IoU."""
        found = [
            ((classes == c) & (truth == c)).sum()
            / ((classes == c) | (truth == c)).sum()
            for c in range(4)
        ]
        return float(torch.stack(found).mean())

    copy = score(torch.cat([torch.tensor([-1]), index])[mask])
    shares = label_shares(grid, labels, crosswalk, made.prior_sigma)
    said = evidence(*shares, made.frequency)[None]
    mapped = score(made.probabilities(tokens, said)[0].argmax(0))
    assert mapped > copy + 0.1, (mapped, copy)
    # Neither half is worse off alone by chance: each beats the labels as well.
    for part in ('probe', 'lda'):
        alone = replace(made, score=part).probabilities(tokens)[0].argmax(0)
        assert score(alone) > copy
