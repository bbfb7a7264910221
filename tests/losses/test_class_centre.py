# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import math

import pytest
import torch
from torch import Tensor

from torchgeo_mapsr.losses import ClassCentreContrast
from torchgeo_mapsr.losses.class_centre import class_centres


def batch(
    seed: int = 0, images: int = 3, classes: int = 4, d: int = 6
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, probabilities, and labels some of which are missing."""
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(images, d, 5, 6, generator=g)
    probabilities = (2 * torch.randn(images, classes, 5, 6, generator=g)).softmax(1)
    label = torch.randint(-1, classes, (images, 5, 6), generator=g)
    label[0][label[0] == 1] = -1  # a class that one image does not have
    return features, probabilities, label


def literal_centres(
    features: Tensor, probabilities: Tensor, label: Tensor
) -> list[tuple[int, int, str, Tensor]]:
    """Image, class, kind and vector of each centre, pixel by pixel (§3.4)."""
    found = []
    for b in range(len(features)):
        for k in range(probabilities.shape[1]):
            pixels = (label[b] == k).nonzero().tolist()
            if not pixels:
                continue
            mean = sum(probabilities[b, k, i, j].item() for i, j in pixels)
            mean /= len(pixels)
            parts: dict[str, list[Tensor]] = {'all': [], 'easy': [], 'hard': []}
            for i, j in pixels:
                easy = probabilities[b, k, i, j].item() > mean
                parts['all'].append(features[b, :, i, j])
                parts['easy' if easy else 'hard'].append(features[b, :, i, j])
            for kind, vectors in parts.items():
                if vectors:
                    found.append((b, k, kind, torch.stack(vectors).mean(0)))
    return found


def literal(
    features: Tensor, probabilities: Tensor, label: Tensor, tau: float, cross: bool
) -> float:
    """Eq. 6 and its mean, centre by centre."""
    centres = [
        (b, k, v / v.norm())
        for b, k, _, v in literal_centres(features, probabilities, label)
    ]
    losses = []
    for m, (b, k, c) in enumerate(centres):
        others = [o for n, o in enumerate(centres) if n != m and (cross or o[0] == b)]
        plus = [v for _, kk, v in others if kk == k]
        minus = [v for _, kk, v in others if kk != k]
        if not plus:
            continue
        low = sum(math.exp((c @ v).item() / tau) for v in minus)
        terms = [math.exp((c @ v).item() / tau) for v in plus]
        losses.append(-sum(math.log(e / (e + low)) for e in terms) / len(plus))
    return sum(losses) / len(losses)


@pytest.mark.parametrize('cross', [True, False])
@pytest.mark.parametrize('tau', [0.07, 0.5])
def test_equals_the_equation(tau: float, cross: bool) -> None:
    for seed in range(3):
        given = batch(seed)
        found = ClassCentreContrast(tau, cross)(*given).item()
        assert found == pytest.approx(literal(*given, tau, cross), rel=1e-4)


def test_centres_are_those_of_the_text() -> None:
    given = batch()
    centres = class_centres(*given)
    kinds = {'all': 0, 'easy': 1, 'hard': 2}
    literal = literal_centres(*given)
    assert int(centres.present.sum()) == len(literal)
    assert {kind for _, _, kind, _ in literal} == set(kinds)
    for b, k, kind, vector in literal:
        assert centres.present[b, k, kinds[kind]]
        torch.testing.assert_close(centres.vectors[b, k, kinds[kind]], vector)


def test_gradient() -> None:
    features, probabilities, label = batch(images=2, classes=3, d=3)
    features = features.requires_grad_()
    loss = ClassCentreContrast(0.5)
    loss(features, probabilities.requires_grad_(), label).backward()
    assert probabilities.grad is None
    assert features.grad is not None
    assert not features.grad[:, :, :, :][(label < 0)[:, None].expand_as(features)].any()
    step = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        up = loss(features + 1e-2 * step, probabilities, label)
        down = loss(features - 1e-2 * step, probabilities, label)
    slope = ((up - down) / 2e-2).item()
    assert (features.grad * step).sum().item() == pytest.approx(slope, rel=2e-2)


def test_it_pulls_classes_together_and_others_apart() -> None:
    features, probabilities, label = batch()
    features = features.clone().requires_grad_()
    before = class_centres(features.detach(), probabilities, label)
    for _ in range(30):
        (g,) = torch.autograd.grad(
            ClassCentreContrast(0.2)(features, probabilities, label), features
        )
        features = (features - 20 * g).detach().requires_grad_()
    after = class_centres(features.detach(), probabilities, label)

    def gap(centres: object) -> float:
        known = centres.present.flatten()  # type: ignore[attr-defined]
        c = torch.nn.functional.normalize(centres.vectors, dim=-1).flatten(0, 2)[known]  # type: ignore[attr-defined]
        y = torch.arange(4)[None, :, None].expand(3, 4, 3).flatten()[known]
        same = y[:, None] == y
        return float((c @ c.T)[same].mean() - (c @ c.T)[~same].mean())

    assert gap(after) > gap(before) + 0.3


def of(label: list[list[int]], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features and probabilities for images of one row."""
    g = torch.Generator().manual_seed(seed)
    n, w = len(label), len(label[0])
    features = torch.randn(n, 4, 1, w, generator=g).requires_grad_()
    p = torch.randn(n, 3, 1, w, generator=g).softmax(1)
    return features, p, torch.tensor(label)[:, None]


class TestDegenerate:
    def test_no_pixel(self) -> None:
        features, p, label = of([[-1, -1, -1]])
        loss = ClassCentreContrast()(features, p, label)
        loss.backward()
        assert loss == 0
        assert features.grad is not None
        assert not features.grad.any()

    def test_one_pixel_of_each_class(self) -> None:
        """No easy pixel: all and hard centre are the same, and positives."""
        features, p, label = of([[0, 1, 2]])
        assert class_centres(features, p, label).present.tolist() == [
            [[True, False, True]] * 3
        ]
        found = ClassCentreContrast()(features, p, label).item()
        assert found == pytest.approx(literal(features, p, label, 0.07, True), rel=1e-4)

    def test_one_class_has_nothing_to_be_told_from(self) -> None:
        features, p, label = of([[1, 1, 1, 1], [1, 1, 1, 1]])
        loss = ClassCentreContrast()(features, p, label)
        loss.backward()
        assert loss == 0
        assert features.grad is not None
        assert features.grad.isfinite().all()
        assert not features.grad.any()

    def test_a_class_on_one_image_only(self) -> None:
        """Its positives are of its own image, and it is a negative of others."""
        features, p, label = of([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
        found = ClassCentreContrast(0.3)(features, p, label).item()
        assert found == pytest.approx(literal(features, p, label, 0.3, True), rel=1e-4)
        without = label.clone()
        without[label == 1] = -1
        assert ClassCentreContrast(0.3)(features, p, without) == 0

    def test_equal_probabilities_are_not_told_apart_by_rounding(self) -> None:
        features, _, label = of([[0, 0, 0, 0, 0, 0, 0]])
        p = torch.full((1, 3, 1, 7), 0.1)
        assert class_centres(features, p, label).present[0, 0].tolist() == [
            True, False, True,
        ]  # fmt: skip


def test_half_precision_is_as_good() -> None:
    features, p, label = batch()
    half = features.bfloat16().requires_grad_()
    exact = half.detach().float().requires_grad_()
    loss = ClassCentreContrast()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = loss(half, p, label)
    expected = loss(exact, p, label)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(half.grad, exact.grad.bfloat16())  # type: ignore[union-attr]
