# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from torchgeo_mapsr.models.head.probe import ABSENT
from torchgeo_mapsr.models.head.prompts import (
    FEWEST,
    CosinePrompts,
    cluster,
    confident,
    within_class_discriminant,
)
from torchgeo_mapsr.models.tokens.bilateral import JointBilateral
from torchgeo_mapsr.models.tokens.tokens import Tokens


def select(
    logits: Tensor, label: Tensor, quantile: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Pixels where a probe is sure and agrees with the LR label, and their classes."""
    confidence, predicted = logits.softmax(1).max(1)
    keep = confident(confidence, label, predicted == label, quantile)
    index = keep.nonzero()[:, 0]
    return index, label[index]


def sampled(n: int = 400, d: int = 6, classes: int = 4, seed: int = 0) -> tuple:
    """Features, probe scores and labels that agree in part; a third has no label."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (n,), generator=generator)
    mix = torch.randn(d, d, generator=generator)
    features = torch.randn(n, d, generator=generator) @ mix
    features += 2 * torch.randn(classes, d, generator=generator)[label]
    logits = torch.randn(n, classes, generator=generator)
    logits += 1.5 * F.one_hot(label, classes)
    label[torch.rand(n, generator=generator) < 0.3] = -1
    return features, logits, label


@pytest.mark.parametrize('quantile', [0.0, 0.5, 0.8])
def test_selection_and_prompts_are_those_of_the_paper(quantile: float) -> None:
    """Class by class and pixel by pixel, as MapSR describes it."""
    features, logits, label = sampled(800)
    index, of_class = select(logits, label, quantile)
    prompts = cluster(F.normalize(features[index], dim=1), of_class, 4, 1, 0)
    chosen, agreed = [], 0
    for c in range(4):
        agreeing, confidence = [], []
        for i in range(len(label)):
            p = logits[i].softmax(0)
            if int(p.argmax()) == c and int(label[i]) == c:
                agreeing.append(i)
                confidence.append(float(p.max()))
        least = np.quantile(confidence, quantile)
        kept = [
            i for i, p in zip(agreeing, confidence, strict=True) if p >= least - 1e-7
        ]
        mean = torch.stack([features[i] / features[i].norm() for i in kept]).mean(0)
        torch.testing.assert_close(prompts[c, 0], mean)
        assert set(of_class[[int(i) in kept for i in index]].tolist()) == {c}
        chosen += kept
        agreed += len(agreeing)
    assert sorted(chosen) == index.tolist()
    assert 0.9 * (1 - quantile) < len(chosen) / agreed < 1.1 * (1 - quantile)


def test_selection_of_nothing() -> None:
    logits = F.one_hot(torch.tensor([0, 1, 1]), 2).float()
    index, of_class = select(logits, torch.tensor([1, 0, -1]), 0.5)
    assert len(index) == len(of_class) == 0
    assert cluster(torch.zeros(0, 3), of_class, 2, 2, 0).isnan().all()


def test_classes_of_few_pixels_have_no_prompt() -> None:
    label = torch.tensor([0] * FEWEST + [1] * (FEWEST - 1))
    features = torch.randn(len(label), 3)
    prompts = cluster(features, label, 3, 1, 0)
    torch.testing.assert_close(prompts[0, 0], features[:FEWEST].mean(0))
    assert prompts[1:].isnan().all()
    # More prompts than pixels are too many as well.
    assert cluster(features, label, 3, FEWEST + 1, 0).isnan().all()


def lumps(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Two classes of three far lumps each."""
    generator = torch.Generator().manual_seed(seed)
    centres = 20 * torch.randn(2, 3, 5, generator=generator)
    label = torch.arange(600) % 2
    lump = torch.arange(600) // 2 % 3
    noise = torch.randn(600, 5, generator=generator)
    return centres[label, lump] + noise, label, centres


def test_clusters_find_the_lumps_of_each_class() -> None:
    features, label, centres = lumps()
    prompts = cluster(features, label, 2, 3, seed=0)
    for c in range(2):
        distance = torch.cdist(prompts[c], centres[c])
        assert sorted(distance.argmin(1).tolist()) == [0, 1, 2]
        # The mean of a hundred pixels each.
        assert distance.min(1).values.max() < 0.6


def test_clusters_are_deterministic_and_leave_global_generators_alone() -> None:
    features, label, _ = lumps()
    features = features + 15 * torch.randn(600, 5)  # no clear lumps: starts matter
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    a, b, c = (cluster(features, label, 2, 4, seed) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_clusters_of_equal_pixels() -> None:
    """Saturated water: prompts are equal or the mean, finite, and no warning."""
    features = torch.ones(50, 3)
    features[:20] = 2
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        prompts = cluster(features, torch.zeros(50, dtype=torch.int64), 1, 4, 0)
    assert prompts.isfinite().all()
    assert ((prompts == 1) | (prompts == 2)).all()
    lda = within_class_discriminant(
        features, torch.zeros(50, dtype=torch.int64), prompts
    )
    assert lda.weight.isfinite().all()


@pytest.mark.parametrize('shrinkage', [0.0, 0.1, 0.9])
def test_discriminant_equals_scikit_learn(shrinkage: float) -> None:
    """Up to the logarithm of the priors, which prompts do not have."""
    features, _, label = sampled(seed=1)
    features, label = features[label >= 0].double(), label[label >= 0]
    prompts = cluster(features, label, 4, 1, 0).double()
    ours = within_class_discriminant(features, label, prompts, shrinkage)
    theirs = LinearDiscriminantAnalysis(solver='lsqr', shrinkage=shrinkage)
    theirs.fit(features.numpy(), label.numpy())
    # Prompts are kept in single precision.
    np.testing.assert_allclose(ours.weight, theirs.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        ours.bias, theirs.intercept_ - np.log(theirs.priors_), rtol=1e-4, atol=1e-5
    )


def test_discriminant_is_the_logarithm_of_a_gaussian() -> None:
    """Whatever all prompts share left out: differences are those of squared distances."""
    features, label, _ = lumps()
    features = features.double()
    prompts = cluster(features, label, 2, 3, 0).double()
    lda = within_class_discriminant(features, label, prompts, 0.2)
    residual = torch.stack(
        [
            x - min(prompts[c], key=lambda m, x=x: float((x - m).norm()))
            for x, c in zip(features, label, strict=True)
        ]
    )
    covariance = residual.T @ residual / 600
    mean = covariance.diagonal().mean() * torch.eye(5, dtype=torch.float64)
    covariance = 0.8 * covariance + 0.2 * mean
    x = features[:50]
    gaussian = torch.distributions.MultivariateNormal(
        prompts.view(6, 1, 5), covariance
    ).log_prob(x)
    scores = lda(x).T
    torch.testing.assert_close(
        scores - scores[:1], gaussian - gaussian[:1], rtol=1e-6, atol=1e-6
    )


def test_discriminant_leaves_out_classes_without_a_prompt() -> None:
    features, _, label = sampled(seed=2)
    features, label = features[label >= 0], label[label >= 0]
    label = torch.where(label == 1, 2, label)
    label[:3] = 1  # too few
    prompts = cluster(features, label, 4, 1, 0)
    lda = within_class_discriminant(features, label, prompts)
    assert lda.bias[1] == ABSENT
    assert not lda.weight[1].any()
    known = label != 1
    renamed = torch.tensor([0, -1, 1, 2])[label[known]]
    three = within_class_discriminant(
        features[known], renamed, cluster(features[known], renamed, 3, 1, 0)
    )
    torch.testing.assert_close(lda.weight[[0, 2, 3]], three.weight)
    torch.testing.assert_close(lda.bias[[0, 2, 3]], three.bias)


def test_discriminant_of_features_that_do_not_vary() -> None:
    features = torch.randn(100, 4)
    features[:, 2] = 0
    label = torch.arange(100) % 2
    lda = within_class_discriminant(features, label, cluster(features, label, 2, 1, 0))
    assert lda.weight.isfinite().all()
    assert lda.weight[:, 2].abs().max() < 1e-6


def tokens(guided: bool, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    shapes = (1, 3, 26, 30), (1, 4, 13, 15), (1, 5, 4, 4)
    levels = tuple(torch.randn(shape, generator=generator) for shape in shapes)
    made = Tokens(levels, (1, 2, 8), (26, 30))
    if guided:
        guide = torch.rand(1, 3, 26, 30, generator=generator)
        made = made.with_upsampler(JointBilateral(guide, 1, sigma_range=0.3))
    return made


def dense(tokens: Tokens) -> Tensor:
    """Every row of U F, (H W, D), through the identity of gather."""
    rows, cols = torch.meshgrid(torch.arange(26), torch.arange(30), indexing='ij')
    return tokens.gather(0 * rows.flatten(), rows.flatten(), cols.flatten())


@pytest.mark.parametrize('guided', [False, True])
@pytest.mark.parametrize('centred', [False, True])
@pytest.mark.parametrize('k', [1, 3])
def test_cosine_in_token_space(guided: bool, centred: bool, k: int) -> None:
    generator = torch.Generator().manual_seed(4)
    prompts = torch.randn(4, k, 12, generator=generator)
    prompts[2] = torch.nan
    centre = torch.randn(12, generator=generator) if centred else torch.zeros(12)
    cosine = CosinePrompts(prompts, centre)
    made = tokens(guided)
    features = dense(made)
    fast = cosine.match_tokens(made)
    assert fast.shape == (1, 4, 26, 30)

    # The definition, in double precision.
    x = features.double() - centre.double()
    expected = torch.full((len(x), 4), -1.0, dtype=torch.float64)
    for c in (0, 1, 3):
        each = [
            (x @ p.double()) / (x.norm(dim=1) * p.double().norm()) for p in prompts[c]
        ]
        expected[:, c] = torch.stack(each).amax(0)
    torch.testing.assert_close(
        cosine.match(features).double(), expected, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        fast[0].flatten(1).T.double(), expected, atol=1e-5, rtol=0
    )


def test_centring_tells_like_classes_apart() -> None:
    """All features share a large part: seen from the mean, prompts are far apart."""
    generator = torch.Generator().manual_seed(0)
    common = 30 * torch.randn(8, generator=generator)
    label = torch.arange(200) % 2
    apart = torch.randn(2, 8, generator=generator)
    features = common + apart[label] + 0.3 * torch.randn(200, 8, generator=generator)
    for centre, least, most in (
        (torch.zeros(8), 0.99, 1.0),
        (features.mean(0), -1.0, -0.9),
    ):
        unit = F.normalize(features - centre, dim=1)
        prompts = CosinePrompts(cluster(unit, label, 2, 1, 0), centre)
        a, b = F.normalize(prompts.prompts[:, 0], dim=1)
        assert least < a @ b < most
        # Either way, a pixel is most like its own class.
        assert (prompts.match(features).argmax(1) == label).float().mean() > 0.95


def test_pixel_without_features_is_like_nothing() -> None:
    prompts = CosinePrompts(torch.randn(2, 1, 3), torch.zeros(3))
    nothing = Tokens((torch.zeros(1, 3, 2, 2),), (1,), (2, 2))
    assert not prompts.match_tokens(nothing).any()
    assert not prompts.match(torch.zeros(5, 3)).any()
