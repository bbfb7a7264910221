# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.models.head.test_fit import TARGET, Blobs
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.losses import SymmetricCrossEntropy
from torchgeo_mapsr.models.head.fit import FitOptions, fit_classifier
from torchgeo_mapsr.models.head.noise import REVERSE, label_trust, log_class_weights
from torchgeo_mapsr.models.head.probe import fit_probe, hold_out


@pytest.fixture(scope='module')
def noisy() -> Blobs:
    return Blobs(side=18, wrong=0.4, apart=0.8)


def standard(blobs: Blobs) -> torch.Tensor:
    scale, mean = torch.std_mean(blobs.pixels.features, 0)
    return (blobs.cells.features - mean) / scale


def trust_of(blobs: Blobs, noise: str) -> torch.Tensor:
    cells = blobs.cells
    return label_trust(
        standard(blobs), cells.label, cells.block, 4, 1e-2, 0.5, 0, noise
    )


@pytest.mark.parametrize('noise', ['sce', 'small-loss'])
def test_wrong_labels_are_trusted_less_and_classes_as_before(
    noisy: Blobs, noise: str
) -> None:
    trust, label = trust_of(noisy, noise), noisy.cells.label
    right = torch.from_numpy(noisy.truth).mode(1).values == label
    assert 0.6 < right.double().mean() < 0.8
    assert trust[~right].mean() < (0.75 if noise == 'sce' else 0.35) * trust.mean()
    for c in range(4):
        assert trust[label == c].mean().item() == pytest.approx(1)


def test_trust_is_what_is_said_of_it(noisy: Blobs) -> None:
    cells = noisy.cells
    x, y = standard(noisy), cells.label
    said = hold_out(x, y, cells.block, 4, 0.5, 0, (1e-2,)).log_probability
    p = said.exp()[torch.arange(len(y)), y].double()
    sce, small = trust_of(noisy, 'sce'), trust_of(noisy, 'small-loss')
    for c in range(4):
        own = y == c
        expected = 1 + REVERSE * p[own]
        torch.testing.assert_close(sce[own], expected / expected.mean())
        agree = (said[own].argmax(1) == c).double().mean().item()
        count = math.ceil(max(agree, 0.5) * int(own.sum()))
        kept = small[own] > 0
        assert kept.sum() == count
        assert p[own][kept].min() >= p[own][~kept].max()


def test_weights_are_the_gradient_of_symmetric_cross_entropy() -> None:
    """Of CE + RCE by the logits: (1 + A p) times that of CE."""
    logits = torch.randn(6, 4, dtype=torch.float64).requires_grad_()
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    p = logits.softmax(1).gather(1, label[:, None])[:, 0]
    both = SymmetricCrossEntropy(epsilon=1e-4, reduction='sum')
    images = logits.T[None, :, None]
    (found,) = torch.autograd.grad(both(images, label[None, None]), logits)
    ce = torch.nn.functional.cross_entropy(logits, label, reduction='none')
    weight = (1 + REVERSE * p).detach()
    (expected,) = torch.autograd.grad((weight * ce).sum(), logits)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)


def test_log_weights_are_equation_3() -> None:
    label = torch.tensor([0] * 90 + [1] * 9 + [2])
    weight = log_class_weights(label, 4)
    raw = {c: 1 / math.log(1 + n / 100) for c, n in ((0, 90), (1, 9), (2, 1))}
    total = sum(raw[int(c)] for c in label)
    for i in (0, 95, 99):
        assert weight[i].item() == pytest.approx(raw[int(label[i])] / total)


@pytest.mark.parametrize('noise', ['sce', 'small-loss'])
def test_noisy_labels_do_less_harm(noisy: Blobs, noise: str) -> None:
    def accuracy(how: str) -> float:
        options = FitOptions(score='probe', prior=0.0, noise=how, strength=1e-4)
        return noisy.accuracy(
            fit_classifier(noisy.cells, noisy.pixels, TARGET, options)
        )

    assert accuracy(noise) > accuracy('none') + 0.005


def test_default_is_what_it_was(tmp_path: Path) -> None:
    """The probe that the fit solved before there were options, in the same bytes."""
    blobs = Blobs()
    options = FitOptions()
    fitted = fit_classifier(blobs.cells, blobs.pixels, TARGET, options)
    assert fitted.provenance['options'].keys().isdisjoint({'noise', 'class_weight'})
    strength = fitted.provenance['fit']['strength']
    x, y = standard(blobs), blobs.cells.label
    count = torch.bincount(y).double()
    weight = count[y] ** -0.5
    probe = fit_probe(x, y, 4, strength, weight / weight.sum())
    scale, mean = torch.std_mean(blobs.pixels.features, 0)
    torch.testing.assert_close(
        fitted.probe.weight, probe.unscale(mean, scale).weight, rtol=1e-3, atol=1e-5
    )
    files = []
    for i, given in enumerate((options, replace(options, noise='none'))):
        files.append(tmp_path / f'{i}.safetensors')
        fit_classifier(blobs.cells, blobs.pixels, TARGET, given).save(files[-1])
    assert files[0].read_bytes() == files[1].read_bytes()
    told = replace(options, noise='sce', class_weight='log').to_dict()
    assert told['noise'] == 'sce'
    assert told['class_weight'] == 'log'


def test_one_block_has_nothing_to_hold_out() -> None:
    blobs = Blobs(side=3)
    options = FitOptions(noise='sce')
    plain = fit_classifier(blobs.cells, blobs.pixels, TARGET)
    fitted = fit_classifier(blobs.cells, blobs.pixels, TARGET, options)
    assert torch.equal(fitted.probe.weight, plain.probe.weight)


@pytest.mark.parametrize('name', ['noise', 'class_weight'])
def test_mistakes(name: str) -> None:
    blobs = Blobs(side=6)
    options = FitOptions(**{name: 'some'})
    with pytest.raises(InputError, match=f'{name} must be one of'):
        fit_classifier(blobs.cells, blobs.pixels, TARGET, options)
