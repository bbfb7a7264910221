# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.backbones.create import create_backbone
from torchgeo_mapsr.models.head.head import FORMAT, SCORES, Classifier
from torchgeo_mapsr.models.head.probe import ABSENT, LinearProbe
from torchgeo_mapsr.models.head.prompts import CosinePrompts
from torchgeo_mapsr.models.tokens.bilateral import JointBilateral
from torchgeo_mapsr.models.tokens.tokens import Tokens

TARGET = Legend.load('land-cover-4')
SIZE = (21, 30)
D = 11


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(score: str = 'fusion', k: int = 1, absent: int | None = None) -> Classifier:
    """Four classes of eleven features, one of them absent perhaps."""
    probe = LinearProbe(random(4, D, seed=1), random(4, seed=2))
    lda = LinearProbe(random(4 * k, D, seed=3), random(4 * k, seed=4))
    prompts = random(4, k, D, seed=5)
    frequency = torch.tensor([0.4, 0.3, 0.2, 0.1])
    if absent is not None:
        probe.bias[absent] = ABSENT
        lda.bias[absent * k : (absent + 1) * k] = ABSENT
        prompts[absent] = torch.nan
        frequency[absent] = 0
    return Classifier(
        TARGET,
        score,
        probe,
        lda,
        CosinePrompts(prompts, random(D, seed=6)),
        0.13,
        0.7,
        1.0,
        frequency,
        {'mean': random(3, seed=7), '1.weight': random(2, 3, seed=8)},
        {
            'chips': 3,
            'fit': {'strength': 1e-3, 'losses': {'0.001': 0.1 + 0.2}},
            'x': None,
        },
    )


def tokens(guided: bool = False) -> Tokens:
    shapes = (2, 3, 21, 30), (2, 4, 11, 15), (2, 4, 3, 4)
    levels = tuple(random(*shape, seed=i) for i, shape in enumerate(shapes))
    made = Tokens(levels, (1, 2, 8), SIZE)
    if guided:
        made = made.with_upsampler(JointBilateral(random(2, 3, *SIZE, seed=9), 1))
    return made


def dense(tokens: Tokens) -> Tensor:
    """U F, (B, H, W, D)."""
    at = torch.meshgrid(*(torch.arange(n) for n in (2, *SIZE)), indexing='ij')
    return tokens.gather(*(index.flatten() for index in at)).view(2, *SIZE, D)


def expected(made: Classifier, x: Tensor) -> Tensor:
    """Log-probabilities from features (…, D), without a shortcut."""
    x = x.double()

    def classes(scores: Tensor) -> Tensor:
        return scores.unflatten(-1, (4, -1)).amax(-1)

    probe = (x @ made.probe.weight.double().T + made.probe.bias).softmax(-1)
    lda = classes(x @ made.lda.weight.double().T + made.lda.bias).softmax(-1)
    unit = F.normalize(x - made.cosine.centre, dim=-1)
    known = made.frequency > 0
    directions = F.normalize(made.cosine.prompts.double().nan_to_num(), dim=-1)
    cosine = classes(unit @ directions.flatten(0, 1).T) / made.temperature
    cosine = cosine.masked_fill(~known, -torch.inf).softmax(-1)
    return {'probe': probe, 'lda': lda, 'fusion': (probe + lda) / 2, 'cosine': cosine}[
        made.score
    ]


@pytest.mark.parametrize('guided', [False, True])
@pytest.mark.parametrize('k', [1, 3])
@pytest.mark.parametrize('score', SCORES)
def test_equals_dense_computation(score: str, k: int, guided: bool) -> None:
    made = make(score, k)
    found = made.probabilities(tokens(guided))
    assert found.shape == (2, 4, *SIZE)
    assert found.dtype == torch.float32
    want = expected(made, dense(tokens(guided))).movedim(-1, 1)
    torch.testing.assert_close(found.double(), want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.sum(1), torch.ones(2, *SIZE))


@pytest.mark.parametrize('k', [1, 2])
@pytest.mark.parametrize('score', SCORES)
def test_absent_classes_are_never_predicted(score: str, k: int) -> None:
    made = make(score, k, absent=2)
    assert made.present.tolist() == [True, True, False, True]
    # Labels may say what they like.
    wanted = torch.zeros(2, 4, *SIZE)
    wanted[:, 2] = 50.0
    for said in (None, wanted):
        found = made.probabilities(tokens(), said)
        assert (found[:, 2] == 0).all()
        torch.testing.assert_close(found.sum(1), torch.ones(2, *SIZE))


@pytest.mark.parametrize('score', SCORES)
def test_evidence(score: str) -> None:
    made = make(score)
    plain = made.probabilities(tokens())
    said = random(2, 4, *SIZE, seed=3)
    heard = made.probabilities(tokens(), said)
    posterior = (plain.double().log() + 0.7 * said.double()).softmax(1)
    torch.testing.assert_close(heard.double(), posterior, atol=1e-5, rtol=1e-4)
    assert not torch.equal(plain, heard)
    # Labels alone, however much they weigh: of classes that are possible at all.
    sure = replace(made, prior_weight=1e4).probabilities(tokens(), said)
    assert sure.isfinite().all()
    possible = plain > 0
    loudest = said.masked_fill(~possible, -torch.inf).argmax(1)
    assert torch.equal(sure.argmax(1), loudest)
    deaf = replace(made, prior_weight=0.0)
    assert torch.equal(deaf.probabilities(tokens(), said), plain)
    # No labels there: nothing is added.
    nothing = made.probabilities(tokens(), torch.zeros_like(said))
    torch.testing.assert_close(nothing, plain)


def tensors(made: Classifier) -> list[Tensor]:
    return [
        made.probe.weight,
        made.probe.bias,
        made.lda.weight,
        made.lda.bias,
        made.cosine.prompts,
        made.cosine.centre,
        made.frequency,
        *(made.calibration[name] for name in sorted(made.calibration)),
    ]


def same(a: Classifier, b: Classifier) -> None:
    for name in (
        'target',
        'score',
        'temperature',
        'prior_weight',
        'prior_sigma',
        'provenance',
    ):
        assert getattr(a, name) == getattr(b, name)
    for x, y in zip(tensors(a), tensors(b), strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x.nan_to_num(7), y.nan_to_num(7))
    assert a.calibration.keys() == b.calibration.keys()


@pytest.mark.parametrize('score', SCORES)
def test_save_and_load(tmp_path: Path, score: str) -> None:
    made = make(score, k=2, absent=1)
    path = tmp_path / 'fit.safetensors'
    made.save(path)
    again = Classifier.load(path)
    same(made, again)
    assert torch.equal(made.probabilities(tokens()), again.probabilities(tokens()))
    # And what was loaded is saved as the same bytes.
    again.save(str(tmp_path / 'again.safetensors'))
    assert (tmp_path / 'again.safetensors').read_bytes() == path.read_bytes()


def test_legend_of_the_user_travels_along(tmp_path: Path) -> None:
    rows = [{'code': c, 'name': f'Klasse {c} · äöü'} for c in (7, 3, 200, 12)]
    legend = Legend.load({'name': 'mine', 'nodata': 255, 'classes': rows})
    replace(make(), target=legend).save(tmp_path / 'fit.safetensors')
    assert Classifier.load(tmp_path / 'fit.safetensors').target == legend


def test_fit_of_the_default_backbone_is_small(tmp_path: Path) -> None:
    backbone = create_backbone('rcf', 4)
    backbone.calibrate(
        [(random(4, 64, 64, seed=s), torch.ones(64, 64).bool()) for s in range(2)]
    )
    d = sum(backbone.channels)
    made = replace(
        make(),
        probe=LinearProbe(random(4, d), random(4)),
        lda=LinearProbe(random(4, d), random(4)),
        cosine=CosinePrompts(random(4, 1, d), random(d)),
        calibration=backbone.calibration(),
    )
    made.save(tmp_path / 'fit.safetensors')
    assert (tmp_path / 'fit.safetensors').stat().st_size < 1_000_000
    other = create_backbone('rcf', 4)
    other.load_calibration(
        dict(Classifier.load(tmp_path / 'fit.safetensors').calibration)
    )
    assert other.weights_digest() == backbone.weights_digest()


def test_files_that_are_no_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='Cannot read the fit'):
        Classifier.load(tmp_path / 'missing.safetensors')
    with pytest.raises(InputError, match='Cannot read the fit'):
        Classifier.load(tmp_path)
    text = tmp_path / 'text.safetensors'
    text.write_text('This is no safetensors file.')
    with pytest.raises(InputError, match='Cannot read the fit'):
        Classifier.load(text)
    empty = tmp_path / 'empty.safetensors'
    empty.touch()
    with pytest.raises(InputError, match='Cannot read the fit'):
        Classifier.load(empty)

    weights = tmp_path / 'weights.safetensors'
    for metadata in (None, {'format': 'pt'}, {'torchgeo-mapsr fit 99': '{}'}):
        save_file({'a': torch.zeros(2)}, weights, metadata)
        with pytest.raises(InputError, match='is not a fit of this torchgeo-mapsr'):
            Classifier.load(weights)
    for fields in ('{}', '{"score": "lda"}', '{"sco'):
        save_file({'a': torch.zeros(2)}, weights, {FORMAT: fields})
        with pytest.raises(InputError, match='Cannot read the fit'):
            Classifier.load(weights)

    whole = tmp_path / 'fit.safetensors'
    make().save(whole)
    content = whole.read_bytes()
    for length in (9, len(content) // 2, len(content) - 1):
        text.write_bytes(content[:length])
        with pytest.raises(InputError, match='Cannot read the fit'):
            Classifier.load(text)


def test_to_another_device() -> None:
    """The meta device stands for any: nothing stays behind."""
    made = make(k=2)
    moved = made.to('meta')
    for tensor in (
        moved.probe.weight,
        moved.probe.bias,
        moved.lda.weight,
        moved.lda.bias,
        moved.cosine.prompts,
        moved.cosine.centre,
        moved.frequency,
    ):
        assert tensor.device.type == 'meta'
    assert made.probe.weight.device.type == 'cpu'
    same(made, made.to('cpu'))
    for score in SCORES:
        if score != 'cosine':  # whether it is centred depends on values
            found = replace(moved, score=score).probabilities(tokens().to('meta'))
            assert found.shape == (2, 4, *SIZE)
            assert found.device.type == 'meta'


@pytest.mark.parametrize('score', SCORES)
def test_gpu_agrees(gpu: Counter[str] | None, score: str) -> None:
    made = make(score, k=2, absent=0)
    said = random(2, 4, *SIZE, seed=3)
    there, evidence = made.to('cuda'), said.to('cuda')
    given = tokens().to('cuda')
    if gpu is not None:
        gpu.clear()
    found = there.probabilities(given, evidence)
    assert found.is_cuda
    # The CPU hands the next chip over while the GPU is at this one.
    assert score == 'cosine' or not gpu or not gpu['waits']
    torch.testing.assert_close(
        found.cpu(), made.probabilities(tokens(), said), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize('score', SCORES)
def test_tokens_of_half_precision(score: str) -> None:
    """Scores are probabilities all the same, near those of full precision."""
    made = make(score)
    full = made.probabilities(tokens())
    half = made.probabilities(tokens().to(torch.bfloat16))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.sum(1), torch.ones(2, *SIZE))
    assert (half - full).abs().mean() < 0.02


def test_unknown_score() -> None:
    with pytest.raises(InputError, match='fusion, probe, lda, cosine'):
        make('best')
