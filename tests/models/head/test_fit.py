# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from odc.geo.geobox import GeoBox
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from torchgeo_mapsr.datasets.geo.region import region_map
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.backbones.create import create_backbone
from torchgeo_mapsr.models.head.cells import CellTable
from torchgeo_mapsr.models.head.fit import (
    CAUTIOUS,
    COLOUR,
    COLOUR_L2,
    MAP_COLOUR,
    FitOptions,
    fit_head,
    lift,
)
from torchgeo_mapsr.models.head.head import SCORES
from torchgeo_mapsr.models.head.probe import ABSENT, STRENGTHS, LinearProbe, fit_probe
from torchgeo_mapsr.models.head.prompts import cluster, within_class_discriminant
from torchgeo_mapsr.models.tokens.tokens import Tokens

from .tables import MIXED, PIXELS, SAME, TARGET, Blobs, mixed_codes, mixtures, predict
from .test_prompts import select

# What version 0.1.0 did.
CLASSES = FitOptions(recipe='classes', prior=0)


@pytest.fixture(scope='module')
def blobs() -> Blobs:
    return Blobs()


@pytest.mark.parametrize('recipe', ['codes', 'classes'])
@pytest.mark.parametrize('score', SCORES)
def test_pixels_are_told_apart_nearly_as_well_as_can_be(
    blobs: Blobs, score: str, recipe: str
) -> None:
    """From labels of cells alone, in features of any unit."""
    best = blobs.bayes()
    assert 0.75 < best < 0.98
    options = FitOptions(score=score, recipe=recipe, prior=0)
    made = fit_head(blobs.table, SAME, options)
    # Pixels that agree with a probe are not quite like all of their class; and cosine
    # of features in mixed units is what it is: above chance.
    least = {'lda': best - 0.05, 'fusion': best - 0.06, 'probe': best - 0.12}
    assert best >= blobs.accuracy(made) > least.get(score, 0.3)


@pytest.mark.parametrize('recipe', ['codes', 'classes'])
def test_wrong_labels_are_seen_through(recipe: str) -> None:
    noisy = Blobs(apart=2, wrong=0.3, seed=1)
    made = fit_head(noisy.table, SAME, FitOptions(recipe=recipe, prior=0))
    truth = noisy.truth.ravel()
    labels = float((noisy.label.numpy().repeat(PIXELS) == truth).mean())
    assert labels < 0.75
    assert noisy.accuracy(made) > max(noisy.bayes() - 0.1, labels + 0.1)


def test_rate_of_wrong_labels_is_reported() -> None:
    rates = []
    for wrong in (0.0, 0.2, 0.4):
        made = fit_head(Blobs(side=18, apart=2, wrong=wrong).table, SAME)
        rates.append(made.provenance['fit']['label_errors'])
    # Of labels drawn anew a quarter is right by chance; some errors are not noticed.
    assert rates[0] < 0.02 < rates[1] < 0.15
    assert 0.1 < rates[2] < 0.3


def test_units_of_features_do_not_matter(blobs: Blobs) -> None:
    factor = 10.0 ** torch.tensor([3.0, -3, 0, 1, -1, 2])
    shift = torch.tensor([0.0, 1, -5, 0, 2, 0]) * blobs.table.pixels.std(0)

    def moved(x: Tensor) -> Tensor:
        return (x + shift) * factor

    plain = fit_head(blobs.table, SAME, FitOptions(prior=0))
    table = replace(
        blobs.table,
        features=moved(blobs.table.features),
        pixels=moved(blobs.table.pixels),
    )
    other = fit_head(table, SAME, FitOptions(prior=0))
    x = blobs.table.pixels[:500]
    torch.testing.assert_close(
        predict(other, moved(x)), predict(plain, x), atol=0.02, rtol=0
    )


def test_parts_are_what_their_functions_make(blobs: Blobs) -> None:
    """Probe and cosine prompts, put together by hand from the same samples."""
    options = replace(CLASSES, l2=1e-3, prior=0.25, score='cosine')
    made = fit_head(blobs.table, SAME, options)
    x, y = blobs.table.pixels, blobs.label
    # Of evenly spread pixels, 13 500 here and so all of them.
    scale, mean = x.double().std(0).float(), x.double().mean(0).float()
    count = torch.bincount(y).double()
    weight = count[y] ** -0.5
    features = (blobs.table.features - mean) / scale
    probe = fit_probe(features, y, 4, 1e-3, weight / weight.sum())
    standard = (x - mean) / scale
    torch.testing.assert_close(made.probe(x), probe(standard), atol=1e-3, rtol=1e-3)
    index, of_class = select(probe(standard), y[blobs.table.owner])
    unit = F.normalize(x[index], dim=1)
    assert made.cosine is not None
    torch.testing.assert_close(
        made.cosine.prompts, cluster(unit, of_class, 4, 1, 0), atol=1e-4, rtol=1e-4
    )
    assert not made.cosine.centre.any()
    assert made.prior.weight == 0.25
    torch.testing.assert_close(made.prior.frequency, (count / count.sum()).float())
    assert made.prior.codes.tolist() == [1, 2, 3, 4]
    assert torch.equal(made.prior.composition, torch.eye(4))


def test_published_form_has_no_prior(blobs: Blobs) -> None:
    assert fit_head(blobs.table, SAME, FitOptions(score='cosine')).prior.weight == 0


def test_temperatures_make_cells_most_likely(blobs: Blobs) -> None:
    """Of all that are tried; not at an end, where others might be better."""
    made = fit_head(blobs.table, SAME, replace(CLASSES, score='cosine'))
    y = blobs.label
    weight = torch.bincount(y).double()[y] ** -0.5

    def loss(temperature: float) -> float:
        assert made.cosine is not None
        scores = made.cosine.match(blobs.table.features) / temperature
        each = F.cross_entropy(scores, y, reduction='none')
        return float(each.double() @ weight / weight.sum())

    # The neighbours on the list are a third to a half away.
    for factor in (0.6, 1.7):
        assert loss(made.temperature) < loss(made.temperature * factor)


def test_options_reach_the_prompts(blobs: Blobs) -> None:
    options = FitOptions(
        l2=1e-3,
        prior=0,
        prompts=3,
        confidence_quantile=0.5,
        centre=True,
        score='cosine',
    )
    made = fit_head(blobs.table, SAME, options)
    assert made.cosine is not None
    assert made.cosine.prompts.shape == (4, 3, 6)
    assert made.lda.weight.shape == (12, 6)
    mean = blobs.table.pixels.mean(0)
    torch.testing.assert_close(made.cosine.centre, mean, atol=0, rtol=1e-3)
    for score in SCORES:
        assert blobs.accuracy(replace(made, score=score)) > 0.5
    assert made.provenance['options']['prompts'] == 3


def test_balance_favours_rare_classes() -> None:
    rare = Blobs(side=18, apart=0.5, classes=(0, 0, 0, 0, 0, 0, 1), seed=2)
    shares = []
    for balance in (0.0, 0.5, 1.0):
        options = replace(CLASSES, score='probe', balance=balance, l2=1e-3)
        made = fit_head(rare.table, SAME, options)
        found = predict(made, rare.table.pixels).argmax(1)
        shares.append(float((found == 1).double().mean()))
    assert shares[0] < shares[1] < shares[2]


def test_a_trained_probe_takes_the_place_of_the_solved_one(blobs: Blobs) -> None:
    options = replace(CLASSES, l2=1e-3)
    solved = fit_head(blobs.table, SAME, options)
    trained = fit_head(blobs.table, SAME, options, solved.probe)
    x = blobs.table.pixels[:300]
    torch.testing.assert_close(
        predict(trained, x), predict(solved, x), atol=5e-3, rtol=0
    )
    # One that says nothing is used as it is.
    silent = LinearProbe(torch.zeros(4, 6), torch.tensor([1.0, 0, 0, 0]))
    trained = fit_head(blobs.table, SAME, options, silent)
    torch.testing.assert_close(trained.probe.bias, silent.bias)
    found = predict(replace(trained, score='probe'), x)
    assert (found.argmax(1) == 0).all()
    # Nothing agrees with it but class 0: that has the only prompt.
    assert (trained.lda.bias == ABSENT).tolist() == [False, *[True] * 3]


@pytest.mark.parametrize('recipe', ['codes', 'classes'])
def test_deterministic(blobs: Blobs, recipe: str) -> None:
    options = FitOptions(prompts=2, recipe=recipe)
    torch.manual_seed(1)
    a = fit_head(blobs.table, SAME, options)
    torch.manual_seed(2)
    b = fit_head(blobs.table, SAME, options)
    assert a.state()[1] == b.state()[1]
    for name, tensor in a.state()[0].items():
        assert torch.equal(tensor, b.state()[0][name])


def test_table_is_not_changed(blobs: Blobs) -> None:
    before = deepcopy(vars(blobs.table))
    fit_head(blobs.table, SAME, FitOptions(l2=1e-3))
    for name, value in before.items():
        now = getattr(blobs.table, name)
        assert torch.equal(value, now) if torch.is_tensor(value) else value == now


def test_provenance(blobs: Blobs) -> None:
    """What was chosen, in JSON types."""
    share = torch.full((225,), 0.4).double()
    share[20:] = 1
    made = fit_head(replace(blobs.table, share=share), SAME)
    fit = made.provenance['fit']
    assert fit['cells'] == {
        name: int((blobs.label[20:] == i).sum())
        for i, name in enumerate(TARGET.class_names)
    }
    assert fit['pixels'] == len(blobs.table.pixels)
    assert fit['l2'] in STRENGTHS
    assert fit['prior_weight'] == made.prior.weight > 0
    losses = fit['held_out_loss']
    assert {float(s) for s in losses} <= set(STRENGTHS)
    assert min(losses, key=losses.get) == f'{fit["l2"]:g}'
    assert made.provenance['options']['score'] == 'fusion'
    assert json.loads(json.dumps(made.provenance)) == made.provenance


def test_cells_that_are_cut_or_unlabelled_have_no_say(blobs: Blobs) -> None:
    """In the probe, that is; their pixels may be prompts."""
    generator = torch.Generator().manual_seed(0)
    spoilt = torch.rand(225, generator=generator) < 0.2
    share = torch.where(spoilt, 0.4, 1.0).double()
    cut = replace(blobs.table, share=share)
    nothing = torch.tensor(torch.nan)
    wild = replace(
        cut, features=torch.where(spoilt[:, None], nothing, blobs.table.features)
    )
    none = replace(cut, code=torch.where(spoilt, -1, blobs.table.code))
    a, b, c = (
        fit_head(table, SAME, replace(CLASSES, l2=1e-3)) for table in (cut, wild, none)
    )
    assert torch.equal(a.probe.weight, b.probe.weight)
    assert torch.equal(a.probe.weight, c.probe.weight)
    assert sum(a.provenance['fit']['cells'].values()) == int((~spoilt).sum())


def test_one_block_is_too_little_to_choose_by() -> None:
    small = Blobs(side=3)
    made = fit_head(small.table, SAME, FitOptions(recipe='classes'))
    fit = made.provenance['fit']
    assert (fit['l2'], fit['prior_weight']) == (CAUTIOUS, 0.0)
    assert 'held_out_loss' not in fit
    assert predict(made, small.table.pixels).isfinite().all()
    made = fit_head(small.table, SAME, FitOptions(l2=1e-4, prior=0.5))
    fit = made.provenance['fit']
    assert (fit['l2'], fit['prior_weight']) == (1e-4, 0.5)


@pytest.mark.parametrize('score', SCORES)
def test_classes_with_hardly_a_pixel(score: str) -> None:
    """Class 3 has one cell and no pixel in the draw, class 1 none at all."""
    blobs = Blobs(side=9, classes=(0, 2), seed=3)
    code = blobs.table.code.clone()
    code[40] = 4
    some = blobs.table.owner != 40
    table = replace(
        blobs.table,
        code=code,
        pixels=blobs.table.pixels[some],
        owner=blobs.table.owner[some],
    )
    made = fit_head(table, SAME, FitOptions(score=score, recipe='classes'))
    assert made.lda.bias[[1, 3]].tolist() == [ABSENT, ABSENT]
    assert math.isfinite(made.temperature)
    if score != 'cosine':
        assert made.present.tolist() == [True, False, True, True]
    found = predict(made, 10 * blobs.table.pixels)
    assert found.isfinite().all()
    assert not (found.argmax(1) == 1).any()


@pytest.mark.parametrize('score', SCORES)
def test_no_class_has_pixels_enough_for_a_prompt(score: str) -> None:
    blobs = Blobs(side=6, classes=(0, 1), seed=4)
    few = replace(
        blobs.table, pixels=blobs.table.pixels[::500], owner=blobs.table.owner[::500]
    )
    assert len(few.pixels) < 10
    if score in ('lda', 'cosine'):  # which have nothing else
        with pytest.raises(InputError, match='No class has the pixels'):
            fit_head(few, SAME, FitOptions(score=score))
        return
    made = fit_head(few, SAME, FitOptions(score=score))
    assert predict(made, blobs.table.pixels).isfinite().all()
    assert blobs.accuracy(made) > 0.6


@pytest.mark.parametrize('score', ['lda', 'probe'])
def test_a_class_without_a_prompt_is_told(score: str) -> None:
    """Of prompts alone it is not mapped; the probe maps it all the same."""
    blobs = Blobs(seed=4)
    label = torch.from_numpy(SAME.index(blobs.table.code.numpy()))
    keep = label[blobs.table.owner] != 1
    few = replace(
        blobs.table, pixels=blobs.table.pixels[keep], owner=blobs.table.owner[keep]
    )
    report = fit_head(few, SAME, FitOptions(score=score, prior=0)).provenance['fit']
    name = SAME.target.class_names[1]
    told = [text for text in report['remarks'] if 'has no prompt' in text]
    assert [text.startswith(name) for text in told] == [True] * (score == 'lda')
    assert (name in report['unmapped']) == (score == 'lda')


def test_classes_that_are_very_far_apart() -> None:
    """Discriminants are millions then: below what stands for absent, unless scaled."""
    blobs = Blobs(apart=300.0)
    assert blobs.bayes() == 1
    for score in ('lda', 'fusion', 'probe'):
        made = fit_head(blobs.table, SAME, FitOptions(score=score, prior=0))
        assert blobs.accuracy(made) > 0.99


def test_features_that_do_not_vary(blobs: Blobs) -> None:
    def widen(x: Tensor) -> Tensor:
        constant = torch.tensor([0.0, 7.0]).expand(len(x), 2)
        return torch.cat([x, constant], 1)

    table = replace(
        blobs.table,
        features=widen(blobs.table.features),
        pixels=widen(blobs.table.pixels),
    )
    made = fit_head(table, SAME, FitOptions(prior=0))
    plain = fit_head(blobs.table, SAME, FitOptions(prior=0))
    assert made.probe.weight.isfinite().all()
    x = blobs.table.pixels
    same = predict(made, widen(x)).argmax(1) == predict(plain, x).argmax(1)
    assert same.double().mean() > 0.98


@pytest.mark.parametrize('crosswalk', [SAME, mixed_codes()])
def test_fewer_than_two_classes(blobs: Blobs, crosswalk: Crosswalk) -> None:
    one = replace(blobs.table, code=torch.full_like(blobs.table.code, 2))
    only = "'Forest'" if crosswalk is SAME else 'the code 2'
    with pytest.raises(InputError, match=f'only {only} among the 225 cells'):
        fit_head(one, crosswalk)
    none = replace(blobs.table, code=torch.full_like(blobs.table.code, -1))
    with pytest.raises(InputError, match=r'no class.*0 labelled cells'):
        fit_head(none, crosswalk)
    cut = replace(blobs.table, share=torch.full((225,), 0.4).double())
    with pytest.raises(InputError, match=r'no class among the 0 cells.*225 labelled'):
        fit_head(cut, crosswalk)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('recipe', 'best'),
        ('score', 'best'),
        ('noise', 'some'),
        ('class_weight', 'some'),
        ('l2', 0.0),
        ('l2', math.nan),
        ('balance', -0.1),
        ('balance', math.inf),
        ('prior', -1.0),
        ('prior', math.nan),
        ('prior_sigma', 1.5),
        ('prompts', 0),
        ('confidence_quantile', 1.5),
        ('max_chips', 0),
        ('max_pixels', -5),
        ('calibration_chips', 0),
    ],
)
def test_values_out_of_range(name: str, value: str | float) -> None:
    with pytest.raises(InputError, match=f'^{name} must be '):
        FitOptions(**{name: value})


def test_codes_are_translated_by_what_they_hold() -> None:
    """Where a code is a mixture, calling all of it one class loses by far."""
    table, truth = mixtures()
    nlcd = Legend.load('nlcd')
    mapping = {11: 1, 21: 3, 23: 4}
    soft = Crosswalk('soft', nlcd, TARGET, mapping, composition=MIXED)
    hard = Crosswalk('hard', nlcd, TARGET, mapping)
    accuracy = {}
    for crosswalk in (soft, hard):
        made = fit_head(table, crosswalk, FitOptions(prior=0), pixel_features=6)
        found = predict(made, table.pixels).argmax(1).numpy()
        accuracy[crosswalk.name] = float((found == truth).mean())
    assert accuracy['soft'] > accuracy['hard'] + 0.05
    # The prior is what a cell of each code holds, and the frequency follows from it.
    made = fit_head(table, soft)
    assert made.prior.codes.tolist() == list(MIXED)
    shares = torch.tensor(list(MIXED.values()))
    torch.testing.assert_close(made.prior.composition, shares)
    count = torch.tensor([int((table.code == code).sum()) for code in MIXED])
    torch.testing.assert_close(made.prior.frequency, count / count.sum() @ shares)


def test_a_quarter_of_the_probe_is_of_pixels_colours() -> None:
    """The same from scikit-learn, fitted to pixels by the labels of their cells."""
    blobs, colours = Blobs(side=12, seed=1), 2
    options = FitOptions(noise='none', l2=1e-3)
    cells = fit_head(blobs.table, SAME, options)
    mixed = fit_head(blobs.table, SAME, options, pixel_features=colours)
    x = blobs.table.pixels.double().numpy()
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    y = blobs.label[blobs.table.owner].numpy()
    weight = np.bincount(y)[y] ** -0.5
    oracle = LogisticRegression(C=1 / (COLOUR_L2 * colours), tol=1e-8, max_iter=1000)
    oracle.fit(x[:, :colours], y, weight / weight.sum())
    of_pixels = torch.from_numpy(oracle.decision_function(x[:, :colours])).float()
    of_cells, both = (made.probe(blobs.table.pixels) for made in (cells, mixed))
    expected = (1 - MAP_COLOUR) * of_cells + MAP_COLOUR * of_pixels
    # Within a hundredth: what probabilities ask for.
    torch.testing.assert_close(both.softmax(1), expected.softmax(1), rtol=0, atol=1e-2)
    assert (both.softmax(1) - of_cells.softmax(1)).abs().max() > 0.1

    # Prompts are means of the pixels that a probe with half of the colours finds: their
    # scores tell two of them apart by Σ⁻¹ (m_a - m_b).
    chooser = (1 - COLOUR) * of_cells + COLOUR * of_pixels
    scores = {}
    for name, logits in (('half', chooser), ('quarter', both)):
        index, found = select(logits, blobs.label[blobs.table.owner])
        standard = torch.from_numpy(x)[index].float()
        prompts = cluster(standard, found, 4, 1, 0)
        plain = within_class_discriminant(standard, found, prompts)
        scores[name] = plain(torch.from_numpy(x).float())
    made = mixed.lda(blobs.table.pixels)
    centred = {k: v - v.mean(1, keepdim=True) for k, v in scores.items()}
    made = made - made.mean(1, keepdim=True)

    def apart(expected: Tensor) -> float:
        """Share of the scores that a factor, the temperature, leaves over."""
        factor = (made * expected).sum() / expected.square().sum()
        return float((made - factor * expected).norm() / made.norm())

    assert apart(centred['half']) < 0.01
    assert apart(centred['quarter']) > 2 * apart(centred['half'])


def test_a_class_is_lifted_by_codes_that_have_cells() -> None:
    """Class 2 leads none but the last code, of which there is one cell."""
    composition = torch.tensor([[0.9, 0.1, 0], [0.2, 0.5, 0.3], [0, 0.1, 0.9]]).double()
    p = torch.tensor([0.1, 0.5, 0.3]).repeat(100, 1)
    count = torch.tensor([50, 49, 1])
    # As if the second code led for it, by a quarter; all pixels need 5 / 3.
    t = lift(p, composition, count)
    torch.testing.assert_close(t, torch.tensor([1, 1, 5 / 3]).double())
    # A code of five cells is known, and the purest, but does not lead yet.
    t = lift(p, composition, torch.tensor([50, 49, 5]))
    torch.testing.assert_close(t, torch.tensor([1, 1, 1.25]).double())
    p[:60] = torch.tensor([0.1, 0.48, 0.4])
    # Sixty pixels need less, and the codes promise 15.6 of them.
    t = lift(p, composition, count)
    torch.testing.assert_close(t, torch.tensor([1, 1, 1.2]).double())
    # With ten cells the purest code leads.
    t = lift(p, composition, torch.tensor([50, 49, 10]))
    torch.testing.assert_close(t, torch.ones(3).double())


def test_translation_is_the_total_probability() -> None:
    """p(c) is the sum of p(k) Q[k, c] t_c, normalised, to the last digits."""
    table, _ = mixtures(side=9)
    nlcd = Legend.load('nlcd')
    mapping = {11: 1, 21: 3, 23: 4}
    soft = Crosswalk('soft', nlcd, TARGET, mapping, composition=MIXED)
    made = fit_head(table, soft, FitOptions(score='probe', prior=0))
    x = table.pixels[:50]
    assert made.translation is not None
    p = made.probe(x).double().softmax(1) @ made.translation.double()
    expected = (p / p.sum(1, keepdim=True)).float()
    torch.testing.assert_close(predict(made, x), expected, atol=1e-4, rtol=1e-4)


def test_cells_of_codes_that_the_crosswalk_leaves_out_are_ignored() -> None:
    table, _ = mixtures(side=12)
    nlcd = Legend.load('nlcd')
    rows = {code: MIXED[code] for code in (11, 23)}
    soft = Crosswalk('soft', nlcd, TARGET, {11: 1, 23: 4}, composition=rows)
    made = fit_head(table, soft)
    assert made.prior.codes.tolist() == [11, 23]
    assert len(made.probe.bias) == 2


def test_cells_of_which_half_is_seen_are_learned_from() -> None:
    """A class of the edge alone is found; cells of less than a half change nothing."""
    blobs = Blobs(side=15)
    table = blobs.table
    forest = table.code == 2
    half, less = (
        replace(table, share=torch.where(forest, share, table.share))
        for share in (0.5, 0.49)
    )
    learned, whole = (fit_head(t, SAME, FitOptions(prior=0)) for t in (half, table))
    x = table.pixels
    assert torch.equal(predict(learned, x), predict(whole, x))
    assert learned.provenance['fit']['cells'] == whole.provenance['fit']['cells']
    made = fit_head(less, SAME, FitOptions(prior=0))
    assert made.provenance['fit']['unmapped'] == ['Forest']
    code = torch.where(forest, -1, table.code)
    without = fit_head(replace(table, code=code), SAME, FitOptions(prior=0))
    torch.testing.assert_close(made.probe.weight, without.probe.weight)


def scene_table(scene: Scene) -> tuple[CellTable, Tokens, Tensor]:
    """Cells and pixels of a scene, its tokens, and its HR classes."""
    with rasterio.open(scene.imagery) as file:
        image = torch.from_numpy(file.read().astype(np.float32))
        grid = GeoBox(file.shape, file.transform, str(file.crs))
    with rasterio.open(scene.truth) as file:
        truth = torch.from_numpy(file.read(1).astype(np.int64)) - 1
    labels = LabelRaster.open([scene.labels])[0]
    backbone = create_backbone('rcf?filters=12&colours=48', 4)
    backbone.calibrate([(image, torch.ones(image.shape[1:], dtype=torch.bool))])
    tokens = backbone(image[None])
    region = region_map(grid, labels.geobox)
    code = torch.from_numpy(labels.read(region.rows, region.cols).ravel())
    mask = torch.from_numpy(region.mask_region)
    means, _ = tokens.pool(mask[None], len(code))
    index = torch.arange(len(code))
    rows, cols = index // region.window[3], index % region.window[3]
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(mask.numel(), (8000,), generator=generator)
    draw = draw[mask.flatten()[draw] > 0]
    width = mask.shape[1]
    table = CellTable(
        means[0],
        code,
        torch.from_numpy(region.share),
        torch.stack([0 * rows, rows, cols], 1),
        tokens.gather(0 * draw, draw // width, draw % width),
        mask.flatten()[draw] - 1,
    )
    return table, tokens, truth


def test_made_scene_from_end_to_end(made_scene: Scene) -> None:
    """rcf, NLCD labels, no HR label: better than what the labels are called."""
    table, tokens, truth = scene_table(made_scene)
    hard = Crosswalk.load('nlcd', 'land-cover-4', 'scenes')
    soft = Crosswalk.load('nlcd', 'land-cover-4', 'definitions')
    with rasterio.open(made_scene.imagery) as file:
        grid = GeoBox(file.shape, file.transform, str(file.crs))
    labels = LabelRaster.open([made_scene.labels])[0]
    coarse = torch.from_numpy(hard.index(labels.at(grid)))

    def score(classes: Tensor) -> float:
        """Mean IoU."""
        iou = [
            ((classes == c) & (truth == c)).sum()
            / ((classes == c) | (truth == c)).sum()
            for c in range(4)
        ]
        return float(torch.stack(iou).nanmean())

    made = fit_head(table, soft, pixel_features=52)
    found = made.probabilities(tokens)[0].argmax(0)
    before = fit_head(table, hard, CLASSES).probabilities(tokens)[0].argmax(0)
    assert score(found) > score(coarse) + 0.05
    assert score(before) > score(coarse) + 0.05


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'class_weight': 'log', 'balance': 1.0}, 'class_weight log'),
        ({'centre': True}, 'centre .* score fusion'),
        ({'noise': 'denoise'}, "'mixed' has codes of several"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    blobs: Blobs, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        fit_head(blobs.table, mixed_codes(), FitOptions(**options))
    assert '\n' not in str(error.value)


def test_noise_of_a_trained_probe_is_refused(blobs: Blobs) -> None:
    probe = fit_head(blobs.table, SAME, CLASSES).probe
    with pytest.raises(InputError, match='noise sce has no effect'):
        fit_head(blobs.table, SAME, FitOptions(noise='sce'), probe)


def test_strength_that_is_asked_for_is_taken(blobs: Blobs) -> None:
    """The cap on the strength of codes is for one that was chosen."""
    weights = [
        fit_head(blobs.table, mixed_codes(), FitOptions(l2=l2, prior=0))
        .probe.weight.square()
        .sum()
        for l2 in (1e-3, 1e-1)
    ]
    assert weights[1] < 0.5 * weights[0]


def test_smoothing_that_is_asked_for_is_taken(blobs: Blobs) -> None:
    """Where the weight of the labels is chosen, too."""
    for sigma in (0.3, 0.9):
        made = fit_head(
            blobs.table, SAME, FitOptions(recipe='classes', prior_sigma=sigma)
        )
        assert made.prior.sigma == sigma


def test_colours_weigh_classes_as_cells_do(blobs: Blobs) -> None:
    """By the balance that is asked for, in the colour expert too."""
    probes = []
    for balance in (0.0, 1.0):
        options = FitOptions(balance=balance, l2=1e6, prior=0)
        head = fit_head(blobs.table, mixed_codes(), options, pixel_features=6)
        # At such a strength cells say nothing: what is left are the colours.
        probes.append(head.probe.weight)
    assert not torch.allclose(*probes, atol=1e-4)
